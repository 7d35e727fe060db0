"""Metrics by name: ours, and those that other distributions offer as entry points of the group "twintrack.metrics"."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TypeAlias

from twintrack_core.errors import RequestError
from twintrack_core.metrics import calibration, overlap, proper
from twintrack_core.metrics.metric import Metric, Suite, VolumeMetric

AnyMetric: TypeAlias = Metric | VolumeMetric

_OURS: dict[str, AnyMetric | Suite] = {
    metric.name: metric for metric in (*calibration.METRICS, *proper.METRICS, *overlap.METRICS)
}


def names() -> tuple[str, ...]:
    """Names of the metrics and suites there are: ours, then those of other distributions."""
    return tuple(_OURS)


def get(name: str) -> AnyMetric | Suite:
    """Return a metric or suite by name; what follows a colon is a metric's argument, as in "brier_rater:ANN".

    Raises
    ------
    RequestError
        If there is none of that name, or it takes no such argument.
    PluginError
        If the one that another distribution offers cannot be used.
    """
    base, colon, argument = name.partition(":")
    if base not in _OURS:
        near = difflib.get_close_matches(base, names(), n=1)
        raise RequestError(
            f"There is no metric {base!r}.",
            f"Allowed: {', '.join(names())}.",
            f"Did you mean {near[0]!r}?" if near else None,
        )
    found = _OURS[base]
    if not colon:
        return found
    if isinstance(found, Suite) or found.with_argument is None:
        raise RequestError(f"{base!r} takes no argument, but was given {argument!r}.", f"Allowed: {base}.")
    return found.with_argument(argument)


def resolve(wanted: Iterable[str] | None) -> tuple[AnyMetric, ...]:
    """Return metrics by name, each once, those of a suite in its place; for None all of ours that need but a table."""
    if wanted is None:
        return tuple(metric for metric in _OURS.values() if isinstance(metric, Metric))
    found: dict[str, AnyMetric] = {}
    for name in wanted:
        item = get(name)
        for metric in resolve(item.metrics) if isinstance(item, Suite) else (item,):
            found[metric.name] = metric
    return tuple(found.values())


def preferred_roi(wanted: Iterable[str] | None) -> str | None:
    """Return the rule of the region of interest that the first suite asked for prefers; None without one."""
    suites = [item for item in map(get, wanted or ()) if isinstance(item, Suite)]
    return next((suite.roi for suite in suites if suite.roi), None)
