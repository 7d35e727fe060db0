"""ECE of the challenge: the calibration of the top class against each single rater, then the mean over the raters.

It measures another thing than the calibration to the mean human response: a score of 0.4 that two of five raters bear
out is badly calibrated to each of the five.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from twintrack_core.histogram import CaseStatistics
from twintrack_core.metrics import LabelledScores, Metric, Result, ScoredCells, Undefined

_RULE = "raters+20"
_MARGIN = 20
_N_BINS = 50
_SMALLEST = np.float32(1e-8)
_AXES = "zyx"

_SOURCE = "CURVAS-PDACVI challenge, MICCAI 2025; Guo et al., ICML 2017"


def ece_official(cells: ScoredCells) -> Result:
    """Multi-rater ECE as the challenge's evaluation gives it, a pure number.

    For each rater: sum over bins of n / N * |mean correct - mean confidence|; then the mean over the raters. The
    confidence of a voxel is max(p, 1 - p), its class 1 if p > 0.5 (a tie goes to class 0), and it is correct where that
    is the rater's mark. There are 50 bins with edges linspace(0, 1, 51); a confidence on an edge belongs to the bin
    above, so that a confidence of 1 has a bin of its own.

    The region is the box [min - 20, max + 20) around all marks. Its start is not clamped, so a negative one counts from
    the far end, as in a Python slice: the value is undefined where that makes another box, or an empty one.

    Source: CURVAS-PDACVI challenge, MICCAI 2025; Guo et al., ICML 2017.
    """
    refusal = _wrong_rule(cells) or _wrong_box(cells.cases[0])
    return refusal or _mean_over_raters(cells, official=True)


def ece_exact(cells: ScoredCells) -> Result:
    """Multi-rater ECE as it is meant: the box is clamped to the volume, and the last of the 50 bins holds 1.

    See `ece_official` for the formula. Of several cases, each rater's ECE is over the cases that the rater saw.
    """
    return _wrong_rule(cells) or _mean_over_raters(cells, official=False)


def _mean_over_raters(cells: ScoredCells, *, official: bool) -> Result:
    errors = []
    for rater in cells.raters:
        voxels = cells.labelled(f"rater:{rater}")
        if len(voxels.score):  # none where a rater saw only cases without a mark
            errors.append(_rater_ece(voxels, official=official))
    return float(np.mean(errors)) if errors else Undefined("there are no voxels")


def _rater_ece(voxels: LabelledScores, *, official: bool) -> float:
    confidence, positive, place = (_official_bins if official else _exact_bins)(voxels.score)
    count = voxels.marked + voxels.unmarked
    correct = np.where(positive, voxels.marked, voxels.unmarked)
    gap = np.zeros(_N_BINS + 1)
    np.add.at(gap, place, correct - count * confidence)
    return float(np.abs(gap).sum() / count.sum())


def _official_bins(
    scores: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_], npt.NDArray[np.intp]]:
    """Confidence, whether class 1 is predicted, and bin of each score, by way of float32."""
    p = scores.astype(np.float32)
    classes = np.maximum(np.stack([1 - p, p]), _SMALLEST)
    classes /= classes.sum(axis=0)
    confidence = classes.max(axis=0)
    edges = np.linspace(0, 1, _N_BINS + 1).astype(np.float32)
    return confidence.astype(np.float64), classes[1] > classes[0], _place(edges, confidence)


def _exact_bins(
    scores: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_], npt.NDArray[np.intp]]:
    """Confidence, whether class 1 is predicted, and bin of each score."""
    confidence = np.maximum(scores, 1 - scores)
    place = np.minimum(_place(np.linspace(0, 1, _N_BINS + 1), confidence), _N_BINS - 1)
    return confidence, scores > 0.5, place


def _place(edges: npt.NDArray[Any], confidence: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    return np.searchsorted(edges, confidence, side="right") - 1


def _wrong_rule(cells: ScoredCells) -> Undefined | None:
    if cells.roi == _RULE:
        return None
    found = "an unknown region of interest" if cells.roi is None else f"the region of interest {cells.roi!r}"
    return Undefined(f"it is taken in the challenge's box, not in {found}: count the cohort with --roi {_RULE}")


def _wrong_box(case: CaseStatistics) -> Undefined | None:
    """Say why the official box is not the one that was counted; None if it is."""
    if case.marks is None or case.shape is None:
        if not case.histogram.pattern_counts[1:].any():
            return Undefined("no rater marked a voxel")
        return Undefined(
            f"the statistics do not say where the marks lie, on which the official box depends: accumulate again with "
            f"--roi {_RULE}"
        )
    empty, moved = [], []
    for axis, (first, last), size in zip(_AXES, case.marks, case.shape, strict=True):
        start, stop = first - _MARGIN, last + _MARGIN
        official = range(*slice(start, stop).indices(size))
        told = f"its start along {axis}, {start}, counts from the far end of {size} voxels"
        if not official:
            empty.append(f"{told} and lies beyond its stop, {min(stop, size)}")
        elif official != range(*slice(max(0, start), stop).indices(size)):
            moved.append(told)
    if empty:
        return Undefined(f"the official box is empty because {empty[0]}")
    if moved:
        return Undefined(f"the official box is another than the one counted because {moved[0]}")
    return None


ECE_OFFICIAL = Metric(
    name="ece_official",
    function=ece_official,
    unit="1",
    better="lower",
    range=(0.0, 1.0),
    description="Multi-rater ECE of the top class, 50 bins, as the challenge's evaluation gives it",
    source=_SOURCE,
    regions=("roi",),
    roi=_RULE,
    pooled=False,  # the evaluation takes it case by case
)

ECE_EXACT = Metric(
    name="ece_exact",
    function=ece_exact,
    unit="1",
    better="lower",
    range=(0.0, 1.0),
    description="Multi-rater ECE of the top class, 50 bins, in the box around the marks clamped to the volume",
    source=_SOURCE,
    regions=("roi",),
    roi=_RULE,
)
