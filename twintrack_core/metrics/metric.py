"""What a metric is, and what it returns."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

from twintrack_core.errors import FitError, PluginError, TwinTrackError
from twintrack_core.histogram import RegionName
from twintrack_core.plugins import say

if TYPE_CHECKING:
    from twintrack_core.metrics.cells import ScoredCells
    from twintrack_core.metrics.volumes import CaseVolumes


@dataclass(frozen=True)
class Undefined:
    """No value, and why: never NaN, never a made-up 0."""

    why: str


CASE_BY_CASE = Undefined("it is taken case by case")


@dataclass(frozen=True)
class Noted:
    """A value with something the reader should know about it."""

    value: float
    note: str


Result: TypeAlias = float | Noted | Undefined


@dataclass(frozen=True, kw_only=True)
class _Described:
    """What there is to say of a metric.

    Attributes
    ----------
    name
        Name in tables and requests.
    unit
        Unit of the value, "1" for a pure number.
    better
        Whether "lower" or "higher" values are better, or those near "zero"; "neither" if it says nothing about scores.
    range
        Smallest and largest value there can be.
    description
        One line.
    source
        Where the formula comes from.
    """

    name: str
    unit: str
    better: Literal["lower", "higher", "zero", "neither"]
    range: tuple[float, float]
    description: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Metric(_Described):
    """A metric of scored cells: all it needs is a table.

    Attributes
    ----------
    function
        Value for cells that hold one voxel and one rater or more. A FitError it raises makes the value undefined.
    regions
        What it is taken over.
    pooled
        Whether it means something for the voxels of several cases taken as one volume.
    roi
        Rule of the region of interest that it is meant for, which a cohort is counted under unless another is asked
        for; None if any will do.
    argument
        What may follow the name and a colon, for example "NAME" of a rater; None if nothing may.
    with_argument
        Makes the metric of an argument; raises RequestError for one there cannot be.
    """

    function: Callable[[ScoredCells], Result]
    regions: tuple[RegionName, ...] = ("whole", "roi")
    pooled: bool = True
    roi: str | None = None
    argument: str | None = None
    with_argument: Callable[[str], Metric] | None = None

    def __call__(self, cells: ScoredCells) -> Result:
        """Compute the metric. Without voxels or raters it is undefined, as is what is not a finite number.

        Raises
        ------
        PluginError
            If the function fails.
        """
        if not cells.raters:
            return Undefined("there are no raters")
        if not cells.n_voxels:
            return Undefined("there are no voxels")
        if not self.pooled and len(cells.cases) > 1:
            return CASE_BY_CASE
        return _checked(self.name, lambda: self.function(cells))


@dataclass(frozen=True, kw_only=True)
class VolumeMetric(_Described):
    """A metric that needs voxels: it is given the arrays of one case, and taken over the whole volume.

    Attributes
    ----------
    function
        Value for the arrays of a case. A FitError it raises makes the value undefined.
    needs
        Arrays a case must have: "votes", "vessels". Where one is missing the value is undefined.
    argument, with_argument
        As in `Metric`.
    """

    function: Callable[[CaseVolumes], Result]
    regions: ClassVar[tuple[RegionName, ...]] = ("whole",)
    needs: tuple[Literal["votes", "vessels"], ...] = ("votes",)
    argument: str | None = None
    with_argument: Callable[[str], VolumeMetric] | None = None

    def __call__(self, volumes: CaseVolumes) -> Result:
        """Compute the metric; undefined where an array is missing or the value is not a finite number.

        Raises
        ------
        PluginError
            If the function fails.
        """
        if "votes" in self.needs and volumes.votes is None:
            return Undefined("there are no raters")
        if "vessels" in self.needs and volumes.vessels is None:
            return Undefined("there are no vessels")
        return _checked(self.name, lambda: self.function(volumes))


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Several metrics under one name.

    Attributes
    ----------
    name
        Name in requests.
    metrics
        Names of the metrics.
    description
        One line.
    """

    name: str
    metrics: tuple[str, ...]
    description: str


def _checked(name: str, compute: Callable[[], Result]) -> Result:
    """Return a result as it should be: a finite Python float, noted, or undefined."""
    try:
        result = compute()
        if isinstance(result, Undefined):
            return result
        value = float(result.value if isinstance(result, Noted) else result)
    except FitError as error:
        return Undefined(error.what.rstrip("."))
    except TwinTrackError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"The metric {name!r} failed: {say(error)}.", None, "Leave it out, or report this to those who made it."
        ) from error
    if not math.isfinite(value):
        return Undefined(f"the value is {value}")
    return Noted(value, result.note) if isinstance(result, Noted) else value
