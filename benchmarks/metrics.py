"""Every metric of a table on a cohort, against the libraries on voxels."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

import twintrack_core as tt
from benchmarks.sections import Section, Settings, table
from twintrack_core import metrics
from twintrack_core.bench import stores, voxels
from twintrack_core.bench.answers import difference
from twintrack_core.bench.timing import Spread, alternate, seconds
from twintrack_core.cohort.case import Case
from twintrack_core.cohort.roi import BoxRegion, parse_roi, region_of
from twintrack_core.cohort.store import Cohort
from twintrack_core.histogram import CohortStatistics
from twintrack_core.maps import CalibrationMap

_CASES = 100
_SHAPE = (80, 128, 128)
_ROI = "raters+20"
_TOLERANCE = 1e-9


def of_tables(settings: Settings) -> Section:
    """Time all metrics of 100 cases, whole volume and region, before and after a map; and each metric of a case."""
    rows, cohorts = [], {}
    for kind in ("region", "softmax"):
        with tempfile.TemporaryDirectory(dir=settings.folder) as name:
            cohort = stores.cohort(kind, Path(name), _CASES, _SHAPE)
            cohorts[kind] = tt.accumulate(cohort, roi=_ROI)
            rows.append((kind, *_compared(cohort, cohorts[kind], settings.runs)))
    title = (
        f"{_CASES} cases of {' x '.join(map(str, _SHAPE))}, five raters; {len(metrics.resolve(None))} metrics, whole "
        "volume and region, raw and calibrated; here also pooled"
    )
    header = (
        "cohort", "cells", "pass over the voxels, s", "all metrics, s", "libraries, one case, s",
        "libraries / metrics", "libraries / pass and metrics",
    )  # fmt: skip
    return Section(f"{table(title, header, rows)}\n\n{_each_metric(cohorts, settings.runs)}")


def _compared(cohort: Cohort, statistics: CohortStatistics, runs: int) -> tuple[object, ...]:
    """Return a row: ours on all cases, the libraries on one of them, all cases being equal."""
    calibration = tt.fit(statistics)
    libraries = _libraries(cohort, calibration)
    _check(libraries(), statistics)
    works = [
        lambda: tt.accumulate(cohort, roi=_ROI),
        lambda: metrics.evaluate(statistics, calibration),
        libraries,
    ]
    metrics.evaluate(statistics, calibration)
    passes, ours, theirs = alternate(works, runs).T
    n_cells = sum(len(case.histogram.count) for _, case in statistics.items())
    all_theirs = theirs * _CASES
    return (
        f"{n_cells:,}",
        *(Spread.of(taken) for taken in (passes, ours, theirs, all_theirs / ours, all_theirs / (passes + ours))),
    )


def _libraries(cohort: Cohort, calibration: CalibrationMap) -> Callable[[], dict[str, float]]:
    """Prepare the metrics of the first case from voxels; they return those of the raw whole volume."""
    stored = cohort[cohort.names[0]]
    case: Case = stored.read()
    region = region_of(stored, parse_roi(_ROI))
    assert case.votes is not None
    assert isinstance(region, BoxRegion)
    box = tuple(slice(start, stop) for start, stop in zip(region.start, region.stop, strict=True))
    masks = np.stack([case.votes >> np.uint8(rater) & 1 for rater in range(len(case.raters))])
    volumes = [case.probability.astype(np.float64), calibration(case.probability).astype(np.float64)]

    def work() -> dict[str, float]:
        found = [
            voxels.every_metric(volume[place].reshape(-1), masks[:, *place].reshape(len(masks), -1))
            for volume in volumes
            for place in ((slice(None),) * 3, box)
        ]
        return found[0]

    return work


def _check(found: dict[str, float], statistics: CohortStatistics) -> None:
    """Assert that the libraries find what the table gives."""
    cells = metrics.ScoredCells.of([statistics[statistics.names[0]]])
    results = {metric.name: metric(cells) for metric in metrics.resolve(found) if isinstance(metric, metrics.Metric)}
    values = {
        name: result.value if isinstance(result, metrics.Noted) else result
        for name, result in results.items()
        if not isinstance(result, metrics.Undefined)
    }
    wrong = difference(found, values, _TOLERANCE)
    assert wrong is None, wrong


def _each_metric(cohorts: dict[str, CohortStatistics], runs: int) -> str:
    """Time each metric of one case on cells whose groupings are there already, as they are after the first metric."""
    rows = []
    for metric in metrics.resolve(None):
        assert isinstance(metric, metrics.Metric)
        line: list[object] = [metric.name]
        for statistics in cohorts.values():
            cells = metrics.ScoredCells.of([statistics[statistics.names[0]]], "whole", statistics.roi)
            metric(cells)
            taken = [seconds(partial(metric, cells)) for _ in range(max(3, runs))]
            line.append(Spread.of(taken).scaled(1e3))
        rows.append(line)
    header = ("metric", *(f"{kind}, ms" for kind in cohorts))
    return table("Each metric of one case, its voxels grouped already", header, rows)
