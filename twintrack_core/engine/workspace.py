"""What a thread keeps from task to task, because fresh pages cost more than the work done in them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from twintrack_core.cohort.scratch import Scratch
from twintrack_core.kernels.tally import Tally

_threads = threading.local()


class Workspace:
    """Buffers and tables of one thread; the memory of a few chunks and of a table for each number of raters.

    Attributes
    ----------
    scratch
        Buffers for chunks.
    """

    def __init__(self) -> None:
        self.scratch = Scratch()
        self._tallies: dict[int, Tally] = {}

    def tally(self, n_raters: int) -> Tally:
        """Return an empty tally; it must be drained before the task ends."""
        if n_raters not in self._tallies:
            self._tallies[n_raters] = Tally(n_raters)
        return self._tallies[n_raters]


@contextlib.contextmanager
def workspace() -> Iterator[Workspace]:
    """Lend the workspace of the running thread to a task."""
    lent = getattr(_threads, "workspace", None) or Workspace()
    _threads.workspace = None  # a task that fails leaves counts behind: the next one gets a new workspace
    yield lent
    lent.scratch.forget()
    _threads.workspace = lent
