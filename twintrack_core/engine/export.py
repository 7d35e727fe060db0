"""Export: probabilities as images, from a store or straight from a reader."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from twintrack_core import kernels
from twintrack_core.codes import CODE_VALUES
from twintrack_core.cohort.case import Geometry
from twintrack_core.cohort.images import write_volume
from twintrack_core.cohort.readers import Reader
from twintrack_core.cohort.store import Cohort
from twintrack_core.engine.device import Cuda, Device, bytes_to_relabel_pieces, check_device, plan_memory, relabel_case
from twintrack_core.engine.run import Run, Scheduler, Task, compute, crew_of, go_on
from twintrack_core.errors import InvalidScoresError, RequestError, WorkError
from twintrack_core.maps import CalibrationMap
from twintrack_core.paths import reason, require_local


def export(
    cohort: Cohort,
    folder: str | os.PathLike[str],
    *,
    suffix: str = "nii.gz",
    threshold: float | None = None,
    scheduler: Scheduler = "threads",
    workers: int | None = None,
    progress: bool = False,
) -> None:
    """Write DIR/CASE.suffix for every case: the probability, members averaged, with the case's geometry.

    Parameters
    ----------
    cohort
        An open cohort, or a selection of its cases.
    folder
        Folder for the images; made if need be. Files that exist are an error.
    suffix
        "nii.gz", "nii", "mha" or "nrrd".
    threshold
        Write uint8 masks of p > threshold instead of float32 probabilities.
    scheduler, workers, progress
        As in `accumulate`. Each worker holds one case.

    Raises
    ------
    RequestError
        If an image exists already, or ``folder`` is a file.
    WorkError
        If an image cannot be written.
    """
    run = Run(workers, progress, scheduler)
    _write_images(partial(_exported, cohort), cohort.names, folder, suffix, threshold, run, "exporting")


def _exported(cohort: Cohort, name: str) -> tuple[npt.NDArray[Any], Geometry]:
    case = cohort[name].read()
    # The mean of the members rounded to its code, as every other part of the package sees it.
    members = case.probability.ndim == 4
    with _naming(name):
        values = kernels.relabel(case.probability, CODE_VALUES.astype(np.float32), members=members, threads=1)
    return values, case.geometry


def calibrate(
    reader: Reader,
    calibration_map: CalibrationMap,
    folder: str | os.PathLike[str],
    *,
    suffix: str = "nii.gz",
    threshold: float | None = None,
    device: Device = "cpu",
    scheduler: Scheduler = "threads",
    workers: int | None = None,
    progress: bool = False,
) -> tuple[str, ...]:
    """Read cases, calibrate them and write them as images: import, apply and export in one, with the same voxels.

    Parameters and errors are those of `export` and of the reader; and ``device``, "cpu" or "cuda", as in `apply`, with
    at most the memory on it that `engine.device` states.

    Returns
    -------
    tuple of str
        The cases.
    """
    run = Run(workers, progress, scheduler)
    on_cuda = check_device(device, "auto", here=run.here)
    lut = calibration_map.table_as(np.float16)  # what a calibrated store would hold
    names = reader.case_names()
    cuda = plan_memory([bytes_to_relabel_pieces(lut.dtype)] * len(names), run) if on_cuda else None
    image = partial(_calibrated, reader, lut, cuda)
    _write_images(image, names, folder, suffix, threshold, run, "calibrating")
    return names


def _calibrated(
    reader: Reader, lut: npt.NDArray[Any], cuda: Cuda | None, name: str
) -> tuple[npt.NDArray[Any], Geometry]:
    case = reader.read(name)
    members = case.probability.ndim == 4
    with _naming(name):
        if cuda is None:
            values = kernels.relabel(case.probability, lut, members=members, threads=1)
        else:
            values = relabel_case(cuda, name, case.probability, lut, members=members)
    return values.astype(np.float32), case.geometry


@contextlib.contextmanager
def _naming(case: str) -> Iterator[None]:
    """Name the case in an error that names an array only."""
    try:
        yield
    except InvalidScoresError as error:
        raise InvalidScoresError(f"Case {case}, {error.what}", error.allowed, error.action) from error


def _write_images(
    image: Callable[[str], tuple[npt.NDArray[Any], Geometry]],
    names: Sequence[str],
    folder: str | os.PathLike[str],
    suffix: str,
    threshold: float | None,
    run: Run,
    label: str,
) -> None:
    if threshold is not None and not 0 <= threshold <= 1:
        raise RequestError(f"The threshold {threshold} is no probability.", "Allowed: 0 to 1.")
    require_local(folder)
    if Path(folder).exists() and not Path(folder).is_dir():
        raise RequestError(f"{folder} is no folder.", "Allowed: a folder, or a path that does not exist.")
    paths = {name: Path(folder) / f"{name}.{suffix}" for name in names}
    existing = [str(path) for path in paths.values() if path.exists()]
    if existing:
        raise RequestError(
            f"{len(existing)} images exist already, the first is {existing[0]}.",
            "Allowed: a folder without them.",
            "Choose another, or remove them.",
        )
    tasks = [Task(name, partial(_write_image, image, name, path, threshold), (name,)) for name, path in paths.items()]
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with crew_of(run) as crew:
            for _ in compute(tasks, crew, run, label):
                pass
    except OSError as error:
        raise WorkError(
            f"{folder} cannot be written: {reason(error)}.", None, "Make room or choose another place."
        ) from error


def _write_image(
    image: Callable[[str], tuple[npt.NDArray[Any], Geometry]], name: str, path: Path, threshold: float | None
) -> None:
    values, geometry = image(name)
    if threshold is not None:
        values = (values > threshold).astype(np.uint8)
    go_on()
    write_volume(path, values, geometry)
