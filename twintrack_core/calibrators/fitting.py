"""Fit: from statistics to a calibration map that says where it comes from."""

from __future__ import annotations

from typing import Any

from twintrack_core.calibrators import registry
from twintrack_core.calibrators.knots import Knots
from twintrack_core.calibrators.recipe import Recipe, Weighting
from twintrack_core.errors import FitError, MapError, PluginError, RequestError, TwinTrackError
from twintrack_core.histogram import CohortStatistics, JointHistogram
from twintrack_core.maps import CalibrationMap
from twintrack_core.plugins import say
from twintrack_core.targets import BinnedTarget, CaseTargets


def fit(
    statistics: CohortStatistics | JointHistogram,
    calibrator: str = "isotonic",
    *,
    target: str = "mhr",
    weighting: Weighting = "voxels",
    min_cases: float = 0.0,
    shrinkage: float = 0.0,
) -> CalibrationMap:
    """Fit a calibration map to the voxels inside the region of interest.

    Parameters
    ----------
    statistics
        Joint histograms of a cohort, whose cases may have different raters, or of one case.
    calibrator
        Name of a calibrator, see `calibrators.names`: one of ours or of a plugin.
    target
        "mhr" (mean human response), "majority", "staple" or "rater:NAME".
    weighting
        "voxels": a case counts as much as it has voxels inside the region; "cases": all cases count the same.
    min_cases
        Least effective number of cases behind every plateau: neighbouring scores are pooled until they have so many.
        The effective number is (sum of w)^2 / (sum of w^2), w the weight of each case.
    shrinkage
        Number of imaginary cases, beside those there are, whose raters answer exactly with the score.

    Returns
    -------
    CalibrationMap
        Equal statistics give equal maps.

    Raises
    ------
    RequestError
        For an unknown calibrator, target or weighting, numbers below 0, and cases without raters or without the rater
        named.
    FitError
        If no voxel lies inside the region of interest, for STAPLE of a case without a mark, if the target does not
        determine the calibrator's parameters, or for fewer effective cases than ``min_cases``.
    PluginError
        If the calibrator of another distribution cannot be used, or fails.
    """
    from importlib import metadata

    recipe = Recipe(calibrator, target, weighting, min_cases, shrinkage)
    roi: str | None = None
    names: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    if isinstance(statistics, JointHistogram):
        histograms = [statistics]
        cases = CaseTargets.from_histogram(statistics, target)
    elif not isinstance(statistics, CohortStatistics):
        raise RequestError(
            f"A {type(statistics).__name__} cannot be fitted.",
            "Allowed: CohortStatistics or a JointHistogram.",
            "Accumulate a cohort first.",
        )
    elif not len(statistics):
        raise FitError("No case is there to fit to.", "Allowed: statistics of one case or more.")
    else:
        histograms = [case.histogram for _, case in statistics.items()]
        cases = CaseTargets.from_statistics(statistics, target)
        roi, names, skipped = statistics.roi, statistics.names, tuple(statistics.skipped)
    voxels = sum(histogram.n_inside for histogram in histograms)
    if not voxels:
        raise FitError(
            f"No voxel lies inside the region of interest{f' {roi!r} of {len(names)} cases' if roi else ''}.",
            "Allowed: one voxel or more to fit to.",
            "Choose another region of interest, such as full.",
        )
    return fit_map(
        recipe,
        recipe.target_of(cases),
        roi=roi,
        raters=statistics.raters,
        cases=names,
        skipped=skipped,
        voxels=voxels,
        statistics=statistics.digest(),
        package_version=metadata.version("twintrack-core"),
    )


def fit_map(recipe: Recipe, binned: BinnedTarget, **provenance: Any) -> CalibrationMap:
    """Fit a recipe's calibrator, and check what it returns.

    Parameters
    ----------
    recipe
        Whose calibrator, target and guards the map names.
    binned
        What the calibrator is shown: `Recipe.target_of` the cases.
    provenance
        Further attributes of the map.

    Raises
    ------
    FitError
        If the target does not determine it.
    PluginError
        If the calibrator of another distribution cannot be used, or fails.
    """
    name = recipe.calibrator
    calibrator = registry.get(name)
    try:
        knots = calibrator(binned)
    except TwinTrackError:
        raise
    except (Exception, SystemExit) as error:
        raise _at_fault(name, f"failed: {say(error)}") from error
    if not isinstance(knots, Knots):
        raise _at_fault(name, f"returned what is of type {type(knots).__name__}, not Knots")
    try:
        return CalibrationMap(
            knots.score,
            knots.value,
            lower=knots.lower,
            upper=knots.upper,
            calibrator=name,
            parameters={**knots.parameters, **recipe.guards},
            target=recipe.target,
            **provenance,
        )
    except MapError as error:
        raise _at_fault(name, f"returned knots that make no map: {error.what.rstrip('.')}", error.allowed) from error
    except (TypeError, ValueError) as error:
        raise _at_fault(name, f"returned knots that make no map: {say(error)}") from error


def _at_fault(name: str, what: str, allowed: str | None = None) -> PluginError:
    source = registry.CALIBRATORS.source_of(name)
    return PluginError(
        f"The calibrator {name!r} of {source} {what}.", allowed, "Choose another, or report this to those who made it."
    )
