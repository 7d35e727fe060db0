from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cohorts import cohort

from twintrack_core.calibrators import Recipe, fit
from twintrack_core.errors import FitError, RequestError
from twintrack_core.histogram import CaseStatistics, CohortStatistics, JointHistogram
from twintrack_core.metrics import evaluate
from twintrack_core.validation import learning_curve


@pytest.mark.parametrize("metric", ["brier_mhr", "ece_mhr"])
def test_the_curve_is_that_of_maps_fitted_and_scored_one_by_one(metric: str) -> None:
    statistics = cohort(7)
    found = learning_curve(statistics, Recipe("beta"), metric, sizes=[4, 1, 2], repeats=3, seed=5)
    assert (found.n_test, found.size.tolist()) == (1, [1, 2, 4])
    rng = np.random.default_rng(5)
    values = np.zeros((3, 3))
    raw = []
    for repeat in range(3):
        names = [statistics.names[i] for i in rng.permutation(7)]
        held_out, rest = statistics.select(names[:1]), names[1:]
        for place, size in enumerate((1, 2, 4)):
            summary = evaluate(held_out, fit(statistics.select(rest[:size]), "beta"), [metric]).summary
            values[repeat, place] = next(
                row.mean for row in summary if row.region == "roi" and row.variant == "calibrated"
            )
        raw.append(next(row.mean for row in summary if row.region == "roi" and row.variant == "raw"))
    np.testing.assert_allclose(found.mean, values.mean(axis=0), rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.low, np.quantile(values, 0.1, axis=0), rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.high, np.quantile(values, 0.9, axis=0), rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.raw, np.array(raw, float).mean(), rtol=0, atol=1e-12)


def test_more_cases_help_and_enough_is_where_they_no_longer_do() -> None:
    found = learning_curve(cohort(30, spread=0.6), Recipe(), repeats=30)
    assert found.size.tolist() == [1, 2, 3, 5, 7, 10, 15, 20, 24]
    assert found.n_test == 6
    assert found.mean[0] > found.mean[-1]
    assert (found.low <= found.mean).all()
    assert (found.mean <= found.high).all()
    within = found.mean <= found.mean.min() * 1.05
    assert found.enough is not None
    assert within[found.size >= found.enough].all()
    assert found.enough == 1 or not within[found.size < found.enough][-1]
    everything = learning_curve(cohort(30, spread=0.6), Recipe(), repeats=30, tolerance=10.0)
    assert everything.enough == 1
    assert learning_curve(cohort(5), Recipe(), "tdsc", repeats=2).enough is None


def test_the_default_sizes_end_with_all_that_are_not_held_out() -> None:
    for n, sizes in ((3, [1, 2]), (4, [1, 2, 3]), (10, [1, 2, 3, 5, 7, 8])):
        assert learning_curve(cohort(n), Recipe(), repeats=2).size.tolist() == sizes


def test_choices_that_determine_no_map_are_counted() -> None:
    unmarked = JointHistogram.from_cells([1, 1], [500, 9000], [0, 0], [50, 50], ["ann", "bob", "cy"])
    blank = CohortStatistics({f"u{i}": CaseStatistics(unmarked) for i in range(3)}, "raters+20")
    found = learning_curve(cohort(3).merge(blank), Recipe("platt"), repeats=40, seed=2)
    assert 0 < found.failed[0] < 40
    assert found.failed[-1] == 0
    assert not np.isnan(found.mean).any()


def test_no_choice_that_determines_a_map_makes_no_curve() -> None:
    with pytest.raises(FitError, match="No choice of up to 3 cases determines isotonic to mhr"):
        learning_curve(cohort(4), Recipe(min_cases=4))


def test_a_held_out_case_without_voxels_is_no_failed_fit() -> None:
    empty = JointHistogram.from_cells([0], [5], [1], [9], ["ann", "bob", "cy"])
    more = cohort(4).merge(CohortStatistics({"none": CaseStatistics(empty)}, "raters+20"))
    found = learning_curve(more, Recipe(), sizes=[2, 4], repeats=30)
    assert found.failed.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sizes": [0, 2]}, "Allowed: 1 to 5"),
        ({"sizes": [6]}, "Allowed: 1 to 5"),
        ({"sizes": []}, "Allowed: 1 to 5"),
        ({"repeats": 1}, "1 repeats"),
        ({"tolerance": -0.1}, "-0.1"),
        ({"metric": "hausdorff95"}, "hausdorff95"),
    ],
)
def test_what_makes_no_curve(options: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError) as caught:
        learning_curve(cohort(6), Recipe(), **options)
    assert says in str(caught.value)
    with pytest.raises(RequestError, match="2 cases"):
        learning_curve(cohort(2), Recipe())
