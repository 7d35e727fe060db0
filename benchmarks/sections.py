"""What every script here gives: tables, and how far each goal is reached."""

from __future__ import annotations

import re
import resource
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from twintrack_core.bench.table import markdown
from twintrack_core.bench.timing import Spread
from twintrack_core.errors import RequestError
from twintrack_core.kernels.dispatch import default_threads


@dataclass(frozen=True)
class Settings:
    """How much to measure.

    Attributes
    ----------
    runs
        Timed runs of what is quick.
    folder
        Where stores are made; on a file system in memory, figures are the package's and not the disk's.
    """

    runs: int = 3
    folder: Path = field(default_factory=lambda: Path(tempfile.gettempdir()))

    @property
    def threads(self) -> tuple[int, ...]:
        """One, and all cores."""
        return tuple(sorted({1, default_threads()}))


@dataclass(frozen=True)
class Goal:
    """How far a goal of the design is reached.

    Attributes
    ----------
    what
        The goal's row.
    case
        Of what this figure is: volume, threads.
    limit
        The goal.
    reached
        The figure, median and spread where there are several runs.
    at_least
        Whether larger is better.
    how
        How it was measured, in a few words.
    """

    what: str
    case: str
    limit: float
    reached: Spread
    at_least: bool
    how: str

    @property
    def met(self) -> bool:
        """Whether the median reaches the goal."""
        return self.reached.median >= self.limit if self.at_least else self.reached.median <= self.limit

    def cells(self) -> tuple[str, ...]:
        """The goal as cells of a table."""
        sign = "at least" if self.at_least else "at most"
        return (
            self.what,
            self.case,
            f"{sign} {self.limit:g}",
            str(self.reached),
            "met" if self.met else "MISSED",
            self.how,
        )


@dataclass(frozen=True)
class Section:
    """Tables and goals of one script: Markdown, without the line that says how it was made."""

    text: str
    goals: tuple[Goal, ...] = ()


def peak_memory() -> float:
    """Largest resident memory of this process so far, in MB.

    Not ``ru_maxrss``, which on Linux begins at what the parent process held when it started this one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def threads_text(threads: int) -> str:
    """Say how many threads."""
    return "1 thread" if threads == 1 else f"{threads} threads"


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Lay out a titled table."""
    return f"{title}\n\n{markdown(header, rows)}"


def replaced(page: str, texts: Mapping[str, str]) -> str:
    """Put texts between the markers of their names.

    Raises
    ------
    RequestError
        If the page lacks a marker.
    """
    for name, text in texts.items():
        pattern = re.compile(rf"(<!-- generated: {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not pattern.search(page):
            raise RequestError(f"The page has no place for {name!r}.", f"Allowed: <!-- generated: {name} -->.")
        page = pattern.sub(partial(_between, text), page)
    return page


def _between(text: str, found: re.Match[str]) -> str:
    return f"{found[1]}\n{text}\n\n{found[2]}"
