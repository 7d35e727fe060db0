"""Accumulate: one pass over a cohort, chunks to sparse tables, one table per case."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from twintrack_core import kernels
from twintrack_core.codes import N_CODES, OnInvalid
from twintrack_core.cohort.chunks import ChunkedArray
from twintrack_core.cohort.roi import ALLOWED, BoxRegion, MaskRegion, Region, parse_roi, region_of
from twintrack_core.cohort.store import Cohort, StoredCase
from twintrack_core.engine.device import Device, bytes_to_count, check_device, plan_memory
from twintrack_core.engine.device import count_tiles as count_tiles_on_device
from twintrack_core.engine.run import LOOK_BYTES, Run, compute, groups, task
from twintrack_core.engine.tiles import (
    Tile,
    background_score,
    batches,
    read_scores,
    tile_bounds,
    tile_box,
    tile_bytes,
    tile_shape,
    tiles_of,
    union,
)
from twintrack_core.engine.workspace import workspace
from twintrack_core.errors import RequestError
from twintrack_core.histogram import CaseStatistics, CohortStatistics, JointHistogram
from twintrack_core.histogram.cells import Cells, concatenate, freeze
from twintrack_core.kernels.dispatch import Place, check_policy, report


class Background(NamedTuple):
    """Voxels that are never read: their score code, and how many are outside and inside the region."""

    code: int
    outside: int
    inside: int


@dataclass(frozen=True)
class CountTask:
    """Some tiles of one case to count. Pure data, so that any worker can run it.

    Attributes
    ----------
    marked
        Those of the tiles in which votes were written; in the others nobody marked anything.
    background
        What is counted besides.
    """

    case: str
    probability: ChunkedArray
    votes: ChunkedArray | None
    n_raters: int
    region: Region
    tile_shape: tuple[int, ...]
    tiles: tuple[Tile, ...]
    marked: frozenset[Tile]
    background: Background | None
    kernel: str
    on_invalid: OnInvalid


@dataclass(frozen=True)
class CasePlan:
    """What counting one case takes: one task or more."""

    case: StoredCase
    tasks: tuple[CountTask, ...]

    @property
    def n_bytes(self) -> int:
        """Decoded bytes of what is to be counted, and what a case takes whatever its size."""
        return LOOK_BYTES + sum(len(work.tiles) for work in self.tasks) * tile_bytes(self.case)


Count: TypeAlias = Callable[[CountTask], Cells]
"""What counts the tiles of a task, on one device or another."""


def accumulate(
    cohort: Cohort,
    *,
    roi: str = "full",
    device: Device = "cpu",
    kernel: str = "auto",
    on_invalid: OnInvalid = "error",
    workers: int | None = None,
    progress: bool = False,
) -> CohortStatistics:
    """Reduce a cohort to its joint histograms, touching each written chunk once.

    Parameters
    ----------
    cohort
        An open cohort, or a selection of its cases.
    roi
        Rule for the region of interest: "full", "mask", "mask+Nmm" or "raters+N"; see `cohort.roi`.
    device
        "cpu", or "cuda": CuPy's current device, with at most the memory that `engine.device` states.
    kernel
        Name of the kernel.
    on_invalid
        "error", "clip" or "exclude"; see `codes.OnInvalid`.
    workers
        Threads, all cores by default.
    progress
        Show a bar on stderr, if that is a terminal.

    Returns
    -------
    CohortStatistics
        One sparse table per case. The same bytes whatever the chunking, device, kernel or number of workers.

    Raises
    ------
    RequestError
        For an unknown rule or kernel, or a rule that needs an array a case lacks.
    InvalidScoresError, InvalidVotesError
        For scores that are not probabilities and marks of raters there are not, naming case, place and count.
    StoreError
        For damaged chunks.
    WorkError
        For "cuda" without a usable device, saying what is missing, or without enough free memory on it.
    """
    if not isinstance(cohort, Cohort):
        raise RequestError(
            f"A {type(cohort).__name__} cannot be accumulated.", "Allowed: a Cohort.", "Open a store with open_cohort."
        )
    rule = parse_roi(roi)
    on_cuda = check_device(device, kernel)
    kernels.get(kernel)
    check_policy(on_invalid)
    run = Run(workers, progress)
    looks = [
        task(partial(_plan_cases, cohort, names, str(rule), kernel, on_invalid))
        for names in groups(cohort.names, [LOOK_BYTES] * len(cohort), run)
    ]
    plans: list[CasePlan] = list(chain.from_iterable(compute(looks, run, "looking")))
    if rule.kind == "raters" and not any(plan.case.raters for plan in plans):
        raise RequestError(
            f"No case of {cohort.path} has raters, which the rule {str(rule)!r} needs.", ALLOWED, "Choose another rule."
        )
    count: Count = count_tiles
    if on_cuda:
        needed = [bytes_to_count(work) for plan in plans for work in plan.tasks]
        count = partial(count_tiles_on_device, plan_memory(needed, run))
    work = [_cases_task(group, count) for group in groups(plans, [plan.n_bytes for plan in plans], run)]
    statistics = chain.from_iterable(compute(work, run, "counting"))
    return CohortStatistics(dict(zip(cohort.names, statistics, strict=True)), roi=str(rule))


def _cases_task(plans: tuple[CasePlan, ...], count: Count) -> Any:
    """Make the task of some cases. Tables are merged as soon as they are there: only statistics are held."""
    if len(plans[0].tasks) == 1:
        return task(partial(_count_cases, plans, count))
    (plan,) = plans  # what is a task's worth by itself has no neighbours
    return task(partial(_merge_case, plan), *(task(partial(count, work)) for work in plan.tasks))


def _count_cases(plans: tuple[CasePlan, ...], count: Count) -> list[CaseStatistics]:
    return [_merge(plan, map(count, plan.tasks)) for plan in plans]


def _merge_case(plan: CasePlan, *parts: Cells) -> list[CaseStatistics]:
    return [_merge(plan, parts)]


def _merge(plan: CasePlan, parts: Iterable[Cells]) -> CaseStatistics:
    case, region = plan.case, plan.tasks[0].region
    return CaseStatistics(
        JointHistogram(case.raters, *concatenate(list(parts))),
        spacing_mm=case.geometry.spacing_mm,
        attributes=dict(case.attributes),
        shape=case.shape,
        marks=region.marks if isinstance(region, BoxRegion) else None,
    )


def _plan_cases(cohort: Cohort, names: tuple[str, ...], roi: str, kernel: str, on_invalid: OnInvalid) -> list[CasePlan]:
    return [_plan_case(cohort, name, roi, kernel, on_invalid) for name in names]


def _plan_case(cohort: Cohort, name: str, roi: str, kernel: str, on_invalid: OnInvalid) -> CasePlan:
    case = cohort[name]
    region = region_of(case, parse_roi(roi))
    votes = case.parts.get("votes")
    marked = np.zeros(0, dtype=np.int64) if votes is None else tiles_of(case, votes)
    reach = [tiles_of(case, region.mask, region.halo)] if isinstance(region, MaskRegion) else []
    tiles = union(case, tiles_of(case, case.probability), marked, *reach)
    all_marked = set(map(tuple, union(case, marked).tolist()))
    background = _background(case, region, tiles, kernel, on_invalid)
    shape = tile_shape(case)

    def work(batch: tuple[Tile, ...], counted_too: Background | None) -> CountTask:
        return CountTask(
            name,
            case.probability,
            votes,
            len(case.raters),
            region,
            shape,
            batch,
            frozenset(all_marked.intersection(batch)),
            counted_too,
            kernel,
            on_invalid,
        )

    # What is in no tile is counted with the first batch, and is a batch of its own where there is none.
    first, *others = batches(case, tiles) or [()]
    return CasePlan(case, (work(first, background), *(work(batch, None) for batch in others)))


def _background(
    case: StoredCase, region: Region, tiles: npt.NDArray[np.int64], kernel: str, on_invalid: OnInvalid
) -> Background | None:
    """Find what the voxels in no tile are; None if there is none to count."""
    starts, stops = tile_bounds(tiles, tile_shape(case), case.shape)
    n = math.prod(case.shape) - int((stops - starts).prod(axis=1).sum())
    if n == 0:
        return None
    # Outside the tiles a mask is unwritten within its reach, so all of that is outside the region.
    inside = region.size - region.overlap(starts, stops) if isinstance(region, BoxRegion) else 0
    table = np.zeros((1, 1, N_CODES), dtype=np.uint32)
    score = background_score(case.probability)
    findings = kernels.get(kernel).accumulate(score, None, None, table, clip=on_invalid == "clip")
    report(findings, score, Place(f"Case {case.name}, the fill value of probability", (1,)), on_invalid)
    return None if findings.invalid_scores else Background(int(np.argmax(table)), n - inside, inside)


def count_tiles(work: CountTask) -> Cells:
    """Count the tiles of a task, and the background that comes with it."""
    kernel = kernels.get(work.kernel)
    clip = work.on_invalid == "clip"
    size = work.probability.shape[-3:]
    with workspace() as space:
        scratch, tally = space.scratch, space.tally(work.n_raters)
        if work.background is not None:
            tally.put(*work.background)
        for tile in work.tiles:
            box = tile_box(tile, work.tile_shape, size)
            scores = read_scores(work.probability, box, scratch)
            shape = scores.shape[1:]
            votes = None
            if work.votes is not None and tile in work.marked:
                votes = scratch.array("votes", shape, np.uint8)
                work.votes.read(box, votes, scratch)
            inside = work.region.inside(box, scratch)
            region = inside if isinstance(inside, bool) else inside.reshape(-1)
            flat = scores.reshape(len(scores), -1)
            marks = None if votes is None else votes.reshape(-1)
            findings = tally.add(kernel, flat, marks, region, clip=clip)
            if any(findings[::2]):
                place = Place(f"Case {work.case}, chunk {tile}", shape, tuple(s.start for s in box))
                report(findings, flat, place, work.on_invalid, votes=marks, n_raters=work.n_raters)
        return freeze(tally.drain())
