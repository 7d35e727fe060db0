"""The learning curve: how good a map is on other cases, against the number of cases it is fitted to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from twintrack_core.calibrators.recipe import Recipe
from twintrack_core.errors import FitError, RequestError
from twintrack_core.histogram import CohortStatistics
from twintrack_core.maps import CalibrationMap
from twintrack_core.validation.cross_fit import Fitter
from twintrack_core.validation.scoring import check_metric, scorer

_Floats = npt.NDArray[np.float64]

_TEST_SHARE = 5  # one case in so many is held out
_SERIES = (1, 1.5, 2, 3, 5, 7)


@dataclass(frozen=True, eq=False)
class LearningCurve:
    """A metric on held-out cases against the number of cases a map is fitted to.

    Attributes
    ----------
    recipe, metric
        What was fitted, and what is measured.
    n_test
        Number of cases held out in every repeat.
    repeats
        Number of random orders of the cases.
    size
        (k,) int64 numbers of cases fitted to, ascending.
    mean, low, high
        (k,) float64 mean over repeats, and the percentiles 10 and 90 of them: where a single choice of cases may end.
    failed
        (k,) int64 repeats whose target did not determine the map; the figures are of the others.
    raw
        Mean over the same cases of the metric of the raw scores.
    tolerance
        Fraction of the best mean that is allowed on top of it.
    enough
        Least size from which on every mean is within the tolerance of the best; None if there is none, or for a metric
        of which lower values are not better.
    """

    recipe: Recipe
    metric: str
    n_test: int
    repeats: int
    size: npt.NDArray[np.int64]
    mean: _Floats
    low: _Floats
    high: _Floats
    failed: npt.NDArray[np.int64]
    raw: float
    tolerance: float
    enough: int | None


def learning_curve(
    statistics: CohortStatistics,
    recipe: Recipe,
    metric: str = "brier_mhr",
    *,
    sizes: Sequence[int] | None = None,
    repeats: int = 20,
    tolerance: float = 0.05,
    seed: int = 0,
) -> LearningCurve:
    """Fit maps to ever more cases of a random order, and score them on a fifth of the cases, which is held out.

    Every repeat puts the cases into another order; all sizes of a repeat are scored on the same held-out cases, so that
    they can be compared.

    Parameters
    ----------
    statistics
        Joint histograms of the cases; those without raters are left out.
    recipe
        How to fit.
    metric
        Name of a metric inside the region of interest that needs no voxels.
    sizes
        Numbers of cases to fit to; by default a series from 1 to all but a fifth.
    repeats
        Number of orders.
    tolerance
        What "as good as the best" allows, as a fraction of the best mean.
    seed
        Of the orders.

    Raises
    ------
    RequestError
        For fewer than three cases with raters, sizes that are not there, an unknown metric, or numbers that make no
        sense.
    FitError
        If no choice of cases determines the map and the metric.
    PluginError
        As `calibrators.fit`.
    """
    rated = statistics.rated()
    n_cases = len(rated)
    n_test = max(1, n_cases // _TEST_SHARE)
    most = n_cases - n_test
    if n_cases < 3:
        raise RequestError(f"{n_cases} cases with raters make no learning curve.", "Allowed: 3 or more.")
    size = np.array(_series(most) if sizes is None else sorted(set(sizes)), dtype=np.int64)
    if not len(size) or size[0] < 1 or size[-1] > most:
        raise RequestError(
            f"Maps cannot be fitted to {list(sizes or ())} of {n_cases} cases of which {n_test} are held out.",
            f"Allowed: 1 to {most}.",
        )
    if repeats < 2 or not 0 <= tolerance < np.inf:
        raise RequestError(
            f"{repeats!r} repeats and a tolerance of {tolerance!r} make no learning curve.",
            "Allowed: 2 repeats or more, and a fraction of 0 or more.",
        )
    measured = check_metric(metric)
    fitter = Fitter(rated)
    score = scorer(fitter, metric)
    values = np.full((repeats, len(size)), np.nan)
    raw, failed = np.full(repeats, np.nan), np.zeros(len(size), dtype=np.int64)
    rng = np.random.default_rng(seed)
    for repeat in range(repeats):
        order = rng.permutation(n_cases)
        held_out, order = order[:n_test], order[n_test:]
        fitted = [_fit_first(fitter, recipe, order[:number]) for number in size]
        failed += [each is None for each in fitted]
        means = _means(score([None, *(each for each in fitted if each is not None)], held_out))
        raw[repeat] = means[0]
        values[repeat, [each is not None for each in fitted]] = means[1:]
    known = ~np.isnan(values).all(axis=0)
    if not known.any():
        raise FitError(
            f"No choice of up to {most} cases determines {recipe.label}, or {metric} of a case held out.",
            "Allowed: cases of which some choice does.",
            "Ask for fewer min_cases, or another calibrator.",
        )
    mean, low, high = (np.full(len(size), np.nan) for _ in range(3))
    mean[known] = np.nanmean(values[:, known], axis=0)
    low[known], high[known] = np.nanquantile(values[:, known], [0.1, 0.9], axis=0)
    enough = _enough(size, mean, tolerance) if measured.better == "lower" else None
    raw_mean = float(np.nanmean(raw)) if not np.isnan(raw).all() else float("nan")
    return LearningCurve(recipe, metric, n_test, repeats, size, mean, low, high, failed, raw_mean, tolerance, enough)


def _series(most: int) -> list[int]:
    """Return 1, 2, 3, 5, 7, 10, 15, 20, ... up to the most, which is the last."""
    found = {int(step * 10**power) for power in range(len(str(most))) for step in _SERIES}
    return sorted({size for size in found if size < most} | {most})


def _fit_first(fitter: Fitter, recipe: Recipe, cases: npt.NDArray[np.int64]) -> CalibrationMap | None:
    times = np.zeros(len(fitter.statistics), dtype=np.int64)
    times[cases] = 1
    try:
        return fitter.fit(recipe, times)
    except FitError:
        return None


def _means(values: _Floats) -> _Floats:
    """Return means over the cases, along the last axis, where the metric is defined."""
    defined = ~np.isnan(values)
    number = defined.sum(axis=1)
    total = np.where(defined, values, 0).sum(axis=1)
    return np.asarray(np.divide(total, number, out=np.full(len(values), np.nan), where=number > 0))


def _enough(size: npt.NDArray[np.int64], mean: _Floats, tolerance: float) -> int | None:
    known = ~np.isnan(mean)
    if not known.any():
        return None
    worse = np.flatnonzero(~(mean <= np.nanmin(mean) * (1 + tolerance)))
    if not len(worse):
        return int(size[0])
    return int(size[worse[-1] + 1]) if worse[-1] + 1 < len(size) else None
