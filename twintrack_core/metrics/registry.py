"""Metrics by name: ours, and those that other distributions offer as entry points of the group "twintrack.metrics"."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

from twintrack_core.errors import PluginError, RequestError, TwinTrackError
from twintrack_core.metrics import (
    agreement,
    calibration,
    overlap,
    proper,
    raters,
    smooth,
    surface,
    uncertainty,
)
from twintrack_core.metrics.metric import Metric, Suite, VolumeMetric
from twintrack_core.plugins import Registry

AnyMetric: TypeAlias = Metric | VolumeMetric

_OURS: dict[str, AnyMetric | Suite] = {
    metric.name: metric
    for metric in (
        *calibration.METRICS,
        *smooth.METRICS,
        *proper.METRICS,
        *raters.METRICS,
        *overlap.METRICS,
        *uncertainty.METRICS,
        *agreement.METRICS,
        *surface.METRICS,
    )
}


def names() -> tuple[str, ...]:
    """Names of the metrics and suites there are: ours, then those of other distributions."""
    return METRICS.names()


def get(name: str) -> AnyMetric | Suite:
    """Return a metric or suite by name; what follows a colon is a metric's argument, as in "brier_rater:ANN".

    Raises
    ------
    RequestError
        If there is none of that name, or it takes no such argument.
    PluginError
        If the one that another distribution offers cannot be used.
    """
    if not isinstance(name, str):
        raise RequestError(f"A metric is asked for as {name!r:.80}.", "Allowed: its name.")
    base, colon, argument = name.partition(":")
    found = METRICS.get(base)
    if not colon:
        return found
    if isinstance(found, Suite) or found.with_argument is None:
        raise RequestError(f"{base!r} takes no argument, but was given {argument!r}.", f"Allowed: {base}.")
    try:
        return found.with_argument(argument)
    except TwinTrackError:
        raise
    except Exception as error:
        raise PluginError(
            f"The metric {base!r} failed with the argument {argument!r}: {error!r}.",
            None,
            "Leave it out, or report this to those who made it.",
        ) from error


def resolve(wanted: Iterable[str] | None) -> tuple[AnyMetric, ...]:
    """Return metrics by name, each once, those of a suite in its place; for None all of ours that need but a table."""
    if isinstance(wanted, str):
        raise RequestError(f"The metrics are {wanted!r:.80}.", "Allowed: a list of names.", f"Pass [{wanted!r:.80}].")
    if wanted is None:
        return tuple(metric for metric in _OURS.values() if isinstance(metric, Metric))
    found: dict[str, AnyMetric] = {}
    for name in wanted:
        item = get(name)
        for metric in _members(item) if isinstance(item, Suite) else (item,):
            found[metric.name] = metric
    return tuple(found.values())


def _members(suite: Suite) -> list[AnyMetric]:
    members = [get(name) for name in suite.metrics]
    metrics = [member for member in members if not isinstance(member, Suite)]
    if len(metrics) < len(members):
        raise PluginError(f"The suite {suite.name!r} holds a suite.", "Allowed: names of metrics.")
    return metrics


def preferred_roi(metrics: Iterable[AnyMetric]) -> str:
    """Return the rule of the region of interest that the first metric with one is meant for; "full" without one."""
    return next((metric.roi for metric in metrics if isinstance(metric, Metric) and metric.roi), "full")


def _check(name: str, metric: Any) -> str | None:
    if not isinstance(metric, Metric | VolumeMetric | Suite):
        return f"it is a {type(metric).__name__}"
    return None if metric.name == name else f"its name is {metric.name!r}"


METRICS: Registry[AnyMetric | Suite] = Registry(
    "metric", _OURS, _OURS.__getitem__, _check, "a Metric, VolumeMetric or Suite of the entry point's name"
)
