from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from twintrack_core.histogram import CaseStatistics, JointHistogram
from twintrack_core.metrics import Metric, Result, ScoredCells, Undefined
from twintrack_curvas.ece import ECE_EXACT, ECE_OFFICIAL, _exact_bins, _official_bins

SHAPE = (3, 4, 5)
EDGES = np.linspace(0, 1, 51)
CODES = np.arange(15361, dtype=np.uint16)
SCORES = CODES.view(np.float16).astype(np.float64)
LIKELY = st.one_of(
    st.sampled_from([0.0, 2.0**-24, 0.02, 0.25, 0.5, 0.75, 0.98, 1 - 2.0**-11, 1.0]), st.floats(0, 1, width=16)
)


def why(result: Result) -> str:
    assert isinstance(result, Undefined), result
    return result.why


def slow_ece(p: npt.NDArray[Any], y: npt.NDArray[Any], *, official: bool) -> float:
    """ECE against one rater, voxel by voxel."""
    bins: dict[int, list[tuple[bool, float]]] = {}
    for score, label in zip(p.reshape(-1).tolist(), y.reshape(-1).tolist(), strict=True):
        confidence = max(score, 1 - score)
        place = max(k for k in range(51) if EDGES[k] <= confidence)
        if not official:
            place = min(place, 49)
        bins.setdefault(place, []).append(((score > 0.5) == bool(label), confidence))
    total = 0.0
    for found in bins.values():
        right, confident = np.mean([c for c, _ in found]), np.mean([c for _, c in found])
        total += len(found) / p.size * float(abs(right - confident))
    return total


@pytest.mark.parametrize("metric", [ECE_OFFICIAL, ECE_EXACT])
@given(p=hnp.arrays(np.float16, SHAPE, elements=LIKELY), raters=hnp.arrays(bool, (3, *SHAPE)))
def test_ece_voxel_by_voxel(
    cells_of: Callable[..., ScoredCells], metric: Metric, p: npt.NDArray[Any], raters: npt.NDArray[Any]
) -> None:
    raters[0, 1, 1, 1] = True  # so the box holds the whole of so small a volume
    expected = np.mean([slow_ece(p, rater, official=metric is ECE_OFFICIAL) for rater in raters])
    assert metric(cells_of(p, raters, "roi")) == pytest.approx(expected, abs=1e-12)


def test_the_box_is_cut_from_a_larger_volume(cells_of: Callable[..., ScoredCells]) -> None:
    rng = np.random.default_rng(0)
    p = rng.random((50, 60, 70)).astype(np.float16)
    raters = np.zeros((2, *p.shape), dtype=bool)
    raters[0, 22:26, 25, 30] = raters[1, 23, 25:28, 30:33] = True
    box = (slice(2, 45), slice(5, 47), slice(10, 52))
    for metric in (ECE_OFFICIAL, ECE_EXACT):
        found = [slow_ece(p[box], rater[box], official=metric is ECE_OFFICIAL) for rater in raters]
        assert metric(cells_of(p, raters, "roi")) == pytest.approx(np.mean(found), abs=1e-12)


def test_official_against_torchmetrics(cells_of: Callable[..., ScoredCells]) -> None:
    reason = "torchmetrics is the reference of the official reading"
    torch = pytest.importorskip("torch", reason=reason)
    functional = pytest.importorskip("torchmetrics.functional.classification", reason=reason)
    rng = np.random.default_rng(1)
    p = rng.random((6, 20, 20)).astype(np.float16)
    p[:, :4], p[:, 4:8], p[:, 8:10] = 0, 1, 0.5
    p[0, 12, :20] = np.arange(20) / 20
    raters = rng.random((4, *p.shape)) < np.clip(p, 0.1, 0.8)
    single = p.reshape(-1).astype(np.float32)
    scores = np.maximum(np.stack([1 - single, single], axis=1), np.float32(1e-8))
    scores /= scores.sum(axis=1, keepdims=True)
    found = [
        float(
            functional.multiclass_calibration_error(
                torch.from_numpy(scores), torch.from_numpy(rater.reshape(-1).astype(np.int64)), num_classes=2, n_bins=50
            )
        )
        for rater in raters
    ]
    assert ECE_OFFICIAL(cells_of(p, raters, "roi")) == pytest.approx(np.mean(found), abs=1e-6)


def test_float32_changes_no_bin_and_no_confidence() -> None:
    # All 1 - p are exact in float32, only 0 is below 1e-8, and 1 + 1e-8 is 1: nothing is left to clamp and renormalise.
    official, positive, place = _official_bins(SCORES)
    exact, positive_exact, place_exact = _exact_bins(SCORES)
    np.testing.assert_array_equal(official, exact)
    np.testing.assert_array_equal(positive, positive_exact)
    np.testing.assert_array_equal(positive, SCORES > 0.5)
    np.testing.assert_array_equal(np.minimum(place, 49), place_exact)
    # Edges made in float32, as others may make them, part the codes as float64 ones do.
    for edges in (EDGES.astype(np.float32), np.linspace(0, 1, 51, dtype=np.float32)):
        np.testing.assert_array_equal(np.searchsorted(edges, official.astype(np.float32), side="right") - 1, place)
    np.testing.assert_array_equal(np.searchsorted(EDGES, exact, side="right") - 1, place)


def test_confidence_of_exactly_1_has_a_bin_of_its_own(cells_of: Callable[..., ScoredCells]) -> None:
    # One voxel surely and wrongly unmarked, one nearly surely marked: apart they add up, together they cancel.
    p = np.array([0.0, 1 - 2.0**-10], np.float16).reshape(1, 1, 2)
    raters = np.array([True, True]).reshape(1, 1, 1, 2)
    cells = cells_of(p, raters, "roi")
    assert ECE_OFFICIAL(cells) == pytest.approx((1 + 2.0**-10) / 2)
    assert ECE_EXACT(cells) == pytest.approx((1 - 2.0**-10) / 2)


def test_a_tie_at_one_half_goes_to_class_0(cells_of: Callable[..., ScoredCells]) -> None:
    p = np.full((1, 2, 2), 0.5, np.float16)
    raters = np.zeros((1, 1, 2, 2), dtype=bool)
    raters[0, 0, 0, 0] = True
    for metric in (ECE_OFFICIAL, ECE_EXACT):  # three of four are correct at a confidence of 0.5
        assert metric(cells_of(p, raters, "roi")) == pytest.approx(0.25)


def marked_at(size: int, first: int, last: int, axis: int = 0) -> ScoredCells:
    """Cells of a volume that is long along one axis, marked from first to last."""
    shape = [3, 3, 3]
    shape[axis] = size
    raters = np.zeros((1, *shape), dtype=bool)
    np.moveaxis(raters[0], axis, 0)[first : last + 1] = True
    roi = np.zeros(shape, dtype=bool)
    np.moveaxis(roi, axis, 0)[max(0, first - 20) : last + 20] = True
    marks = [(0, 2)] * 3
    marks[axis] = (first, last)
    z, y, x = shape
    case = CaseStatistics(
        JointHistogram.from_arrays(np.full(shape, 0.25, np.float16), raters, roi=roi),
        (1, 1, 1),
        {},
        (z, y, x),
        tuple(marks),
    )
    return ScoredCells.of([case], "roi", "raters+20")


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_lesion_near_the_low_border_counts_from_the_far_end(axis: int) -> None:
    # The start is 5 - 20 = -15, that is 85 of 100; the stop is 30.
    said = why(ECE_OFFICIAL(marked_at(100, 5, 10, axis)))
    assert said == (
        f"the official box is empty because its start along {'zyx'[axis]}, -15, counts from the far end of 100 voxels "
        "and lies beyond its stop, 30"
    )
    assert isinstance(ECE_EXACT(marked_at(100, 5, 10, axis)), float)


def test_a_lesion_near_the_low_border_of_a_thin_volume_has_another_box() -> None:
    # The start is -15, that is 15 of 30; the stop is 30.
    said = why(ECE_OFFICIAL(marked_at(30, 5, 10)))
    assert said.startswith("the official box is another than the one counted because its start along z, -15, counts")


def test_a_start_before_the_far_end_is_the_low_border_after_all() -> None:
    # The start is -15 of 12 voxels, and so 0, as in the clamped box.
    assert isinstance(ECE_OFFICIAL(marked_at(12, 5, 8)), float)


@given(size=st.integers(1, 90), data=st.data())
def test_the_official_box_is_a_python_slice(size: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, size - 1))
    last = data.draw(st.integers(first, size - 1))
    everything = list(range(size))
    official = everything[first - 20 : last + 20]
    clamped = everything[max(0, first - 20) : last + 20]
    result = ECE_OFFICIAL(marked_at(size, first, last))
    if official == clamped:
        assert isinstance(result, float)
    else:
        assert ("is empty" in why(result)) == (not official)


def test_other_rules_of_the_region_are_refused(cells_of: Callable[..., ScoredCells], count: Any) -> None:
    case = count(np.zeros(SHAPE, np.float16), np.ones((1, *SHAPE), dtype=bool))
    for metric in (ECE_OFFICIAL, ECE_EXACT):
        for roi, named in (("full", "'full'"), ("raters+10", "'raters+10'"), (None, "unknown")):
            said = why(metric(ScoredCells.of([case], "roi", roi)))
            assert named in said
            assert said.endswith("count the cohort with --roi raters+20")


def test_without_marks_or_without_knowing_where_they_lie(count: Any) -> None:
    p = np.full(SHAPE, 0.5, np.float16)
    nobody = count(p, np.zeros((1, *SHAPE), dtype=bool))
    nobody = replace(nobody, histogram=nobody.histogram.fold_regions())
    assert why(ECE_OFFICIAL(ScoredCells.of([nobody], "roi", "raters+20"))) == "no rater marked a voxel"
    somebody = count(p, np.ones((1, *SHAPE), dtype=bool))
    for unknown in (replace(somebody, marks=None), replace(somebody, marks=None, shape=None)):
        assert "accumulate again" in why(ECE_OFFICIAL(ScoredCells.of([unknown], "roi", "raters+20")))
        assert isinstance(ECE_EXACT(ScoredCells.of([unknown], "roi", "raters+20")), float)


def test_pooled_over_the_cases_that_a_rater_saw(count: Any) -> None:
    rng = np.random.default_rng(2)
    p = [rng.random(SHAPE).astype(np.float16) for _ in range(3)]
    y = [rng.random((2, *SHAPE)) < 0.5 for _ in range(3)]
    panels = [["a", "b"], ["b", "a"], ["b", "c"]]
    cases = [count(*arrays) for arrays in zip(p, y, panels, strict=True)]
    # What was pooled is what was rated: a saw the first two cases, b all, c the last.
    marks = {
        "a": ([0, 1], [y[0][0], y[1][1]]),
        "b": ([0, 1, 2], [y[0][1], y[1][0], y[2][0]]),
        "c": ([2], [y[2][1]]),
    }
    expected = [
        slow_ece(np.stack([p[case] for case in seen]), np.stack(labels), official=False)
        for seen, labels in marks.values()
    ]
    cells = ScoredCells.of(cases, "roi", "raters+20")
    assert ECE_EXACT(cells) == pytest.approx(np.mean(expected), abs=1e-12)
    assert why(ECE_OFFICIAL(cells)) == "it is taken case by case"


@pytest.mark.parametrize("large", [2**24 + 1, 2**32 + 1])
def test_large_counts_are_exact(large: int) -> None:
    # 100 voxels of a score of 1 are wrong, among more than float32 can count.
    histogram = JointHistogram.from_cells([1, 1], [15360, 15360], [1, 0], [large, 100], ["a"])
    case = CaseStatistics(histogram, (1, 1, 1), {}, (5000, 5000, 5000), ((20, 30),) * 3)
    for metric in (ECE_OFFICIAL, ECE_EXACT):
        assert metric(ScoredCells.of([case], "roi", "raters+20")) == pytest.approx(100 / (large + 100), rel=1e-14)
