"""How cost grows: with voxels, raters, members, distinct codes, threads and cases."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import twintrack_core as tt
from benchmarks.kernels import best_kernel
from benchmarks.sections import Goal, Section, Settings, table
from twintrack_core import kernels
from twintrack_core.bench import data, stores
from twintrack_core.bench.timing import Spread, alternate, seconds
from twintrack_core.codes import N_CODES
from twintrack_core.kernels.dispatch import default_threads

_VOXELS = 1 << 24
_CHECKED = 1 << 16
_CASES = (1, 10, 100)
_CASE_SHAPE: data.Shape = (128, 192, 192)
_KINDS = ("unwritten", "region", "softmax")

_Measured = dict[str, Callable[[], object]]


def in_memory(settings: Settings) -> Section:
    """The best kernel, one factor at a time around 16 million voxels, one member, five raters, one thread."""
    texts = [
        _table(settings, "voxels", _by_voxels()),
        _table(settings, "raters", _by_raters()),
        _table(settings, "members", _by_members()),
        _table(settings, "distinct codes", _by_codes()),
        _table(settings, "threads", _by_threads()),
    ]
    return Section("\n\n".join(texts))


def _table(settings: Settings, factor: str, steps: Iterator[tuple[int, int, _Measured]]) -> str:
    header: list[str] = []
    rows: list[list[object]] = []
    for step, voxels, works in steps:
        for work in works.values():
            work()
        taken = alternate(list(works.values()), settings.runs)
        rows.append([f"{step:,}", *(Spread.of(1e9 * column / voxels) for column in taken.T)])
        header = [factor, *works]
    return table(f"Nanoseconds a voxel by {factor}, kernel {best_kernel()}", header, rows)


def _count(scores: npt.NDArray[Any], votes: Any, raters: int = 5, **options: Any) -> Callable[[], object]:
    flat = _flat(scores, **options)

    def count(n: int | None = None, **more: Any) -> npt.NDArray[np.int64]:
        some = None if votes is None else votes.reshape(-1)[:n]
        return kernels.count(flat[..., :n], some, None, raters, **{"threads": 1, **options, **more})

    _check(count)
    return count


def _relabel(scores: npt.NDArray[Any], **options: Any) -> Callable[[], object]:
    flat = _flat(scores, **options)
    lut = data.MAP.table_as(np.float16)
    out = np.empty(flat.shape[-1], dtype=np.float16)

    def relabel(n: int | None = None, **more: Any) -> npt.NDArray[np.float16]:
        return kernels.relabel(flat[..., :n], lut, out=out[:n], **{"threads": 1, **options, **more})

    _check(lambda *n, **more: relabel(*n, **more).copy())
    return relabel


def _flat(scores: npt.NDArray[Any], members: bool = False, **_: Any) -> npt.NDArray[Any]:
    return scores.reshape(len(scores), -1) if members else scores.reshape(-1)


def _check(work: Callable[..., npt.NDArray[Any]]) -> None:
    """Check the first voxels against the oracle before all are timed."""
    np.testing.assert_array_equal(work(_CHECKED), work(_CHECKED, kernel="reference"))


def _by_voxels() -> Iterator[tuple[int, int, _Measured]]:
    for voxels in (1 << 18, 1 << 20, 1 << 22, 1 << 24, 1 << 26):
        works: _Measured = {}
        for kind in ("region", "softmax"):
            some = data.volume(kind, voxels)
            works[f"accumulate, {kind}"] = _count(some.scores, some.votes)
            works[f"apply, {kind}"] = _relabel(some.scores)
        yield some.voxels, some.voxels, works


def _by_raters() -> Iterator[tuple[int, int, _Measured]]:
    rng = np.random.default_rng(0)
    some = data.volume("softmax", _VOXELS)
    uniform = data.volume("uniform", _VOXELS)
    for raters in range(1, 9):
        marks = rng.integers(0, 1 << raters, some.votes.shape, dtype=np.uint8)
        works: _Measured = {
            "accumulate, softmax": _count(some.scores, np.where(some.votes, marks, np.uint8(0)), raters),
            "accumulate, uniform": _count(uniform.scores, marks, raters),
        }
        yield raters, some.voxels, works


def _by_members() -> Iterator[tuple[int, int, _Measured]]:
    for members in range(1, 6):
        works: _Measured = {}
        for kind in ("region", "softmax"):
            some = data.volume(kind, _VOXELS)
            stack = np.stack([some.scores] * members)
            works[f"accumulate, {kind}"] = _count(stack, some.votes, members=True)
            works[f"apply, {kind}"] = _relabel(stack, members=True)
        yield members, some.voxels, works


def _by_codes() -> Iterator[tuple[int, int, _Measured]]:
    rng = np.random.default_rng(0)
    some = data.volume("uniform", _VOXELS)
    for n in (1, 16, 256, 4096, N_CODES):
        codes = np.linspace(1, N_CODES - 1, n).astype(np.uint16)[rng.integers(0, n, some.scores.shape)]
        scores = codes.view(np.float16)
        works: _Measured = {
            "accumulate, unmarked": _count(scores, None),
            "accumulate, random marks": _count(scores, some.votes),
            "apply": _relabel(scores),
        }
        yield n, some.voxels, works


def _by_threads() -> Iterator[tuple[int, int, _Measured]]:
    volumes = [data.volume(kind, 2 * _VOXELS) for kind in ("region", "softmax")]
    for threads in range(1, default_threads() + 1):
        works: _Measured = {}
        for some in volumes:
            works[f"accumulate, {some.kind}"] = _count(some.scores, some.votes, threads=threads)
            works[f"apply, {some.kind}"] = _relabel(some.scores, threads=threads)
        yield threads, volumes[0].voxels, works


def cases(settings: Settings) -> Section:
    """Time a voxel and peak memory of a process for 1, 10 and 100 cases of one cohort."""
    rows: list[tuple[object, ...]] = []
    goals: list[Goal] = []
    workers = default_threads()
    for kind in _KINDS:
        times: dict[int, Spread] = {}
        peaks: dict[int, tuple[float, float]] = {}
        for n in _CASES:
            with tempfile.TemporaryDirectory(dir=settings.folder) as name:
                cohort = stores.cohort(kind, Path(name), n, _CASE_SHAPE)
                times[n], peaks[n] = _time(cohort, workers), _peaks(cohort, Path(name), workers)
            rows.append((kind, n, times[n], *map(round, peaks[n])))
        how = f"cases of {' x '.join(map(str, _CASE_SHAPE))}, {workers} threads"
        flat = Spread(*(one / times[1].median for one in times[100]))
        goals.append(Goal("time a voxel, 100 cases / 1 case", kind, 1.15, flat, at_least=False, how=how))
        for place, command in enumerate(("accumulate", "apply")):
            grown = peaks[100][place] / peaks[1][place]
            what = f"peak memory of {command}, 100 cases / 1 case"
            goals.append(Goal(what, kind, 1.1, Spread(grown, grown, grown), at_least=False, how=how))
    header = ("cohort", "cases", "accumulate, ns a voxel", "accumulate, peak MB", "apply, peak MB")
    title = f"Cases of {' x '.join(map(str, _CASE_SHAPE))}, {workers} threads; peak of the whole process"
    return Section(table(title, header, rows), tuple(goals))


def _time(cohort: tt.Cohort, workers: int) -> Spread:
    """Nanoseconds a voxel of accumulating; a cohort of one case is quick, so it is timed more often."""
    voxels = len(cohort) * int(np.prod(_CASE_SHAPE))
    tt.accumulate(cohort, workers=workers)
    taken = [seconds(lambda: tt.accumulate(cohort, workers=workers)) for _ in range(max(3, 30 // len(cohort)))]
    return Spread(statistics.median(taken), min(taken), max(taken)).scaled(1e9 / voxels)


def _peaks(cohort: tt.Cohort, folder: Path, workers: int) -> tuple[float, float]:
    calibration, output = folder / "map.json", folder / "output.zarr"
    tt.fit(tt.accumulate(cohort)).save(calibration)
    found = []
    for command in (["accumulate", str(cohort.path)], ["apply", str(cohort.path), str(calibration)]):
        found.append(_peak([*command, "-o", str(output), "--workers", str(workers)]))
        shutil.rmtree(output)
    return found[0], found[1]


def _peak(command: list[str]) -> float:
    """Peak resident memory in MB of ``twintrack`` run as a process of its own."""
    code = (
        "import sys; from twintrack_core.cli import main; from benchmarks.sections import peak_memory; "
        "code = main(); print(peak_memory()); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *command], check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1])
