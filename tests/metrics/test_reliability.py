"""Data of the reliability diagram, and the band that the choice of cases leaves."""

from __future__ import annotations

import numpy as np
import pytest

from twintrack_core.codes import CODE_ONE, CODE_VALUES, encode
from twintrack_core.histogram import CaseStatistics, CohortStatistics, JointHistogram
from twintrack_core.metrics import ScoredCells
from twintrack_core.metrics.reliability import reliability_band, reliability_of


def case(seed: int, n_raters: int = 3) -> CaseStatistics:
    rng = np.random.default_rng(seed)
    p = (rng.random((5, 6, 7)) * 0.7).astype(np.float16)
    raters = rng.random((n_raters, 5, 6, 7)) < p ** rng.uniform(0.5, 2)
    return CaseStatistics(JointHistogram.from_arrays(p, raters, roi=rng.random(p.shape) < 0.7))


@pytest.mark.parametrize("region", ["whole", "roi"])
def test_bins_are_those_of_the_voxels(region: str) -> None:
    cases = [case(0, 3), case(1, 2)]
    found = reliability_of(ScoredCells.of(cases, "roi" if region == "roi" else "whole"))
    p, m = [], []
    for histogram in (case.histogram for case in cases):
        times = histogram.count * (histogram.region >= (region == "roi"))
        p.append(np.repeat(CODE_VALUES[histogram.code], times))
        m.append(np.repeat(np.bitwise_count(histogram.pattern) / len(histogram.raters), times))
    score, mhr = np.concatenate(p), np.concatenate(m)
    for k in range(15):
        inside = (score >= k / 15) & (score < (k + 1) / 15)
        assert found.voxels[k] == inside.sum()
        for values, expected in (
            (found.mean_score, score[inside].mean() if inside.any() else np.nan),
            (found.mean_mhr, mhr[inside].mean() if inside.any() else np.nan),
            (found.spread_mhr, mhr[inside].std() if inside.any() else np.nan),
        ):
            assert values[k] == pytest.approx(expected, nan_ok=True)
    assert np.isnan(found.spread_mhr[12:]).all()


def test_the_spread_of_voxels_alike_is_zero_however_many_they_are() -> None:
    histogram = JointHistogram.from_cells([1, 1], [0, CODE_ONE], [1, 7], [2**58, 2**45], ["a", "b", "c"])
    found = reliability_of(ScoredCells.of([CaseStatistics(histogram)]))
    assert found.voxels[[0, 14]].tolist() == [2**58, 2**45]
    assert found.spread_mhr[[0, 14]].tolist() == [0, 0]


def test_the_band_is_that_of_cases_drawn_one_by_one() -> None:
    cases = {f"case{k}": case(k, 2 + k % 2) for k in range(5)} | {
        "unrated": CaseStatistics(case(9).histogram.keep_raters([]))
    }
    low, high = reliability_band(CohortStatistics(cases), "roi", draws=4000, level=0.9)
    rated = [case for case in cases.values() if case.histogram.raters]
    rng = np.random.default_rng(5)
    drawn = np.array(
        [reliability_of(ScoredCells.of([rated[k] for k in rng.integers(0, 5, 5)], "roi")).mean_mhr for _ in range(400)]
    )
    expected = np.quantile(drawn[:, :10], [0.05, 0.95], axis=0)
    width = expected[1] - expected[0]
    assert (np.abs(np.array([low, high])[:, :10] - expected) < 0.2 * width).all()
    assert np.isnan(low[12:]).all()
    assert np.isnan(high[12:]).all()


def test_the_band_is_the_same_every_time_and_holds_the_mean() -> None:
    statistics = CohortStatistics({f"case{k}": case(k) for k in range(6)})
    low, high = reliability_band(statistics, "whole")
    again = reliability_band(statistics, "whole")
    assert np.array_equal(low, again[0], equal_nan=True)
    assert np.array_equal(high, again[1], equal_nan=True)
    assert not np.array_equal(low, reliability_band(statistics, "whole", seed=1)[0], equal_nan=True)
    mean = reliability_of(ScoredCells.of([case for _, case in statistics.items()])).mean_mhr
    filled = ~np.isnan(mean)
    assert (low[filled] <= mean[filled]).all()
    assert (mean[filled] <= high[filled]).all()


def test_a_bin_that_some_draws_leave_empty_is_taken_over_the_others() -> None:
    one = CaseStatistics(JointHistogram.from_cells([1], [int(encode(0.5))], [1], [10], ["a", "b"]))
    two = CaseStatistics(JointHistogram.from_cells([1], [0], [0], [10], ["a", "b"]))
    low, high = reliability_band(CohortStatistics({"one": one, "two": two}), "roi")
    assert low[7] == high[7] == 0.5
    assert low[0] == high[0] == 0
    assert np.isnan(np.delete(low, [0, 7])).all()


def test_one_case_leaves_no_doubt_and_none_no_band() -> None:
    statistics = CohortStatistics({"one": case(0)})
    low, high = reliability_band(statistics, "roi")
    assert np.array_equal(low, high, equal_nan=True)
    nobody = CohortStatistics({"unrated": CaseStatistics(case(0).histogram.keep_raters([]))})
    assert np.isnan(reliability_band(nobody, "roi")).all()
