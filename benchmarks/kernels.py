"""Kernels in memory: against reading and copying the same bytes, and against other libraries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from benchmarks.sections import Goal, Section, Settings, table, threads_text
from twintrack_core import kernels
from twintrack_core.bench import data
from twintrack_core.bench.contenders import contenders
from twintrack_core.bench.run import Request, Row, measure, measure_group
from twintrack_core.bench.timing import Spread

_LARGE = 84.0  # million voxels: a large CT, more than caches hold
_MIDDLE = 12.0  # enough that what a call costs by itself does not show
_SMALL = 2.0  # what the slowest peers do in a second
_BACKGROUND = ("unwritten", "region")
_DENSE = ("uniform", "softmax")
_PEER_GOALS = {
    "fast_histogram.histogram2d": 4.0,
    "numpy.histogram2d": 30.0,
    "numpy.take": 3.0,
    "numpy.interp": 15.0,
}
_TITLES = {
    "accumulate": "Time / time to read the same bytes",
    "apply": "Time / time to copy the scores",
}


def fast_kernels() -> tuple[str, ...]:
    """Every kernel for the CPU but the oracle, which is written to be read."""
    return tuple(name for name in kernels.names() if name != "reference")


def best_kernel() -> str:
    """Name of the kernel that "auto" stands for."""
    return next(name for name in fast_kernels() if kernels.get(name) is kernels.get("auto"))


def floors(settings: Settings) -> Section:
    """Every kernel on every kind of volume, against the floors."""
    request = Request(
        tasks=("accumulate", "apply"),
        kinds=data.available_kinds(),
        kernels=fast_kernels(),
        threads=settings.threads,
        megavoxels=_LARGE,
        runs=settings.runs,
        peers=False,
    )
    rows = [row for group in measure(request) for row in group]
    texts = []
    for task in request.tasks:
        some = [row for row in rows if row.task == task]
        ours = [row for row in some if row.kernel]
        texts.append(_matrix(f"{_TITLES[task]}, {some[0].voxels:,} voxels", ours, lambda row: str(row.to_floor)))
        texts.append(_matrix("Million voxels a second", some, _rate))
    goals = [
        Goal(
            "accumulate, background / read" if row.task == "accumulate" else "apply, background / copy",
            f"{row.kind}, {threads_text(row.threads)}",
            1.3 if row.task == "accumulate" else 1.2,
            row.to_floor,
            at_least=False,
            how=f"kernel {row.kernel}, {row.voxels:,} voxels",
        )
        for row in rows
        if row.kernel == best_kernel() and row.kind in _BACKGROUND and row.to_floor
    ]
    return Section("\n\n".join(texts), tuple(goals))


def peers(settings: Settings) -> Section:
    """Every contender of accumulate and apply on every kind of volume."""
    request = Request(
        tasks=("accumulate", "apply"),
        kinds=data.available_kinds(),
        kernels=fast_kernels(),
        threads=settings.threads,
        megavoxels=_SMALL,
        runs=settings.runs,
    )
    return _compared(request)


def dense(settings: Settings) -> Section:
    """The peers that goals name, on volumes large enough that what a call costs by itself does not show."""
    rows: list[Row] = []
    for kind in _DENSE:
        some = data.volume(kind, round(_MIDDLE * 1e6))
        for task in ("accumulate", "apply"):
            wanted = [c for c in contenders(task, [best_kernel()]) if c.kernel or c.name in _PEER_GOALS]
            rows += measure_group(task, some, wanted, [1], settings.runs)
    ours = _ours(rows)
    others = [row for row in rows if row.contender in _PEER_GOALS and row.seconds]
    lines = [
        (row.task, row.kind, row.contender, row.runs, _rate(ours[row.task, row.kind]), _rate(row), _slower(row, ours))
        for row in others
    ]
    header = (
        "task", "volume", "peer", "runs", f"kernel {best_kernel()}, Mvoxel/s", "peer, Mvoxel/s", "times as fast",
    )  # fmt: skip
    goals = [
        Goal(
            f"{row.task}, dense: times as fast as {row.contender}",
            f"{row.kind}, 1 thread",
            _PEER_GOALS[row.contender],
            _slower(row, ours),
            at_least=True,
            how=f"kernel {best_kernel()}, {row.voxels:,} voxels",
        )
        for row in others
    ]
    return Section(table(f"One thread, {rows[0].voxels:,} voxels", header, lines), tuple(goals))


def slower_tasks(settings: Settings) -> Section:
    """Every contender of fits and metrics, from voxels."""
    kinds = tuple(kind for kind in ("region", "softmax", "uniform", "cells") if data.why_not(kind) is None)
    request = Request(
        tasks=("fit", "metrics"),
        kinds=kinds,
        kernels=fast_kernels(),
        threads=settings.threads,
        megavoxels=_SMALL,
        runs=settings.runs,
    )
    return _compared(request)


def _compared(request: Request) -> Section:
    rows = [row for group in measure(request) for row in group]
    ours = _ours(rows)
    texts = []
    for task in request.tasks:
        some = [row for row in rows if row.task == task]
        texts.append(_matrix(f"{task}: million voxels a second, {some[0].voxels:,} voxels", some, _rate))
        others = [row for row in some if row.kernel is None and row.threads == 1 and row.to_floor]
        title = f"{task}, one thread: time / time of the kernel {best_kernel()}"
        texts.append(_matrix(title, others, lambda row: str(_slower(row, ours))))
        absent = dict.fromkeys(f"{row.contender}: {row.why}" for row in some if row.why)
        texts += ["\n".join(f"- {line}" for line in absent)] if absent else []
    return Section("\n\n".join(texts))


def _ours(rows: Iterable[Row]) -> dict[tuple[str, str], Row]:
    """Rows of the best kernel with one thread, by task and kind."""
    return {(row.task, row.kind): row for row in rows if row.kernel == best_kernel() and row.threads == 1}


def _slower(row: Row, ours: Mapping[tuple[str, str], Row]) -> Spread:
    return row.over(ours[row.task, row.kind])


def _rate(row: Row) -> str:
    assert row.seconds is not None
    rate = row.voxels / row.seconds.median / 1e6
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"


def _matrix(title: str, rows: Sequence[Row], cell: Callable[[Row], str]) -> str:
    """Lay contenders and threads out down, kinds across."""
    kinds = list(dict.fromkeys(row.kind for row in rows))
    found = {(row.contender, row.threads, row.kind): row for row in rows if row.seconds}
    lines = [
        [name, threads, *(cell(found[name, threads, kind]) if (name, threads, kind) in found else "" for kind in kinds)]
        for name, threads in dict.fromkeys((name, threads) for name, threads, _ in found)
    ]
    return table(title, ("contender", "threads", *kinds), lines)
