"""Run tasks with Dask: the one place that knows schedulers and progress."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from twintrack_core.errors import RequestError
from twintrack_core.kernels.dispatch import default_threads

T = TypeVar("T")

TASK_BYTES = 128 << 20
"""Decoded bytes per task: enough that Dask's fraction of a millisecond per task does not show."""

LOOK_BYTES = 8 << 20
"""Opening and listing a case takes as long as decoding so much."""

_TASKS_PER_WORKER = 4  # enough that none waits long for the last one


@dataclass(frozen=True)
class Run:
    """How tasks are run.

    Attributes
    ----------
    workers
        Threads, or None for all cores. Each task runs in one thread: parallelism comes from Dask alone.
    progress
        Show a bar on stderr, if that is a terminal.
    """

    workers: int | None = None
    progress: bool = False

    @property
    def threads(self) -> int:
        """Number of threads."""
        return self.workers or default_threads()

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise RequestError(f"{self.workers} workers cannot work.", "Allowed: 1 or more.")


def groups(items: Sequence[T], sizes: Sequence[int], run: Run) -> list[tuple[T, ...]]:
    """Split items into runs of neighbours for one task each: of `TASK_BYTES`, or less so that every worker has some.

    Parameters
    ----------
    items
        What there is to do.
    sizes
        Bytes that each of them takes.
    """
    limit = min(TASK_BYTES, sum(sizes) // (_TASKS_PER_WORKER * run.threads))
    found: list[list[T]] = []
    filled = 0
    for item, size in zip(items, sizes, strict=True):
        if not found or filled + size > limit:
            found.append([])
            filled = 0
        found[-1].append(item)
        filled += size
    return [tuple(group) for group in found]


def task(work: Callable[..., Any], *needs: Any) -> Any:
    """Make a Dask task that calls ``work`` with the results of other tasks.

    Everything else belongs into a `functools.partial`: Dask would search arguments for tasks, which takes longer than
    scheduling does.
    """
    from dask import delayed

    return delayed(work, pure=False, traverse=False)(*needs)


def compute(tasks: Sequence[Any], run: Run, label: str) -> list[Any]:
    """Compute Dask ``delayed`` tasks and return their results in order.

    When a task fails, those that are running finish before its error is raised: nothing writes any more then.
    """
    import dask
    from dask.callbacks import Callback
    from tqdm import tqdm

    hidden = not (run.progress and sys.stderr.isatty())
    with tqdm(desc=label, unit="task", file=sys.stderr, disable=hidden, leave=False) as bar:

        def start(_graph: Any, state: Any) -> None:
            bar.reset(total=sum(len(state[key]) for key in ("ready", "waiting")))

        def finished(_key: Any, _result: Any, _graph: Any, _state: Any, _worker: Any) -> None:
            bar.update()

        with (
            ThreadPoolExecutor(run.threads) as pool,
            Callback(start_state=start, posttask=finished),
        ):
            results = dask.compute(*tasks, scheduler="threads", pool=pool, optimize_graph=False)
    return list(results)
