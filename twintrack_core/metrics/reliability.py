"""Reliability: what the voxels of a bin were scored on average, and how many raters marked them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from twintrack_core.metrics.cells import ScoredCells
from twintrack_core.metrics.tables import PanelScores

N_BINS = 15

_INNER_EDGES = np.arange(1, N_BINS) / N_BINS

_Bins = npt.NDArray[np.float64]


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
    spread_mhr
        (15,) float64 standard deviation of the mean human response over the voxels of a bin, NaN where it is empty.
    """

    voxels: _Bins
    mean_score: _Bins
    mean_mhr: _Bins
    spread_mhr: _Bins


def reliability_of(cells: ScoredCells) -> Reliability:
    """Bin the voxels by score. Edges are compared as float64 values of the score codes; sums are float64, in order."""
    scores = cells.scores
    place = bins_of(scores.score)
    voxels = sums(place, scores.count)
    filled = np.where(voxels > 0, voxels, np.nan)
    mean_mhr = sums(place, scores.count * scores.mean) / filled
    place_of_cells = np.searchsorted(_INNER_EDGES, cells.score, side="right")
    spread = sums(place_of_cells, cells.count * (cells.mhr - mean_mhr[place_of_cells]) ** 2)
    return Reliability(voxels, sums(place, scores.count * scores.score) / filled, mean_mhr, np.sqrt(spread / filled))


def binned(cells: ScoredCells, table: PanelScores) -> tuple[_Bins, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the sum of p in each bin, (15,), and its voxels by number of marks and by who marked them; see `of_runs`.

    Parameters
    ----------
    cells
        The cells; several metrics of them share what is found.
    table
        One of their tables.
    """
    return cells.once((__name__, table.raters), lambda: _binned(table))


def _binned(table: PanelScores) -> tuple[_Bins, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    score = sums(bins_of(table.score), table.voxels * table.score)
    return score, *table.of_runs(np.searchsorted(table.score, _INNER_EDGES))


def bins_of(score: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """Return the bin, 0 to 14, of each of (n,) ascending scores."""
    starts = np.searchsorted(score, _INNER_EDGES)
    return np.repeat(np.arange(N_BINS), np.diff(starts, prepend=0, append=len(score)))


def sums(place: npt.NDArray[np.intp], values: npt.NDArray[Any]) -> _Bins:
    """Return the sum of (n,) values in each of 15 places, (15,) float64, taken in order."""
    return np.asarray(np.bincount(place, weights=values, minlength=N_BINS), dtype=np.float64)
