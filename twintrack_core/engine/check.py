"""Check what is stored: chunks decode, values have a meaning, counts add up to the volumes, and digests match."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial

import numpy as np

from twintrack_core.cohort.chunks import ChunkedArray
from twintrack_core.cohort.masks import VESSEL_LABELS
from twintrack_core.cohort.roi import parse_roi
from twintrack_core.cohort.store import Cohort
from twintrack_core.engine.accumulate import count_cohort
from twintrack_core.engine.checkpoint import Counted
from twintrack_core.engine.run import Run, Scheduler, Skipped, Task, crew_of
from twintrack_core.engine.workspace import workspace
from twintrack_core.errors import StoreError, TwinTrackError
from twintrack_core.histogram import CohortStatistics
from twintrack_core.histogram.store import check_digest


def check(
    cohort: Cohort, *, scheduler: Scheduler = "threads", workers: int | None = None, progress: bool = False
) -> dict[str, TwinTrackError]:
    """Read everything that a cohort holds, and find the cases in which something is wrong.

    Parameters
    ----------
    cohort
        An open cohort, or a selection of its cases.
    scheduler, workers, progress
        As in `accumulate`.

    Returns
    -------
    dict of str to TwinTrackError
        What is wrong first with each case in which something is: chunks that do not decode, scores that are no
        probabilities, marks of raters there are not, labels of vessels there are not, or counts of another volume.
    """
    run, skipped, counted = Run(workers, progress, scheduler), Skipped("skip"), Counted()
    with crew_of(run) as crew:
        count_cohort(cohort, parse_roi("full"), counted, skipped, crew, run)

        def alone(name: str) -> Task[None]:
            return Task(name, partial(_check_parts, cohort, name), (name,))

        for _ in skipped.compute([alone(name) for name in counted.cases], alone, crew, run, "checking"):
            pass
    for name, case in counted.cases.items():
        voxels = math.prod(case.shape or ())
        if case.histogram.n_voxels != voxels:
            skipped.errors[name] = StoreError(f"Case {name}: {case.histogram.n_voxels} voxels of {voxels} are counted.")
    return {name: skipped.errors[name] for name in skipped.names}


def check_statistics(statistics: CohortStatistics, path: str) -> dict[str, str]:
    """Return what is wrong with statistics that could be read: counts of another volume, or other cells."""
    wrong = {
        name: f"it has {case.histogram.n_voxels} voxels, its volume {math.prod(case.shape)}"
        for name, case in statistics.items()
        if case.shape is not None and case.histogram.n_voxels != math.prod(case.shape)
    }
    if not check_digest(statistics, path):
        wrong |= dict.fromkeys(statistics, "the cells of the store are not those that were written")
    return wrong


def _check_parts(cohort: Cohort, name: str) -> None:
    """Read what counting does not."""
    case = cohort[name]
    if "roi" in case.parts:
        for _ in _largest_values(case.parts["roi"]):
            pass
    for labels in _largest_values(case.parts["vessels"]) if "vessels" in case.parts else ():
        if labels not in VESSEL_LABELS:
            raise StoreError(f"Case {name}: its vessels hold the label {labels}.", "Allowed: the labels 0 to 5.")


def _largest_values(array: ChunkedArray) -> Iterable[int]:
    """Largest value of every written chunk."""
    boxes = [array.box(tuple(index)) for index in array.written().tolist()]
    with workspace() as space:
        array.expect(boxes, space.scratch)
        for box in boxes:
            values = space.scratch.array("part", tuple(side.stop - side.start for side in box), np.uint8)
            array.read(box, values.view(array.dtype), space.scratch)
            yield int(values.max())
