from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, log_loss

from twintrack_core import metrics
from twintrack_core.codes import CODE_ONE, CODE_VALUES, N_CODES, encode
from twintrack_core.errors import RequestError
from twintrack_core.histogram import CaseStatistics, JointHistogram
from twintrack_core.metrics import Noted, ScoredCells, Undefined

NAMES = ("ece_mhr", "ace_mhr", "brier_mhr", "cross_entropy_mhr", "tdsc", "volume_error")

Voxel = tuple[int, int]
"""Score code and marks of five raters."""


def cells(voxels: list[Voxel], n_raters: int = 5, times: int = 1) -> ScoredCells:
    code, marks = np.array(voxels, dtype=np.int64).reshape(-1, 2).T
    ones = np.ones_like(code)
    names = [f"r{rater}" for rater in range(n_raters)]
    return ScoredCells.of(
        [CaseStatistics(JointHistogram.from_cells(ones, code, (1 << marks) - 1, ones * times, names))]
    )


def value(name: str, scored: ScoredCells) -> float:
    result = metrics.get(name)(scored)
    assert not isinstance(result, Undefined), result.why
    return result.value if isinstance(result, Noted) else result


def some_voxels(n_raters: int = 5) -> st.SearchStrategy[list[Voxel]]:
    edges = [int(encode(k / 15)) for k in range(16)] + [int(encode(t)) for t in (0.1, 0.24, 0.38, 0.52, 0.66, 0.8)]
    code = st.one_of(st.sampled_from([0, 1, CODE_ONE - 1, CODE_ONE, *edges]), st.integers(0, CODE_ONE))
    return st.lists(st.tuples(code, st.integers(0, n_raters)), min_size=1, max_size=25)


def slow_bins(voxels: list[Voxel], n_raters: int) -> dict[int, tuple[int, Fraction]]:
    """Voxels and |sum of p - sum of m| of each bin, in exact arithmetic."""
    bins: dict[int, tuple[int, Fraction]] = {}
    for code, marks in voxels:
        p = float(CODE_VALUES[code])
        place = max(k for k in range(15) if k / 15 <= p)
        n, gap = bins.get(place, (0, Fraction(0)))
        bins[place] = n + 1, gap + Fraction(p) - Fraction(marks, n_raters)
    return {place: (n, abs(gap)) for place, (n, gap) in bins.items()}


def slow_metrics(voxels: list[Voxel], n_raters: int) -> dict[str, float | None]:
    """All metrics, voxel by voxel, from their definitions."""
    pairs = [(float(CODE_VALUES[code]), marks / n_raters) for code, marks in voxels]
    bins = slow_bins(voxels, n_raters).values()
    dice = []
    for threshold in np.linspace(0.1, 0.8, 6).tolist():
        predicted, marked = [p > threshold for p, _ in pairs], [m > threshold for _, m in pairs]
        both = sum(a and b for a, b in zip(predicted, marked, strict=True))
        total = sum(predicted) + sum(marked)
        dice.append(2 * both / (total + 1e-6) if total else 1.0)
    loss = 0.0
    for p, m in pairs:
        q = min(max(p, 2.0**-25), 1 - 2.0**-12)
        loss -= m * math.log(q) + (1 - m) * math.log(1 - q)
    volume = sum(m for _, m in pairs)
    return {
        "ece_mhr": float(sum((gap for _, gap in bins), Fraction(0)) / len(pairs)),
        "ace_mhr": float(sum((gap / n for n, gap in bins), Fraction(0)) / len(bins)),
        "brier_mhr": sum((p - m) ** 2 for p, m in pairs) / len(pairs),
        "cross_entropy_mhr": loss / len(pairs),
        "tdsc": sum(dice) / 6,
        "volume_error": (sum(p for p, _ in pairs) - volume) / volume if volume else None,
    }


@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), some_voxels(n))))
def test_metrics_are_their_definitions_voxel_by_voxel(case: tuple[int, list[Voxel]]) -> None:
    n_raters, voxels = case
    scored = cells(voxels, n_raters)
    for name, expected in slow_metrics(voxels, n_raters).items():
        if expected is None:
            assert isinstance(metrics.get(name)(scored), Undefined)
        else:
            assert value(name, scored) == pytest.approx(expected, rel=1e-11, abs=1e-12), name


@given(some_voxels())
def test_counts_of_any_size_change_no_metric(voxels: list[Voxel]) -> None:
    once, often = cells(voxels), cells(voxels, times=2**45 + 1)
    assert often.n_voxels == len(voxels) * (2**45 + 1)
    for name in NAMES:
        if name != "volume_error" or once.mhr.any():
            # TDSC's smoothing weighs less among many voxels.
            assert value(name, often) == pytest.approx(value(name, once), rel=1e-6, abs=1e-12)


@given(some_voxels())
def test_values_lie_in_the_range_that_is_promised(voxels: list[Voxel]) -> None:
    scored = cells(voxels)
    for name in metrics.names():
        low, high = metrics.get(name).range
        if name != "volume_error" or scored.mhr.any():
            assert low <= value(name, scored) <= high


@given(some_voxels(1))
def test_with_one_rater_brier_and_cross_entropy_are_scikit_learns(voxels: list[Voxel]) -> None:
    code, mark = np.array(voxels).T
    score = np.clip(CODE_VALUES[code], 2.0**-25, 1 - 2.0**-12)
    scored = cells(voxels, 1)
    assert value("brier_mhr", scored) == pytest.approx(brier_score_loss(mark, CODE_VALUES[code], labels=[0, 1]))
    assert value("cross_entropy_mhr", scored) == pytest.approx(log_loss(mark, score, labels=[0, 1]), rel=1e-9)


def test_a_score_that_is_the_mhr_is_perfect() -> None:
    scored = cells([(int(encode(k / 4)), k) for k in range(5)], 4)
    assert value("ece_mhr", scored) == value("ace_mhr", scored) == value("brier_mhr", scored) == 0
    assert value("volume_error", scored) == 0
    assert value("tdsc", scored) == pytest.approx(1)


def test_closed_forms() -> None:
    # Of four voxels, three score 1/4 and no rater of two marks them; one scores 1 and one rater does.
    scored = cells([(int(encode(0.25)), 0)] * 3 + [(CODE_ONE, 1)], 2)
    assert value("ece_mhr", scored) == pytest.approx((3 * 0.25 + 0.5) / 4)
    assert value("ace_mhr", scored) == pytest.approx((0.25 + 0.5) / 2)
    assert value("brier_mhr", scored) == pytest.approx((3 / 16 + 1 / 4) / 4)
    assert value("volume_error", scored) == pytest.approx(1.75 / 0.5 - 1)
    # .1 and .24: 1 of 4 and 1; .38: 1 and 1; from .52 on the raters' set is empty.
    assert value("tdsc", scored) == pytest.approx((2 / 5 + 2 / 5 + 1) / 6, abs=1e-6)


def test_the_reference_levels_of_five_raters() -> None:
    """TDSC's thresholds mean >= 1, 2, 2, 3, 4 and 5 raters: four of five are not above 0.8."""
    for marks, levels in enumerate([0, 1, 3, 4, 5, 6]):
        found = value("tdsc", cells([(CODE_ONE, marks)]))
        assert found == pytest.approx(levels / 6, abs=1e-6)


def test_both_sets_empty_is_full_overlap() -> None:
    assert value("tdsc", cells([(0, 0)])) == 1


def test_scores_on_an_edge_belong_to_the_bin_above_and_zero_and_one_are_not_lost() -> None:
    """Edges are compared as float64: a code below k/15 by less than a float32 ulp is still below."""
    for k in range(1, 15):
        above = int(np.searchsorted(CODE_VALUES, k / 15))
        scored = cells([(above - 1, 0), (above, 5)])
        p, q = CODE_VALUES[above - 1], CODE_VALUES[above]
        assert value("ece_mhr", scored) == pytest.approx((p + 1 - q) / 2)
    assert value("ece_mhr", cells([(0, 5)])) == 1
    assert value("ece_mhr", cells([(CODE_ONE, 0)])) == 1
    ends = cells([(0, 5), (CODE_ONE, 0)])
    assert value("ace_mhr", ends) == value("ece_mhr", ends) == 1


def test_cross_entropy_says_how_many_contradicted_scores_it_clipped() -> None:
    result = metrics.get("cross_entropy_mhr")(cells([(0, 0), (0, 2), (CODE_ONE, 5), (CODE_ONE, 4), (9000, 1)], times=3))
    assert isinstance(result, Noted)
    assert result.note.startswith("6 of 15 voxels")
    certain = metrics.get("cross_entropy_mhr")(cells([(0, 0), (CODE_ONE, 5)]))
    assert isinstance(certain, float)
    assert certain == pytest.approx((-math.log1p(-(2.0**-25)) - math.log1p(-(2.0**-12))) / 2)


@pytest.mark.parametrize("name", NAMES)
def test_without_voxels_nothing_is_defined(name: str) -> None:
    assert metrics.get(name)(ScoredCells.of([])) == Undefined("there are no raters")


def test_without_marks_there_is_no_volume_error() -> None:
    assert metrics.get("volume_error")(cells([(9000, 0)])) == Undefined("no rater marked a voxel")


def test_cells_are_pooled_over_cases_and_panels() -> None:
    histogram = JointHistogram.from_cells([0, 1, 1], [3, 3, 4], [5, 6, 7], [2, 2**60, 1], ["a", "b", "c"])
    one = CaseStatistics(histogram, (2.5, 1.0, 1.0))
    two = CaseStatistics(JointHistogram.from_cells([1], [3], [3], [7], ["b", "d", "a"]))
    three = CaseStatistics(JointHistogram.from_cells([1], [3], [1], [9], ["e"]))
    whole = ScoredCells.of([one])
    assert (whole.n_raters, whole.voxel_mm3) == (3, 2.5)
    assert whole.count.tolist() == [2**60 + 2, 1]
    assert whole.mhr.tolist() == [2 / 3, 1]
    assert whole.score.tolist() == CODE_VALUES[[3, 4]].tolist()
    assert ScoredCells.of([one], "roi").count.tolist() == [2**60, 1]
    for histograms in ([one, two, three], [three, two, one]):
        pooled = ScoredCells.of(histograms)
        assert pooled.n_raters is None
        assert pooled.mhr.tolist() == [1, 2 / 3, 1]
        assert pooled.count.tolist() == [9, 2**60 + 9, 1]
    assert ScoredCells.of([one, two]).n_raters == 3


def test_metrics_are_found_by_name_and_described() -> None:
    assert metrics.names() == NAMES
    for name in NAMES:
        metric: Any = metrics.get(name)
        assert metric.name == name
        assert metric.description
        assert metric.better in ("lower", "higher", "zero")
    with pytest.raises(RequestError, match=r"no metric 'ece'\.\nAllowed: ece_mhr, ace_mhr"):
        metrics.get("ece")
    assert N_CODES == CODE_ONE + 1
