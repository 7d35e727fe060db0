"""Data of the reliability diagram, and the band that the choice of cases leaves."""

from __future__ import annotations

import numpy as np
import pytest

from twintrack_core.codes import CODE_ONE, CODE_VALUES
from twintrack_core.histogram import CaseStatistics, JointHistogram
from twintrack_core.metrics import ScoredCells
from twintrack_core.metrics.reliability import reliability_of


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
