"""Ratios of times taken in turn, so that a machine whose speed drifts is fair to both sides."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Ratio(NamedTuple):
    """Seconds of the work (median), and the ratio work / other pair by pair."""

    seconds: float
    median: float
    low: float
    high: float

    def inverse(self) -> Ratio:
        """Ratio other / work: how many times as fast the work is."""
        return Ratio(self.seconds, 1 / self.median, 1 / self.high, 1 / self.low)

    def __str__(self) -> str:
        digits = 0 if self.median >= 20 else 2
        return f"{self.median:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


def seconds(work: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def ratio(
    work: Callable[[], object],
    other: Callable[[], object],
    runs: int = 5,
    before: Callable[[], object] = lambda: None,
) -> Ratio:
    """Run both once to warm up, then in turn; ``before`` is called, untimed, before each."""
    pairs = []
    for _ in range(runs + 1):
        before()
        first = seconds(work)
        before()
        pairs.append((first, seconds(other)))
    before()
    ratios = [a / b for a, b in pairs[1:]]
    return Ratio(statistics.median(a for a, _ in pairs[1:]), statistics.median(ratios), min(ratios), max(ratios))


def machine() -> str:
    """Name what the figures were taken on."""
    names = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    versions = f"Python {platform.python_version()}, NumPy {np.__version__}, Numba {metadata.version('numba')}"
    return f"{len(names)} cores of {names[0] if names else platform.machine()}, {versions}"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a Markdown table, row by row as they come."""
    print(f"| {' | '.join(header)} |")
    print(f"|{'---|' * len(header)}")
    for row in rows:
        print(f"| {' | '.join(_text(cell) for cell in row)} |", flush=True)


def _text(cell: object) -> str:
    if isinstance(cell, float):
        return f"{cell:.0f}" if cell >= 100 else f"{cell:.2f}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)
