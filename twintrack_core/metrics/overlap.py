"""Overlap of the predicted with the raters' segmentation, and their volumes: p is a voxel's score, m its MHR."""

from __future__ import annotations

import math

import numpy as np

from twintrack_core.metrics.cells import ScoredCells
from twintrack_core.metrics.metric import Metric, Result, Undefined

_TDSC_THRESHOLDS = np.linspace(0.1, 0.8, 6)
_SMOOTHING = 1e-6


def tdsc(cells: ScoredCells) -> float:
    """Thresholded Dice of CURVAS-PDACVI: mean over six thresholds t of the Dice of {p > t} and {m > t}.

    1e-6 is added to the denominator; the Dice of two empty sets is 1. Both comparisons are strict and in float64, so
    four of five raters are not above 0.8.
    """
    return float(np.mean([_dice_above(cells, threshold) for threshold in _TDSC_THRESHOLDS]))


def _dice_above(cells: ScoredCells, threshold: float) -> float:
    predicted, marked = cells.score > threshold, cells.mhr > threshold
    total = int(cells.count[predicted].sum()) + int(cells.count[marked].sum())
    if total == 0:
        return 1.0
    return 2 * int(cells.count[predicted & marked].sum()) / (total + _SMOOTHING)


def volume_error(cells: ScoredCells) -> Result:
    """Signed relative error of the probabilistic volume: (sum of p - sum of m) / sum of m."""
    marked = float((cells.count * cells.mhr).sum())
    if marked == 0:
        return Undefined("no rater marked a voxel")
    return float((cells.count * cells.score).sum()) / marked - 1


METRICS = (
    Metric(
        name="tdsc",
        function=tdsc,
        unit="1",
        better="higher",
        range=(0.0, 1.0),
        description="Thresholded Dice: mean over six thresholds from 0.1 to 0.8 of the Dice of score and MHR above it",
        source="CURVAS-PDACVI challenge, MICCAI 2025",
    ),
    Metric(
        name="volume_error",
        function=volume_error,
        unit="1",
        better="zero",
        range=(-1.0, math.inf),
        description="Signed relative error of the probabilistic volume against the raters' mean volume",
        source="(sum of p - sum of m) / sum of m",
    ),
)
