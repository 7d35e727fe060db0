"""One case in memory: what readers return and the store writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from twintrack_core.errors import GeometryError


@dataclass(frozen=True)
class Geometry:
    """Where a volume lies in the world.

    Attributes
    ----------
    spacing_mm
        Voxel size in mm in array order (z, y, x).
    origin
        Position of the first voxel in mm, in SimpleITK's order (x, y, z).
    direction
        Direction cosines, row-major 3 x 3, in SimpleITK's order.
    """

    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

    def __post_init__(self) -> None:
        if len(self.spacing_mm) != 3 or not all(np.isfinite(s) and s > 0 for s in self.spacing_mm):
            raise GeometryError(
                f"Spacing {self.spacing_mm} is not one.", "Allowed: three finite lengths above 0, in mm."
            )
        if len(self.origin) != 3 or not np.isfinite(self.origin).all():
            raise GeometryError(f"Origin {self.origin} is not one.", "Allowed: three finite coordinates, in mm.")
        if len(self.direction) != 9 or not np.isfinite(self.direction).all():
            raise GeometryError(f"Direction {self.direction} is not one.", "Allowed: nine finite direction cosines.")


@dataclass(frozen=True, eq=False)
class Case:
    """One case: scores, the raters' marks, regions and where it lies.

    Attributes
    ----------
    name
        Name of the case; see `check_case_name`.
    probability
        (z, y, x) or (member, z, y, x) float16, float32 or uint8 (k / 255).
    raters
        Names of the raters, at most 8, in bit order.
    votes
        (z, y, x) uint8, bit r set where ``raters[r]`` marked the voxel; None without raters.
    roi
        (z, y, x) bool, or None.
    vessels
        (z, y, x) uint8 labels 0 to 5, or None.
    geometry
        Spacing, origin and direction.
    attributes
        The caller's facts about the case (site, scanner).
    source
        Where the arrays come from; names only, no paths.
    """

    name: str
    probability: npt.NDArray[Any]
    raters: tuple[str, ...] = ()
    votes: npt.NDArray[np.uint8] | None = None
    roi: npt.NDArray[np.bool_] | None = None
    vessels: npt.NDArray[np.uint8] | None = None
    geometry: Geometry = field(default_factory=Geometry)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    source: Mapping[str, Any] = field(default_factory=dict)


def pack_votes(masks: Sequence[npt.NDArray[Any]]) -> npt.NDArray[np.uint8]:
    """Pack R masks of one shape, non-zero where marked, into one uint8 array: bit r for the r-th mask."""
    votes = np.zeros(masks[0].shape, dtype=np.uint8)
    for bit, mask in enumerate(masks):
        votes |= (mask != 0).astype(np.uint8) << np.uint8(bit)
    return votes
