"""Calibration to the mean human response (MHR): p is the score of a voxel, m its MHR."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from twintrack_core.metrics.cells import ScoredCells
from twintrack_core.metrics.metric import Noted, Result
from twintrack_core.metrics.reliability import reliability

# Half a code beyond the outermost codes between 0 and 1, whose logarithms are not finite.
_CLIP_LOW = 2.0**-25
_CLIP_HIGH = 1.0 - 2.0**-12


def ece_mhr(cells: ScoredCells) -> float:
    """Expected calibration error: mean over voxels of |mean p - mean m| of their bin."""
    weight, gap = _bin_gaps(cells)
    return float((weight * gap).sum() / weight.sum())


def ace_mhr(cells: ScoredCells) -> float:
    """Average calibration error: mean of |mean p - mean m| over the bins that hold voxels."""
    weight, gap = _bin_gaps(cells)
    return float(gap.sum() / np.count_nonzero(weight))


def brier_mhr(cells: ScoredCells) -> float:
    """Brier score to the MHR: mean of (p - m)^2."""
    return float((cells.count * (cells.score - cells.mhr) ** 2).sum() / cells.n_voxels)


def cross_entropy_mhr(cells: ScoredCells) -> Result:
    """Cross-entropy to the MHR: mean of -m log p - (1 - m) log(1 - p), in nats, p clipped to [2^-25, 1 - 2^-12]."""
    p, m = np.clip(cells.score, _CLIP_LOW, _CLIP_HIGH), cells.mhr
    loss = -(m * np.log(p) + (1 - m) * np.log1p(-p))
    value = float((cells.count * loss).sum() / cells.n_voxels)
    refuted = ((cells.score == 0) & (m > 0)) | ((cells.score == 1) & (m < 1))
    if not refuted.any():
        return value
    n_refuted = int(cells.count[refuted].sum())
    return Noted(
        value, f"{n_refuted} of {cells.n_voxels} voxels have a score of 0 or 1 that a rater contradicts; it was clipped"
    )


def _bin_gaps(cells: ScoredCells) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return voxels and |mean p - mean m| of each bin, 0 where it is empty."""
    bins = reliability(cells)
    return bins.voxels, np.nan_to_num(np.abs(bins.mean_score - bins.mean_mhr))
