"""What a report looks at: which cases, and on which maps each of them may honestly be scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from twintrack_core.calibrators.recipe import GUARDS, Recipe
from twintrack_core.errors import FitError, PluginError, RequestError
from twintrack_core.histogram import CohortStatistics, RegionName
from twintrack_core.maps import CalibrationMap
from twintrack_core.metrics.evaluation import case_values
from twintrack_core.validation import Bootstrap, Comparison, Split, split_cases
from twintrack_core.validation.cross_fit import Fitter, cross_fit
from twintrack_core.validation.splits import places_of

Reading = Literal["held out", "cross-fitted", "in-sample", "unknown"]
"""How cases are scored: on a map fitted to others; on maps of folds; on the map that was fitted to them; on one
that does not say what it was fitted to."""

_FOLDS = 5
_EQUAL = 1e-9  # machines may differ in the last places of a fit

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Subject:
    """A map, the cases that are looked at, and what is known of those it was fitted to.

    Attributes
    ----------
    calibration
        The map.
    statistics
        The cases that are looked at.
    fitted
        Those the map was fitted to, if they are there.
    recipe
        How to fit the map again; None where that cannot be done.
    no_recipe
        Why it cannot.
    reading
        How the rated cases are scored.
    why_in_sample
        Why there is nothing better, if they are scored on the map that was fitted to them.
    seen
        Names of the rated cases that the map was fitted to.
    maps
        For each rated case: the map that it is scored on.
    splits
        Folds of the fitted cases; none where there are fewer than two.
    names
        Names of the rated cases: sorted, or in the order of a comparison of them, so that draws are the same.
    bootstrap
        How cases are resampled.
    groups
        (cases,) number of each named case's group, if groups are drawn rather than cases.
    """

    calibration: CalibrationMap
    statistics: CohortStatistics
    fitted: CohortStatistics | None
    recipe: Recipe | None
    no_recipe: str
    reading: Reading
    why_in_sample: str
    seen: tuple[str, ...]
    maps: Mapping[str, CalibrationMap]
    splits: tuple[Split, ...]
    names: tuple[str, ...]
    bootstrap: Bootstrap
    groups: npt.NDArray[np.intp] | None

    @cached_property
    def rated(self) -> CohortStatistics:
        """The cases that have raters."""
        return self.statistics.select(self.maps)

    @cached_property
    def calibrated(self) -> CohortStatistics:
        """The rated cases as the maps make them."""
        return CohortStatistics(
            {name: case.relabel(self.maps[name].codes) for name, case in self.rated.items()},
            self.statistics.roi,
            skipped=self.statistics.skipped,
        )

    @property
    def drawn(self) -> str:
        """What the draws for metrics are of: cases, or whole groups of them."""
        return "cases" if self.groups is None else "groups of cases"

    @property
    def regions(self) -> tuple[RegionName, ...]:
        """What there is to look at: the region, and the whole volume where that is something else."""
        return ("roi",) if self.statistics.roi == "full" else ("roi", "whole")

    def region_words(self, region: RegionName) -> str:
        """Say what a region is, to follow a noun: "inside the region (raters+20)"."""
        if self.statistics.roi == "full" or region == "whole":
            return "in the whole volume"
        return f"inside the region ({self.statistics.roi})"

    def values(self, metrics: Sequence[str], region: RegionName) -> tuple[_Floats, _Floats]:
        """Return (cases, metrics) values, in order of `names`, raw and calibrated; NaN where undefined."""
        place = {name: number for number, name in enumerate(self.names)}
        raw, calibrated = (np.full((len(place), len(metrics)), np.nan) for _ in range(2))
        for calibration in {id(each): each for each in self.maps.values()}.values():
            cases = [name for name, each in self.maps.items() if each is calibration]
            found = case_values(self.rated, [None, calibration], list(metrics), region, cases)
            rows = [place[name] for name in cases]
            raw[rows], calibrated[rows] = found
        return raw, calibrated


def look_at(
    calibration: CalibrationMap,
    statistics: CohortStatistics,
    fitted: CohortStatistics | None,
    bootstrap: Bootstrap,
    comparison: Comparison | None = None,
) -> Subject:
    """Find out how the cases may be scored.

    Parameters
    ----------
    calibration, statistics, fitted
        The map, the cases to look at, and those the map was fitted to, if they are known.
    bootstrap
        How to resample cases; its seed deals the folds.
    comparison
        A comparison on the fitted cases, whose folds are taken so that its figures and the others are the same.

    Raises
    ------
    RequestError
        If there is no case, or the map was fitted to other statistics than those given for it.
    """
    if not len(statistics):
        raise RequestError("There is no case to report on.", "Allowed: statistics of one case or more.")
    if fitted is not None and fitted.digest() != calibration.statistics:
        raise RequestError(
            f"The map was not fitted to the statistics given as fitted: their digest is {fitted.digest()[:12]}, the "
            f"map names {calibration.statistics[:12] or 'none'}.",
            f"Allowed: the statistics that the map was fitted to, {len(calibration.cases)} cases counted in the region "
            f"{calibration.roi!r}.",
            "Give those, or leave them out (--fitted), or fit the map again.",
        )
    if fitted is None and statistics.digest() == calibration.statistics:
        fitted = statistics
    rated = statistics.rated().names
    # A map of one histogram names no case, but has its digest.
    seen = tuple(
        name
        for name in rated
        if name in calibration.cases or statistics[name].histogram.digest() == calibration.statistics
    )
    recipe, no_recipe = _recipe_of(calibration, fitted)
    splits: tuple[Split, ...] = ()
    if fitted is not None and len(fitted) > 1:
        splits = _splits_of(comparison, fitted) or split_cases(fitted, min(_FOLDS, len(fitted)), seed=bootstrap.seed)
    reading: Reading = "held out" if calibration.cases else "unknown"
    why = ""
    maps = dict.fromkeys(rated, calibration)
    if seen:
        folds, why = _folds(fitted, recipe, no_recipe, splits)
        maps.update({name: each for name, each in folds.items() if name in maps})
        reading = "in-sample" if why else "cross-fitted"
    names, groups = rated, None
    if comparison is not None and comparison.splits == splits and set(comparison.cases) == set(rated):
        names = comparison.cases
        groups = places_of(statistics, comparison.group_by, names)
    return Subject(
        calibration, statistics, fitted, recipe, no_recipe, reading, why, seen, maps, splits, names, bootstrap, groups
    )  # fmt: skip


def _splits_of(comparison: Comparison | None, fitted: CohortStatistics) -> tuple[Split, ...]:
    """Return the folds of a comparison, if it was made on the fitted cases and scored all of them."""
    if comparison is None or comparison.statistics != fitted.digest() or set(comparison.cases) != set(fitted.names):
        return ()
    return comparison.splits


def _recipe_of(calibration: CalibrationMap, fitted: CohortStatistics | None) -> tuple[Recipe | None, str]:
    """Return how the map was fitted, or why that is not known."""
    if fitted is None:
        return None, "the statistics that the map was fitted to were not given (--fitted)"
    known = {name: calibration.parameters[name] for name in GUARDS if name in calibration.parameters}
    try:
        recipe = Recipe(**{**known, "calibrator": calibration.calibrator, "target": calibration.target})
        fitter = Fitter(fitted)
        again = fitter.fit(recipe, fitter.times(fitted.names))
    except (FitError, PluginError, RequestError) as error:
        return None, f"the map cannot be fitted again here ({error.what.rstrip('.')})"
    if not np.allclose(again.table, calibration.table, rtol=0, atol=_EQUAL):
        return None, f"{calibration.calibrator} fitted to its statistics does not give this map again"
    return recipe, ""


def _folds(
    fitted: CohortStatistics | None, recipe: Recipe | None, no_recipe: str, splits: Sequence[Split]
) -> tuple[dict[str, CalibrationMap], str]:
    """Return the map of each fitted case that was not fitted to it, or why there is none."""
    if fitted is None or recipe is None:
        return {}, no_recipe
    if not splits:
        return {}, "one case alone leaves nothing to fit to"
    crossed = cross_fit(Fitter(fitted), [recipe], splits)
    if crossed.failed:
        return {}, f"a fold could not be fitted ({crossed.failed[recipe].rstrip('.')})"
    return {name: fold for split, fold in zip(splits, crossed.maps[recipe], strict=True) for name in split.test}, ""
