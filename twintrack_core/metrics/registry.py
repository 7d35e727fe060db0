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
from twintrack_core.plugins import Registry, say

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
    cause: BaseException | None = None
    try:
        made: object = found.with_argument(argument)
        if isinstance(made, Metric | VolumeMetric) and str(made.name).startswith(f"{base}:"):
            return made
        wrong = f"made {getattr(made, 'name', made)!r:.80} of the argument {argument!r}, not a metric {name!r}"
    except TwinTrackError:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - raised below
        wrong, cause = f"failed with the argument {argument!r}: {say(error)}", error
    raise PluginError(
        f"The metric {base!r} of {METRICS.source_of(base)} {wrong}.",
        None,
        "Leave it out, or report this to those who made it.",
    ) from cause


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
    return [_member(suite, name) for name in suite.metrics]


def _member(suite: Suite, name: str) -> AnyMetric:
    who = f"The suite {suite.name!r} of {METRICS.source_of(suite.name)}"
    action = "Ask for metrics, or report this to those who made it."
    try:
        member = get(name)
    except RequestError as error:
        raise PluginError(f"{who} holds {name!r}: {error.what}", "Allowed: names of metrics.", action) from error
    if isinstance(member, Suite):
        raise PluginError(f"{who} holds the suite {name!r}.", "Allowed: names of metrics.", action)
    return member


def preferred_roi(metrics: Iterable[AnyMetric]) -> str:
    """Return the rule of the region of interest that the first metric with one is meant for; "full" without one."""
    return next((metric.roi for metric in metrics if isinstance(metric, Metric) and metric.roi), "full")


def _check(name: str, metric: Any) -> str | None:
    if not isinstance(metric, Metric | VolumeMetric | Suite):
        return f"it is of type {type(metric).__name__}"
    if isinstance(metric, Suite) and not is_names(metric.metrics):
        return f"its metrics are {metric.metrics!r:.80}, not a tuple of one name or more"
    return None if metric.name == name else f"its name is {metric.name!r:.80}"


def is_names(metrics: object) -> bool:
    """Whether a suite can hold these: a tuple of one string or more."""
    return isinstance(metrics, tuple) and len(metrics) > 0 and all(isinstance(name, str) for name in metrics)


METRICS: Registry[AnyMetric | Suite] = Registry(
    "metric", _OURS, _OURS.__getitem__, _check, "a Metric, VolumeMetric or Suite of the entry point's name"
)
