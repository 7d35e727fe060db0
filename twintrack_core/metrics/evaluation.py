"""Evaluate: metrics per case and over cases, before and after calibration, from statistics alone."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
from tqdm import tqdm

from twintrack_core.errors import RequestError, TwinTrackError
from twintrack_core.histogram import CohortStatistics, RegionName
from twintrack_core.maps import CalibrationMap
from twintrack_core.metrics.cells import ScoredCells
from twintrack_core.metrics.metric import CASE_BY_CASE, Noted, Result, Undefined, VolumeMetric
from twintrack_core.metrics.registry import AnyMetric, resolve

RAW = "raw"
CALIBRATED = "calibrated"

_REGIONS: tuple[RegionName, ...] = ("whole", "roi")
_NO_VOLUMES = Undefined("it needs voxels: evaluate the cohort, not its statistics")

Measured: TypeAlias = Mapping[tuple[str, str, str], Result]
"""Values of volume metrics by case, variant and name of the metric."""


@dataclass(frozen=True)
class Row:
    """A metric of one case.

    Attributes
    ----------
    case, metric, variant, region
        What was measured: the variant is "raw", "calibrated" or, with several maps, "calibrated:NAME".
    value
        None where the metric is undefined.
    why
        Why it is undefined, or what to know about the value.
    """

    case: str
    metric: str
    variant: str
    region: RegionName
    value: float | None
    why: str | None


@dataclass(frozen=True)
class SummaryRow:
    """A metric over all cases.

    Attributes
    ----------
    metric, variant, region
        As in `Row`.
    mean
        Mean over the cases where the metric is defined; None if there is none.
    pooled
        The metric of the voxels of all cases that have raters, taken as one volume; None where undefined, and for
        metrics that are taken case by case.
    defined
        Number of cases where the metric is defined.
    why
        Why the pooled value is undefined, or what to know about it.
    """

    metric: str
    variant: str
    region: RegionName
    mean: float | None
    pooled: float | None
    defined: int
    why: str | None


@dataclass(frozen=True)
class Evaluation:
    """Metrics of the cases, in order of case, variant, region and metric, and over all of them."""

    rows: tuple[Row, ...]
    summary: tuple[SummaryRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold: {"rows": [...], "summary": [...]}."""
        return asdict(self)


def evaluate(
    statistics: CohortStatistics,
    maps: CalibrationMap | Mapping[str, CalibrationMap] | None = None,
    metrics: Iterable[str] | None = None,
    *,
    measured: Measured | None = None,
    progress: bool = False,
) -> Evaluation:
    """Evaluate the scores of a cohort against its raters, raw and as maps would make them.

    No voxel is read: a map relabels the score axis. The figures are those of the float16 volume it would write.

    Parameters
    ----------
    statistics
        Joint histograms of the cases.
    maps
        A map, or maps by name.
    metrics
        Names of metrics and suites; all of ours that need no voxels by default.
    measured
        Values of volume metrics, as the engine takes them; without them these metrics are undefined.
    progress
        Show a bar on stderr, if that is a terminal.

    Returns
    -------
    Evaluation
        For the whole volume and inside the region of interest, or what a metric is taken over of these.

    Raises
    ------
    RequestError
        For an unknown metric, or statistics without cases.
    PluginError
        For a metric that fails, or that another distribution offers and that cannot be used.
    """
    if not isinstance(statistics, CohortStatistics):
        raise RequestError(
            f"A {type(statistics).__name__} cannot be evaluated.",
            "Allowed: CohortStatistics.",
            "Accumulate a cohort first, or name a histogram: CohortStatistics({'case': CaseStatistics(histogram)}).",
        )
    wanted = resolve(metrics)
    if not len(statistics):
        raise RequestError("There is no case to evaluate.", "Allowed: statistics of one case or more.")
    rows: list[Row] = []
    summary: list[SummaryRow] = []
    named = variants(maps)
    hidden = not (progress and sys.stderr.isatty())
    total = len(named) * len(statistics)
    with tqdm(desc="evaluating", unit="case", total=total, file=sys.stderr, disable=hidden, leave=False) as bar:
        for variant, calibration in named.items():
            cohort = statistics if calibration is None else statistics.relabel(calibration.codes)
            found: list[Row] = []
            for case in cohort:
                found += _case_rows(cohort, case, variant, wanted, measured or {})
                bar.update()
            rows += found
            summary += _summary_rows(cohort, variant, wanted, found)
    place = {name: index for index, name in enumerate(statistics.names)}
    return Evaluation(tuple(sorted(rows, key=lambda row: place[row.case])), tuple(summary))


def variants(maps: CalibrationMap | Mapping[str, CalibrationMap] | None) -> dict[str, CalibrationMap | None]:
    """Return what is evaluated under which name: the raw scores first, which have no map."""
    named = {"": maps} if isinstance(maps, CalibrationMap) else (maps or {})
    if not isinstance(named, Mapping) or not all(isinstance(item, CalibrationMap) for item in named.values()):
        raise RequestError(f"The maps are {maps!r:.120}.", "Allowed: a CalibrationMap, or a mapping of names to such.")
    found: dict[str, CalibrationMap | None] = {RAW: None}
    for name, calibration in named.items():
        found[CALIBRATED if len(named) == 1 else f"{CALIBRATED}:{name}"] = calibration
    return found


def _case_rows(
    cohort: CohortStatistics, case: str, variant: str, metrics: Sequence[AnyMetric], measured: Measured
) -> Iterator[Row]:
    for region in _REGIONS:
        cells = ScoredCells.of([cohort[case]], region, cohort.roi)
        for metric in _taken_over(region, metrics):
            if isinstance(metric, VolumeMetric):
                result = measured.get((case, variant, metric.name), _NO_VOLUMES)
            else:
                try:
                    result = metric(cells)
                except TwinTrackError as error:
                    raise type(error)(f"Case {case}: {error.what}", error.allowed, error.action) from error
            yield Row(case, metric.name, variant, region, *_value(result))


def _summary_rows(
    cohort: CohortStatistics, variant: str, metrics: Sequence[AnyMetric], rows: Sequence[Row]
) -> Iterator[SummaryRow]:
    values: dict[tuple[str, RegionName], list[float]] = {}
    for row in rows:
        found = values.setdefault((row.metric, row.region), [])
        if row.value is not None:
            found.append(row.value)
    for region in _REGIONS:
        cells = ScoredCells.of([case for _, case in cohort.items()], region, cohort.roi)
        for metric in _taken_over(region, metrics):
            defined = values[metric.name, region]
            mean = float(np.mean(defined)) if defined else None
            pooled, why = _value(_pooled(metric, cells))
            yield SummaryRow(metric.name, variant, region, mean, pooled, len(defined), why)


def _pooled(metric: AnyMetric, cells: ScoredCells) -> Result:
    if isinstance(metric, VolumeMetric) or not metric.pooled:
        return CASE_BY_CASE
    try:
        return metric(cells)
    except TwinTrackError as error:
        raise type(error)(f"All cases pooled: {error.what}", error.allowed, error.action) from error


def _taken_over(region: RegionName, metrics: Sequence[AnyMetric]) -> list[AnyMetric]:
    return [metric for metric in metrics if region in metric.regions]


def _value(result: Result) -> tuple[float | None, str | None]:
    if isinstance(result, Undefined):
        return None, result.why
    if isinstance(result, Noted):
        return result.value, result.note
    return result, None
