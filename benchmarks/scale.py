"""Large cohorts, one large volume, and more and more workers; with --write, the tables go into docs/scaling.md.

    python -m benchmarks.scale [--only NAME ...] [--cases 10 100 1000] [--scheduler threads processes]
                               [--lesions 300] [--runs 3] [--folder DIR] [--write]

Every figure of a command is one of a process of its own, start-up included. It fails where results are wrong, or differ
in a byte between schedulers, workers or chunks.
"""

from __future__ import annotations

import argparse
import datetime as dt
import hashlib
import math
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import twintrack_core as tt
from benchmarks.lung import ORGAN_CHUNKS, ORGAN_SHARDS, Organ, write_lungs, write_organ
from benchmarks.processes import Taken, dask_cluster, s3_server, taken, twintrack
from benchmarks.sections import replaced, table, threads_text
from benchmarks.tables import default_folder
from twintrack_core.bench import floors
from twintrack_core.bench.data import Shape
from twintrack_core.bench.table import cell_text
from twintrack_core.bench.timing import Spread, machine, seconds
from twintrack_core.cohort.chunks import ChunkedArray
from twintrack_core.cohort.scratch import Scratch
from twintrack_core.kernels.dispatch import default_threads
from twintrack_core.storage import copy_files, open_folder

PAGE = Path(__file__).parent.parent / "docs" / "scaling.md"

_LIBRARIES = ("numba", "numcodecs", "zarr", "dask", "distributed")
_SCORED = ("probability", "votes")  # what accumulate reads with the rule "full"
_REPEATED = 30.0  # seconds; what takes longer runs once
_SAME_CASES = 100
_OTHER_CHUNKS: Shape = (48, 96, 80)
_DIGITS = 12


class WrongResultError(AssertionError):
    """Results differ where they must not."""


@dataclass(frozen=True)
class Setup:
    """What to measure.

    Attributes
    ----------
    folder
        Where stores are made.
    cases
        Sizes of the cohort.
    schedulers
        "threads", "processes".
    lesions
        In the large volume.
    runs
        Timed runs of what takes less than half a minute.
    """

    folder: Path
    cases: tuple[int, ...]
    schedulers: tuple[str, ...]
    lesions: int
    runs: int

    @property
    def workers(self) -> int:
        """All cores, and at least 2."""
        return max(2, default_threads())

    @cached_property
    def making(self) -> float:
        """Seconds that making the cohort took."""
        return seconds(lambda: write_lungs(self.folder / "lungs.zarr", max(self.cases)))

    @cached_property
    def cohort(self) -> tt.Cohort:
        """The largest cohort; the others are its first cases."""
        assert self.making
        return tt.open_cohort(self.folder / "lungs.zarr")

    @property
    def path(self) -> Path:
        """Where the cohort is."""
        return self.folder / "lungs.zarr"

    def first(self, cases: int) -> tt.Cohort:
        """Return the first cases."""
        return self.cohort.select(self.cohort.names[:cases])

    @cached_property
    def calibration(self) -> Path:
        """A map fitted to the smallest cohort."""
        path = self.folder / "map.json"
        tt.fit(tt.accumulate(self.first(min(self.cases)))).save(path)
        return path

    def written(self, cases: int, parts: Sequence[str]) -> list[floors.Chunks]:
        """Return written chunks of the first cases."""
        names = set(self.cohort.names[:cases])
        return [array for array in floors.written(self.path, parts) if array.folder.parent.name in names]

    def command(self, name: str, cases: int, scheduler: str, workers: int) -> Callable[[], Taken]:
        """Return what runs a command on the first cases into a new store, and removes that."""
        listed = self.folder / f"first{cases}.txt"
        listed.write_text("\n".join(self.cohort.names[:cases]) + "\n", encoding="utf-8")
        output = self.folder / "output.zarr"
        inputs = (self.path,) if name == "accumulate" else (self.path, self.calibration)
        options = ("--cases", listed, "--scheduler", scheduler, "--workers", workers)
        return partial(_into, twintrack(name, *inputs, "-o", output, *options), output)


def _into(command: Sequence[str], output: Path) -> Taken:
    try:
        return taken(command)
    finally:
        shutil.rmtree(output, ignore_errors=True)


class Summary(NamedTuple):
    """Several runs of a command, or of a floor: see `Taken`."""

    seconds: Spread
    cpu: float
    peak: float = 0.0
    worker: float = 0.0

    def memory(self) -> tuple[object, object]:
        """Peaks as cells of a table."""
        return round(self.peak), round(self.worker) if self.worker else ""


def _repeated(work: Callable[[], Taken], runs: int) -> Summary:
    found = [work()]
    while len(found) < runs and found[0].seconds < _REPEATED:
        found.append(work())
    columns = [[float(value) for value in column] for column in zip(*found, strict=True)]
    return Summary(Spread.of(columns[0]), *map(statistics.median, columns[1:]))


def _floor(work: Callable[[], object], runs: int, before: Callable[[], object] = lambda: None) -> Summary:
    """Time a floor in this process, which has run it before."""
    found = []
    for _ in range(1 + runs):
        before()
        cpu = time.process_time()
        found.append((seconds(work), time.process_time() - cpu))
    walls, cpus = zip(*found[1:], strict=True)
    return Summary(Spread.of(walls), statistics.median(cpus))


def cohort(setup: Setup) -> str:
    """What the cohort is, and what it would be if it were stored densely."""
    rows = []
    for cases in setup.cases:
        some = setup.first(cases)
        written = setup.written(cases, ("probability", "votes", "roi"))
        voxels = sum(math.prod(case.shape) for case in some)
        files = [file for name in some.names for file in (setup.path / name).rglob("*") if file.is_file()]
        rows.append(
            (
                f"{cases:,}",
                voxels,
                round(voxels * 4 / 1e9),
                sum(map(len, written)),
                round(floors.decoded_bytes(written) / 1e6),
                round(sum(file.stat().st_size for file in files) / 1e6),
                len(files),
            )
        )
    title = f"CTs with nodules and 4 raters, mostly unwritten; making the largest took {setup.making:.0f} s"
    header = ("cases", "voxels", "GB if dense", "written chunks", "decoded MB", "encoded MB", "files")
    return table(title, header, rows)


def growth(setup: Setup) -> str:
    """Time, rate and memory of accumulate and apply over sizes of the cohort, beside merely decoding its chunks."""
    workers = setup.workers
    texts = []
    for name, floor_name in (("accumulate", "decode"), ("apply", "decode + encode + write")):
        rows: list[tuple[object, ...]] = []
        for scheduler in setup.schedulers:
            before = (0, 0.0, 0.0)
            for cases in setup.cases:
                found = _repeated(setup.command(name, cases, scheduler, workers), setup.runs)
                floor = _floor_of(setup, name, cases, workers)
                voxels = sum(math.prod(case.shape) for case in setup.first(cases))
                more, longer, floor_longer = cases - before[0], found.cpu - before[1], floor.cpu - before[2]
                rows.append(
                    (
                        scheduler,
                        f"{cases:,}",
                        found.seconds,
                        voxels / found.seconds.median / 1e9,
                        found.seconds.median / floor.seconds.median,
                        found.cpu,
                        found.cpu / floor.cpu,
                        1e3 * longer / more if before[0] else "",
                        longer / floor_longer if before[0] else "",
                        *found.memory(),
                    )
                )
                before = (cases, found.cpu, floor.cpu)
        header = (
            "scheduler", "cases", "s", "Gvoxel/s", f"s / s of {floor_name}", "CPU s", "CPU s / CPU s of it",
            "CPU ms a further case", "the same / that of it", "peak MB", "largest worker, MB",
        )  # fmt: skip
        texts.append(table(f"twintrack {name}, {workers} workers", header, rows))
    return "\n\n".join(texts)


def _floor_of(setup: Setup, name: str, cases: int, threads: int) -> Summary:
    if name == "accumulate":
        return _floor(partial(floors.decode, setup.written(cases, _SCORED), threads), setup.runs)
    scores, rest = setup.written(cases, ["probability"]), setup.written(cases, ["votes", "roi"])
    output = setup.folder / "rewritten"
    clear = partial(shutil.rmtree, output, ignore_errors=True)
    work = partial(floors.rewrite, scores, scores[0].compressor, rest, threads, output)
    found = _floor(work, setup.runs, clear)
    clear()
    return found


_STARTS = {
    "python": "pass",
    "twintrack --help": "from twintrack_core.cli import main; main(['--help'])",
    "imports of accumulate": "import twintrack_core; twintrack_core.accumulate, twintrack_core.open_cohort",
    "a Dask cluster of {n} processes, no work": (
        "if __name__ == '__main__':\n"
        " from distributed import Client, LocalCluster\n"
        " with LocalCluster(n_workers={n}, threads_per_worker=1, dashboard_address=':0') as c, Client(c): pass"
    ),
}


def start(setup: Setup) -> str:
    """What it takes to begin, with nothing to do and with one case."""
    works: dict[str, Callable[[], Taken]] = {
        name.format(n=setup.workers): partial(taken, [sys.executable, "-c", code.replace("{n}", str(setup.workers))])
        for name, code in _STARTS.items()
    }
    for scheduler in setup.schedulers:
        works[f"twintrack accumulate, 1 case, {scheduler}"] = setup.command("accumulate", 1, scheduler, setup.workers)
    rows = []
    for name, work in works.items():
        work()
        found = _repeated(work, max(5, setup.runs))
        rows.append((name, found.seconds, found.cpu))
    return table("New processes, warm page cache", ("process", "s", "CPU s"), rows)


def workers(setup: Setup) -> str:
    """What more workers bring, on the largest cohort."""
    cases = max(setup.cases)
    rows: list[tuple[object, ...]] = []
    for name in ("accumulate", "apply"):
        for scheduler in setup.schedulers:
            one = 0.0
            for n in range(1, setup.workers + 1):
                found = _repeated(setup.command(name, cases, scheduler, n), setup.runs)
                one = one or found.seconds.median
                times = one / found.seconds.median
                rows.append((name, scheduler, str(n), found.seconds, times, found.cpu, *found.memory()))
    header = ("command", "scheduler", "workers", "s", "times as fast as one", "CPU s", "peak MB", "largest worker, MB")
    return table(f"{cases:,} cases, start-up included", header, rows)


class _Counting:
    """A Dask client that counts the tasks it hands out, by what they do."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.tasks: Counter[str] = Counter()

    def submit(self, *arguments: Any, key: str, **options: Any) -> Any:
        """Hand out a task."""
        self.tasks[key.partition("-")[0]] += 1
        return self._client.submit(*arguments, key=key, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def giant(setup: Setup) -> str:
    """One volume of 10^11 voxels in shards: time, tasks, memory; counts and scores are held against what is known."""
    path = setup.folder / "organ.zarr"
    begin = time.perf_counter()
    organ = write_organ(path, setup.lesions)
    making = time.perf_counter() - begin
    calibration, output = setup.folder / "organ.json", setup.folder / "organ-output.zarr"
    tt.fit(tt.accumulate(organ.cohort)).save(calibration)
    decode = _floor(partial(floors.decode, floors.written(path, _SCORED), setup.workers), setup.runs)
    tasks = _tasks(setup, organ, calibration)
    voxels = math.prod(organ.cohort["organ"].shape)
    rows: list[tuple[object, ...]] = []
    for name, inputs in (("accumulate", (path,)), ("apply", (path, calibration))):
        check = partial(_check_counts if name == "accumulate" else _check_scores, organ, calibration, output)
        for scheduler in setup.schedulers:
            options = ("-o", output, "--scheduler", scheduler, "--workers", setup.workers)
            command = twintrack(name, *inputs, *options)
            taken(command)
            check()
            shutil.rmtree(output)
            found = _repeated(partial(_into, command, output), setup.runs)
            n = ", ".join(f"{count} {label}" for label, count in tasks[name].items())
            rate = voxels / found.seconds.median / 1e9
            rows.append((name, scheduler, found.seconds, found.cpu, rate, n, *found.memory()))
    written = floors.written(path, _SCORED)
    shape = " x ".join(map(str, organ.cohort["organ"].shape))
    shutil.rmtree(path)
    title = (
        f"One case of {shape} = {voxels:,} voxels, {setup.lesions} lesions in as many shards of "
        f"{' x '.join(map(str, ORGAN_SHARDS))}, {sum(map(len, written)):,} written chunks of "
        f"{' x '.join(map(str, ORGAN_CHUNKS))}, {floors.decoded_bytes(written) / 1e6:,.0f} MB decoded, which takes "
        f"{threads_text(setup.workers)} {cell_text(decode.seconds.median)} s; written by zarr-python in {making:.0f} s"
    )
    header = ("command", "scheduler", "s", "CPU s", "Gvoxel/s", "tasks", "peak MB", "largest worker, MB")
    return table(title, header, rows)


def _tasks(setup: Setup, organ: Organ, calibration: Path) -> dict[str, Counter[str]]:
    """Tasks of either command with as many workers."""
    from distributed import Client, LocalCluster

    output = setup.folder / "counted.zarr"
    found = {}
    with LocalCluster(n_workers=setup.workers, threads_per_worker=1, dashboard_address=":0") as local:
        for name in ("accumulate", "apply"):
            with Client(local) as client:
                counting: Any = _Counting(client)
                if name == "accumulate":
                    tt.accumulate(organ.cohort, scheduler=counting)
                else:
                    tt.apply(organ.cohort, tt.load_map(calibration), output, scheduler=counting)
                found[name] = counting.tasks
    shutil.rmtree(output)
    return found


def _check_counts(organ: Organ, _calibration: Path, output: Path) -> None:
    counts = tt.CohortStatistics.load(output)["organ"].histogram.counts
    if counts.sum() != math.prod(organ.cohort["organ"].shape) or not np.array_equal(counts.sum(axis=0), organ.counts):
        raise WrongResultError("The organ's counts are wrong.")


def _check_scores(organ: Organ, calibration: Path, output: Path) -> None:
    scores = tt.load_map(calibration).table_as(np.float16)
    found = tt.open_cohort(output)["organ"].probability
    scratch = Scratch()
    for lesion in organ.lesions:
        values = np.empty(lesion.probability.shape, dtype=np.float16)
        found.read(lesion.box, values, scratch)
        if not np.array_equal(values, scores[lesion.probability.view(np.uint16)]):
            raise WrongResultError("The organ's calibrated scores are wrong.")
    written = organ.cohort["organ"].probability.written()
    if found.fill != scores[0] or not np.array_equal(found.written(), written):
        raise WrongResultError("The organ's calibrated background is wrong.")


def same_bytes(setup: Setup) -> str:
    """Digests of what comes out of all ways to run, which are to be equal.

    Raises
    ------
    WrongResultError
        If they are not.
    """
    cases = min(_SAME_CASES, max(setup.cases))
    plain, other = setup.folder / "same.zarr", setup.folder / "rechunked.zarr"
    write_lungs(plain, cases)
    write_lungs(other, cases, chunks=_OTHER_CHUNKS)
    rows: list[tuple[object, ...]] = []
    kept = setup.folder / "kept.zarr"
    for title, store, options in _ways(setup, plain, other):
        with options() as how:
            digests, calibrated = _digests(setup.folder, store, how)
        if not kept.exists():
            calibrated.rename(kept)
        elif store == other:
            digests["calibrated"] = "same voxels" if _same_voxels(kept, calibrated) else "OTHER VOXELS"
        rows.append((title, *digests.values()))
        shutil.rmtree(calibrated, ignore_errors=True)
    digests, calibrated = _digests_on_s3(setup.folder, plain)
    rows.append(("s3:// in and out, threads", *digests.values()))
    for path in (plain, other, kept, calibrated):
        shutil.rmtree(path)
    text = table(
        f"SHA-256 of what {cases} cases give, first {_DIGITS} digits",
        ("how", "statistics", "map", "calibrated cohort"),
        rows,
    )
    if any(row[1:3] != rows[0][1:3] or row[3] not in (rows[0][3], "same voxels") for row in rows):
        raise WrongResultError(f"Results differ.\n\n{text}")
    return text


def _ways(setup: Setup, plain: Path, other: Path) -> Iterator[tuple[str, Path, Callable[[], Any]]]:
    @contextmanager
    def here(scheduler: str, n: int) -> Iterator[tuple[object, ...]]:
        yield "--scheduler", scheduler, "--workers", n

    @contextmanager
    def cluster(n: int) -> Iterator[tuple[object, ...]]:
        with dask_cluster(n) as address:
            yield "--scheduler", address

    for scheduler in setup.schedulers:
        for n in sorted({1, setup.workers}):
            yield f"{scheduler}, {n} worker{'s' if n > 1 else ''}", plain, partial(here, scheduler, n)
    yield f"tcp://, {setup.workers} workers", plain, partial(cluster, setup.workers)
    chunks = " x ".join(map(str, _OTHER_CHUNKS))
    yield f"chunks of {chunks}, threads", other, partial(here, "threads", setup.workers)


def _digests_on_s3(folder: Path, store: Path) -> tuple[dict[str, str], Path]:
    """Put a cohort into a bucket, let the commands read and write there, and bring back what they made."""
    counted, calibration, output = folder / "same.stats", folder / "same.json", folder / "calibrated.zarr"
    with s3_server() as bucket:
        copy_files(open_folder(store), open_folder(f"{bucket}/c.zarr"))
        taken(twintrack("accumulate", f"{bucket}/c.zarr", "-o", f"{bucket}/c.stats"))
        taken(twintrack("fit", f"{bucket}/c.stats", "-o", calibration))
        taken(twintrack("apply", f"{bucket}/c.zarr", calibration, "-o", f"{bucket}/out.zarr"))
        copy_files(open_folder(f"{bucket}/c.stats"), open_folder(counted))
        copy_files(open_folder(f"{bucket}/out.zarr"), open_folder(output))
    return _digests_of(counted, calibration, output)


def _digests(folder: Path, store: Path, options: Sequence[object]) -> tuple[dict[str, str], Path]:
    counted, calibration, output = folder / "same.stats", folder / "same.json", folder / "calibrated.zarr"
    taken(twintrack("accumulate", store, "-o", counted, *options))
    taken(twintrack("fit", counted, "-o", calibration))
    taken(twintrack("apply", store, calibration, "-o", output, *options))
    return _digests_of(counted, calibration, output)


def _digests_of(counted: Path, calibration: Path, output: Path) -> tuple[dict[str, str], Path]:
    found = {"statistics": digest(counted), "map": digest(calibration), "calibrated": digest(output)}
    shutil.rmtree(counted)
    calibration.unlink()
    return found, output


def digest(path: Path) -> str:
    """Return the first digits of the SHA-256 of a file, or of the names and contents of all files below a folder."""
    found = hashlib.sha256()
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    for file in files:
        data = file.read_bytes()
        found.update(f"{file.relative_to(path).as_posix()}\0{len(data)}\0".encode() + data)
    return found.hexdigest()[:_DIGITS]


def _same_voxels(one: Path, other: Path) -> bool:
    first, second = tt.open_cohort(one), tt.open_cohort(other)
    return first.names == second.names and all(
        _equal(first[name].probability, second[name].probability) for name in first.names
    )


def _equal(one: ChunkedArray, other: ChunkedArray) -> bool:
    """Whether two arrays hold the same, which they do not where neither is written unless their fill values differ."""
    if (one.shape, one.fill) != (other.shape, other.fill):
        return False
    scratches = Scratch(), Scratch()
    for array in (one, other):
        for index in array.written().tolist():
            box = array.box(tuple(index))
            parts = [np.empty([s.stop - s.start for s in box], dtype=np.float16) for _ in scratches]
            for source, part, scratch in zip((one, other), parts, scratches, strict=True):
                source.read(box, part, scratch)
            if not np.array_equal(parts[0], parts[1]):
                return False
    return True


SECTIONS: Mapping[str, Callable[[Setup], str]] = {
    "scale-cohort": cohort,
    "scale-start": start,
    "scale-growth": growth,
    "scale-workers": workers,
    "scale-giant": giant,
    "scale-bytes": same_bytes,
}


def main() -> int:
    """Measure and print; write where asked. Returns 1 where results are wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(SECTIONS), help="only this table; repeat")
    parser.add_argument("--cases", type=int, nargs="+", default=[10, 100, 1000], help="sizes of the cohort")
    parser.add_argument("--scheduler", nargs="+", default=["threads", "processes"], help="who runs tasks")
    parser.add_argument("--lesions", type=int, default=300, help="in the large volume (default: 300)")
    parser.add_argument("--runs", type=int, default=3, help="timed runs of what takes under 30 s (default: 3)")
    parser.add_argument("--folder", type=Path, default=default_folder(), help="where stores are made")
    parser.add_argument("--write", action="store_true", help="write the tables into docs/scaling.md")
    arguments = parser.parse_args()
    where = f"{machine(_LIBRARIES)}, {dt.datetime.now(tz=dt.UTC):%Y-%m-%d}"
    status = 0
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        cases = tuple(sorted(set(arguments.cases)))
        setup = Setup(Path(name), cases, tuple(arguments.scheduler), arguments.lesions, arguments.runs)
        for section in arguments.only or SECTIONS:
            begin, load = time.perf_counter(), os.getloadavg()[0]
            try:
                text = SECTIONS[section](setup)
            except WrongResultError as error:
                print(f"{section}: {error}", file=sys.stderr)
                status = 1
                continue
            how = f"`python -m benchmarks.scale --only {section}`; {where}; load average {load:.1f} when it began"
            text = f"{how}.\n\n{text}"
            print(f"## {section}\n\n{text}\n", flush=True)
            print(f"{section}: {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
            if arguments.write:
                PAGE.write_text(replaced(PAGE.read_text(encoding="utf-8"), {section: text}), encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main())
