"""Reliability: what the voxels of a bin were scored on average, and how many raters marked them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from twintrack_core.histogram import CohortStatistics, RegionName
from twintrack_core.metrics.cells import ScoredCells

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


def reliability_band(
    statistics: CohortStatistics, region: RegionName, draws: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[_Bins, _Bins]:
    """Return how far the mean human response of each bin may lie off by the choice of cases: a bootstrap of the cases.

    Cases are drawn with replacement, as many as there are, and their voxels pooled.

    Parameters
    ----------
    statistics
        Joint histograms of the cases; those without raters are left out.
    region
        What to look at: "whole" or "roi".
    draws
        Number of draws.
    seed
        Of the draws.
    level
        Fraction of the draws inside the band.

    Returns
    -------
    low, high
        (15,) float64 percentiles of `Reliability.mean_mhr`, of the draws in which the bin holds voxels; NaN where none
        does.

    References
    ----------
    B. Efron, R. J. Tibshirani: An Introduction to the Bootstrap, 1993, the percentile interval.
    """
    cases = [ScoredCells.of([case], region, statistics.roi) for _, case in statistics.items() if case.histogram.raters]
    binned = [(cells.scores, bins_of(cells.scores.score)) for cells in cases]
    voxels = np.array([sums(place, scores.count) for scores, place in binned]).reshape(-1, N_BINS)
    marks = np.array([sums(place, scores.count * scores.mean) for scores, place in binned]).reshape(-1, N_BINS)
    low, high = np.full(N_BINS, np.nan), np.full(N_BINS, np.nan)
    if not cases:
        return low, high
    times = np.random.default_rng(seed).multinomial(len(cases), np.full(len(cases), 1 / len(cases)), size=draws)
    # Summed by loops rather than by a matrix product, so that every machine gives the same bits.
    drawn = np.einsum("dc,cb->db", times.astype(np.float64), voxels)
    means = np.einsum("dc,cb->db", times.astype(np.float64), marks) / np.where(drawn > 0, drawn, np.nan)
    for k in np.flatnonzero((drawn > 0).any(axis=0)):
        low[k], high[k] = np.nanquantile(means[:, k], [(1 - level) / 2, (1 + level) / 2])
    return low, high


def bins_of(score: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """Return the bin, 0 to 14, of each of (n,) ascending scores."""
    starts = np.searchsorted(score, _INNER_EDGES)
    return np.repeat(np.arange(N_BINS), np.diff(starts, prepend=0, append=len(score)))


def sums(place: npt.NDArray[np.intp], values: npt.NDArray[Any]) -> _Bins:
    """Return the sum of (n,) values in each of 15 places, (15,) float64, taken in order."""
    return np.asarray(np.bincount(place, weights=values, minlength=N_BINS), dtype=np.float64)
