"""Evaluate: metrics per case and over cases, before and after calibration, from statistics alone."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from twintrack_core.errors import RequestError, TwinTrackError
from twintrack_core.histogram import CohortStatistics, RegionName
from twintrack_core.maps import CalibrationMap
from twintrack_core.metrics.cells import ScoredCells
from twintrack_core.metrics.metric import CASE_BY_CASE, Metric, Noted, Result, Undefined
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
    named = variants(maps)
    codes = _codes(named.values())
    hidden = not (progress and sys.stderr.isatty())
    rows: list[Row] = []
    with tqdm(
        desc="evaluating", unit="case", total=len(statistics), file=sys.stderr, disable=hidden, leave=False
    ) as bar:
        for name, case in statistics.items():
            cells = [ScoredCells.of([case], region, statistics.roi) for region in _REGIONS]
            for variant, new in zip(named, codes, strict=True):
                for region, raw in zip(_REGIONS, cells, strict=True):
                    seen = _seen(raw, new)
                    for metric in _taken_over(region, wanted):
                        result = (measured or {}).get((name, variant, metric.name), _NO_VOLUMES)
                        if isinstance(metric, Metric):
                            result = _measure(metric, seen, f"Case {name}")
                        rows.append(Row(name, metric.name, variant, region, *_value(result)))
            bar.update()
    return Evaluation(tuple(rows), tuple(_summary_rows(statistics, named, codes, wanted, rows)))


def case_values(
    statistics: CohortStatistics,
    maps: Sequence[CalibrationMap | None],
    metrics: Iterable[str] | None,
    region: RegionName,
    cases: Sequence[str] | None = None,
) -> npt.NDArray[np.float64]:
    """Evaluate cases one by one, as `evaluate` does, under many maps.

    Parameters
    ----------
    statistics
        Joint histograms of the cases.
    maps
        The maps, None for the scores as they are.
    metrics
        Names of metrics and suites; all of ours that need no voxels by default.
    region
        "whole" or "roi".
    cases
        Names of cases, all by default.

    Returns
    -------
    numpy.ndarray
        (maps, cases, metrics) float64, in the order of ``cases`` and of `resolve`; NaN where a metric is undefined, is
        not taken over the region, or needs voxels.

    Raises
    ------
    RequestError
        For an unknown metric or case.
    PluginError
        As in `evaluate`.
    """
    wanted = resolve(metrics)
    names = statistics.names if cases is None else tuple(cases)
    taken = [(i, metric) for i, metric in enumerate(wanted) if isinstance(metric, Metric) and region in metric.regions]
    codes = _codes(maps)
    values = np.full((len(codes), len(names), len(wanted)), np.nan)
    for place, name in enumerate(names):
        raw = ScoredCells.of([statistics[name]], region, statistics.roi)
        for of_map, new in zip(values[:, place], codes, strict=True):
            seen = _seen(raw, new)
            for i, metric in taken:
                value, _ = _value(_measure(metric, seen, f"Case {name}"))
                of_map[i] = np.nan if value is None else value
    return values


def variants(maps: CalibrationMap | Mapping[str, CalibrationMap] | None) -> dict[str, CalibrationMap | None]:
    """Return what is evaluated under which name: the raw scores first, which have no map."""
    named = {"": maps} if isinstance(maps, CalibrationMap) else (maps or {})
    if not isinstance(named, Mapping) or not all(isinstance(item, CalibrationMap) for item in named.values()):
        raise RequestError(f"The maps are {maps!r:.120}.", "Allowed: a CalibrationMap, or a mapping of names to such.")
    found: dict[str, CalibrationMap | None] = {RAW: None}
    for name, calibration in named.items():
        found[CALIBRATED if len(named) == 1 else f"{CALIBRATED}:{name}"] = calibration
    return found


def _codes(maps: Iterable[CalibrationMap | None]) -> list[npt.NDArray[np.uint16] | None]:
    """Return what each map makes of the score codes; None for the scores as they are."""
    return [None if calibration is None else calibration.codes for calibration in maps]


def _seen(raw: ScoredCells, codes: npt.NDArray[np.uint16] | None) -> ScoredCells:
    return raw if codes is None else raw.relabel(codes)


def _measure(metric: Metric, cells: ScoredCells, where: str) -> Result:
    try:
        return metric(cells)
    except TwinTrackError as error:
        raise type(error)(f"{where}: {error.what}", error.allowed, error.action) from error


def _summary_rows(
    statistics: CohortStatistics,
    variants: Iterable[str],
    codes: Sequence[npt.NDArray[np.uint16] | None],
    metrics: Sequence[AnyMetric],
    rows: Sequence[Row],
) -> Iterator[SummaryRow]:
    values: dict[tuple[str, str, RegionName], list[float]] = {}
    for row in rows:
        found = values.setdefault((row.variant, row.metric, row.region), [])
        if row.value is not None:
            found.append(row.value)
    cells = [ScoredCells.of([case for _, case in statistics.items()], region, statistics.roi) for region in _REGIONS]
    for variant, new in zip(variants, codes, strict=True):
        for region, raw in zip(_REGIONS, cells, strict=True):
            seen = _seen(raw, new)
            for metric in _taken_over(region, metrics):
                defined = values[variant, metric.name, region]
                mean = float(np.mean(defined)) if defined else None
                result: Result = CASE_BY_CASE
                if isinstance(metric, Metric) and metric.pooled:
                    result = _measure(metric, seen, "All cases pooled")
                pooled, why = _value(result)
                yield SummaryRow(metric.name, variant, region, mean, pooled, len(defined), why)


def _taken_over(region: RegionName, metrics: Sequence[AnyMetric]) -> list[AnyMetric]:
    return [metric for metric in metrics if region in metric.regions]


def _value(result: Result) -> tuple[float | None, str | None]:
    if isinstance(result, Undefined):
        return None, result.why
    if isinstance(result, Noted):
        return result.value, result.note
    return result, None
