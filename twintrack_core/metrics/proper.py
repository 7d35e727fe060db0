"""Proper scores to the mean human response (MHR) and to the raters: p is a voxel's score, m its MHR."""

from __future__ import annotations

import math

import numpy as np

from twintrack_core.metrics.cells import ScoredCells
from twintrack_core.metrics.metric import Metric, Noted, Result

# Half a code beyond the outermost codes between 0 and 1, whose logarithms are not finite.
_CLIP_LOW = 2.0**-25
_CLIP_HIGH = 1.0 - 2.0**-12


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


METRICS = (
    Metric(
        name="brier_mhr",
        function=brier_mhr,
        unit="1",
        better="lower",
        range=(0.0, 1.0),
        description="Brier score to the MHR: mean squared difference of score and MHR",
        source="Brier, Monthly Weather Review 1950, with the MHR in place of the outcome",
    ),
    Metric(
        name="cross_entropy_mhr",
        function=cross_entropy_mhr,
        unit="nat",
        better="lower",
        range=(0.0, math.inf),
        description="Cross-entropy of the score to the MHR, natural logarithm",
        source="Good, Journal of the Royal Statistical Society B 1952, with the MHR in place of the outcome",
    ),
)
