"""Fit: from statistics to a calibration map that says where it comes from."""

from __future__ import annotations

from twintrack_core.calibrators import registry
from twintrack_core.calibrators.knots import Calibrator, Knots
from twintrack_core.errors import FitError, MapError, PluginError, RequestError, TwinTrackError
from twintrack_core.histogram import CohortStatistics, JointHistogram
from twintrack_core.maps import CalibrationMap
from twintrack_core.plugins import say
from twintrack_core.targets import BinnedTarget


def fit(
    statistics: CohortStatistics | JointHistogram, calibrator: str = "isotonic", *, target: str = "mhr"
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

    Returns
    -------
    CalibrationMap
        Equal statistics give equal maps.

    Raises
    ------
    RequestError
        For an unknown calibrator or target, and for cases without raters or without the rater named.
    FitError
        If no voxel lies inside the region of interest, for STAPLE of a case without a mark, or if the target does not
        determine the calibrator's parameters.
    PluginError
        If the calibrator of another distribution cannot be used, or fails.
    """
    from importlib import metadata

    fit_knots = registry.get(calibrator)
    roi: str | None = None
    cases: tuple[str, ...] = ()
    if isinstance(statistics, JointHistogram):
        binned = BinnedTarget.from_histogram(statistics, target)
    elif not isinstance(statistics, CohortStatistics):
        raise RequestError(
            f"A {type(statistics).__name__} cannot be fitted.",
            "Allowed: CohortStatistics or a JointHistogram.",
            "Accumulate a cohort first.",
        )
    else:
        binned = BinnedTarget.from_statistics(statistics, target)
        roi, cases = statistics.roi, statistics.names
    if roi and not cases:
        raise FitError("No case is there to fit to.", "Allowed: statistics of one case or more.")
    if not len(binned.score):
        raise FitError(
            f"No voxel lies inside the region of interest{f' {roi!r} of {len(cases)} cases' if roi else ''}.",
            "Allowed: one voxel or more to fit to.",
            "Choose another region of interest, such as full.",
        )
    knots = _fit(calibrator, fit_knots, binned)
    return CalibrationMap(
        score=knots.score,
        value=knots.value,
        calibrator=calibrator,
        parameters=knots.parameters,
        target=target,
        roi=roi,
        raters=statistics.raters,
        cases=cases,
        voxels=int(binned.weight.sum()),
        statistics=statistics.digest(),
        package_version=metadata.version("twintrack-core"),
    )


def _fit(name: str, calibrator: Calibrator, target: BinnedTarget) -> Knots:
    try:
        knots = calibrator(target)
    except TwinTrackError:
        raise
    except (Exception, SystemExit) as error:
        raise _at_fault(name, f"failed: {say(error)}") from error
    if not isinstance(knots, Knots):
        raise _at_fault(name, f"returned what is of type {type(knots).__name__}, not Knots")
    try:
        CalibrationMap(knots.score, knots.value, parameters=knots.parameters)
    except MapError as error:
        raise _at_fault(name, f"returned knots that make no map: {error.what.rstrip('.')}", error.allowed) from error
    except (TypeError, ValueError) as error:
        raise _at_fault(name, f"returned knots that make no map: {say(error)}") from error
    return knots


def _at_fault(name: str, what: str, allowed: str | None = None) -> PluginError:
    source = registry.CALIBRATORS.source_of(name)
    return PluginError(
        f"The calibrator {name!r} of {source} {what}.", allowed, "Choose another, or report this to those who made it."
    )
