"""Ratios of times taken in turn, so that a machine whose speed drifts is fair to both sides."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple


class Ratio(NamedTuple):
    """Seconds of the work (median), and the ratio work / other pair by pair."""

    seconds: float
    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def seconds(work: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def ratio(work: Callable[[], object], other: Callable[[], object], runs: int = 5) -> Ratio:
    """Run both once to warm up, then in turn."""
    work()
    other()
    pairs = [(seconds(work), seconds(other)) for _ in range(runs)]
    ratios = [a / b for a, b in pairs]
    return Ratio(statistics.median(a for a, _ in pairs), statistics.median(ratios), min(ratios), max(ratios))
