"""Overlap and volumes: closed forms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from twintrack_core.codes import CODE_ONE, encode
from twintrack_core.histogram import CaseStatistics, JointHistogram
from twintrack_core.metrics import ScoredCells, Undefined
from twintrack_core.metrics.overlap import tdsc, volume_error

Voxel = tuple[int, int]
"""Score code and number of marks."""


def cells(voxels: Sequence[Voxel], n_raters: int = 5, times: int = 1) -> ScoredCells:
    code, marks = np.array(voxels, dtype=np.int64).reshape(-1, 2).T
    names = [f"r{rater}" for rater in range(n_raters)]
    ones = np.ones_like(code)
    return ScoredCells.of(
        [CaseStatistics(JointHistogram.from_cells(ones, code, (1 << marks) - 1, ones * times, names))]
    )


def test_closed_forms() -> None:
    # Of four voxels, three score 1/4 and no rater of two marks them; one scores 1 and one rater does.
    scored = cells([(int(encode(0.25)), 0)] * 3 + [(CODE_ONE, 1)], 2)
    assert volume_error(scored) == pytest.approx(1.75 / 0.5 - 1)
    # .1 and .24: 1 of 4 and 1; .38: 1 and 1; from .52 on the raters' set is empty.
    assert tdsc(scored) == pytest.approx((2 / 5 + 2 / 5 + 1) / 6, abs=1e-6)


def test_a_score_that_is_the_mhr_is_perfect() -> None:
    scored = cells([(int(encode(k / 4)), k) for k in range(5)], 4)
    assert volume_error(scored) == 0
    assert tdsc(scored) == pytest.approx(1)


def test_the_reference_levels_of_five_raters() -> None:
    """TDSC's thresholds mean >= 1, 2, 2, 3, 4 and 5 raters: four of five are not above 0.8."""
    for marks, levels in enumerate([0, 1, 3, 4, 5, 6]):
        assert tdsc(cells([(CODE_ONE, marks)])) == pytest.approx(levels / 6, abs=1e-6)


def test_both_sets_empty_is_full_overlap() -> None:
    assert tdsc(cells([(0, 0)])) == 1


def test_without_marks_there_is_no_volume_error() -> None:
    assert volume_error(cells([(9000, 0)])) == Undefined("no rater marked a voxel")
