"""Calibration errors to the mean human response (MHR) over bins of the score: p is a voxel's score, m its MHR."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from twintrack_core.metrics.cells import ScoredCells
from twintrack_core.metrics.metric import Metric
from twintrack_core.metrics.reliability import N_BINS, binned, sums


def ece_mhr(cells: ScoredCells) -> float:
    """Expected calibration error: mean over voxels of |mean p - mean m| of their bin."""
    weight, gap = _bin_gaps(cells)
    return float((weight * gap).sum() / weight.sum())


def ace_mhr(cells: ScoredCells) -> float:
    """Average calibration error: mean of |mean p - mean m| over the bins that hold voxels."""
    weight, gap = _bin_gaps(cells)
    return float(gap.sum() / np.count_nonzero(weight))


def mce_mhr(cells: ScoredCells) -> float:
    """Maximum calibration error: the largest |mean p - mean m| of the bins that hold voxels."""
    return float(_bin_gaps(cells)[1].max())


def rmsce_mhr(cells: ScoredCells) -> float:
    """Root mean square calibration error: root of the mean over voxels of (mean p - mean m)^2 of their bin."""
    weight, gap = _bin_gaps(cells)
    return math.sqrt(float((weight * gap**2).sum() / weight.sum()))


def adaptive_ece_mhr(cells: ScoredCells) -> float:
    """Adaptive calibration error: the expected one over 15 bins of as many voxels each, in the order of their scores.

    Voxels of one score are never told apart: all belong to the bin of the first of them. So a score of many voxels may
    fill several bins' share, and bins after it stay empty.
    """
    scores = cells.scores
    total = int(scores.count.sum())
    edges = np.array([-(-total * j // N_BINS) for j in range(1, N_BINS)], dtype=np.int64)
    place = np.searchsorted(edges, np.cumsum(scores.count) - scores.count, side="right")
    gaps = sums(place, scores.count * (scores.score - scores.mean))
    return float(np.abs(gaps).sum() / total)


def _bin_gaps(cells: ScoredCells) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return voxels and |mean p - mean m| of each bin, 0 where it is empty; four metrics share them."""
    return cells.once((__name__, "gaps"), lambda: _gaps(cells))


def _gaps(cells: ScoredCells) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    weight, gap = np.zeros(N_BINS), np.zeros(N_BINS)
    for table in cells.tables:
        score, by_marks, _ = binned(cells, table)
        weight += by_marks.sum(axis=0)
        marks = sum(k * of_k.astype(np.float64) for k, of_k in enumerate(by_marks))  # more than int64 may hold
        gap += score - marks / len(table.raters)
    return weight, np.abs(gap) / np.maximum(weight, 1)


METRICS = (
    Metric(
        name="ece_mhr",
        function=ece_mhr,
        unit="1",
        better="lower",
        range=(0.0, 1.0),
        description=f"Expected calibration error to the MHR, {N_BINS} bins of equal width",
        source="Naeini, Cooper and Hauskrecht, AAAI 2015, with the MHR in place of the label",
    ),
    Metric(
        name="ace_mhr",
        function=ace_mhr,
        unit="1",
        better="lower",
        range=(0.0, 1.0),
        description=f"Average calibration error to the MHR: the same {N_BINS} bins, weighted alike if not empty",
        source="Neumann, Zisserman and Vedaldi, NeurIPS workshop 2018; as MONAI computes it",
    ),
    Metric(
        name="adaptive_ece_mhr",
        function=adaptive_ece_mhr,
        unit="1",
        better="lower",
        range=(0.0, 1.0),
        description=f"Expected calibration error to the MHR, {N_BINS} bins of as many voxels each; no score is split",
        source="Nixon et al., CVPR workshop 2019, with the MHR in place of the label",
    ),
    Metric(
        name="mce_mhr",
        function=mce_mhr,
        unit="1",
        better="lower",
        range=(0.0, 1.0),
        description=f"Maximum calibration error to the MHR over {N_BINS} bins of equal width",
        source="Naeini, Cooper and Hauskrecht, AAAI 2015, with the MHR in place of the label",
    ),
    Metric(
        name="rmsce_mhr",
        function=rmsce_mhr,
        unit="1",
        better="lower",
        range=(0.0, 1.0),
        description=f"Root mean square calibration error to the MHR, {N_BINS} bins of equal width",
        source="Hendrycks, Mazeika and Dietterich, ICLR 2019, with the MHR in place of the label",
    ),
)
