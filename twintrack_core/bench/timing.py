"""Times taken in turn, so that a machine whose speed drifts is fair to all sides."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Spread(NamedTuple):
    """Median, smallest and largest of some runs."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: npt.ArrayLike) -> Spread:
        """Summarise the runs that took place; NaN stands for one that did not."""
        numbers = np.asarray(values, dtype=np.float64)
        runs = numbers[~np.isnan(numbers)]
        return cls(float(np.median(runs)), float(runs.min()), float(runs.max()))

    def scaled(self, factor: float) -> Spread:
        """Return it in another unit."""
        return Spread(*(factor * value for value in self))

    def __str__(self) -> str:
        digits = 0 if self.median >= 20 else 1 if self.median >= 10 else 2
        return f"{self.median:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


def seconds(work: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def alternate(
    works: Sequence[Callable[[], object]],
    runs: int,
    patience: float = np.inf,
    before: Callable[[], object] = lambda: None,
) -> npt.NDArray[np.float64]:
    """Time every work once a round.

    Parameters
    ----------
    works
        What to time. They have been called before: nothing is warmed up here.
    runs
        Rounds.
    patience
        Seconds after which a work takes part in no further round.
    before
        Called, untimed, before each.

    Returns
    -------
    numpy.ndarray
        (runs, works) float64 seconds, NaN where a work took no part.
    """
    taken = np.full((runs, len(works)), np.nan)
    for row in taken:
        for place, work in enumerate(works):
            if np.nansum(taken[:, place]) < patience:
                before()
                row[place] = seconds(work)
    return taken


def machine(distributions: Iterable[str] = ("numba",)) -> str:
    """Name what figures are taken on: cores, processor, Python, NumPy and the given distributions if installed."""
    names = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    cores = f"{len(names)} cores of {names[0]}" if names else platform.processor() or platform.machine()
    parts = [cores, f"Python {platform.python_version()}", f"numpy {np.__version__}"]
    return ", ".join(parts + [f"{name} {version}" for name in distributions if (version := version_of(name))])


def version_of(distribution: str) -> str | None:
    """Version of an installed distribution, None where it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []
