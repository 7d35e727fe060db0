"""Bands over cases for curves: the fitted map and the reliability diagram."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from twintrack_core.calibrators.recipe import Recipe
from twintrack_core.codes import CODE_VALUES, encode
from twintrack_core.errors import FitError
from twintrack_core.histogram import CaseStatistics, CohortStatistics, RegionName
from twintrack_core.metrics import ScoredCells
from twintrack_core.metrics.reliability import N_BINS, bins_of, sums
from twintrack_core.validation.bootstrap import Bootstrap
from twintrack_core.validation.cross_fit import Fitter

_Floats = npt.NDArray[np.float64]

_SCORES = np.linspace(0, 1, 101)


@dataclass(frozen=True, eq=False)
class MapBand:
    """A map, and how far it may lie off by the choice of the cases it was fitted to.

    Attributes
    ----------
    score
        (k,) float64 scores, values of score codes.
    value
        (k,) float64 the map there.
    low, high
        (k,) float64 the band, point by point.
    failed
        Number of draws whose target did not determine the map; the band is that of the others.
    """

    score: _Floats
    value: _Floats
    low: _Floats
    high: _Floats
    failed: int


def map_band(
    statistics: CohortStatistics, recipe: Recipe, bootstrap: Bootstrap, score: npt.ArrayLike = _SCORES
) -> MapBand:
    """Refit a map in every draw of the cases it is fitted to.

    Parameters
    ----------
    statistics
        Joint histograms of the cases, each with raters.
    recipe
        How the map is fitted.
    bootstrap
        How to resample; see `Bootstrap.of_draws`.
    score
        (k,) scores in [0, 1] to look at, which are rounded to their codes.

    Raises
    ------
    RequestError, FitError, PluginError
        As `calibrators.fit`. A draw that cannot be fitted is no error.
    """
    code = encode(score)
    fitter = Fitter(statistics)
    value = fitter.fit(recipe, np.ones(len(statistics), dtype=np.int64)).table[code]
    # Of few cases there are few different draws: 126 of five.
    different, place = np.unique(bootstrap.times(len(statistics)), axis=0, return_inverse=True)
    drawn = np.full((len(different), len(code)), np.nan)
    for row, times in zip(drawn, different, strict=True):
        with contextlib.suppress(FitError):  # counted below
            row[:] = fitter.fit(recipe, times).table[code]
    drawn = drawn[place.reshape(-1)]
    failed = int(np.isnan(drawn[:, 0]).sum())
    low, high = np.clip(bootstrap.of_draws(drawn, value, len(statistics)), 0, 1)
    return MapBand(CODE_VALUES[code], value, low, high, failed)


def reliability_band(
    cases: Sequence[CaseStatistics], region: RegionName, bootstrap: Bootstrap
) -> tuple[_Floats, _Floats]:
    """Return how far the mean human response of each bin may lie off by the choice of cases.

    Cases are drawn and their voxels pooled; what is scored is fixed.

    Parameters
    ----------
    cases
        Statistics of the cases; those without raters are left out.
    region
        What to look at: "whole" or "roi".
    bootstrap
        How to resample; see `Bootstrap.of_draws`.

    Returns
    -------
    low, high
        (15,) float64 of `Reliability.mean_mhr`, of the draws in which the bin holds voxels; NaN where none does.
    """
    scores = [ScoredCells.of([case], region).scores for case in cases if case.histogram.raters]
    binned = [(found, bins_of(found.score)) for found in scores]
    voxels = np.array([sums(place, found.count) for found, place in binned]).reshape(-1, N_BINS)
    marks = np.array([sums(place, found.count * found.mean) for found, place in binned]).reshape(-1, N_BINS)
    if not scores:
        return np.full(N_BINS, np.nan), np.full(N_BINS, np.nan)
    times = bootstrap.times(len(scores)).astype(np.float64)
    # Summed by loops rather than by a matrix product, so that every machine gives the same bits.
    drawn = np.einsum("dc,cb->db", times, voxels)
    means = np.einsum("dc,cb->db", times, marks) / np.where(drawn > 0, drawn, np.nan)
    total = voxels.sum(axis=0)
    pooled = marks.sum(axis=0) / np.where(total > 0, total, np.nan)
    low, high = np.clip(bootstrap.of_draws(means, pooled, len(scores)), 0, 1)
    return low, high
