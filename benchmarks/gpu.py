"""The kernels on this machine's GPU: right, free of memory errors and races, and how fast.

    python benchmarks/gpu.py [--only conformance|equality|sanitizer|timing ...] [--megavoxels 512] [--runs 20] [--write]

Needs NumPy and CuPy; torch is timed and the CPU's fast kernels are compared with where they are installed. Without a
usable GPU it says what is missing, and exits with 2. With --write the text goes into docs/performance.md.
"""

from __future__ import annotations

import argparse
import datetime as dt
import functools
import importlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

_ROOT = Path(__file__).resolve().parent.parent
# A script's own folder comes first, and what is in it would hide the standard library's profile.
sys.path[0] = str(_ROOT)

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402

from benchmarks.sections import replaced, table  # noqa: E402
from twintrack_core import kernels  # noqa: E402
from twintrack_core.bench.data import MAP, arrays  # noqa: E402
from twintrack_core.bench.timing import Spread, machine, seconds, version_of  # noqa: E402
from twintrack_core.codes import CODE_VALUES, N_CODES  # noqa: E402
from twintrack_core.errors import WorkError  # noqa: E402
from twintrack_core.kernels.device import Device, require_device  # noqa: E402
from twintrack_core.testing import check_kernel  # noqa: E402

Array = npt.NDArray[Any]

_PAGE = _ROOT / "docs" / "performance.md"
_RATERS = 5
_KINDS = {
    "unwritten": "background, and a lesion",
    "region": "noise in a region",
    "saturated": "saturated",
    "uniform": "uniform random",
    "one_bin": "one cell",
}
_SIDE = 256  # of the block that volumes repeat: 16.8 million voxels, more than caches hold
_WARM_UP = 3
_PEER_VOXELS = 64_000_000  # what histogramdd takes, in 16 bytes a voxel and more
_EQUAL_VOXELS = 1_000_000_007
_BEYOND_VOXELS = 1 << 32
_BLOCK_VOXELS = 1 << 24
_TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
_SANITIZER_SECONDS = 400
_GOALS = {"accumulate": 0.6, "apply": 0.8}


def main() -> int:
    """Check and measure, print, and write where asked."""
    parts = {"conformance": conformance, "equality": equality, "sanitizer": sanitizer, "timing": timing}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(parts), help="only this part; repeat")
    parser.add_argument("--megavoxels", type=float, default=512.0, help="millions of voxels that are timed")
    parser.add_argument("--runs", type=int, default=20, help="timed runs (default: 20)")
    parser.add_argument("--write", action="store_true", help="write what is printed into docs/performance.md")
    parser.add_argument("--sanitized", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    try:
        device = require_device()
    except WorkError as error:
        print(f"Nothing can be measured here. {error}", file=sys.stderr)
        return 2
    if arguments.sanitized:
        small_calls()
        return 0
    texts = [where(device)]
    for name, part in parts.items():
        if arguments.only and name not in arguments.only:
            continue
        start = time.perf_counter()
        texts.append(part(arguments))
        print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    text = "\n\n".join(texts)
    print(text)
    if arguments.write:
        _PAGE.write_text(replaced(_PAGE.read_text(encoding="utf-8"), {"gpu": text}), encoding="utf-8")
    return 0


def where(device: Device) -> str:
    """Name device, date and versions."""
    runtime = cupy().cuda.runtime
    versions = [
        f"driver for CUDA {_dotted(runtime.driverGetVersion())}",
        f"CUDA {_dotted(runtime.runtimeGetVersion())}",
    ]
    versions.append(f"cupy {cupy().__version__}")
    versions += [f"torch {version}"] if (version := version_of("torch")) else []
    capability = ".".join(map(str, device.capability))
    return (
        f"`python benchmarks/gpu.py`, {dt.datetime.now(dt.UTC).date()}: {device.name} "
        f"(compute capability {capability}, {device.multiprocessors} multiprocessors), {', '.join(versions)}; "
        f"{machine()}."
    )


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


@functools.cache
def cupy() -> Any:
    """Return CuPy, once it is known to work."""
    return importlib.import_module("cupy")


@functools.cache
def backend() -> Any:
    """Return the kernels."""
    return kernels.get("cupy")


def cpu_kernel() -> str:
    """Name the fastest kernel for the CPU that can be imported here."""
    for name in ("cython", "numba"):
        try:
            kernels.get(name)
        except (ImportError, ValueError, RuntimeError):
            continue
        return name
    return "reference"


def conformance(_: argparse.Namespace) -> str:
    """Make every check of the conformance kit."""
    check_kernel(backend())
    return "Conformance: every check of `twintrack_core.testing.check_kernel` passes."


def equality(_: argparse.Namespace) -> str:
    """Compare with the CPU on 10^9 voxels, all different, and on more than 2^32, of which the counts are known."""
    cp, name = cupy(), cpu_kernel()
    rng = np.random.default_rng(0)
    scores = np.empty(_EQUAL_VOXELS, np.float16)
    votes = np.empty(_EQUAL_VOXELS, np.uint8)
    for piece in pieces(_EQUAL_VOXELS):
        size = piece.stop - piece.start
        scores[piece] = rng.integers(0, N_CODES, size, np.uint16).view(np.float16)
        votes[piece] = rng.integers(0, 1 << _RATERS, size, np.uint8)
    expected = np.zeros((2, N_CODES, 1 << _RATERS), np.int64)
    for piece in pieces(_EQUAL_VOXELS):
        expected += kernels.count(scores[piece], votes[piece], None, _RATERS, kernel=name)
    held, marks = cp.asarray(scores), cp.asarray(votes)
    same(dense(backend().cells_of(held, marks, None, _RATERS)), expected)
    lut = MAP.table_as(np.float16)
    values = backend().look_up(held, lut).get()
    for piece in pieces(_EQUAL_VOXELS):
        same(values[piece], kernels.relabel(scores[piece], lut, kernel=name))
    del held, marks, values
    block = slice(0, _BLOCK_VOXELS)
    repeats = _BEYOND_VOXELS // _BLOCK_VOXELS + 1
    counts = kernels.count(scores[block], votes[block], None, _RATERS, kernel=name)
    many = cp.tile(cp.asarray(scores[block]), repeats)
    found = dense(backend().cells_of(many, cp.tile(cp.asarray(votes[block]), repeats), None, _RATERS))
    same(found, counts * repeats)
    same(backend().look_up(many[-_BLOCK_VOXELS:], lut).get(), kernels.relabel(scores[block], lut, kernel=name))
    total = f"{repeats * _BLOCK_VOXELS:,}"
    free()
    return (
        f"Equality: counts and calibrated scores of {_EQUAL_VOXELS:,} uniformly random voxels are those of the CPU's "
        f"kernel `{name}`, and counts of {total} voxels (beyond 2^32) are as many times those of a block."
    )


def pieces(n: int, length: int = _BLOCK_VOXELS) -> Iterator[slice]:
    """Cut n voxels into pieces."""
    return (slice(start, min(start + length, n)) for start in range(0, n, length))


def dense(columns: tuple[Array, ...]) -> Array:
    """Return cells as a dense table, (2, N_CODES, patterns)."""
    region, code, pattern, count = columns
    counts = np.zeros((2, N_CODES, 1 << _RATERS), np.int64)
    counts[region, code, pattern] = count
    return counts


def same(found: Array, expected: Array) -> None:
    """Stop at a wrong answer."""
    if not np.array_equal(found, expected):
        raise WorkError(f"{int((found != expected).sum())} values are not those of the CPU.")


def free() -> None:
    """Give memory back."""
    cupy().get_default_memory_pool().free_all_blocks()


def sanitizer(_: argparse.Namespace) -> str:
    """Run small calls of every kind under compute-sanitizer."""
    program = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if program is None:
        return "compute-sanitizer: not installed here, so memory errors and races were not looked for."
    said = []
    for tool in _TOOLS:
        command = [program, "--tool", tool, "--error-exitcode", "9", sys.executable, __file__, "--sanitized"]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=_SANITIZER_SECONDS, cwd=_ROOT
            )
        except subprocess.TimeoutExpired:
            said.append(f"{tool}: not finished in {_SANITIZER_SECONDS} s")
            continue
        lines = [line.strip("= ").strip() for line in (done.stdout + done.stderr).splitlines() if line.strip("= ")]
        summary = next((line for line in reversed(lines) if "SUMMARY" in line), lines[-1] if lines else "nothing")
        said.append(f"{tool}: {'clean' if done.returncode == 0 else f'exit code {done.returncode}'}, {summary:.120}")
    return f"compute-sanitizer: {'; '.join(said)}."


def small_calls() -> None:
    """Call every variant of the kernels on few voxels, at odd places, and compare with the oracle."""
    rng = np.random.default_rng(0)
    n = 20_011
    for dtype in ("float16", "float32", "uint8"):
        for members, clip, regions in ((1, False, 1), (1, True, 2), (3, False, 2), (11, True, 1)):
            codes = rng.integers(0, N_CODES, (members, n)).astype(np.uint16)
            codes[:, n // 3 : n // 2] = 0
            stored = codes.view(np.float16)
            scores = (stored * 255).astype(np.uint8) if dtype == "uint8" else stored.astype(dtype)
            if dtype != "uint8":
                scores[0, 17] = np.nan
            votes = rng.integers(0, 40, n).astype(np.uint8)  # of five raters: some have no meaning
            region = rng.integers(0, 2, n).astype(np.uint8) if regions == 2 else None
            tables = [np.zeros((regions, 32, N_CODES), np.uint32) for _ in range(2)]
            found = [
                kernels.get(name).accumulate(scores, votes, region, counts, clip=clip)
                for name, counts in zip(("cupy", "reference"), tables, strict=True)
            ]
            same(*tables)
            for into in ("float16", "float32", "float64", "uint8"):
                lut = (rng.random(N_CODES + 1) * 255).astype(into)
                outs = [np.empty(n, into) for _ in range(2)]
                found += [
                    kernels.get(name).relabel(scores, lut, out, clip=clip)
                    for name, out in zip(("cupy", "reference"), outs, strict=True)
                ]
                same(*outs)
            if any(one != other for one, other in zip(found[::2], found[1::2], strict=True)):
                raise WorkError("Findings are not those of the oracle.")
    tally = backend().DeviceTally(_RATERS)
    everywhere = True
    tally.add(cupy().zeros((1, n), np.float16), None, everywhere, backend().no_findings(1)[0], clip=False)
    tally._move()  # noqa: SLF001 - else only 2^32 voxels make it
    same(tally.drain()[3], np.array([n]))


class Timed(NamedTuple):
    """Something that was timed: what, on how many voxels of what kind, in how many bytes, and how long it took."""

    name: str
    kind: str
    voxels: int
    n_bytes: int
    ms: Spread

    def cells(self, bandwidth: Spread) -> tuple[object, ...]:
        """Return a row: milliseconds, rate, and the share of the copy bandwidth."""
        ms = self.ms.median
        return (
            self.name, self.kind, f"{self.voxels:,}", self.ms, f"{self.voxels / ms / 1e6:.1f}",
            f"{self.share(bandwidth):.0%}" if self.n_bytes else "",
        )  # fmt: skip

    def share(self, bandwidth: Spread) -> float:
        """Bytes that had to be moved a second, as a share of those that a copy moves."""
        return self.n_bytes / self.ms.median / 1e6 / bandwidth.median


def timing(arguments: argparse.Namespace) -> str:
    """Time kernels by device events, against copies, other libraries on the device, and the CPU."""
    blocks = max(1, round(arguments.megavoxels * 1e6 / _SIDE**3))
    runs = arguments.runs
    bandwidth = copy_bandwidth(runs)
    ours: list[Timed] = []
    peers: list[Timed] = []
    for kind in _KINDS:
        scores, votes = (array.reshape(-1) for array in arrays(kind, (_SIDE, _SIDE, _SIDE)))
        ours += our_times(kind, scores, votes, blocks, runs)
        free()
        if kind in ("region", "uniform"):
            peers += [row for row in ours if row.kind == kind and row.name in ("accumulate", "apply")]
            peers += peer_times(kind, scores, votes, max(3, runs // 4))
            free()
        peers += cpu_times(kind, scores, votes, 5)
    header = ("what", "volume", "voxels", "ms", "Gvoxel/s", "of copy bandwidth")
    goals = [row for row in ours if row.name in _GOALS]
    met = sum(row.share(bandwidth) >= _GOALS[row.name] for row in goals)
    said = (
        f"A copy on the device moves {bandwidth} GB/s, read and written. {met} of {len(goals)} times of `accumulate` "
        "and `apply` (one float16 member, five raters) reach their goals, 60 % and 80 % of it."
    )
    kernels_ = table(
        f"Kernels, data on the device, {runs} runs by device events", header, [row.cells(bandwidth) for row in ours]
    )
    return "\n\n".join([said, kernels_, table("Beside others", header, [row.cells(bandwidth) for row in peers])])


def copy_bandwidth(runs: int) -> Spread:
    """GB/s, read and written, of a copy on the device."""
    source = cupy().zeros(1 << 30, np.uint8)
    target = cupy().empty_like(source)
    ms = by_events(lambda: cupy().copyto(target, source), runs)
    return Spread.of([2 * source.nbytes / one / 1e6 for one in ms])


def by_events(work: Callable[[], object], runs: int, before: Callable[[], object] = lambda: None) -> list[float]:
    """Milliseconds of every run after the warm-up; ``before`` is called, untimed, before each."""
    cp = cupy()
    taken = []
    for _ in range(_WARM_UP + runs):
        before()
        start, stop = cp.cuda.Event(), cp.cuda.Event()
        start.record()
        work()
        stop.record()
        stop.synchronize()
        taken.append(cp.cuda.get_elapsed_time(start, stop))
    return taken[_WARM_UP:]


def our_times(kind: str, scores: Array, votes: Array, blocks: int, runs: int) -> list[Timed]:
    """Time launches of both kernels; what they give is checked first."""
    cp, rows = cupy(), []
    marks = cp.tile(cp.asarray(votes), blocks)
    lut = MAP.table_as(np.float16)
    held_lut = cp.asarray(np.append(lut, np.float16(np.nan)))
    for dtype, members in (("float16", 1), ("float16", 5), ("float32", 1), ("uint8", 1)):
        stored = (scores.astype(np.float32) * 255).astype(np.uint8) if dtype == "uint8" else scores.astype(dtype)
        held = cp.tile(cp.asarray(stored), (members, blocks))
        n = held.shape[1]
        found = backend().no_findings(1)[0]
        counts = cp.zeros((1, 1 << _RATERS, N_CODES), np.uint32)
        values = cp.empty(n, np.float16)
        expected = kernels.count(stored, votes, None, _RATERS, kernel=cpu_kernel())[1].T
        accumulate = functools.partial(backend().launch_accumulate, held, marks, None, counts, found, clip=False)
        apply = functools.partial(backend().launch_relabel, held, held_lut, values, found, clip=False)
        accumulate()
        apply()
        same(counts.get()[0].astype(np.int64), expected * blocks)
        same(values[: stored.size].get(), kernels.relabel(stored, lut, kernel=cpu_kernel()))
        same(found.get(), np.zeros(4, np.uint64))
        what = "" if (dtype, members) == ("float16", 1) else f", {members} {dtype}"
        read = held.nbytes
        ms = Spread.of(by_events(accumulate, runs, functools.partial(counts.fill, 0)))
        rows.append(Timed(f"accumulate{what}", _KINDS[kind], n, read + n, ms))
        rows.append(Timed(f"apply{what}", _KINDS[kind], n, read + 2 * n, Spread.of(by_events(apply, runs))))
        del held, values
        if kind == "one_bin":
            break
    return [row._replace(kind=kind) for row in rows]


def peer_times(kind: str, scores: Array, votes: Array, runs: int) -> list[Timed]:
    """Time what other libraries on the device do, from what they take; turning scores into that is not charged."""
    cp = cupy()
    n = min(_PEER_VOXELS, 4 * scores.size)
    codes, marks = np.resize(scores.view(np.uint16), n), np.resize(votes, n)
    cells = 1 << _RATERS
    place = cp.asarray(codes.astype(np.int64) * cells + marks)
    counts = np.bincount(codes.astype(np.int64) * cells + marks, minlength=N_CODES * cells)
    values = CODE_VALUES[codes]
    expected = np.interp(values, MAP.score, MAP.value)
    held, knots, targets = (cp.asarray(array) for array in (values, MAP.score, MAP.value))
    lut, held_codes = cp.asarray(MAP.table_as(np.float16)), cp.asarray(codes.astype(np.int64))
    edges = [cp.arange(N_CODES + 1, dtype=np.float64), cp.arange(cells + 1, dtype=np.float64)]
    sample = cp.asarray(np.stack([codes, marks], axis=1).astype(np.float64))
    works: dict[str, tuple[Callable[[], Any], Array]] = {
        "cupy.bincount": (lambda: cp.bincount(place, minlength=N_CODES * cells), counts),
        "cupy.histogramdd": (lambda: cp.histogramdd(sample, edges)[0].reshape(-1), counts),
        "cupy.interp": (lambda: cp.interp(held, knots, targets), expected),
        "cupy.take": (lambda: cp.take(lut, held_codes), MAP.table_as(np.float16)[codes]),
    }
    works.update(torch_works(place, N_CODES * cells, lut, held_codes, counts, MAP.table_as(np.float16)[codes]))
    rows = []
    for name, (work, answer) in works.items():
        found = work()
        on_host = found.get() if isinstance(found, cp.ndarray) else found.cpu().numpy()
        if not np.allclose(on_host, answer, rtol=0, atol=1e-12):
            raise WorkError(f"{name} does not give the expected answer.")
        rows.append(Timed(name, kind, n, 0, Spread.of(by_events(work, runs))))
    return rows


def torch_works(
    place: Any, size: int, lut: Any, codes: Any, counts: Array, values: Array
) -> Mapping[str, tuple[Callable[[], Any], Array]]:
    """What torch can do with the same memory; nothing where it is not installed or has no CUDA."""
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        return {}
    if not torch.cuda.is_available():
        return {}
    places, table_, index = (torch.from_dlpack(array) for array in (place, lut, codes))
    return {
        "torch.bincount": (lambda: torch.bincount(places, minlength=size), counts),
        "torch indexing": (lambda: table_[index], values),
    }


def cpu_times(kind: str, scores: Array, votes: Array, runs: int) -> list[Timed]:
    """Time this machine's CPU on four blocks, with all its threads."""
    name = cpu_kernel()
    blocks = 1 if name == "reference" else 4
    many, marks = np.tile(scores, blocks), np.tile(votes, blocks)
    lut, out = MAP.table_as(np.float16), np.empty(many.size, np.float16)
    works: dict[str, Callable[[], object]] = {
        "accumulate": lambda: kernels.tally_of(many, marks, None, _RATERS, kernel=name),
        "apply": lambda: kernels.relabel(many, lut, out=out, kernel=name),
    }
    rows = []
    for what, work in works.items():
        work()
        ms = Spread.of([1e3 * seconds(work) for _ in range(runs)])
        rows.append(Timed(f"{what}, CPU, {name}", kind, many.size, 0, ms))
    return rows


if __name__ == "__main__":
    sys.exit(main())
