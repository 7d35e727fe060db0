"""Reliability: what the voxels of a bin were scored on average, and how many raters marked them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from twintrack_core.metrics.cells import ScoredCells

N_BINS = 15

_INNER_EDGES = np.arange(1, N_BINS) / N_BINS


@dataclass(frozen=True, eq=False)
class Reliability:
    """Data of a reliability diagram in the bins [k/15, (k+1)/15), the last one closed.

    Attributes
    ----------
    voxels
        (15,) float64 voxels per bin.
    mean_score
        (15,) float64 mean score per bin, NaN where it is empty.
    mean_mhr
        (15,) float64 mean human response per bin, NaN where it is empty.
    """

    voxels: npt.NDArray[np.float64]
    mean_score: npt.NDArray[np.float64]
    mean_mhr: npt.NDArray[np.float64]


def reliability(cells: ScoredCells) -> Reliability:
    """Bin the voxels by score. Edges are compared as float64 values of the score codes; sums are float64, in order."""
    place = np.searchsorted(_INNER_EDGES, cells.score, side="right")
    voxels = _sums(place, cells.count)
    filled = np.where(voxels > 0, voxels, np.nan)
    return Reliability(
        voxels, _sums(place, cells.count * cells.score) / filled, _sums(place, cells.count * cells.mhr) / filled
    )


def _sums(place: npt.NDArray[np.intp], values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    return np.asarray(np.bincount(place, weights=values, minlength=N_BINS), dtype=np.float64)
