"""Accumulate: one pass over a cohort, chunks to sparse tables, one table per case."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from twintrack_core import kernels
from twintrack_core.codes import N_CODES, OnInvalid
from twintrack_core.cohort.chunks import ChunkedArray
from twintrack_core.cohort.roi import ALLOWED, BoxRegion, MaskRegion, Region, RoiRule, parse_roi, region_of
from twintrack_core.cohort.scratch import Listed, Scratch
from twintrack_core.cohort.store import Cohort, StoredCase
from twintrack_core.engine.checkpoint import Counted, Found, Part, counting
from twintrack_core.engine.device import Device, bytes_to_count, check_device, plan_memory
from twintrack_core.engine.device import count_tiles as count_tiles_on_device
from twintrack_core.engine.looking import look
from twintrack_core.engine.memory import require_room, to_count
from twintrack_core.engine.run import (
    LOOK_BYTES,
    Crew,
    OnError,
    Run,
    Scheduler,
    Skipped,
    Task,
    crew_of,
    go_on,
    groups,
    task_bytes,
)
from twintrack_core.engine.tiles import (
    Listing,
    Tile,
    background_score,
    expect_scores,
    read_scores,
    tile_bounds,
    tile_box,
    tile_bytes,
    tile_grid,
    tile_shape,
    union,
)
from twintrack_core.engine.workspace import workspace
from twintrack_core.errors import RequestError
from twintrack_core.histogram import CaseStatistics, CohortStatistics, JointHistogram
from twintrack_core.histogram.cells import Cells, freeze
from twintrack_core.kernels.dispatch import Place, check_policy, report
from twintrack_core.names import some
from twintrack_core.storage.metadata import OTHER_OUTPUT


class Background(NamedTuple):
    """Voxels that are never read: their score code, and how many are outside and inside the region."""

    code: int
    outside: int
    inside: int


@dataclass(frozen=True, eq=False)
class CountTask:
    """Some tiles of one case to count. Pure data, so that any worker can run it.

    Attributes
    ----------
    marked
        Those of the tiles in which votes were written; in the others nobody marked anything.
    required
        Chunks that are there: one that is gone is an error, and not background.
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
    required: Listed
    background: Background | None
    kernel: str
    on_invalid: OnInvalid

    def announce(self, scratch: Scratch) -> None:
        """Say what will be read, tile by tile, as it will be."""
        scratch.require(self.required)
        for tile in self.tiles:
            box = tile_box(tile, self.tile_shape, self.probability.shape[-3:])
            expect_scores(self.probability, [box], scratch)
            if self.votes is not None and tile in self.marked:
                self.votes.expect([box], scratch)
            self.region.expect([box], scratch)


@dataclass(frozen=True, eq=False)
class CasePlan:
    """What counting one case takes.

    Attributes
    ----------
    tiles
        (n, 3) int64 in ascending order, those that are visited.
    marked
        (n,) bool, in which of them votes were written.
    listings
        What was listed.
    """

    case: StoredCase
    region: Region
    tiles: npt.NDArray[np.int64]
    marked: npt.NDArray[np.bool_]
    listings: tuple[Listing, ...]
    background: Background | None
    kernel: str
    on_invalid: OnInvalid

    @property
    def n_bytes(self) -> int:
        """Decoded bytes of what is to be counted, and what a case takes whatever its size."""
        return LOOK_BYTES + len(self.tiles) * tile_bytes(self.case)

    def work(self, start: int = 0, stop: int | None = None) -> CountTask:
        """Return what counts some of the tiles; what is in no tile is counted with the first of them."""
        halo = self.region.halo if isinstance(self.region, MaskRegion) else (0, 0, 0)
        tiles: tuple[Tile, ...] = tuple(map(tuple, self.tiles[start:stop].tolist()))
        return CountTask(
            self.case.name,
            self.case.probability,
            self.case.parts.get("votes"),
            len(self.case.raters),
            self.region,
            tile_shape(self.case),
            tiles,
            frozenset(itertools.compress(tiles, self.marked[start:stop].tolist())),
            [found for listing in self.listings for found in listing.within(self.tiles[start:stop], halo)],
            None if start else self.background,
            self.kernel,
            self.on_invalid,
        )

    def statistics(self, cells: Cells) -> CaseStatistics:
        """Return what is kept of the case, given all of its cells."""
        case, region = self.case, self.region
        return CaseStatistics(
            JointHistogram(case.raters, *cells),
            spacing_mm=case.geometry.spacing_mm,
            attributes=dict(case.attributes),
            shape=case.shape,
            marks=region.marks if isinstance(region, BoxRegion) else None,
        )


Count: TypeAlias = Callable[[CountTask], Cells]
"""What counts the tiles of a task, on one device or another."""


def accumulate(
    cohort: Cohort,
    *,
    roi: str = "full",
    path: str | os.PathLike[str] | None = None,
    resume: bool = False,
    device: Device = "cpu",
    kernel: str = "auto",
    on_invalid: OnInvalid = "error",
    on_error: OnError = "stop",
    scheduler: Scheduler = "threads",
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
    path
        Statistics store to make. What is counted is kept in it, so that a run that is cut off can be resumed.
    resume
        Finish a store that the same run began; start it where nothing was begun.
    device
        "cpu", or "cuda": CuPy's current device, with at most the memory that `engine.device` states.
    kernel
        Name of the kernel.
    on_invalid
        "error", "clip" or "exclude"; see `codes.OnInvalid`.
    on_error
        "stop" at a case that cannot be read, or "skip" it: `CohortStatistics.skipped` says which these are.
    scheduler
        "threads" of this process, "processes" of this machine, the address of a Dask scheduler, or a
        `distributed.Client`.
    workers
        How many threads or processes, all cores by default.
    progress
        Show a bar on stderr, if that is a terminal.

    Returns
    -------
    CohortStatistics
        One sparse table per case. The same bytes whatever the chunking, device, kernel, scheduler or number of workers.

    Raises
    ------
    RequestError
        For an unknown rule, kernel or scheduler, or a rule that needs an array a case lacks; if ``path`` exists or its
        folder does not, if another run began it, or writes it now.
    InvalidScoresError, InvalidVotesError
        For scores that are not probabilities and marks of raters there are not, naming case, place and count.
    StoreError
        For damaged chunks.
    WorkError
        For "cuda" without a usable device, saying what is missing, or without enough free memory on it; for a cluster
        that cannot be used, or whose workers die; if ``path`` cannot be written.
    """
    if not isinstance(cohort, Cohort):
        raise RequestError(
            f"A {type(cohort).__name__} cannot be accumulated.", "Allowed: a Cohort.", "Open a store with open_cohort."
        )
    rule = parse_roi(roi)
    run = Run(workers, progress, scheduler)
    on_cuda = check_device(device, kernel, here=run.here)
    kernels.get(kernel)
    check_policy(on_invalid)
    skipped = Skipped(on_error)
    with counting(path, cohort, {"roi": str(rule), "on_invalid": on_invalid}, resume=resume) as counted:
        if counted.finished is None:
            with crew_of(run) as crew:
                count_cohort(
                    cohort, rule, counted, skipped, crew, run, on_cuda=on_cuda, kernel=kernel, on_invalid=on_invalid
                )
            skipped.check_rest(len(cohort))
            counted.finish(str(rule), skipped.reasons)
        else:
            _require_same_cases(cohort, counted.finished, path)
        assert counted.finished is not None  # noqa: S101 - for mypy
        return counted.finished


def _require_same_cases(cohort: Cohort, finished: CohortStatistics, path: object) -> None:
    """Refuse to take statistics that are whole for those of other cases, as far as they tell: not by their chunks."""
    for name, case in finished.items():
        found = cohort[name]
        if (found.shape, found.raters, found.geometry.spacing_mm, dict(found.attributes)) != (
            case.shape,
            case.histogram.raters,
            case.spacing_mm,
            dict(case.attributes),
        ):
            raise RequestError(
                f"{path} was made from another cohort: its case {name} differs.",
                "Allowed: resuming a run with the same input.",
                OTHER_OUTPUT,
            )


def count_cohort(
    cohort: Cohort,
    rule: RoiRule,
    counted: Counted,
    skipped: Skipped,
    crew: Crew,
    run: Run,
    *,
    on_cuda: bool = False,
    kernel: str = "auto",
    on_invalid: OnInvalid = "error",
) -> None:
    """Count the cases that are not counted yet; see `accumulate`."""
    left = [name for name in cohort.names if name not in counted.cases]
    plans = look(partial(_plan_cases, cohort, rule, kernel, on_invalid), left, skipped, crew, run)
    _require_raters(cohort, rule, plans, counted)
    require_room([to_count(plan.case, plan.region) for plan in plans], crew)
    count: Count = count_tiles
    if on_cuda:
        count = partial(count_tiles_on_device, plan_memory([bytes_to_count(plan.work()) for plan in plans], run))
    _count(plans, count, counted, skipped, crew, run)


def _require_raters(cohort: Cohort, rule: RoiRule, plans: Sequence[CasePlan], counted: Counted) -> None:
    rated = any(plan.case.raters for plan in plans) or any(case.histogram.raters for case in counted.cases.values())
    if rule.kind == "raters" and not rated:
        raise RequestError(
            f"No case of {cohort.folder} has raters, which the rule {str(rule)!r} needs.",
            ALLOWED,
            "Choose another rule.",
        )


def _count(plans: Sequence[CasePlan], count: Count, counted: Counted, skipped: Skipped, crew: Crew, run: Run) -> None:
    """Count what is left: small cases many to a task, large ones in parts."""
    by_name = {plan.case.name: plan for plan in plans}
    sizes = [plan.n_bytes for plan in plans]
    limit = task_bytes(sum(sizes), crew.size)

    def whole(*names: str) -> Task[Found]:
        return Task(some(names), partial(_count_cases, tuple(by_name[name] for name in names), count), names)

    tasks: list[Task[Found]] = []
    in_parts: list[CasePlan] = []
    for group in groups(plans, sizes, limit):
        if group[0].n_bytes > limit or any(counted.has_parts(plan.case.name) for plan in group):
            in_parts += group
            tasks += [task for plan in group for task in _parts(plan, count, counted, limit)]
        else:
            tasks.append(whole(*(plan.case.name for plan in group)))
    for found in skipped.compute(tasks, whole, crew, run, "counting"):
        counted.add(found)
    for plan in in_parts:
        if plan.case.name not in skipped.errors:
            counted.cases[plan.case.name] = plan.statistics(counted.merged(plan.case.name))


def _parts(plan: CasePlan, count: Count, counted: Counted, limit: int) -> Iterator[Task[Found]]:
    """Make the tasks of what is not counted yet of a large case."""
    name = plan.case.name
    step = max(1, limit // tile_bytes(plan.case))
    for start, stop in counted.gaps(name, len(plan.tiles)):
        for first in range(start, max(stop, start + 1), step):  # without a tile there is the background to count
            last = min(first + step, stop)
            work = partial(_count_part, plan.work(first, last), count, first, last)
            yield Task(f"{name}, tiles {first} to {last} of {len(plan.tiles)}", work, (name,))


def _count_cases(plans: tuple[CasePlan, ...], count: Count) -> Found:
    return {plan.case.name: plan.statistics(count(plan.work())) for plan in plans}


def _count_part(work: CountTask, count: Count, first: int, last: int) -> Found:
    return Part(work.case, first, last, count(work))


def _plan_cases(
    cohort: Cohort, rule: RoiRule, kernel: str, on_invalid: OnInvalid, names: tuple[str, ...]
) -> list[CasePlan]:
    return [_plan_case(cohort[name], rule, kernel, on_invalid) for name in names]


def _plan_case(case: StoredCase, rule: RoiRule, kernel: str, on_invalid: OnInvalid) -> CasePlan:
    region = region_of(case, rule)
    scores = Listing(case, case.probability)
    votes = [Listing(case, case.parts["votes"])] if "votes" in case.parts else []
    masks = [Listing(case, region.mask)] if isinstance(region, MaskRegion) else []
    halo = region.halo if isinstance(region, MaskRegion) else ()
    marked = np.concatenate([np.zeros(0, dtype=np.int64), *(listing.tiles() for listing in votes)])
    tiles = union(case, scores.tiles(), marked, *(listing.tiles(halo) for listing in masks))
    is_marked = np.isin(np.ravel_multi_index(tuple(tiles.T), tile_grid(case)), marked)
    background = _background(case, region, tiles, kernel, on_invalid)
    return CasePlan(case, region, tiles, is_marked, (scores, *votes, *masks), background, kernel, on_invalid)


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
        work.announce(scratch)
        for tile in work.tiles:
            go_on()
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
