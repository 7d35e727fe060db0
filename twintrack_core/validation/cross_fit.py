"""Cross-fitting: maps of every fold, and what they leave of a metric on the cases that they have not seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from twintrack_core.calibrators.fitting import fit_map
from twintrack_core.calibrators.recipe import Recipe
from twintrack_core.errors import FitError
from twintrack_core.histogram import CohortStatistics
from twintrack_core.maps import CalibrationMap
from twintrack_core.metrics.evaluation import case_values
from twintrack_core.targets import BinnedTarget, CaseTargets
from twintrack_core.validation.splits import Split

_Floats = npt.NDArray[np.float64]


class Fitter:
    """Fits maps to some of the cases of a cohort, or to cases drawn from it, without reading any cell again.

    Parameters
    ----------
    statistics
        Joint histograms of the cases, each with raters.
    """

    def __init__(self, statistics: CohortStatistics) -> None:
        self.statistics = statistics
        self._targets: dict[str, CaseTargets] = {}
        self._times = np.zeros(0, dtype=np.int64)
        self._binned: dict[Recipe, BinnedTarget] = {}

    def times(self, names: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return how often each case of the cohort is among ``names``, (cases,) int64."""
        number = Counter(names)
        return np.array([number[name] for name in self.statistics.names], dtype=np.int64)

    def targets(self, target: str) -> CaseTargets:
        """Return the sums of a target, which are made once."""
        if target not in self._targets:
            self._targets[target] = CaseTargets.from_statistics(self.statistics, target)
        return self._targets[target]

    def fit(self, recipe: Recipe, times: npt.NDArray[np.int64]) -> CalibrationMap:
        """Return a map that does not say what it was fitted to.

        Parameters
        ----------
        recipe
            How to fit it.
        times
            (cases,) how often each case of the cohort counts.

        Raises
        ------
        RequestError, FitError, PluginError
            As `calibrators.fit`.
        """
        # Calibrators that share a target are fitted one after another.
        key = replace(recipe, calibrator="identity")
        if not np.array_equal(times, self._times):
            self._times = np.array(times)
            self._binned.clear()
        if key not in self._binned:
            self._binned[key] = recipe.target_of(self.targets(recipe.target), times)
        return fit_map(recipe, self._binned[key])


@dataclass(frozen=True)
class CrossFitted:
    """A map for every fold and recipe.

    Attributes
    ----------
    splits
        The folds.
    maps
        For each recipe that could be fitted in all folds: a map for each fold.
    failed
        For each of the others: the first fold that failed, and why.
    """

    splits: tuple[Split, ...]
    maps: Mapping[Recipe, tuple[CalibrationMap, ...]]
    failed: Mapping[Recipe, str]


def cross_fit(
    fitter: Fitter, recipes: Sequence[Recipe], splits: Sequence[Split], tick: Callable[[], object] = lambda: None
) -> CrossFitted:
    """Fit every recipe in every fold.

    Parameters
    ----------
    fitter
        Of the cohort.
    recipes, splits
        What to fit, and to which cases.
    tick
        Called after every fold.

    Raises
    ------
    RequestError, PluginError
        As `calibrators.fit`. A target that does not determine a calibrator's parameters is no error.
    """
    maps: dict[Recipe, list[CalibrationMap]] = {recipe: [] for recipe in recipes}
    failed: dict[Recipe, str] = {}
    for split in splits:
        times = fitter.times(split.fit)
        for recipe in list(maps):
            try:
                maps[recipe].append(fitter.fit(recipe, times))
            except FitError as error:
                failed[recipe] = f"{split.name}: {error.what}"
                del maps[recipe]
        tick()
    return CrossFitted(tuple(splits), {recipe: tuple(fitted) for recipe, fitted in maps.items()}, failed)


def held_out_values(
    statistics: CohortStatistics,
    crossed: CrossFitted,
    metrics: Sequence[str] | None,
    tick: Callable[[], object] = lambda: None,
) -> tuple[tuple[str, ...], Mapping[Recipe | None, _Floats]]:
    """Score every case on the maps that were not fitted to it, inside the region of interest.

    Parameters
    ----------
    statistics
        Joint histograms of the cases.
    crossed
        The maps.
    metrics
        Names of metrics and suites; None for all that need no voxels.
    tick
        Called after every fold.

    Returns
    -------
    cases
        Names of the cases scored, in the order of the folds.
    values
        (cases, metrics) float64 for each recipe, and for the raw scores under None; NaN where undefined.
    """
    recipes = list(crossed.maps)
    cases: list[str] = []
    parts: list[_Floats] = []
    for fold, split in enumerate(crossed.splits):
        maps: list[CalibrationMap | None] = [None, *(crossed.maps[recipe][fold] for recipe in recipes)]
        parts.append(case_values(statistics, maps, metrics, "roi", split.test))
        cases += split.test
        tick()
    values = np.concatenate(parts, axis=1)
    return tuple(cases), dict(zip([None, *recipes], values, strict=True))
