"""Evaluate a cohort or its statistics: tables in one pass, and volumes where a metric needs them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from twintrack_core import metrics as metrics_
from twintrack_core.codes import OnInvalid
from twintrack_core.cohort.roi import parse_roi
from twintrack_core.cohort.store import Cohort
from twintrack_core.engine.accumulate import accumulate
from twintrack_core.engine.device import Device, check_device
from twintrack_core.engine.run import Run, Scheduler
from twintrack_core.engine.volumes import measure, require_measurable
from twintrack_core.errors import RequestError
from twintrack_core.histogram import CohortStatistics
from twintrack_core.maps import CalibrationMap
from twintrack_core.metrics import Evaluation, VolumeMetric
from twintrack_core.metrics.evaluation import variants


def evaluate(
    source: CohortStatistics | Cohort,
    maps: CalibrationMap | Mapping[str, CalibrationMap] | None = None,
    metrics: Iterable[str] | None = None,
    *,
    roi: str | None = None,
    device: Device = "cpu",
    kernel: str = "auto",
    on_invalid: OnInvalid = "error",
    scheduler: Scheduler = "threads",
    workers: int | None = None,
    progress: bool = False,
) -> Evaluation:
    """Evaluate the scores of a cohort against its raters, raw and as maps would make them.

    Statistics are all that most metrics need, and no voxel is read then. A cohort is accumulated first, and read again
    for metrics of volumes if there are any; no calibrated volume is written.

    Parameters
    ----------
    source
        Statistics, or an open cohort.
    maps
        A map, or maps by name.
    metrics
        Names of metrics and suites; all of ours that need no voxels by default. Metrics of volumes are undefined for
        statistics.
    roi
        Rule of the region of interest. For a cohort, by default the one that the metrics are meant for, or "full"; for
        statistics the one that they were made with, and no other.
    device
        "cpu" or "cuda", for the pass that accumulates a cohort; see `accumulate`. Metrics of volumes are taken on the
        CPU in any case.
    kernel
        Name of the kernel.
    on_invalid
        "error", "clip" or "exclude" for a cohort; see `codes.OnInvalid`. Metrics of volumes allow no "exclude".
    scheduler, workers, progress
        As in `accumulate`. For metrics of volumes each worker holds a case; see `engine.volumes.measure`.

    Returns
    -------
    Evaluation
        For the whole volume and inside the region of interest, or what a metric is taken over of these.

    Raises
    ------
    RequestError
        For an unknown metric, rule or kernel, a rule that statistics were not made with, or one that needs an array a
        case lacks.
    InvalidScoresError, InvalidVotesError, StoreError
        For what a cohort holds, naming the case; see `accumulate`.
    WorkError
        For "cuda" without a usable device; see `accumulate`.
    PluginError
        For a metric that fails, or that another distribution offers and that cannot be used.
    """
    # Statistics need neither, but a scheduler or device that is not there is never passed over.
    check_device(device, kernel, here=Run(workers, progress, scheduler).here)
    wanted = None if metrics is None else tuple(metrics)
    resolved = metrics_.resolve(wanted)  # an unknown metric is an error before voxels are read
    if isinstance(source, CohortStatistics):
        if roi is not None and str(parse_roi(roi)) != source.roi:
            raise RequestError(
                f"The statistics were made with the rule {source.roi!r}, not {roi!r}.",
                f"Allowed: {source.roi!r}, or none.",
                "Accumulate the cohort again with the other rule.",
            )
        return metrics_.evaluate(source, maps, wanted, progress=progress)
    if not isinstance(source, Cohort):
        raise RequestError(
            f"A {type(source).__name__} cannot be evaluated.",
            "Allowed: a Cohort, or CohortStatistics.",
            "Open a store with open_cohort, or load statistics with CohortStatistics.load.",
        )
    of_volumes = [metric for metric in resolved if isinstance(metric, VolumeMetric)]
    if of_volumes:
        require_measurable(on_invalid)
    rule = metrics_.preferred_roi(resolved) if roi is None else roi
    statistics = accumulate(
        source,
        roi=rule,
        device=device,
        kernel=kernel,
        on_invalid=on_invalid,
        scheduler=scheduler,
        workers=workers,
        progress=progress,
    )
    measured = (
        measure(
            source,
            of_volumes,
            variants(maps),
            on_invalid=on_invalid,
            kernel=kernel,
            scheduler=scheduler,
            workers=workers,
            progress=progress,
        )
        if of_volumes
        else None
    )
    return metrics_.evaluate(statistics, maps, wanted, measured=measured, progress=progress)
