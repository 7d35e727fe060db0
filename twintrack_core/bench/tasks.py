"""What contenders do: each task with its answer and its floor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from twintrack_core import metrics
from twintrack_core.bench import floors, job
from twintrack_core.bench.data import KINDS, MAP, RATERS, Volume
from twintrack_core.calibrators import fit
from twintrack_core.errors import RequestError
from twintrack_core.histogram import CaseStatistics, JointHistogram


@dataclass(frozen=True)
class Task:
    """What contenders are compared in.

    Attributes
    ----------
    description
        What is done, and with what.
    expected
        The answer for a volume, by the oracle.
    floor, floor_name
        The least that could be done with the same bytes, for a number of threads; and what that is.
    kinds
        Kinds of volume it makes sense on.
    """

    description: str
    expected: Callable[[Volume], Any]
    floor: Callable[[Volume, int], Callable[[], object]]
    floor_name: str
    kinds: tuple[str, ...] = tuple(KINDS)


def _read(volume: Volume, threads: int) -> Callable[[], object]:
    return lambda: floors.read([volume.scores, volume.votes], threads)


def _copy(volume: Volume, threads: int) -> Callable[[], object]:
    target = np.empty_like(volume.scores)
    return lambda: floors.copy(volume.scores, target, threads)


def oracle(volume: Volume) -> JointHistogram:
    """The joint histogram by the reference kernel."""
    return JointHistogram.from_votes(volume.scores, volume.votes, RATERS, kernel="reference", threads=1)


def _counts(volume: Volume) -> npt.NDArray[np.int64]:
    return oracle(volume).counts


def _calibrated(volume: Volume) -> npt.NDArray[np.float16]:
    return MAP.table_as(np.float16)[volume.codes]


def _fitted(volume: Volume) -> npt.NDArray[np.float64]:
    return fit(oracle(volume)).table


def _metrics(volume: Volume) -> dict[str, float]:
    return values_of(oracle(volume))


def values_of(histogram: JointHistogram) -> dict[str, float]:
    """Every metric of ours that a histogram has, without those that are undefined."""
    cells = metrics.ScoredCells.of([CaseStatistics(histogram)])
    results = {metric.name: metric(cells) for metric in metrics.resolve(None) if isinstance(metric, metrics.Metric)}
    return {
        name: result.value if isinstance(result, metrics.Noted) else result
        for name, result in results.items()
        if not isinstance(result, metrics.Undefined)
    }


def _job(volume: Volume) -> Mapping[str, Any]:
    return job.our_job(volume.scores, volume.votes, kernel="reference", threads=1).answer(volume.votes)


TASKS: Mapping[str, Task] = {
    "accumulate": Task("count every score code with every rater pattern", _counts, _read, "read"),
    "apply": Task("calibrate every voxel with a map of 257 knots", _calibrated, _copy, "copy"),
    "fit": Task("an isotonic fit to the mean human response, from voxels", _fitted, _read, "read"),
    "metrics": Task("calibration metrics to the mean human response, from voxels", _metrics, _read, "read"),
    "job": Task(
        "fit, apply, all metrics before and after, STAPLE and the Dice with it", _job, _read, "read",
        kinds=("unwritten", "region", "softmax", "saturated", "cells"),  # random marks do not determine STAPLE
    ),
}  # fmt: skip


def require_task(task: str) -> None:
    """Refuse an unknown task."""
    if task not in TASKS:
        raise RequestError(f"There is no task {task!r}.", f"Allowed: {', '.join(TASKS)}.")
