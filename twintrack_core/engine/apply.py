"""Apply: a cohort through a calibration map into a calibrated cohort, chunk by chunk."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from twintrack_core import kernels
from twintrack_core.codes import SCORE_DTYPES, OnInvalid
from twintrack_core.cohort.array_metadata import open_array
from twintrack_core.cohort.chunks import ChunkedArray
from twintrack_core.cohort.scratch import Listed, Scratch
from twintrack_core.cohort.store import Cohort, StoredCase, fingerprint, open_cohort
from twintrack_core.cohort.writer import CohortWriter, create_array
from twintrack_core.engine.device import Device, bytes_to_relabel, check_device, plan_memory
from twintrack_core.engine.device import relabel_tiles as relabel_tiles_on_device
from twintrack_core.engine.looking import look
from twintrack_core.engine.memory import require_room, to_relabel
from twintrack_core.engine.output import held
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
    tile_box,
    tile_bytes,
    tile_grid,
    tile_shape,
    union,
)
from twintrack_core.engine.workspace import workspace
from twintrack_core.errors import RequestError, StoreError, WorkError
from twintrack_core.kernels.dispatch import Place, check_policy, lut_with_invalid, report
from twintrack_core.maps import BOUNDS, CalibrationMap
from twintrack_core.names import some
from twintrack_core.storage import Folder, copy_files, output_folder
from twintrack_core.storage.folder import METADATA


@dataclass(frozen=True, eq=False)
class RelabelTask:
    """Some tiles of one case to write calibrated. Pure data, so that any worker can run it."""

    case: str
    probability: ChunkedArray
    output: Folder
    lut: npt.NDArray[Any]
    tile_shape: tuple[int, ...]
    tiles: tuple[Tile, ...]
    required: Listed
    kernel: str
    on_invalid: OnInvalid

    def announce(self, scratch: Scratch) -> None:
        """Say what will be read, tile by tile, as it will be."""
        scratch.require(self.required)
        size = self.probability.shape[-3:]
        expect_scores(self.probability, [tile_box(tile, self.tile_shape, size) for tile in self.tiles], scratch)


Relabel: TypeAlias = Callable[[RelabelTask], None]
"""What writes the tiles of a task, on one device or another."""


def apply(
    cohort: Cohort,
    calibration_map: CalibrationMap,
    path: str | os.PathLike[str],
    *,
    resume: bool = False,
    dtype: npt.DTypeLike = np.float16,
    device: Device = "cpu",
    kernel: str = "auto",
    on_invalid: OnInvalid = "error",
    on_error: OnError = "stop",
    scheduler: Scheduler = "threads",
    workers: int | None = None,
    progress: bool = False,
) -> Cohort:
    """Write a calibrated cohort: `probability` is (z, y, x), the rest is copied.

    Chunks whose scores were never written are not written either: the output's fill value is the map's value there.

    Parameters
    ----------
    cohort
        An open cohort, or a selection of its cases.
    calibration_map
        The map; several members are averaged before it is looked up.
    path
        Store to make. It must not exist, unless ``resume``; its folder must.
    resume
        Finish a store that the same map and input began; start it where nothing was begun.
    dtype
        float16, float32 or uint8 (round(255 p)).
    device
        "cpu", or "cuda": CuPy's current device, with at most the memory that `engine.device` states. The same bytes.
    kernel
        Name of the kernel.
    on_invalid
        "error" or "clip"; a calibrated store cannot hold excluded voxels.
    on_error
        "stop" at a case that cannot be read, or "skip" it: the output lacks it, and `Cohort.skipped` says so.
    scheduler, workers, progress
        As in `accumulate`. The workers of a cluster must reach the output as the caller does.

    Raises
    ------
    RequestError
        If ``path`` exists or its folder does not, or it was begun by another run, or the cohort is calibrated already.
    InvalidScoresError
        For scores that are not probabilities, naming case, place and count.
    StoreError
        For damaged chunks.
    WorkError
        If the output cannot be written, for example on a full disk; for "cuda" without a usable device, saying what
        is missing, or without enough free memory on it.
    """
    output_dtype = np.dtype(dtype)
    if output_dtype not in SCORE_DTYPES:
        raise RequestError(f"A calibrated store cannot be {output_dtype}.", "Allowed: float16, float32, uint8.")
    if check_policy(on_invalid) == "exclude":
        raise RequestError("A calibrated store cannot leave voxels out.", 'Allowed: on_invalid="error" or "clip".')
    run = Run(workers, progress, scheduler)
    on_cuda = check_device(device, kernel, here=run.here)
    kernels.get(kernel)
    skipped = Skipped(on_error)
    output = output_folder(path, resume=resume, source=cohort.folder)
    if cohort.folder.names() is None:
        raise RequestError(
            f"{cohort.folder} cannot be listed, and what is beside its scores not copied.",
            "Allowed: a folder, s3:// or gs://.",
            "Copy the store first.",
        )
    if "map" in cohort.source:
        raise RequestError(
            f"{cohort.folder} is calibrated already, with the map {cohort.source['map']!s:.12}.",
            "Allowed: a cohort of raw scores.",
            "Apply the map to the cohort that this one was made from.",
        )
    source = _source(cohort, calibration_map, output_dtype, on_invalid)
    lut = lut_with_invalid(calibration_map.table_as(output_dtype), on_invalid)
    begin = partial(CohortWriter, output, cohort.names, source=source, resume=resume)
    with held(output) as require:
        # What another run began is refused before anything else is looked at.
        writer = begin() if resume and output.has(METADATA) else None
        if writer is None or not writer.finished:
            with crew_of(run) as crew:
                # Cases are opened before anything is written: input that must be mended leaves no output behind.
                left = [name for name in cohort.names if not (writer and writer.has_case(name))]
                plans = look(partial(_plan_cases, cohort, output if writer else None), left, skipped, crew, run)
                skipped.check_rest(len(cohort))
                require_room([to_relabel(plan.case, output_dtype) for plan in plans], crew)
                relabel: Relabel = relabel_tiles
                if on_cuda:
                    needed = [
                        bytes_to_relabel(plan.case.probability, tile_shape(plan.case), output_dtype) for plan in plans
                    ]
                    relabel = partial(relabel_tiles_on_device, plan_memory(needed, run))
                writer = writer or begin()
                _write(plans, writer, _Settings(lut, source, relabel, kernel, on_invalid), skipped, crew, run)
                skipped.check_rest(len(cohort))
            require()
            writer.finish(skipped.reasons)
    return open_cohort(path)


def _source(
    cohort: Cohort, calibration_map: CalibrationMap, dtype: np.dtype[Any], on_invalid: OnInvalid
) -> dict[str, Any]:
    """Return what is recorded of where a calibrated store comes from: all that its content depends on."""
    source = {
        "map": calibration_map.digest(),
        "calibrator": calibration_map.calibrator,
        "target": calibration_map.target,
        "cohort": dict(cohort.source),
        "input": fingerprint(cohort),
        "dtype": dtype.name,
        "on_invalid": on_invalid,
    }
    bound = calibration_map.parameters.get("bound")
    if bound in BOUNDS:
        source["bound"] = bound
    return source


@dataclass(frozen=True, eq=False)
class _Settings:
    """What all cases of a run share."""

    lut: npt.NDArray[Any]
    source: Mapping[str, Any]
    relabel: Relabel
    kernel: str
    on_invalid: OnInvalid


@dataclass(frozen=True, eq=False)
class _CasePlan:
    """What writing one case takes.

    Attributes
    ----------
    tiles
        (n, 3) int64 in ascending order, those that are to be written: what an earlier run wrote is not among them.
    scores
        What was listed.
    has_background
        Whether there are tiles that stay unwritten.
    """

    case: StoredCase
    tiles: npt.NDArray[np.int64]
    scores: Listing
    has_background: bool

    @property
    def n_bytes(self) -> int:
        return LOOK_BYTES + len(self.tiles) * tile_bytes(self.case)

    def work(self, output: Folder, settings: _Settings, start: int = 0, stop: int | None = None) -> RelabelTask:
        """Return what writes some of the tiles."""
        return RelabelTask(
            self.case.name,
            self.case.probability,
            output / self.case.name / "probability",
            settings.lut,
            tile_shape(self.case),
            tuple(map(tuple, self.tiles[start:stop].tolist())),
            self.scores.within(self.tiles[start:stop]),
            settings.kernel,
            settings.on_invalid,
        )


def _plan_cases(cohort: Cohort, begun: Folder | None, names: tuple[str, ...]) -> list[_CasePlan]:
    return [_plan_case(cohort[name], begun and begun / name / "probability") for name in names]


def _plan_case(case: StoredCase, begun: Folder | None) -> _CasePlan:
    grid = tile_grid(case)
    scores = Listing(case, case.probability)
    tiles = np.unique(scores.tiles())
    has_background = len(tiles) < math.prod(grid)
    if begun is not None and begun.has(METADATA):
        output = _open_output(begun)
        if (output.shape, output.chunks) != (case.shape, tile_shape(case)):
            raise WorkError(f"{begun} was begun as another array.", None, "Remove the output and run again.")
        tiles = np.setdiff1d(tiles, np.ravel_multi_index(tuple(output.written().T), grid))
    return _CasePlan(case, union(case, tiles), scores, has_background)


def _open_output(folder: Folder) -> ChunkedArray:
    """Open an array of the output; that it is damaged is no fault of the case it is made from."""
    try:
        return open_array(folder)
    except StoreError as error:
        raise WorkError(error.what, error.allowed, "Remove the output and run again.") from error


def _write(
    plans: Sequence[_CasePlan], writer: CohortWriter, settings: _Settings, skipped: Skipped, crew: Crew, run: Run
) -> None:
    """Write what is left: small cases many to a task; large ones first without their tiles, and then these in parts."""
    by_name = {plan.case.name: plan for plan in plans}
    sizes = [plan.n_bytes for plan in plans]
    limit = task_bytes(sum(sizes), crew.size)

    def whole(*names: str) -> Task[None]:
        return Task(some(names), partial(_write_cases, tuple(by_name[name] for name in names), writer, settings), names)

    def bare(name: str) -> Task[None]:
        return Task(name, partial(_prepare_case, by_name[name], writer, settings), (name,))

    gathered = groups(plans, sizes, limit)
    small = [whole(*(plan.case.name for plan in group)) for group in gathered if group[0].n_bytes <= limit]
    large = [group[0] for group in gathered if group[0].n_bytes > limit]
    for _ in skipped.compute([bare(plan.case.name) for plan in large], bare, crew, run, "preparing"):
        pass
    large = [plan for plan in large if plan.case.name not in skipped.errors]
    parts = [task for plan in large for task in _parts(plan, writer.folder, settings, limit)]
    for _ in skipped.compute(small + parts, whole, crew, run, "applying"):
        pass
    for plan in large:
        if plan.case.name not in skipped.errors:
            writer.end_case(plan.case.name)


def _parts(plan: _CasePlan, output: Folder, settings: _Settings, limit: int) -> Iterator[Task[None]]:
    """Make the tasks that write the tiles of a large case."""
    step = max(1, limit // tile_bytes(plan.case))
    for first in range(0, len(plan.tiles), step):
        last = min(first + step, len(plan.tiles))
        name = f"{plan.case.name}, tiles {first} to {last} of {len(plan.tiles)}"
        yield Task(name, partial(settings.relabel, plan.work(output, settings, first, last)), (plan.case.name,))


def _write_cases(plans: tuple[_CasePlan, ...], writer: CohortWriter, settings: _Settings) -> None:
    for plan in plans:
        go_on()
        _prepare_case(plan, writer, settings)
        settings.relabel(plan.work(writer.folder, settings))
        writer.end_case(plan.case.name)


def _prepare_case(plan: _CasePlan, writer: CohortWriter, settings: _Settings) -> None:
    """Make the case's group and its empty probability, and copy everything that a map does not change.

    What is there already stays: an earlier run of the same input and map made it, and may have workers left.
    """
    case = plan.case
    folder = writer.begin_case(
        case.name,
        raters=case.raters,
        geometry=case.geometry,
        attributes=case.attributes,
        source={**settings.source, "case": dict(case.source)},
    )
    for part in case.parts:
        copy_files(case.folder / part, folder / part)
        if not (folder / part).has(METADATA):
            raise StoreError(f"{case.folder / part} is gone.", None, "See what became of the store, and run again.")
    fill = np.empty(1, dtype=settings.lut.dtype)
    score = background_score(case.probability)
    clip = settings.on_invalid == "clip"
    findings = kernels.get(settings.kernel).relabel(score, settings.lut, fill, clip=clip)
    if plan.has_background:  # otherwise no voxel has the fill value, and it may be anything
        place = Place(f"Case {case.name}, the fill value of probability", (1,))
        report(findings, score, place, settings.on_invalid)
    if findings.invalid_scores:
        fill[0] = settings.lut[0]
    create_array(folder / "probability", case.shape, fill.dtype, chunks=tile_shape(case), fill=fill[0].item())


def relabel_tiles(work: RelabelTask) -> None:
    """Write the tiles of a task."""
    kernel = kernels.get(work.kernel)
    output = _open_output(work.output)
    with workspace() as space:
        scratch = space.scratch
        work.announce(scratch)
        for tile in work.tiles:
            go_on()
            box = tile_box(tile, work.tile_shape, output.shape)
            scores = read_scores(work.probability, box, scratch)
            shape = scores.shape[1:]
            values = scratch.array("values", shape, work.lut.dtype)
            flat = scores.reshape(len(scores), -1)
            findings = kernel.relabel(flat, work.lut, values.reshape(-1), clip=work.on_invalid == "clip")
            if findings.invalid_scores:
                place = Place(f"Case {work.case}, chunk {tile}", shape, tuple(s.start for s in box))
                report(findings, flat, place, work.on_invalid)
            output.write_chunk(tile, values, scratch)
