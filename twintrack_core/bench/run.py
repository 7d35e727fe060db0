"""Run a part of the benchmarks: check every contender, then time all of them in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from twintrack_core.bench import data
from twintrack_core.bench.contenders import Contender, contenders, resolve_kernels
from twintrack_core.bench.data import Volume, volume
from twintrack_core.bench.tasks import TASKS, require_task
from twintrack_core.bench.timing import Spread, alternate, machine
from twintrack_core.errors import RequestError, TwinTrackError
from twintrack_core.kernels.dispatch import default_threads

DEFAULT_KINDS = ("region", "softmax", "uniform")
FLOOR = "floor"
_PATIENCE_SECONDS = 1.0  # of one contender in a group: the slow ones have fewer runs


@dataclass(frozen=True)
class Request:
    """What to measure.

    Attributes
    ----------
    tasks
        Names of tasks, all by default.
    kinds
        Kinds of volume.
    kernels
        Names of kernels, all by default.
    threads
        Numbers of threads; one and all cores by default.
    megavoxels
        Size of the volumes in millions of voxels, about.
    runs
        Rounds in which all are timed in turn.
    peers
        Whether other libraries take part.

    Raises
    ------
    RequestError
        If a name is unknown, a number is not above 0, or real data are asked for that are not there.
    """

    tasks: tuple[str, ...] = tuple(TASKS)
    kinds: tuple[str, ...] = DEFAULT_KINDS
    kernels: tuple[str, ...] | None = None
    threads: tuple[int, ...] | None = None
    megavoxels: float = 2.0
    runs: int = 3
    peers: bool = True

    def __post_init__(self) -> None:
        for task in self.tasks:
            require_task(task)
        for kind in self.kinds:
            data.require_kind(kind)
            data.require_available(kind)
        resolve_kernels(self.kernels)
        if self.runs < 1:
            raise RequestError(f"{self.runs} runs measure nothing.", "Allowed: 1 or more.")
        if not 0.001 <= self.megavoxels <= 10_000:
            raise RequestError(f"{self.megavoxels} megavoxels cannot be measured.", "Allowed: 0.001 to 10000.")
        for threads in self.threads or ():
            if threads < 1:
                raise RequestError(f"{threads} threads cannot work.", "Allowed: 1 or more.")
        if not self.groups():
            task = self.tasks[0] if self.tasks else next(iter(TASKS))
            raise RequestError(
                f"Nothing is left to measure of {', '.join(self.tasks) or 'no task'} on "
                f"{', '.join(self.kinds) or 'no kind of volume'}.",
                f"Allowed for {task}: {', '.join(TASKS[task].kinds)}.",
            )

    def thread_counts(self) -> tuple[int, ...]:
        """Numbers of threads to measure with, ascending."""
        return tuple(sorted({1, default_threads()} if self.threads is None else set(self.threads)))

    def groups(self) -> list[tuple[str, str]]:
        """Tasks and kinds, in the order they are measured in."""
        return [
            (task, kind)
            for kind in dict.fromkeys(self.kinds)
            for task in dict.fromkeys(self.tasks)
            if kind in TASKS[task].kinds
        ]


@dataclass(frozen=True)
class Row:
    """One contender's figures in one task, on one kind of volume, with some threads.

    Attributes
    ----------
    task, kind, contender, threads
        Who did what. The floor is a row too, named "floor" with what it does.
    kernel
        Name of the kernel, None for others.
    voxels
        Voxels of the volume.
    rounds
        Seconds of every round; None where it took no part, because it had taken seconds before.
    seconds
        Of a run; None where it was not timed.
    to_floor
        Seconds / the floor's in the same round, with the same threads.
    to_best_peer
        Seconds of the fastest peer with as many threads or fewer / seconds, in the same round: how many times as fast.
    best_peer
        Name of that peer.
    why
        Why it was not timed.
    wrong
        It was not timed because its answer, or its lack of one, was wrong.
    """

    task: str
    kind: str
    contender: str
    threads: int
    kernel: str | None
    voxels: int
    rounds: tuple[float | None, ...] = ()
    seconds: Spread | None = None
    to_floor: Spread | None = None
    to_best_peer: Spread | None = None
    best_peer: str | None = None
    why: str | None = None
    wrong: bool = False

    @property
    def runs(self) -> int:
        """Timed runs."""
        return sum(taken is not None for taken in self.rounds)

    def over(self, other: Row) -> Spread:
        """Seconds / the other's in the same round."""
        pairs = zip(self.rounds, other.rounds, strict=True)
        return Spread.of([a / b for a, b in pairs if a is not None and b is not None])


def describe(request: Request) -> str:
    """Say what figures are taken on, and how: the machine, versions of everything that takes part, and runs."""
    tasks = [contenders(task, request.kernels) for task in request.tasks]
    needs = sorted({need for some in tasks for contender in some for need in contender.needs if request.peers})
    return (
        f"{machine(('numba', *needs))}; five raters, float16 scores, about {request.megavoxels:g} million voxels, "
        f"{request.runs} runs in turn, fewer of what takes seconds; median (low to high)"
    )


_Key: TypeAlias = tuple[str, int]


@dataclass(frozen=True)
class _Entry:
    """One column of the timings: a contender, or the floor, with some threads."""

    name: str
    threads: int
    contender: Contender | None
    work: Callable[[], Any] | None = None
    why: str | None = None
    wrong: bool = False

    @property
    def key(self) -> _Key:
        return self.name, self.threads

    @property
    def is_peer(self) -> bool:
        return self.contender is not None and self.contender.kernel is None


def measure(request: Request) -> Iterator[list[Row]]:
    """Yield the rows of each task and kind as they are measured."""
    for task, kind in request.groups():
        some = volume(kind, round(request.megavoxels * 1e6))
        candidates = [
            contender
            for contender in contenders(task, request.kernels)
            if request.peers or contender.kernel is not None
        ]
        yield measure_group(task, some, candidates, request.thread_counts(), request.runs)


def measure_group(
    task: str, some: Volume, candidates: Sequence[Contender], threads: Sequence[int], runs: int
) -> list[Row]:
    """Check contenders of one task on one volume, then time those whose answers are right, and the floor, in turn."""
    expected = TASKS[task].expected(some)
    floor = f"{FLOOR}: {TASKS[task].floor_name}"
    alone = {1} if any(not contender.threaded for contender in candidates) else set()
    entries = [_Entry(floor, n, None, TASKS[task].floor(some, n)) for n in sorted({*threads, *alone})]
    for entry in entries:
        assert entry.work is not None  # noqa: S101 - for mypy
        entry.work()
    for contender in candidates:
        entries += [_enter(contender, some, n, expected) for n in (threads if contender.threaded else threads[:1])]
    timed = [entry for entry in entries if entry.work is not None]
    taken = alternate([entry.work for entry in timed if entry.work is not None], runs, _PATIENCE_SECONDS)
    columns = dict(zip((entry.key for entry in timed), taken.T, strict=True))
    return [_row(task, some, entry, entries, columns) for entry in entries]


def _enter(contender: Contender, some: Volume, threads: int, expected: Any) -> _Entry:
    used = threads if contender.threaded else 1
    why, wrong = contender.missing(), False
    work: Callable[[], Any] | None = None
    if why is None:
        try:
            work = contender.checked(some, used, expected)
        except TwinTrackError as error:
            why, wrong = error.what, True
        except Exception as error:  # noqa: BLE001 - a third party's kernel may raise anything, and the others go on
            why, wrong = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}", True
    return _Entry(contender.name, used, contender, work, why, wrong)


def _row(
    task: str, some: Volume, entry: _Entry, entries: Sequence[_Entry], columns: Mapping[_Key, npt.NDArray[np.float64]]
) -> Row:
    kernel = entry.contender.kernel if entry.contender else None
    who = (task, some.kind, entry.name, entry.threads, kernel, some.voxels)
    if entry.work is None:
        return Row(*who, why=entry.why, wrong=entry.wrong)
    own = columns[entry.key]
    rounds = tuple(None if np.isnan(taken) else float(taken) for taken in own)
    if entry.contender is None:
        return Row(*who, rounds, Spread.of(own))
    floor = next(e.key for e in entries if e.contender is None and e.threads == entry.threads)
    rivals = [e.key for e in entries if e.is_peer and e.work is not None and e.threads <= entry.threads]
    best = min(rivals, key=lambda rival: float(np.nanmedian(columns[rival])), default=None)
    return Row(
        *who,
        rounds,
        Spread.of(own),
        to_floor=Spread.of(own / columns[floor]),
        to_best_peer=None if best is None else Spread.of(columns[best] / own),
        best_peer=None if best is None else best[0],
    )
