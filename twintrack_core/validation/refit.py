"""Refitting in every draw of the cases: how the whole way of calibrating varies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from twintrack_core.calibrators.recipe import Recipe
from twintrack_core.errors import FitError
from twintrack_core.maps import CalibrationMap
from twintrack_core.validation.bootstrap import Bootstrap
from twintrack_core.validation.cross_fit import CrossFitted, Fitter
from twintrack_core.validation.scoring import scorer

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Drawn:
    """The mean of a metric in every draw of all cases, maps refitted: (draws,), NaN where no map could be.

    Where some folds of a draw have no map, both means are over the cases of the others, so that they stay paired.
    """

    value: _Floats
    raw: _Floats
    incomplete: int


@dataclass(frozen=True)
class Refits:
    """Refitting in every draw.

    The folds stay as they are, so all copies of a case are on one side: it is scored, as often as it was drawn, on maps
    that were fitted to the cases drawn among the others.

    Attributes
    ----------
    fitter, crossed
        Of the cohort, and its folds.
    metric
        Name of what is measured.
    groups
        (cases,) number of each case's group, if groups are drawn rather than cases.
    """

    fitter: Fitter
    crossed: CrossFitted
    metric: str
    groups: npt.NDArray[np.intp] | None

    def draw(self, bootstrap: Bootstrap, tick: Callable[[], object]) -> dict[Recipe | None, Drawn]:
        """Refit every recipe in every fold of every draw; ``tick`` is called after each fold."""
        recipes = [None, *self.crossed.maps]
        score = scorer(self.fitter, self.metric)
        splits = [(self.fitter.times(split.fit), self.fitter.times(split.test)) for split in self.crossed.splits]
        totals = np.zeros((3, len(recipes), bootstrap.draws))  # of the metric, of the raw one, of how many cases
        incomplete = np.zeros((len(recipes), bootstrap.draws), dtype=bool)
        for draw, times in enumerate(bootstrap.times(len(self.fitter.statistics), self.groups)):
            for fit, test in splits:
                maps = [None if recipe is None else _refit(self.fitter, recipe, times * fit) for recipe in recipes]
                there = np.array([each is not None for each in maps])
                there[0] = True  # the raw scores
                cases = np.flatnonzero(test)
                values = score([each for each, fitted in zip(maps, there, strict=True) if fitted], cases)
                defined = ~np.isnan(values[0])  # for every map: the scores of a case are there or not
                weight = times[cases] * defined
                totals[0, there, draw] += (np.where(defined, values, 0) * weight).sum(axis=1)
                totals[1, there, draw] += (np.where(defined, values[0], 0) * weight).sum()
                totals[2, there, draw] += weight.sum()
                incomplete[:, draw] |= ~there
                tick()
        number = np.where(totals[2] > 0, totals[2], np.nan)
        return {
            recipe: Drawn(totals[0, k] / number[k], totals[1, k] / number[k], int(incomplete[k].sum()))
            for k, recipe in enumerate(recipes)
        }


def _refit(fitter: Fitter, recipe: Recipe, times: npt.NDArray[np.int64]) -> CalibrationMap | None:
    try:
        return fitter.fit(recipe, times)
    except FitError:
        return None
