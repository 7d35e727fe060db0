from __future__ import annotations

import numpy as np
from cohorts import cohort

from twintrack_core.calibrators import Recipe, fit
from twintrack_core.codes import CODE_VALUES, encode
from twintrack_core.histogram import CaseStatistics, CohortStatistics, JointHistogram
from twintrack_core.metrics import ScoredCells, reliability_of
from twintrack_core.validation import Bootstrap, map_band, reliability_band

SCORES = [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0]


def copies(statistics: CohortStatistics, times: np.ndarray[tuple[int], np.dtype[np.int64]]) -> CohortStatistics:
    """A cohort in which each case occurs as often as it was drawn."""
    return CohortStatistics(
        {
            f"{name}-{copy}": case
            for (name, case), number in zip(statistics.items(), times, strict=True)
            for copy in range(number)
        },
        statistics.roi,
    )


def test_the_band_is_that_of_maps_fitted_to_cases_drawn() -> None:
    statistics = cohort(5)
    bootstrap = Bootstrap(60, seed=3)
    for recipe in (Recipe(), Recipe("platt", "majority", "cases", shrinkage=1.0)):
        options = {"target": recipe.target, **recipe.guards}
        drawn = [
            fit(copies(statistics, times), recipe.calibrator, **options).table[encode(SCORES)]
            for times in bootstrap.times(5)
        ]
        band = map_band(statistics, recipe, bootstrap, SCORES)
        value = fit(statistics, recipe.calibrator, **options).table[encode(SCORES)]
        low, high = np.clip(bootstrap.of_draws(np.array(drawn), value, 5), 0, 1)
        np.testing.assert_allclose(band.low, low, rtol=0, atol=1e-9)
        np.testing.assert_allclose(band.high, high, rtol=0, atol=1e-9)
        np.testing.assert_array_equal(band.value, value)
        np.testing.assert_array_equal(band.score, CODE_VALUES[encode(SCORES)])
        assert band.failed == 0


def test_draws_that_determine_no_map_are_counted() -> None:
    # Only one case has marks below others that are not marked: without it Platt's function would be a step.
    codes = encode([0.2, 0.8])
    apart = JointHistogram.from_cells([1, 1], codes, [0, 1], [50, 50], ["ann"])
    mixed = JointHistogram.from_cells([1, 1, 1, 1], np.repeat(codes, 2), [0, 1, 0, 1], [40, 10, 10, 40], ["ann"])
    statistics = CohortStatistics({n: CaseStatistics(h) for n, h in (("a", apart), ("b", apart), ("c", mixed))})
    bootstrap = Bootstrap(200)
    band = map_band(statistics, Recipe("platt"), bootstrap)
    assert band.failed == int((bootstrap.times(3)[:, 2] == 0).sum()) > 0
    assert (band.low <= band.value).all()
    assert (band.value <= band.high).all()


def test_reliability_band_is_that_of_cases_drawn() -> None:
    statistics = cohort(6)
    bootstrap = Bootstrap(80, seed=1)
    cases = [case for _, case in statistics.items()]
    drawn = [
        reliability_of(ScoredCells.of([case for case, n in zip(cases, times, strict=True) for _ in range(n)], "roi"))
        for times in bootstrap.times(6)
    ]
    low, high = reliability_band(cases, "roi", bootstrap)
    pooled = reliability_of(ScoredCells.of(cases, "roi")).mean_mhr
    expected = np.clip(bootstrap.of_draws(np.array([found.mean_mhr for found in drawn]), pooled, 6), 0, 1)
    np.testing.assert_allclose([low, high], expected, rtol=0, atol=1e-12)
    whole = reliability_band(cases, "whole", bootstrap)
    assert not np.array_equal(whole[0], low, equal_nan=True)


def test_a_bin_that_some_draws_leave_empty_is_taken_over_the_others() -> None:
    one = CaseStatistics(JointHistogram.from_cells([1], encode([0.5]), [1], [10], ["a", "b"]))
    two = CaseStatistics(JointHistogram.from_cells([1], [0], [0], [10], ["a", "b"]))
    low, high = reliability_band([one, two], "roi", Bootstrap())
    assert low[7] == high[7] == 0.5
    assert low[0] == high[0] == 0
    assert np.isnan(np.delete(low, [0, 7])).all()


def test_reliability_band_without_raters_or_of_one_case() -> None:
    unrated = CaseStatistics(JointHistogram.from_cells([1], [5], [0], [9], []))
    assert np.isnan(reliability_band([unrated], "roi", Bootstrap())).all()
    one = cohort(1)["case000"]
    assert np.isnan(reliability_band([one, unrated], "roi", Bootstrap())).all()
