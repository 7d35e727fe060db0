"""Evaluate: metrics per case and over cases, before and after calibration, from statistics alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from twintrack_core.errors import RequestError
from twintrack_core.histogram import CohortStatistics, JointHistogram, RegionName
from twintrack_core.maps import CalibrationMap
from twintrack_core.metrics.cells import ScoredCells
from twintrack_core.metrics.metric import Metric, Noted, Result, Undefined
from twintrack_core.metrics.registry import resolve

RAW = "raw"
CALIBRATED = "calibrated"

_REGIONS: tuple[RegionName, ...] = ("whole", "roi")
_NO_RATERS = Undefined("there are no raters")


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
        The metric of the voxels of all cases that have raters, taken as one volume; None where undefined.
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
        Names of metrics, all by default.

    Returns
    -------
    Evaluation
        For the whole volume and inside the region of interest.

    Raises
    ------
    RequestError
        For an unknown metric, or statistics without cases.
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
    for variant, cohort in _variants(statistics, maps):
        rows += _case_rows(statistics, cohort, variant, wanted)
        summary += _summary_rows(cohort, variant, wanted, rows)
    place = {name: index for index, name in enumerate(statistics.names)}
    return Evaluation(tuple(sorted(rows, key=lambda row: place[row.case])), tuple(summary))


def _variants(
    statistics: CohortStatistics, maps: CalibrationMap | Mapping[str, CalibrationMap] | None
) -> Iterator[tuple[str, dict[str, JointHistogram]]]:
    """Yield the histograms of the cases, raw and as each map makes them."""
    raw = {name: case.histogram for name, case in statistics.items()}
    yield RAW, raw
    if isinstance(maps, CalibrationMap):
        maps = {"": maps}
    for name, calibration in (maps or {}).items():
        codes = calibration.codes
        variant = CALIBRATED if len(maps or {}) == 1 else f"{CALIBRATED}:{name}"
        yield variant, {case: histogram.relabel(codes) for case, histogram in raw.items()}


def _case_rows(
    statistics: CohortStatistics, cohort: Mapping[str, JointHistogram], variant: str, metrics: Sequence[Metric]
) -> Iterator[Row]:
    for case, histogram in cohort.items():
        for region in _REGIONS:
            cells = ScoredCells.of([histogram], region, statistics[case].voxel_mm3) if histogram.raters else None
            for metric in metrics:
                value, why = _value(_NO_RATERS if cells is None else metric(cells))
                yield Row(case, metric.name, variant, region, value, why)


def _summary_rows(
    cohort: Mapping[str, JointHistogram], variant: str, metrics: Sequence[Metric], rows: Sequence[Row]
) -> Iterator[SummaryRow]:
    rated = [histogram for histogram in cohort.values() if histogram.raters]
    for region in _REGIONS:
        cells = ScoredCells.of(rated, region)
        for metric in metrics:
            place = (metric.name, variant, region)
            values = [row.value for row in rows if (row.metric, row.variant, row.region) == place]
            defined = [value for value in values if value is not None]
            mean = float(np.mean(defined)) if defined else None
            pooled, why = _value(metric(cells) if rated else _NO_RATERS)
            yield SummaryRow(*place, mean, pooled, len(defined), why)


def _value(result: Result) -> tuple[float | None, str | None]:
    if isinstance(result, Undefined):
        return None, result.why
    if isinstance(result, Noted):
        return result.value, result.note
    return result, None
