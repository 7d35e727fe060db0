"""Run tasks on whatever there is to run them: threads of this process, processes of this machine, a Dask cluster.

A task is a name and a function of no arguments that can be pickled; it runs in one thread, and parallelism comes from
running many. Results come back as they are there, in any order, so that nobody ever holds all of them.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeAlias, TypeVar

from twintrack_core.errors import (
    ImageError,
    InvalidScoresError,
    InvalidVotesError,
    RequestError,
    StoreError,
    TwinTrackError,
    WorkerError,
)
from twintrack_core.kernels.dispatch import default_threads
from twintrack_core.system import available_memory

if TYPE_CHECKING:
    from distributed import Client

T = TypeVar("T")

TASK_BYTES = 128 << 20
"""Decoded bytes per task, at least: enough that a scheduler's milliseconds per task do not show."""

LARGEST_TASK_BYTES = 2 << 30
"""Decoded bytes per task, at most: what a worker that dies loses."""

LOOK_BYTES = 8 << 20
"""Opening and listing a case takes as long as decoding so much."""

_TASKS_PER_WORKER = 4  # enough that none waits long for the last one
_MANY_TASKS_PER_WORKER = 64  # beyond it tasks grow instead
_STOP_SECONDS = 1.0
_QUEUED_PER_WORKER = 4  # tasks handed out at a time: a worker has its next one, and the scheduler few results to hold

OnError: TypeAlias = Literal["stop", "skip"]
"""What becomes of a run when a case cannot be read: it stops, or leaves the case out and says so."""

Scheduler: TypeAlias = "str | Client"
"""Where tasks run: "threads", "processes", the address of a Dask scheduler (tcp://...), or a `distributed.Client`."""

OF_CASE = (ImageError, InvalidScoresError, InvalidVotesError, StoreError, WorkerError)
"""Errors that are the fault of the case that was worked on: the others of a cohort may do without it."""

ALLOWED = "Allowed: threads, processes, or the address of a Dask scheduler such as tcp://host:8786."


@dataclass(frozen=True)
class Run:
    """How tasks are run.

    Attributes
    ----------
    workers
        How many tasks run at a time, or None for all cores; a cluster that is there already has as many as it has.
    progress
        Show a bar on stderr, if that is a terminal.
    scheduler
        See `Scheduler`.
    """

    workers: int | None = None
    progress: bool = False
    scheduler: Scheduler = "threads"

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise RequestError(f"{self.workers} workers cannot work.", "Allowed: 1 or more.")
        if isinstance(self.scheduler, str) and self.scheduler not in ("threads", "processes"):
            if "://" not in self.scheduler:
                raise RequestError(f"There is no scheduler {self.scheduler!r}.", ALLOWED)
            self._refuse_workers(f"The scheduler at {self.scheduler} has workers of its own")
        elif not isinstance(self.scheduler, str):
            if not hasattr(self.scheduler, "submit"):
                raise RequestError(
                    f"A {type(self.scheduler).__name__} is no scheduler.", f"{ALLOWED[:-1]}, or a distributed.Client."
                )
            self._refuse_workers("A client's scheduler has workers of its own")

    def _refuse_workers(self, what: str) -> None:
        if self.workers is not None:
            raise RequestError(
                f"{what}: {self.workers} cannot be asked for.", "Allowed: workers with threads or processes."
            )

    @property
    def here(self) -> bool:
        """Whether tasks run in threads of this process."""
        return isinstance(self.scheduler, str) and self.scheduler == "threads"

    @property
    def threads(self) -> int:
        """How many tasks run at a time, as far as that is up to this run."""
        return self.workers or default_threads()


@dataclass(frozen=True)
class Task(Generic[T]):
    """Something to do.

    Attributes
    ----------
    name
        What it is done to, for people: "case007", or "case003, part 2 of 9".
    work
        Does it. It is pickled where tasks run in other processes.
    cases
        Names of the cases it is done to.
    """

    name: str
    work: Callable[[], T]
    cases: tuple[str, ...] = ()


class Crew(Protocol):
    """Who runs tasks."""

    @property
    def size(self) -> int:
        """How many tasks run at a time."""

    def memory(self) -> list[tuple[int, int]]:
        """For each process, as far as that is known, how many tasks run in it and the bytes that it may take."""

    def submit(self, task: Task[Any], label: str) -> Any:
        """Hand out a task; return a future."""

    def result(self, future: Any, task: Task[Any]) -> Any:
        """Return what a task that is done made, or raise its error."""

    def end(self, futures: Iterable[Any], *, wait: bool) -> None:
        """Take back what has not begun, and wait for what has; or stop it as soon as it can be."""


class StoppedError(Exception):
    """The run that a task belongs to was interrupted."""


_thread = threading.local()


def go_on() -> None:
    """Let a task end here if its run was interrupted: called before each tile, and before anything is written.

    Raises
    ------
    StoppedError
        If it was.
    """
    stop: threading.Event | None = getattr(_thread, "stop", None)
    if stop is not None and stop.is_set():
        raise StoppedError


class Threads:
    """Threads of this process."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._pool = ThreadPoolExecutor(size, thread_name_prefix="twintrack")
        self._stop = threading.Event()

    def memory(self) -> list[tuple[int, int]]:
        """How many tasks run in this process, and the bytes that it may take."""
        room = available_memory()
        return [] if room is None else [(self.size, room)]

    def submit(self, task: Task[Any], _label: str) -> Any:
        """Hand out a task; return a future."""
        return self._pool.submit(self._do, task.work)

    def _do(self, work: Callable[[], T]) -> T:
        _thread.stop = self._stop
        return work()

    def result(self, future: Any, _task: Task[Any]) -> Any:
        """Return what a task that is done made, or raise its error."""
        return future.result()

    def end(self, futures: Iterable[Any], *, wait: bool) -> None:
        """Take back what has not begun, and wait for what has, if so asked."""
        if not wait:
            self._stop.set()
        running = [future for future in futures if not future.cancel()]
        self._pool.shutdown(wait=wait, cancel_futures=True)
        if not wait:
            wait_for(running, _STOP_SECONDS)  # a tile takes less; reading an image may take longer, but writes no more


@contextlib.contextmanager
def crew_of(run: Run) -> Iterator[Crew]:
    """Bring together who runs the tasks of a run.

    Raises
    ------
    WorkError
        If a cluster is wanted that is not there, or without the library it takes.
    """
    if not run.here:
        from twintrack_core.engine.cluster import cluster_of

        with cluster_of(run) as cluster:
            yield cluster
        return
    crew = Threads(run.threads)
    try:
        yield crew
    except BaseException as error:
        crew.end((), wait=isinstance(error, Exception))
        raise
    crew.end((), wait=True)


def task_bytes(total: int, size: int) -> int:
    """Bytes of a task for ``size`` workers: small enough that each has some; larger ones where there is much to do."""
    least = TASK_BYTES if size == 1 else min(TASK_BYTES, total // (_TASKS_PER_WORKER * size))
    return min(LARGEST_TASK_BYTES, max(least, total // (_MANY_TASKS_PER_WORKER * size)))


def groups(items: Sequence[T], sizes: Sequence[int], limit: int) -> list[tuple[T, ...]]:
    """Split items into runs of neighbours of up to ``limit`` bytes, for one task each.

    Parameters
    ----------
    items
        What there is to do.
    sizes
        Bytes that each of them takes.
    limit
        See `task_bytes`.
    """
    found: list[list[T]] = []
    filled = 0
    for item, size in zip(items, sizes, strict=True):
        if not found or filled + size > limit:
            found.append([])
            filled = 0
        found[-1].append(item)
        filled += size
    return [tuple(group) for group in found]


def compute(
    tasks: Iterable[Task[T]],
    crew: Crew,
    run: Run,
    label: str,
    *,
    failed: Callable[[Task[T], TwinTrackError], None] | None = None,
) -> Iterator[tuple[Task[T], T]]:
    """Run tasks and give each with its result as soon as that is there.

    Parameters
    ----------
    label
        What the tasks do, for the progress bar and the dashboard of a cluster: "counting".
    failed
        Told of a task that fails for what it reads, one of `OF_CASE`; the others go on then.

    Raises
    ------
    TwinTrackError, OSError, MemoryError
        The first error of a task that nobody is told of. Tasks that are running finish before, or stop if it is an
        interrupt: nothing writes any more then.
    """
    from tqdm import tqdm

    waiting = deque(tasks)
    suspects: deque[Task[T]] = deque()
    blamed: list[Task[T]] = []
    running: dict[int, Any] = {}
    done: SimpleQueue[tuple[int, Task[T], Any]] = SimpleQueue()
    hidden = not (run.progress and sys.stderr.isatty())
    number = 0
    with tqdm(desc=label, total=len(waiting), unit="task", file=sys.stderr, disable=hidden, leave=False) as bar:
        try:
            while waiting or running or suspects:
                most = (1 + _QUEUED_PER_WORKER) * crew.size
                if not waiting and not running:
                    waiting.append(suspects.popleft())
                while waiting and len(running) < most:
                    task = waiting.popleft()
                    number += 1
                    future = running[number] = crew.submit(task, label)
                    future.add_done_callback(_Told(done, number, task))
                told, task, future = done.get()
                del running[told]
                bar.set_postfix_str(task.name, refresh=False)
                try:
                    result = crew.result(future, task)
                except WorkerError as error:
                    if task not in blamed:
                        # Whoever waited on a worker that died is blamed as well: by itself a task shows who it was.
                        blamed.append(task)
                        suspects.append(task)
                        continue
                    if failed is None:
                        raise
                    failed(task, error)
                except OF_CASE as error:
                    if failed is None:
                        raise
                    failed(task, error)
                else:
                    yield task, result
                bar.update()
        except BaseException as error:
            crew.end(running.values(), wait=isinstance(error, Exception))
            raise


@dataclass(frozen=True)
class _Told:
    """Says which task a future was of."""

    done: SimpleQueue[Any]
    number: int
    task: Task[Any]

    def __call__(self, future: Any) -> None:
        self.done.put((self.number, self.task, future))


class Skipped:
    """Cases that a run leaves out, with the reason.

    Parameters
    ----------
    on_error
        See `OnError`.

    Attributes
    ----------
    errors
        Error by name of the case.

    Raises
    ------
    RequestError
        For anything but "stop" and "skip".
    """

    def __init__(self, on_error: OnError) -> None:
        if on_error not in ("stop", "skip"):
            raise RequestError(f"on_error is {on_error!r:.40}.", "Allowed: stop, skip.")
        self._on_error = on_error
        self.errors: dict[str, TwinTrackError] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the cases, sorted."""
        return tuple(sorted(self.errors))

    @property
    def reasons(self) -> dict[str, str]:
        """Kind of the error by name of the case; what it says may hold paths, which files of ours do not."""
        return {name: type(self.errors[name]).__name__ for name in self.names}

    def compute(
        self, tasks: Iterable[Task[T]], alone: Callable[[str], Task[T]], crew: Crew, run: Run, label: str
    ) -> Iterator[T]:
        """Give the results of tasks; where one fails for a case, those of its cases that do not.

        Parameters
        ----------
        alone
            Makes the task of one case, for those of a task of several that failed.
        """
        if self._on_error == "stop":
            yield from (result for _, result in compute(tasks, crew, run, label))
            return
        again: list[Task[T]] = []

        def failed(task: Task[T], error: TwinTrackError) -> None:
            if len(task.cases) > 1:
                again.extend(map(alone, task.cases))
            else:
                self.errors[task.cases[0]] = error

        yield from (result for _, result in compute(tasks, crew, run, label, failed=failed))
        yield from (result for _, result in compute(again, crew, run, label, failed=failed))

    def check_rest(self, n_cases: int) -> None:
        """Raise the error of a case if that leaves none of the cases."""
        if len(self.errors) == n_cases:
            first = self.names[0]
            error = self.errors[first]
            raise StoreError(
                f"None of {n_cases} cases is left; {first} is left out because: {error.what}",
                error.allowed,
                error.action,
            ) from error
