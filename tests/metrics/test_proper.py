"""Proper scores: closed forms, scikit-learn, SciPy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy
from sklearn.metrics import brier_score_loss, log_loss

from twintrack_core.codes import CODE_ONE, CODE_VALUES, encode
from twintrack_core.histogram import CaseStatistics, JointHistogram
from twintrack_core.metrics import Noted, ScoredCells
from twintrack_core.metrics.proper import (
    brier_calibration,
    brier_mhr,
    brier_refinement,
    cross_entropy_mhr,
    js_mhr,
    kl_mhr,
)
from twintrack_core.metrics.raters import brier_rater

Voxel = tuple[int, int]
"""Score code and number of marks."""


def cells(voxels: Sequence[Voxel], n_raters: int = 5, times: int = 1) -> ScoredCells:
    code, marks = np.array(voxels, dtype=np.int64).reshape(-1, 2).T
    names = [f"r{rater}" for rater in range(n_raters)]
    ones = np.ones_like(code)
    return ScoredCells.of(
        [CaseStatistics(JointHistogram.from_cells(ones, code, (1 << marks) - 1, ones * times, names))]
    )


def some_voxels(n_raters: int) -> st.SearchStrategy[list[Voxel]]:
    code = st.one_of(st.sampled_from([0, 1, CODE_ONE - 1, CODE_ONE]), st.integers(0, CODE_ONE))
    return st.lists(st.tuples(code, st.integers(0, n_raters)), min_size=1, max_size=25)


def number(result: object) -> float:
    found = result.value if isinstance(result, Noted) else result
    assert isinstance(found, float)
    return found


@given(some_voxels(1))
def test_with_one_rater_brier_and_cross_entropy_are_scikit_learns(voxels: list[Voxel]) -> None:
    code, mark = np.array(voxels).T
    score = np.clip(CODE_VALUES[code], 2.0**-25, 1 - 2.0**-12)
    scored = cells(voxels, 1)
    assert brier_mhr(scored) == pytest.approx(brier_score_loss(mark, CODE_VALUES[code], labels=[0, 1]))
    assert number(cross_entropy_mhr(scored)) == pytest.approx(log_loss(mark, score, labels=[0, 1]), rel=1e-9)
    assert number(kl_mhr(scored)) == pytest.approx(number(cross_entropy_mhr(scored)))  # one rater has no entropy


@given(some_voxels(4))
def test_divergences_are_scipys(voxels: list[Voxel]) -> None:
    code, marks = np.array(voxels).T
    p, m = CODE_VALUES[code], marks / 4
    q = np.clip(p, 2.0**-25, 1 - 2.0**-12)
    scored = cells(voxels, 4, times=2**33)
    kl = [entropy([a, 1 - a], [b, 1 - b]) for a, b in zip(m, q, strict=True)]
    js = [jensenshannon([a, 1 - a], [b, 1 - b]) ** 2 for a, b in zip(m, p, strict=True)]
    assert number(kl_mhr(scored)) == pytest.approx(np.mean(kl), rel=1e-9, abs=1e-12)
    assert js_mhr(scored) == pytest.approx(np.mean(js), rel=1e-9, abs=1e-12)


def test_a_score_that_is_the_mhr_is_perfect() -> None:
    scored = cells([(int(encode(k / 4)), k) for k in range(5)], 4)
    assert brier_mhr(scored) == brier_calibration(scored) == 0
    assert brier_refinement(scored) == brier_rater(scored) == pytest.approx((2 * 3 + 4) / 16 / 5)
    assert number(kl_mhr(scored)) == pytest.approx(0, abs=1e-3)  # but for the clip of 0 and 1
    assert js_mhr(scored) == pytest.approx(0, abs=1e-15)


def test_closed_forms() -> None:
    # Of four voxels, three score 1/4 and no rater of two marks them; one scores 1 and one rater does.
    scored = cells([(int(encode(0.25)), 0)] * 3 + [(CODE_ONE, 1)], 2)
    assert brier_mhr(scored) == pytest.approx((3 / 16 + 1 / 4) / 4)
    assert brier_rater(scored) == pytest.approx((3 / 16 + 1 / 2) / 4)
    assert brier_calibration(scored) == pytest.approx((3 / 16 + 1 / 4) / 4)
    assert brier_refinement(scored) == pytest.approx(1 / 4 / 4)
    assert js_mhr(cells([(0, 5), (CODE_ONE, 0)])) == pytest.approx(math.log(2))


def test_the_split_is_that_of_scores_not_of_voxels() -> None:
    """Two voxels of one score and opposite marks are refined badly, but calibrated."""
    scored = cells([(int(encode(0.5)), 0), (int(encode(0.5)), 5)])
    assert brier_calibration(scored) == 0
    assert brier_refinement(scored) == brier_mhr(scored) == 0.25


def test_cross_entropy_says_how_many_contradicted_scores_it_clipped() -> None:
    scored = cells([(0, 0), (0, 2), (CODE_ONE, 5), (CODE_ONE, 4), (9000, 1)], times=3)
    for metric in (cross_entropy_mhr, kl_mhr):
        result = metric(scored)
        assert isinstance(result, Noted)
        assert result.note.startswith("6 of 15 voxels have a score of 0 or 1 that a rater contradicts")
    certain = cross_entropy_mhr(cells([(0, 0), (CODE_ONE, 5)]))
    assert isinstance(certain, float)
    assert certain == pytest.approx((-math.log1p(-(2.0**-25)) - math.log1p(-(2.0**-12))) / 2)
