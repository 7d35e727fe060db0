"""Dask clusters: one of this machine's processes, or one that is there already."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from twintrack_core.engine.run import Run, Task
from twintrack_core.errors import RequestError, WorkerError, WorkError

if TYPE_CHECKING:
    from distributed import Client

T = TypeVar("T")

_CONNECT_SECONDS = 10
_RESUME = "Run again with --resume: what is finished is not done again."


class Cluster:
    """Workers of a Dask cluster."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._run = uuid.uuid4().hex[:8]

    @property
    def size(self) -> int:
        """How many tasks run at a time; workers may come and go."""
        return max(1, sum(map(int, self._client.nthreads().values())))

    def memory(self) -> list[tuple[int, int]]:
        """For each worker process how many tasks run in it, and the bytes that Dask lets it take."""
        workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
        return [(worker["nthreads"], worker["memory_limit"]) for worker in workers if worker["memory_limit"]]

    def submit(self, task: Task[Any], label: str) -> Any:
        """Hand out a task; return a future. The dashboard calls the task by its label and name."""
        return self._client.submit(task.work, key=f"{label}-{task.name}-{self._run}{uuid.uuid4().hex[:8]}", pure=False)

    def result(self, future: Any, task: Task[Any]) -> Any:
        """Return what a task that is done made, or raise its error; the cluster need not keep it any longer."""
        from distributed import KilledWorker
        from distributed.client import FutureCancelledError
        from distributed.comm import CommClosedError

        try:
            return future.result()
        except KilledWorker as error:
            raise WorkerError(
                f"{task.name}: {error.allowed_failures + 1} workers died one after the other while they worked on it.",
                None,
                "See what workers log: they may lack memory, which fewer --workers or smaller chunks take less of.",
            ) from error
        except (FutureCancelledError, CommClosedError) as error:
            raise WorkError("The scheduler of the cluster went away.", None, _RESUME) from error
        except ModuleNotFoundError as error:
            raise WorkError(
                f"The workers of the cluster lack {error.name}.",
                "Allowed: workers with the same environment as here.",
                "Install twintrack-core, of the same version, where the workers run.",
            ) from error
        finally:
            future.release()

    def end(self, futures: Iterable[Any], *, wait: bool) -> None:
        """Take back what has not begun, and wait for what has, if so asked."""
        from distributed import wait as wait_for

        if self._client.status != "running":
            return
        pending = [future for future in futures if not future.done()]
        with contextlib.suppress(Exception):  # a scheduler that is gone has nothing to take back
            running = {key for tasks in self._client.call_stack().values() for key in tasks} if wait else set()
            self._client.cancel([future for future in pending if future.key not in running], force=True)
            wait_for([future for future in pending if future.key in running])


@contextlib.contextmanager
def cluster_of(run: Run) -> Iterator[Cluster]:
    """Connect to the cluster that a run names, or make one of processes of this machine for as long as it takes.

    Raises
    ------
    WorkError
        If no scheduler answers, or ``distributed`` is missing.
    """
    try:
        import distributed  # noqa: F401 - whether it is there
    except ImportError as error:
        raise WorkError(
            f"The scheduler {run.scheduler!r} takes distributed, which is missing.",
            "Allowed without it: threads.",
            "pip install 'twintrack-core[cluster]'",
        ) from error
    with contextlib.ExitStack() as stack:
        if not isinstance(run.scheduler, str):
            client: Any = run.scheduler
            if client.asynchronous:
                raise RequestError("The client is asynchronous.", "Allowed: one made with asynchronous=False.")
        elif run.scheduler == "processes":
            client = stack.enter_context(_processes(run))
        else:
            client = stack.enter_context(_connection(run.scheduler))
        if run.progress and not client.nthreads():
            print(f"twintrack: note: waiting for workers of {client.scheduler.address}.", file=sys.stderr)  # noqa: T201
        if run.progress and sys.stderr.isatty() and client.dashboard_link:
            print(f"twintrack: dashboard at {client.dashboard_link}", file=sys.stderr)  # noqa: T201 - as the bar
        yield Cluster(client)


@contextlib.contextmanager
def _processes(run: Run) -> Iterator[Client]:
    """A cluster on this machine, one thread a process."""
    from distributed import LocalCluster

    begin = partial(
        LocalCluster,
        n_workers=run.threads,
        threads_per_worker=1,
        processes=True,
        dashboard_address=":0",
        silence_logs=logging.CRITICAL,  # what fails is told once, as the error of the run
    )
    try:
        with _without_interrupts(), _own_allocation():
            cluster = _begin_again(begin)
    except (RuntimeError, OSError, TimeoutError) as error:
        raise WorkError(
            f"The processes of this machine did not start: {_first_line(error)}.",
            "Allowed: fewer --workers, or the scheduler threads; in a script, what begins processes must stand under "
            "if __name__ == '__main__'.",
            _RESUME,
        ) from error
    with _quiet(), contextlib.ExitStack() as stack:
        stack.callback(cluster.close)
        client = _client_of(cluster)
        stack.callback(client.close)
        try:
            yield client
        except KeyboardInterrupt:
            _kill(cluster)
            # Tidying up takes seconds, which somebody who presses Ctrl-C does not wait for.
            threading.Thread(target=_close, args=[stack.pop_all()], daemon=True).start()
            raise


def _close(stack: contextlib.ExitStack) -> None:
    with contextlib.suppress(Exception):  # of a loop that the end of the process stops
        stack.close()


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Make threads and processes that Ctrl-C does not reach: it is the run's to end them, and to say so once."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    _start_resource_tracker()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_resource_tracker() -> None:
    """Start what Python starts before its first other process, which would let interrupts through again as it does.

    It warns of what processes that are killed leave for it to tidy up, which is what it is there for.
    """
    from multiprocessing import resource_tracker

    sys.warnoptions.append("ignore::UserWarning:multiprocessing.resource_tracker")
    try:
        resource_tracker.ensure_running()
    finally:
        sys.warnoptions.pop()


def _kill(cluster: Any) -> None:
    """End the processes of a cluster at once: every write is whole or not at all."""
    for nanny in cluster.workers.values():
        nanny.auto_restart = False
        if nanny.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(nanny.pid, signal.SIGKILL)


@contextlib.contextmanager
def _own_allocation() -> Iterator[None]:
    """Leave the C library's allocation as it is in processes that begin here.

    Dask makes workers give memory back early (MALLOC_TRIM_THRESHOLD_). With that set, glibc maps every buffer of 128
    KiB or more anew, which counting feels; ours keep few buffers, and all the time.
    """
    import dask

    with dask.config.set({"distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None}):
        yield


def _client_of(cluster: Any) -> Client:
    """Connect to a cluster; once more where a message comes in between, which distributed asserts that none does."""
    from distributed import Client

    connect = partial(Client, cluster, timeout=_CONNECT_SECONDS, set_as_default=False)
    try:
        return connect()
    except AssertionError:
        return connect()


def _begin_again(begin: Callable[[], T]) -> T:
    """Begin what may fail because a process of it died at once; once more if it did."""
    try:
        return begin()
    except (RuntimeError, OSError, TimeoutError):
        return begin()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what Dask logs of a failure to itself: it is told once, as the error of the run."""
    loggers = [logging.getLogger(f"distributed.{name}") for name in ("batched", "client", "comm", "core")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or ["no reason was given"])[0].rstrip(".")


@contextlib.contextmanager
def _connection(address: str) -> Iterator[Client]:
    try:
        client = _client_of(address)
    except (OSError, TimeoutError, ValueError) as error:
        raise WorkError(
            f"No Dask scheduler answers at {address}: {_first_line(error)}.",
            "Allowed: the address that dask scheduler prints when it starts, such as tcp://host:8786.",
            "Start one, or see whether it can be reached from here.",
        ) from error
    with _quiet(), client:
        yield client
