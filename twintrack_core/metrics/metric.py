"""What a metric is, and what it returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from twintrack_core.metrics.cells import ScoredCells


@dataclass(frozen=True)
class Undefined:
    """No value, and why: never NaN, never a made-up 0."""

    why: str


@dataclass(frozen=True)
class Noted:
    """A value with something the reader should know about it."""

    value: float
    note: str


Result: TypeAlias = float | Noted | Undefined


@dataclass(frozen=True)
class Metric:
    """A metric of scored cells.

    Attributes
    ----------
    name
        Name in tables and requests.
    function
        Value for cells that hold one voxel or more.
    unit
        Unit of the value, "1" for a pure number.
    better
        Whether "lower" or "higher" values are better, or those near "zero".
    range
        Smallest and largest value there can be.
    description
        One line, with the source of the formula.
    """

    name: str
    function: Callable[[ScoredCells], Result]
    unit: str
    better: Literal["lower", "higher", "zero"]
    range: tuple[float, float]
    description: str

    def __call__(self, cells: ScoredCells) -> Result:
        """Compute the metric; without voxels it is undefined."""
        return self.function(cells) if len(cells.count) else Undefined("there are no voxels")
