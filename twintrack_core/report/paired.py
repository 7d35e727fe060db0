"""Metrics before and after, paired by case, with intervals, and which way is better."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from twintrack_core.histogram import RegionName
from twintrack_core.metrics import Metric, resolve
from twintrack_core.report.subject import Subject
from twintrack_core.validation import Estimate

_GAINS: dict[str, Callable[[float], float]] = {
    "lower": lambda gap: -gap,
    "higher": lambda gap: gap,
    "zero": lambda gap: -gap,
}


@dataclass(frozen=True)
class Paired:
    """A metric over the cases that define it, raw and calibrated.

    Attributes
    ----------
    metric
        Which.
    raw, calibrated
        Means with BCa intervals.
    difference
        Calibrated less raw; of absolute values for a metric that is best at zero.
    n_better
        Number of cases in which the calibrated value is the better one.
    """

    metric: Metric
    raw: Estimate
    calibrated: Estimate
    difference: Estimate
    n_better: int

    @property
    def verdict(self) -> str:
        """Return "better" or "worse" where the difference's interval excludes 0, else nothing."""
        gain = _GAINS.get(self.metric.better)
        low, high = self.difference.low, self.difference.high
        if gain is None or low is None or high is None or low <= 0 <= high:
            return ""
        return "better" if gain(low) > 0 else "worse"


def paired(subject: Subject, names: Sequence[str] | None, region: RegionName) -> list[Paired]:
    """Measure the rated cases; by default all metrics of ours that need but a table."""
    metrics = [metric for metric in resolve(names) if isinstance(metric, Metric) and region in metric.regions]
    raw, calibrated = subject.values([metric.name for metric in metrics], region)
    undefined = np.isnan(raw) | np.isnan(calibrated)
    raw[undefined], calibrated[undefined] = np.nan, np.nan
    difference = calibrated - raw
    for k, metric in enumerate(metrics):
        if metric.better == "zero":
            difference[:, k] = np.abs(calibrated[:, k]) - np.abs(raw[:, k])
    ranges = [metric.range for metric in metrics]
    before, after = (subject.bootstrap.estimates(each, subject.groups, ranges) for each in (raw, calibrated))
    change = subject.bootstrap.estimates(difference, subject.groups)
    found = []
    for k, metric in enumerate(metrics):
        gain = _GAINS.get(metric.better)
        n_better = sum(gain(float(gap)) > 0 for gap in difference[:, k]) if gain else 0
        found.append(Paired(metric, before[k], after[k], change[k], n_better))
    return found
