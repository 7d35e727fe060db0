"""What a metric of volumes sees: the arrays of one case, cropped to where anything is written."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from twintrack_core.codes import CODE_VALUES, MAX_RATERS, N_CODES
from twintrack_core.errors import FitError, RequestError
from twintrack_core.metrics.once import Once

Extent = tuple[slice, slice, slice]
"""A half-open box of voxels."""


@dataclass(frozen=True, eq=False)
class CaseVolumes(Once):
    """Arrays of one case: the box that holds everything that is written, and one voxel around it where there is one.

    Beyond the box nobody marked anything, there is no vessel, and every score is `background`.

    Attributes
    ----------
    codes
        (z, y, x) uint16 score codes before calibration; the mean of several members.
    values
        (15361,) float64 score that each code stands for, non-decreasing: its own, or what a calibration map makes of
        it, rounded to float16 as in the volume that it would write.
    raters
        Names of the R raters in bit order.
    votes
        (z, y, x) uint8, bit r set where ``raters[r]`` marked the voxel; None without raters.
    vessels
        (z, y, x) uint8 labels 0 to 5; None if the case has none.
    spacing_mm
        Voxel size in mm along (z, y, x).
    start
        First voxel of the box in the whole volume.
    shape
        Voxels of the whole volume along (z, y, x); those of the box unless given.
    background_code
        Score code of every voxel beyond the box.

    Raises
    ------
    RequestError
        For arrays that are none of these: other shapes, dtypes or codes, votes without raters, a decreasing table, or
        a box that does not lie in the volume.
    """

    codes: npt.NDArray[np.uint16]
    raters: tuple[str, ...] = ()
    votes: npt.NDArray[np.uint8] | None = None
    vessels: npt.NDArray[np.uint8] | None = None
    values: npt.NDArray[np.float64] = field(default_factory=lambda: CODE_VALUES)
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    start: tuple[int, int, int] = (0, 0, 0)
    shape: tuple[int, int, int] | None = None
    background_code: int = 0

    def __post_init__(self) -> None:
        _require(self.codes.ndim == 3 and self.codes.size > 0, "codes", self.codes.shape, "(z, y, x)")
        _require(self.codes.dtype == np.uint16, "codes", self.codes.dtype, "uint16")
        for name, code in (("codes", int(self.codes.max())), ("background_code", self.background_code)):
            _require(0 <= code < N_CODES, name, code, f"0 to {N_CODES - 1}")
        for name, array in (("votes", self.votes), ("vessels", self.vessels)):
            if array is not None:
                _require(array.shape == self.codes.shape, name, array.shape, f"{self.codes.shape}, as codes")
                _require(array.dtype == np.uint8, name, array.dtype, "uint8")
        _require(len(self.raters) <= MAX_RATERS, "raters", self.raters, f"at most {MAX_RATERS}")
        _require(self.votes is None or bool(self.raters), "raters", self.raters, "one or more with votes")
        _require(self.values.shape == (N_CODES,), "values", self.values.shape, f"({N_CODES},)")
        _require(not (np.diff(self.values) < 0).any(), "values", "decreasing", "a non-decreasing table")
        lengths_fit = len(self.spacing_mm) == 3 and all(0 < length < math.inf for length in self.spacing_mm)
        _require(lengths_fit, "spacing_mm", self.spacing_mm, "three finite lengths above 0, in mm")
        for name in ("codes", "votes", "vessels", "values"):
            array = getattr(self, name)
            if array is not None and array.flags.writeable:  # a view that no metric can change for the others
                array = array.view()
                array.flags.writeable = False
                object.__setattr__(self, name, array)
        if self.shape is None:
            object.__setattr__(self, "shape", self.codes.shape)
        inside = len(self.start) == len(self._shape) == 3 and all(
            low >= 0 and low + length <= size
            for low, length, size in zip(self.start, self.codes.shape, self._shape, strict=True)
        )
        _require(inside, "start", self.start, f"a box of {self.codes.shape} in a volume of {self.shape}")

    @property
    def background(self) -> float:
        """Score of every voxel beyond the box."""
        return float(self.values[self.background_code])

    @property
    def is_whole(self) -> bool:
        """Whether the box is the whole volume, so that there is no voxel beyond it."""
        return self.codes.shape == self.shape

    def scores(self) -> npt.NDArray[np.float32]:
        """Scores, (z, y, x) float32, which holds them exactly."""
        table = self.values.astype(np.float32)
        scores = np.empty(self.codes.shape, dtype=np.float32)
        for plane, codes in zip(scores, self.codes, strict=True):
            plane[...] = table[codes]  # NumPy makes 8 bytes of every index: not of the whole box at once
        return scores

    def above(self, threshold: float) -> npt.NDArray[np.bool_]:
        """Where the score is above a threshold, (z, y, x) bool; compared in float64."""
        first = np.searchsorted(self.values, threshold, side="right")  # the table does not decrease
        return np.asarray(self.codes >= np.uint16(first))

    def marked_by(self, rater: str) -> npt.NDArray[np.bool_]:
        """Where a rater marked, (z, y, x) bool.

        Raises
        ------
        FitError
            If there is no such rater; metrics that let it pass are undefined then.
        """
        if rater not in self.raters:
            raise FitError(f"there is no rater {rater!r}")
        return np.asarray((self._votes() & np.uint8(1 << self.raters.index(rater))) != 0)

    def mhr_above(self, threshold: float) -> npt.NDArray[np.bool_]:
        """Where the mean human response is above a threshold, (z, y, x) bool; compared in float64.

        Raises
        ------
        FitError
            If there are no raters; metrics that let it pass are undefined then.
        """
        marks = np.bitwise_count(self._votes())
        enough = np.arange(len(self.raters) + 1) / len(self.raters) > threshold
        return np.asarray(marks >= np.uint8(np.argmax(enough) if enough.any() else len(enough)))

    @property
    def _shape(self) -> tuple[int, ...]:
        return self.shape or ()

    def _votes(self) -> npt.NDArray[np.uint8]:
        if self.votes is None:
            raise FitError("there are no raters")
        return self.votes


def extent(mask: npt.NDArray[np.bool_]) -> Extent | None:
    """Return the smallest box that holds everything that is set in a (z, y, x) mask; None if nothing is."""
    plane = np.asarray(mask.any(axis=0))
    sides = (mask.any(axis=(1, 2)), plane.any(axis=1), plane.any(axis=0))
    if not sides[0].any():
        return None
    z, y, x = (np.flatnonzero(side)[[0, -1]].tolist() for side in sides)
    return slice(z[0], z[1] + 1), slice(y[0], y[1] + 1), slice(x[0], x[1] + 1)


def _require(condition: bool, name: str, value: object, allowed: str) -> None:
    if not condition:
        raise RequestError(f"Volumes of a case: {name} is {value!s:.120}.", f"Allowed: {allowed}.")
