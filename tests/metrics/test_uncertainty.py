"""Uncertainty: scikit-learn, NumPy, closed forms, and counts that no loop could go through."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy
from sklearn.metrics import average_precision_score, roc_auc_score

from twintrack_core.codes import CODE_ONE, CODE_VALUES, encode
from twintrack_core.errors import FitError
from twintrack_core.histogram import CaseStatistics, JointHistogram
from twintrack_core.metrics import ScoredCells, Undefined
from twintrack_core.metrics.uncertainty import (
    _harmonic,
    aurc,
    auroc,
    average_precision,
    eaurc,
    ncc,
    ncc_variance,
    sharpness,
)
from twintrack_core.targets import target_values

Voxel = tuple[int, int]
"""Score code and number of marks."""


def cells(voxels: Sequence[Voxel], n_raters: int = 5, times: int = 1) -> ScoredCells:
    code, marks = np.array(voxels, dtype=np.int64).reshape(-1, 2).T
    names = [f"r{rater}" for rater in range(n_raters)]
    ones = np.ones_like(code)
    return ScoredCells.of(
        [CaseStatistics(JointHistogram.from_cells(ones, code, (1 << marks) - 1, ones * times, names))]
    )


def volume() -> JointHistogram:
    rng = np.random.default_rng(0)
    p = np.round(rng.random((6, 7, 8)) ** 2, 2).astype(np.float16)
    raters = rng.random((5, 6, 7, 8)) < p
    return JointHistogram.from_arrays(p, raters, rater_names=["ann", "bob", "cy", "di", "eve"])


@pytest.mark.parametrize("times", [1, 2**20 + 1, 2**45 + 1])
@pytest.mark.parametrize("consensus", ["majority", "staple", "rater:bob"])
def test_areas_under_curves_are_scikit_learns(consensus: str, times: int) -> None:
    histogram = volume()
    label = target_values(histogram, consensus)[histogram.pattern] >= 0.5
    score, weight = CODE_VALUES[histogram.code], histogram.count
    many = JointHistogram.from_cells(
        histogram.region, histogram.code, histogram.pattern, histogram.count * times, histogram.raters
    )
    scored = ScoredCells.of([CaseStatistics(many)])
    assert auroc(scored, consensus) == pytest.approx(roc_auc_score(label, score, sample_weight=weight), rel=1e-12)
    assert average_precision(scored, consensus) == pytest.approx(
        average_precision_score(label, score, sample_weight=weight), rel=1e-12
    )


def test_correlations_are_numpys() -> None:
    histogram = volume()
    scored = ScoredCells.of([CaseStatistics(histogram)])
    p = np.repeat(CODE_VALUES[histogram.code], histogram.count)
    m = np.repeat(np.bitwise_count(histogram.pattern), histogram.count) / 5
    assert ncc(scored) == pytest.approx(np.corrcoef(entropy([p, 1 - p]), m * (1 - m))[0, 1])
    assert ncc_variance(scored) == pytest.approx(np.corrcoef(p * (1 - p), m * (1 - m))[0, 1])
    assert sharpness(scored) == pytest.approx(np.var(p))


def test_the_uncertainty_of_the_raters_is_perfectly_correlated() -> None:
    scored = cells([(int(encode(k / 4)), k) for k in range(5)], 4)
    assert ncc_variance(scored) == pytest.approx(1)
    away = cells([(int(encode(0.5)), 0), (0, 2), (CODE_ONE, 2)], 4)
    assert ncc(away) == ncc_variance(away) == pytest.approx(-1)


def test_what_is_constant_has_no_correlation() -> None:
    mirrored = cells([(int(encode(0.25)), 1), (int(encode(0.75)), 3)])  # as uncertain, in exact arithmetic
    assert ncc(mirrored) == ncc_variance(mirrored) == Undefined("the scores are everywhere as uncertain")
    opposite = cells([(9000, 1), (9500, 4), (3, 1)])  # 1/5 and 4/5, whose variances float64 rounds apart
    assert ncc(opposite) == Undefined("the raters disagree everywhere as much")


def test_one_voxel_among_many_is_still_correlated() -> None:
    histogram = JointHistogram.from_cells([1, 1], [0, int(encode(0.5))], [0, 1], [2**58, 1], ["a", "b"])
    assert ncc(ScoredCells.of([CaseStatistics(histogram)])) == pytest.approx(1)


def test_risk_and_coverage_in_closed_form() -> None:
    # By certainty: 1 (nobody of four contradicts), 3/4 as class 1 and as class 0 at once (1 and 4 of 4 do), 1/2 (3 do).
    scored = cells([(CODE_ONE, 4), (int(encode(0.75)), 3), (int(encode(0.25)), 4), (int(encode(0.5)), 3)], 4)
    tied = 5 / 8
    expected = (0 + tied / 2 + 2 * tied / 3 + (2 * tied + 0.75) / 4) / 4
    best = (0 + 0.25 / 2 + (0.25 + 0.75) / 3 + (0.25 + 0.75 + 1) / 4) / 4
    assert aurc(scored) == pytest.approx(expected)
    assert eaurc(scored) == pytest.approx(expected - best)


def test_the_best_order_leaves_no_excess() -> None:
    scored = cells([(CODE_ONE, 5), (int(encode(0.75)), 4), (int(encode(0.5)), 3)])
    assert eaurc(scored) == pytest.approx(0, abs=1e-16)
    assert aurc(cells([(CODE_ONE, 5), (0, 0)])) == eaurc(cells([(CODE_ONE, 5), (0, 0)])) == 0


def test_risk_and_coverage_of_more_voxels_than_can_be_ranked() -> None:
    """In the limit the mean loss of a fraction c of the voxels is that of 1/2 without loss, the rest losing 1."""
    scored = cells([(CODE_ONE, 5), (int(encode(0.75)), 0)], times=2**57)
    assert aurc(scored) == pytest.approx(0.5 - 0.5 * math.log(2), rel=1e-12)


@given(st.integers(0, 300), st.integers(1, 300))
def test_harmonic_numbers_differ_by_their_terms(n: int, g: int) -> None:
    found = _harmonic(np.array([n, n + g]))
    assert found[0] == pytest.approx(math.fsum(1 / (n + j) for j in range(1, g + 1)), rel=1e-13)


def test_harmonic_numbers_far_out_do_not_cancel() -> None:
    assert _harmonic(np.array([2**55, 2**55 + 3]))[0] == pytest.approx(3 / 2**55, rel=1e-12)


def test_a_consensus_of_one_class_has_no_curve() -> None:

    for marks, which in ((0, "no"), (5, "every")):
        for metric in (auroc, average_precision):
            with pytest.raises(FitError, match=f"majority marks {which} voxel"):
                metric(cells([(9000, marks), (5, marks)]))
