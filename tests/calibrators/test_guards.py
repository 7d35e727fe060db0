from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cohorts import cohort
from hypothesis import given
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from twintrack_core.calibrators import Recipe, fit
from twintrack_core.codes import CODE_VALUES
from twintrack_core.errors import FitError, RequestError
from twintrack_core.histogram import CaseStatistics, CohortStatistics, JointHistogram
from twintrack_core.targets import BinnedTarget, CaseTargets

tables = st.lists(
    st.dictionaries(st.integers(0, 40), st.tuples(st.integers(1, 500), st.integers(1, 500)), min_size=1, max_size=12),
    min_size=1,
    max_size=6,
)
"""For each case, at some score codes: voxels without and with the mark of the one rater."""


def statistics_of(cases: list[dict[int, tuple[int, int]]]) -> CohortStatistics:
    found = {}
    for number, table in enumerate(cases):
        code = np.repeat(np.array(list(table)) * 380, 2)
        pattern = np.tile([0, 1], len(table))
        counts = np.array(list(table.values())).ravel()
        histogram = JointHistogram.from_cells(np.ones(len(code), dtype=int), code, pattern, counts, ["ann"])
        found[f"c{number}"] = CaseStatistics(histogram)
    return CohortStatistics(found)


def effective(statistics: CohortStatistics, low: float, high: float, *, equal: bool) -> float:
    """Kish's number of cases among the voxels with scores in [low, high], by hand."""
    shares = []
    for case in [statistics[name] for name in statistics]:
        score = CODE_VALUES[case.histogram.code]
        voxels = float(case.histogram.count[(score >= low) & (score <= high)].sum())
        shares.append(voxels / float(case.histogram.count.sum()) if equal else voxels)
    return sum(shares) ** 2 / sum(share**2 for share in shares)


@given(tables, st.floats(1.0, 6.0), st.sampled_from(["voxels", "cases"]))
def test_every_plateau_has_enough_cases(cases: list[dict[int, tuple[int, int]]], least: float, weighting: Any) -> None:
    statistics = statistics_of(cases)
    equal = weighting == "cases"
    if effective(statistics, 0, 1, equal=equal) < least * (1 - 1e-9):
        with pytest.raises(FitError, match="effective cases"):
            fit(statistics, min_cases=least, weighting=weighting)
        return
    calibration = fit(statistics, min_cases=least, weighting=weighting)
    score = CaseTargets.from_statistics(statistics, "mhr").score
    value = calibration(score)
    for level in np.unique(value):
        inside = score[np.abs(value - level) < 1e-12]
        assert effective(statistics, inside.min(), inside.max(), equal=equal) >= least * (1 - 1e-9)


@given(tables, st.floats(1.0, 6.0))
def test_pooling_keeps_weights_and_the_mean_over_all_voxels(
    cases: list[dict[int, tuple[int, int]]], least: float
) -> None:
    targets = CaseTargets.from_statistics(statistics_of(cases), "mhr")
    plain = targets.binned()
    try:
        pooled = Recipe(min_cases=least).target_of(targets)
    except FitError:
        return
    np.testing.assert_array_equal(pooled.weight, plain.weight)
    np.testing.assert_allclose((pooled.weight * pooled.mean).sum(), (plain.weight * plain.mean).sum())
    assert len(np.unique(pooled.mean)) <= len(pooled.score)


@given(tables)
def test_equal_cases_are_what_copies_up_to_one_size_give(cases: list[dict[int, tuple[int, int]]]) -> None:
    statistics = statistics_of(cases)
    sizes = [case.histogram.n_voxels for _, case in statistics.items()]
    common = int(np.lcm.reduce(np.array(sizes, dtype=object)))
    if common > 1 << 40:
        return
    copied = statistics_of(
        [
            {
                code: (unmarked * (common // size), marked * (common // size))
                for code, (unmarked, marked) in case.items()
            }
            for case, size in zip(cases, sizes, strict=True)
        ]
    )
    np.testing.assert_allclose(fit(statistics, weighting="cases").table, fit(copied).table, rtol=0, atol=1e-12)
    weight = Recipe(weighting="cases").target_of(CaseTargets.from_statistics(statistics, "mhr")).weight
    assert weight.sum() == pytest.approx(sum(sizes))  # still a number of voxels


@given(tables, st.floats(0.1, 20))
def test_shrinkage_is_what_imaginary_cases_leave(cases: list[dict[int, tuple[int, int]]], extra: float) -> None:
    statistics = statistics_of(cases)
    target = BinnedTarget.from_statistics(statistics, "mhr")
    # k cases more, each an n-th of all voxels, whose response is the score: one weight more at every score.
    weight = np.concatenate([target.weight, target.weight * extra / len(cases)])
    model = IsotonicRegression(out_of_bounds="clip")
    model.fit(np.tile(target.score, 2), np.concatenate([target.mean, target.score]), sample_weight=weight)
    found = fit(statistics, shrinkage=extra)
    np.testing.assert_allclose(found(target.score), model.predict(target.score), rtol=0, atol=1e-12)


def test_shrinkage_ends_at_the_identity_and_vanishes_with_cases() -> None:
    score = CaseTargets.from_statistics(cohort(), "mhr").score
    far = [np.abs(fit(cohort(), "platt", shrinkage=k)(score) - score).max() for k in (0, 1, 10, 100, 1e6)]
    assert far == sorted(far, reverse=True)
    assert far[-1] < 1e-3
    few, many = (np.abs(fit(cohort(n), shrinkage=2).table - fit(cohort(n)).table).max() for n in (3, 60))
    assert many < few


@given(tables, st.lists(st.integers(0, 3), min_size=6, max_size=6))
def test_times_are_copies_of_cases(cases: list[dict[int, tuple[int, int]]], drawn: list[int]) -> None:
    times = drawn[: len(cases)]
    if not any(times):
        return
    copies = statistics_of([case for case, number in zip(cases, times, strict=True) for _ in range(number)])
    targets = CaseTargets.from_statistics(statistics_of(cases), "mhr")
    for recipe in (Recipe(), Recipe(weighting="cases"), Recipe(shrinkage=2.0), Recipe(min_cases=1.5)):
        try:
            expected = recipe.target_of(CaseTargets.from_statistics(copies, "mhr"))
        except FitError:
            with pytest.raises(FitError):
                recipe.target_of(targets, np.array(times, float))
            continue
        found = recipe.target_of(targets, np.array(times, float))
        np.testing.assert_array_equal(found.score, expected.score)
        np.testing.assert_allclose(found.weight, expected.weight)
        np.testing.assert_allclose(found.mean, expected.mean, atol=1e-12)


def test_guards_are_kept_with_the_map() -> None:
    assert dict(fit(cohort()).parameters) == {}
    found = fit(cohort(), "histogram_binning", weighting="cases", min_cases=2, shrinkage=0.5).parameters
    assert {name: found[name] for name in ("weighting", "min_cases", "shrinkage")} == {
        "weighting": "cases", "min_cases": 2, "shrinkage": 0.5,
    }  # fmt: skip
    assert found["bins"] == 15


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"weighting": "raters"}, "no weighting 'raters'"),
        ({"min_cases": -1}, "min_cases is -1"),
        ({"shrinkage": float("inf")}, "shrinkage is inf"),
        ({"shrinkage": float("nan")}, "shrinkage is nan"),
        ({"min_cases": "3"}, "min_cases is '3'"),
    ],
)
def test_guards_that_make_no_sense(options: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError) as caught:
        fit(cohort(3), **options)
    assert says in str(caught.value)
