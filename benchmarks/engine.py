"""The engine on local stores against the floors: decoding, and decoding and encoding, the written chunks."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

import twintrack_core as tt
from benchmarks.sections import Goal, Section, Settings, table, threads_text
from twintrack_core.bench import floors, stores
from twintrack_core.bench.data import Shape
from twintrack_core.bench.stores import Layout
from twintrack_core.bench.timing import Spread, alternate

_CASES = {"unwritten": 25, "region": 8, "softmax": 2}
_SMALL: Shape = (128, 256, 256)
_SMALL_CASES = 2
_GOAL = 1.3
_CHUNKS: dict[str, Shape] = {  # of float16 scores
    "64 KiB": (32, 32, 32),
    "256 KiB": (32, 64, 64),
    "1 MiB": (64, 64, 128),
    "4 MiB": (64, 128, 256),
    "16 MiB": (128, 256, 256),
}
_SHARDS: dict[str, Shape] = {"64 KiB": (2, 4, 4), "256 KiB": (2, 2, 2)}  # shards of 2 MiB


@dataclass(frozen=True)
class _Figures:
    """What one store takes with some threads: seconds, and ratios to the floors."""

    threads: int
    voxels: int
    accumulate: Spread
    to_decode: Spread
    apply: Spread
    to_recode: Spread
    to_rewrite: Spread

    def cells(self) -> tuple[object, ...]:
        read, written = (self.voxels / seconds.median / 1e9 for seconds in (self.accumulate, self.apply))
        return self.threads, read, self.to_decode, written, self.to_recode, self.to_rewrite


_HEADER = (
    "threads", "Gvoxel/s", "accumulate / decode", "Gvoxel/s", "apply / decode + encode",
    "apply / decode + encode + write",
)  # fmt: skip


def engine(settings: Settings) -> Section:
    """Three kinds of cohort as the package writes them, one thread and all."""
    rows: list[tuple[object, ...]] = []
    goals: list[Goal] = []
    for kind, cases in _CASES.items():
        with tempfile.TemporaryDirectory(dir=settings.folder) as name:
            cohort = stores.cohort(kind, Path(name), cases)
            decoded = round(floors.decoded_bytes(floors.written(cohort.path)) / 1e6)
            found = _measure(cohort, Path(name), settings.threads, settings.runs)
        rows += [(kind, cases, some.voxels, decoded, *some.cells()) for some in found]
        goals += [goal for some in found for goal in _goals(kind, some)]
    text = table(
        f"Cases of {' x '.join(map(str, stores.CT))}", ("cohort", "cases", "voxels", "decoded MB", *_HEADER), rows
    )
    return Section(text, tuple(goals))


def _goals(kind: str, found: _Figures) -> list[Goal]:
    case = f"{kind}, {threads_text(found.threads)}"
    how = f"{found.voxels:,} voxels in the page cache"
    return [
        Goal("accumulate, cohort / decode", case, _GOAL, found.to_decode, at_least=False, how=how),
        Goal("apply, cohort to cohort / decode + encode", case, _GOAL, found.to_recode, at_least=False, how=how),
    ]


def layouts(settings: Settings) -> Section:
    """One dense cohort with other threads, codecs and chunk sizes and with shards, one of these changed at a time."""
    variants = {"as the package writes": Layout()}
    variants |= {f"codec {codec}": Layout(codec) for codec in ("blosc-zstd", "zstd", "gzip", "none")}
    variants |= {f"chunks of {size}": Layout(chunks=chunks) for size, chunks in _CHUNKS.items()}
    variants |= {
        f"chunks of {size} in shards": Layout(chunks=_CHUNKS[size], shard=shard) for size, shard in _SHARDS.items()
    }
    rows: list[tuple[object, ...]] = []
    for title, layout in variants.items():
        with tempfile.TemporaryDirectory(dir=settings.folder) as name:
            cohort = stores.cohort("softmax", Path(name), _SMALL_CASES, _SMALL, layout=layout)
            threads = settings.threads if layout == stores.PACKAGE_LAYOUT else settings.threads[-1:]
            found = _measure(cohort, Path(name), threads, min(2, settings.runs))
            rows += [(title, *some.cells()) for some in found]
    title = f"softmax, {_SMALL_CASES} cases of {' x '.join(map(str, _SMALL))}; chunk sizes are those of the scores"
    return Section(table(title, ("store", *_HEADER), rows))


def _measure(cohort: tt.Cohort, folder: Path, threads: Sequence[int], runs: int) -> list[_Figures]:
    _check(cohort)
    calibration = tt.fit(tt.accumulate(cohort))
    everything = floors.written(cohort.path)
    scores, votes = (floors.written(cohort.path, [part]) for part in ("probability", "votes"))
    output = folder / "calibrated.zarr"
    _check_calibrated(cohort, tt.apply(cohort, calibration, output), calibration)
    into = floors.written(output, ["probability"])[0].compressor
    clear = partial(shutil.rmtree, output, ignore_errors=True)
    voxels = sum(math.prod(case.shape) for case in cohort)
    return [
        _Figures(
            n,
            voxels,
            *_times([partial(tt.accumulate, cohort, workers=n), partial(floors.decode, everything, n)], runs),
            *_times(
                [
                    partial(tt.apply, cohort, calibration, output, workers=n),
                    partial(floors.recode, scores, into, n),
                    partial(floors.rewrite, scores, into, votes, n, output),
                ],
                runs,
                clear,
            ),
        )
        for n in threads
    ]


def _times(
    works: Sequence[Callable[[], object]], runs: int, before: Callable[[], object] = lambda: None
) -> list[Spread]:
    """Seconds of the first work, and its ratio to each of the others, after all have run once."""
    alternate(works, 1, before=before)
    taken = alternate(works, runs, before=before).T
    before()
    return [Spread.of(taken[0]), *(Spread.of(taken[0] / other) for other in taken[1:])]


def _check(cohort: tt.Cohort) -> None:
    """Check the statistics of the first case, which all others are copies of, against a plain count."""
    case = next(iter(cohort))
    stored = case.read()
    assert stored.votes is not None
    found = tt.accumulate(cohort.select([case.name]))[case.name].histogram.counts
    patterns = found.shape[2]
    index = stored.probability.view(np.uint16).astype(np.intp) * patterns + stored.votes
    if not np.array_equal(found[1].reshape(-1), np.bincount(index.reshape(-1), minlength=found[1].size)):
        raise AssertionError(f"{cohort.path}: the statistics of {case.name} are wrong")


def _check_calibrated(cohort: tt.Cohort, calibrated: tt.Cohort, calibration: tt.CalibrationMap) -> None:
    """Check the calibrated scores of the first case against its codes looked up by NumPy."""
    name = cohort.names[0]
    codes = cohort[name].read().probability.view(np.uint16)
    if not np.array_equal(calibrated[name].read().probability, calibration.table_as(np.float16)[codes]):
        raise AssertionError(f"{calibrated.path}: the scores of {name} are wrong")
