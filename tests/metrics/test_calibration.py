"""Calibration errors over bins: edges, closed forms, torchmetrics."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from twintrack_core.codes import CODE_ONE, CODE_VALUES, encode
from twintrack_core.histogram import CaseStatistics, JointHistogram
from twintrack_core.metrics import ScoredCells
from twintrack_core.metrics.calibration import ace_mhr, adaptive_ece_mhr, ece_mhr, mce_mhr, rmsce_mhr

Voxel = tuple[int, int]
"""Score code and number of marks."""


def cells(voxels: Sequence[Voxel], n_raters: int = 5, times: int = 1) -> ScoredCells:
    code, marks = np.array(voxels, dtype=np.int64).reshape(-1, 2).T
    names = [f"r{rater}" for rater in range(n_raters)]
    ones = np.ones_like(code)
    return ScoredCells.of(
        [CaseStatistics(JointHistogram.from_cells(ones, code, (1 << marks) - 1, ones * times, names))]
    )


def test_a_score_that_is_the_mhr_is_perfect() -> None:
    scored = cells([(int(encode(k / 4)), k) for k in range(5)], 4)
    for metric in (ece_mhr, ace_mhr, mce_mhr, rmsce_mhr, adaptive_ece_mhr):
        assert metric(scored) == 0


def test_closed_forms() -> None:
    # Of four voxels, three score 1/4 and no rater of two marks them; one scores 1 and one rater does.
    scored = cells([(int(encode(0.25)), 0)] * 3 + [(CODE_ONE, 1)], 2)
    assert ece_mhr(scored) == pytest.approx((3 * 0.25 + 0.5) / 4)
    assert ace_mhr(scored) == pytest.approx((0.25 + 0.5) / 2)
    assert mce_mhr(scored) == pytest.approx(0.5)
    assert rmsce_mhr(scored) == pytest.approx(((3 * 0.25**2 + 0.5**2) / 4) ** 0.5)
    assert adaptive_ece_mhr(scored) == pytest.approx((3 * 0.25 + 0.5) / 4)


def test_scores_on_an_edge_belong_to_the_bin_above_and_zero_and_one_are_not_lost() -> None:
    """Edges are compared as float64: a code below k/15 by less than a float32 ulp is still below."""
    for k in range(1, 15):
        above = int(np.searchsorted(CODE_VALUES, k / 15))
        scored = cells([(above - 1, 0), (above, 5)])
        p, q = CODE_VALUES[above - 1], CODE_VALUES[above]
        assert ece_mhr(scored) == pytest.approx((p + 1 - q) / 2)
    assert ece_mhr(cells([(0, 5)])) == 1
    assert ece_mhr(cells([(CODE_ONE, 0)])) == 1
    ends = cells([(0, 5), (CODE_ONE, 0)])
    assert ace_mhr(ends) == ece_mhr(ends) == mce_mhr(ends) == rmsce_mhr(ends) == 1


def test_bins_of_equal_mass_are_the_thirty_voxels_two_by_two() -> None:
    codes = np.arange(9000, 9030)
    marks = np.arange(30) % 2 * 5
    gaps = (CODE_VALUES[codes] - marks / 5).reshape(15, 2).sum(axis=1)
    voxels = list(zip(codes.tolist(), marks.tolist(), strict=True))
    for times in (1, 2**50 + 1):
        assert adaptive_ece_mhr(cells(voxels, times=times)) == pytest.approx(np.abs(gaps).sum() / 30)


def test_bins_of_equal_mass_never_split_a_score() -> None:
    """Half of the voxels score 0: they fill the first bin, and the next begins where the eighth would end."""
    background = [(0, 0)] * 15
    lesion = [(9000 + k, 5 * (k % 2)) for k in range(15)]
    p = CODE_VALUES[9000 : 9000 + 15]
    residual = p - np.arange(15) % 2
    # Edges lie at 2, 4, ..., 28 of 30; the first voxel of the lesion is the 15th, past seven of them.
    bins = (np.arange(15, 30) // 2)[:, np.newaxis] == np.arange(7, 15)
    assert adaptive_ece_mhr(cells(background + lesion)) == pytest.approx(np.abs(residual @ bins).sum() / 30)


def test_one_score_has_one_bin() -> None:
    scored = cells([(9000, 0), (9000, 4)], 4)
    gap = abs(float(CODE_VALUES[9000]) - 0.5)
    for metric in (ece_mhr, ace_mhr, mce_mhr, rmsce_mhr, adaptive_ece_mhr):
        assert metric(scored) == pytest.approx(gap)


def test_it_is_the_calibration_error_of_torchmetrics() -> None:
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("torchmetrics.functional.classification")
    rng = np.random.default_rng(0)
    codes = np.concatenate([[0] * 40, [int(encode(0.5))] * 20, [CODE_ONE] * 20, rng.integers(0, CODE_ONE, 400)])
    marks = (rng.random(len(codes)) < CODE_VALUES[codes] ** 2).astype(int)
    scored = cells(list(zip(codes.tolist(), marks.tolist(), strict=True)), 1)
    below_one = np.minimum(CODE_VALUES[codes], np.nextafter(1, 0))  # torchmetrics gives 1 a bin of its own
    for norm, metric in (("l1", ece_mhr), ("l2", rmsce_mhr), ("max", mce_mhr)):
        theirs = functional.binary_calibration_error(
            torch.from_numpy(below_one), torch.from_numpy(marks), n_bins=15, norm=norm
        )
        assert metric(scored) == pytest.approx(float(theirs), rel=1e-5)
