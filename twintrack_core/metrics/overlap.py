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
    predicted, marked, both = (np.zeros(len(_TDSC_THRESHOLDS), dtype=np.int64) for _ in range(3))
    for table in cells.tables:
        by_marks, _ = table.of_runs(np.searchsorted(table.score, _TDSC_THRESHOLDS, side="right"))
        above = np.cumsum(by_marks[:, :0:-1], axis=1)[:, ::-1]  # above each threshold
        enough = np.arange(len(table.raters) + 1)[:, np.newaxis] / len(table.raters) > _TDSC_THRESHOLDS
        predicted += above.sum(axis=0)
        marked += (enough * by_marks.sum(axis=1, keepdims=True)).sum(axis=0)
        both += (enough * above).sum(axis=0)
    sizes = zip(predicted.tolist(), marked.tolist(), both.tolist(), strict=True)
    return math.fsum(_dice(*of_threshold) for of_threshold in sizes) / len(_TDSC_THRESHOLDS)


def _dice(predicted: int, marked: int, both: int) -> float:
    return 2 * both / (predicted + marked + _SMOOTHING) if predicted + marked else 1.0


def volume_error(cells: ScoredCells) -> Result:
    """Signed relative error of the probabilistic volume: (sum of p - sum of m) / sum of m."""
    marked = cells.of_marks((__name__, "volume"), _marked_volume)
    if marked == 0:
        return Undefined("no rater marked a voxel")
    return float((cells.scores.count * cells.scores.score).sum()) / marked - 1


def _marked_volume(cells: ScoredCells) -> float:
    """Return the sum of m over voxels."""
    return math.fsum(
        marks * voxels / len(table.raters)
        for table in cells.tables
        for marks, voxels in enumerate(table.condensed.by_marks.tolist())
    )


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
