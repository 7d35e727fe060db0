"""Apply: a cohort through a calibration map into a calibrated cohort, chunk by chunk."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from twintrack_core import kernels
from twintrack_core.codes import SCORE_DTYPES, OnInvalid
from twintrack_core.cohort.chunks import ChunkedArray, open_array
from twintrack_core.cohort.store import Cohort, StoredCase, fingerprint, is_complete, open_cohort
from twintrack_core.cohort.writer import CohortWriter, create_array
from twintrack_core.engine.device import Device, bytes_to_relabel, check_device, plan_memory
from twintrack_core.engine.device import relabel_tiles as relabel_tiles_on_device
from twintrack_core.engine.run import LOOK_BYTES, Run, compute, groups, task
from twintrack_core.engine.tiles import (
    Tile,
    background_score,
    batches,
    read_scores,
    tile_box,
    tile_bytes,
    tile_grid,
    tile_shape,
    tiles_of,
    union,
)
from twintrack_core.engine.workspace import workspace
from twintrack_core.errors import RequestError, WorkError
from twintrack_core.kernels.dispatch import Place, check_policy, lut_with_invalid, report
from twintrack_core.maps import BOUNDS, CalibrationMap
from twintrack_core.paths import reason, require_new


@dataclass(frozen=True, eq=False)
class RelabelTask:
    """Some tiles of one case to write calibrated. Pure data, so that any worker can run it."""

    case: str
    probability: ChunkedArray
    output: str
    lut: npt.NDArray[Any]
    tile_shape: tuple[int, ...]
    tiles: tuple[Tile, ...]
    kernel: str
    on_invalid: OnInvalid


Relabel: TypeAlias = Callable[..., None]
"""What writes the tiles of a task, on one device or another: called with a task, and with what it had to wait for."""


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
    on_cuda = check_device(device, kernel)
    kernels.get(kernel)
    run = Run(workers, progress)
    if not (resume and Path(path).exists()):
        require_new(path)
    if Path(path).resolve().is_relative_to(cohort.path.resolve()):
        raise RequestError(f"{path} lies in the cohort it would be made from.", "Allowed: any path outside it.")
    if "map" in cohort.source:
        raise RequestError(
            f"{cohort.path} is calibrated already, with the map {cohort.source['map']!s:.12}.",
            "Allowed: a cohort of raw scores.",
            "Apply the map to the cohort that this one was made from.",
        )
    # Every case is opened before anything is written: input that must be mended first leaves no output behind.
    left = [name for name in cohort.names if not is_complete(Path(path) / name)]
    looks = [task(partial(_plan_cases, cohort, names)) for names in groups(left, [LOOK_BYTES] * len(left), run)]
    plans: list[_CasePlan] = list(chain.from_iterable(compute(looks, run, "looking")))
    source = {
        "map": calibration_map.digest(),
        "calibrator": calibration_map.calibrator,
        "target": calibration_map.target,
        "cohort": dict(cohort.source),
        "input": fingerprint(cohort),
        "dtype": output_dtype.name,
        "on_invalid": on_invalid,
    }
    bound = calibration_map.parameters.get("bound")
    if bound in BOUNDS:
        source["bound"] = bound
    lut = lut_with_invalid(calibration_map.table_as(output_dtype), on_invalid)
    relabel: Relabel = relabel_tiles
    if on_cuda:
        needed = [
            bytes_to_relabel(plan.case.probability, tile_shape(plan.case), output_dtype)
            for plan in plans
            for _ in plan.batches
        ]
        relabel = partial(relabel_tiles_on_device, plan_memory(needed, run))
    try:
        writer = CohortWriter(path, cohort.names, source=source, resume=resume)
        if not writer.finished:
            settings = _Settings(writer, lut, source, relabel, kernel, on_invalid)
            work = groups(plans, [plan.n_bytes for plan in plans], run)
            compute([_cases_task(group, settings) for group in work], run, "applying")
            writer.finish()
    except OSError as error:
        raise WorkError(
            f"{path} cannot be written: {reason(error)}.",
            None,
            "Make room or choose another place, then run again with --resume. The output is marked incomplete.",
        ) from error
    return open_cohort(path)


@dataclass(frozen=True, eq=False)
class _Settings:
    """What all cases of a run share."""

    writer: CohortWriter
    lut: npt.NDArray[Any]
    source: Mapping[str, Any]
    relabel: Relabel
    kernel: str
    on_invalid: OnInvalid


@dataclass(frozen=True)
class _CasePlan:
    """What writing one case takes: batches of its tiles, a task each."""

    case: StoredCase
    batches: tuple[tuple[Tile, ...], ...]
    has_background: bool

    @property
    def n_bytes(self) -> int:
        return LOOK_BYTES + sum(map(len, self.batches)) * tile_bytes(self.case)


def _plan_cases(cohort: Cohort, names: tuple[str, ...]) -> list[_CasePlan]:
    return [_plan_case(cohort[name]) for name in names]


def _plan_case(case: StoredCase) -> _CasePlan:
    found = union(case, tiles_of(case, case.probability))
    return _CasePlan(case, tuple(batches(case, found)), has_background=len(found) < math.prod(tile_grid(case)))


def _cases_task(plans: tuple[_CasePlan, ...], settings: _Settings) -> Any:
    """Make the task of some cases: each one's group first, then its tiles, then its mark of completion."""
    if len(plans[0].batches) <= 1:
        return task(partial(_write_cases, plans, settings))
    (plan,) = plans  # what is a task's worth by itself has no neighbours
    ready = task(partial(_prepare_case, plan, settings))
    written = [task(partial(settings.relabel, work), ready) for work in _relabel_tasks(plan, settings)]
    return task(partial(_end_case, settings.writer, plan.case.name), ready, *written)


def _write_cases(plans: tuple[_CasePlan, ...], settings: _Settings) -> None:
    for plan in plans:
        _prepare_case(plan, settings)
        for work in _relabel_tasks(plan, settings):
            settings.relabel(work)
        settings.writer.end_case(plan.case.name)


def _relabel_tasks(plan: _CasePlan, settings: _Settings) -> list[RelabelTask]:
    case = plan.case
    output = str(settings.writer.path / case.name / "probability")
    shape = tile_shape(case)
    return [
        RelabelTask(
            case.name, case.probability, output, settings.lut, shape, tiles, settings.kernel, settings.on_invalid
        )
        for tiles in plan.batches
    ]


def _end_case(writer: CohortWriter, name: str, *_done: None) -> None:
    writer.end_case(name)


def _prepare_case(plan: _CasePlan, settings: _Settings) -> None:
    """Make the case's group and its empty probability, and copy everything that a map does not change."""
    case = plan.case
    folder = settings.writer.begin_case(
        case.name,
        raters=case.raters,
        geometry=case.geometry,
        attributes=case.attributes,
        source={**settings.source, "case": dict(case.source)},
    )
    for part in case.parts:
        _copy_folder(Path(case.path) / part, folder / part)
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


def _copy_folder(source: Path, target: Path) -> None:
    """Copy contents, not permissions: a read-only archive must not make an output that cannot be resumed."""
    target.mkdir()
    for entry in os.scandir(source):
        if entry.is_dir():
            _copy_folder(Path(entry.path), target / entry.name)
        else:
            shutil.copyfile(entry.path, target / entry.name)


def relabel_tiles(work: RelabelTask, _ready: None = None) -> None:
    """Write the tiles of a task."""
    kernel = kernels.get(work.kernel)
    output = open_array(Path(work.output))
    with workspace() as space:
        scratch = space.scratch
        for tile in work.tiles:
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
