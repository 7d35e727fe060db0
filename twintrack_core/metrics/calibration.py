"""Calibration errors to the mean human response (MHR) over bins of the score: p is a voxel's score, m its MHR."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from twintrack_core.metrics.cells import ScoredCells
from twintrack_core.metrics.metric import Metric
from twintrack_core.metrics.reliability import N_BINS, reliability


def ece_mhr(cells: ScoredCells) -> float:
    """Expected calibration error: mean over voxels of |mean p - mean m| of their bin."""
    weight, gap = _bin_gaps(cells)
    return float((weight * gap).sum() / weight.sum())


def ace_mhr(cells: ScoredCells) -> float:
    """Average calibration error: mean of |mean p - mean m| over the bins that hold voxels."""
    weight, gap = _bin_gaps(cells)
    return float(gap.sum() / np.count_nonzero(weight))


def _bin_gaps(cells: ScoredCells) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return voxels and |mean p - mean m| of each bin, 0 where it is empty."""
    bins = reliability(cells)
    return bins.voxels, np.nan_to_num(np.abs(bins.mean_score - bins.mean_mhr))


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
)
