"""Leave one rater out: how a map fitted to the others holds for each rater, and how the rater differs from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from twintrack_core.calibrators.recipe import Recipe
from twintrack_core.errors import FitError, RequestError
from twintrack_core.histogram import CohortStatistics, JointHistogram
from twintrack_core.metrics.evaluation import case_values
from twintrack_core.validation.bootstrap import Bootstrap, Estimate
from twintrack_core.validation.cross_fit import Fitter
from twintrack_core.validation.splits import Split

# Of what a rater's turn measures: bias, agreement, the two Brier scores and their difference.
_RANGES = ((-1.0, math.inf), (0.0, 1.0), (0.0, 1.0), (0.0, 1.0), (-1.0, 1.0))


@dataclass(frozen=True)
class LeftOutRater:
    """How a rater differs from the others, and how a map that never saw this rater's marks fares with them.

    Attributes
    ----------
    rater
        Name.
    bias
        Relative volume: how much more than the mean of the others the rater marks.
    agreement
        Dice of the rater with each of the others, mean.
    raw, calibrated
        Brier score of the scores to the rater's marks, before and after a map fitted to the others on other cases.
    difference
        Calibrated less raw, paired by case: below 0 where the map helps this rater too.
    """

    rater: str
    bias: Estimate
    agreement: Estimate
    raw: Estimate
    calibrated: Estimate
    difference: Estimate


def leave_one_rater_out(
    statistics: CohortStatistics, recipe: Recipe, splits: Sequence[Split], bootstrap: Bootstrap
) -> tuple[LeftOutRater, ...]:
    """Leave out each rater in turn: fit to the others, and score against the one left out, on cases held out.

    Parameters
    ----------
    statistics
        Joint histograms of the cases. Those where the rater is missing, or alone, are not scored in the rater's turn;
        those that have no target without the rater are not fitted to.
    recipe
        How to fit; its target must not name a rater.
    splits
        Folds: maps are scored on cases that they were not fitted to either.
    bootstrap
        How to resample test cases.

    Raises
    ------
    RequestError
        For a recipe whose target is one rater, or a cohort in which no case has two raters.
    PluginError
        As `calibrators.fit`.
    """
    if recipe.target.startswith("rater:"):
        raise RequestError(
            f"A map to {recipe.target} knows one rater, who cannot be left out.", "Allowed: mhr, majority, staple."
        )
    if all(len(case.histogram.raters) < 2 for _, case in statistics.items()):
        raise RequestError("No case has two raters, so none can be left out.", "Allowed: cases with 2 raters or more.")
    return tuple(
        found for rater in statistics.raters if (found := _left_out(statistics, rater, recipe, splits, bootstrap))
    )


def _left_out(
    statistics: CohortStatistics, rater: str, recipe: Recipe, splits: Sequence[Split], bootstrap: Bootstrap
) -> LeftOutRater | None:
    """Return the rater's turn; None where it leaves nothing to fit to or to score."""
    with_others = [
        name for name, case in statistics.items() if rater in case.histogram.raters and len(case.histogram.raters) > 1
    ]
    others = CohortStatistics(
        {
            name: replace(case, histogram=case.histogram.drop_raters([rater]))
            if rater in case.histogram.raters
            else case
            for name, case in statistics.items()
            if _has_target(case.histogram, rater, recipe.target)
        },
        statistics.roi,
    )
    fitter = Fitter(others)
    metric = f"brier_rater:{rater}"
    parts = []
    for split in splits:
        test = [name for name in split.test if name in with_others]
        fit = [name for name in split.fit if name in others]
        if not test or not fit:
            continue
        try:
            fitted = fitter.fit(recipe, fitter.times(fit))
        except FitError:
            continue
        brier = case_values(statistics, [None, fitted], [metric], "roi", test)[:, :, 0]
        marks = [_against_others(statistics[name].histogram, rater) for name in test]
        parts.append(np.column_stack([marks, brier.T, brier[1] - brier[0]]))
    if not parts:
        return None
    return LeftOutRater(rater, *bootstrap.estimates(np.concatenate(parts), ranges=_RANGES))


def _has_target(histogram: JointHistogram, rater: str, target: str) -> bool:
    """Whether there is something to fit to without the rater: other raters, and for STAPLE a mark of theirs."""
    others = set(histogram.raters) - {rater}
    return bool(others) and (target != "staple" or bool(histogram.keep_raters(sorted(others)).pattern.any()))


def _against_others(histogram: JointHistogram, rater: str) -> tuple[float, float]:
    """Return the relative excess of the rater's volume over the others' mean, and the mean Dice with each of them.

    NaN is undefined: without a mark of the others, or with two raters who both marked nothing.
    """
    cells = histogram.select("roi")
    marked = (cells.pattern[:, np.newaxis] >> np.arange(len(histogram.raters))) & 1
    together = np.einsum("n,nr,ns->rs", cells.count.astype(np.float64), marked, marked)
    own = histogram.raters.index(rater)
    volume, others = np.diag(together), np.arange(len(histogram.raters)) != own
    expected = volume[others].mean()
    bias = volume[own] / expected - 1 if expected else np.nan
    sums = volume[own] + volume[others]
    dice = 2 * together[own, others] / np.where(sums > 0, sums, np.nan)
    return float(bias), float(np.nan if np.isnan(dice).all() else np.nanmean(dice))
