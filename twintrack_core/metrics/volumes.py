"""What a metric of volumes sees: the arrays of one case, cropped to where anything is written."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from twintrack_core.codes import CODE_VALUES
from twintrack_core.errors import FitError


@dataclass(frozen=True, eq=False)
class CaseVolumes:
    """Arrays of one case: the box that holds everything that is written, and one voxel around it where there is one.

    Beyond the box nobody marked anything, there is no vessel, and every score is `background`.

    Attributes
    ----------
    codes
        (z, y, x) uint16 score codes before calibration; the mean of several members.
    values
        (15361,) float64 score that each code stands for: its own, or what a calibration map makes of it, rounded to
        float16 as in the volume that it would write.
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
        Voxels of the whole volume along (z, y, x).
    background_code
        Score code of every voxel beyond the box.
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

    @property
    def background(self) -> float:
        """Score of every voxel beyond the box."""
        return float(self.values[self.background_code])

    def scores(self) -> npt.NDArray[np.float32]:
        """Scores, (z, y, x) float32, which holds them exactly."""
        return self.values.astype(np.float32)[self.codes]

    def above(self, threshold: float) -> npt.NDArray[np.bool_]:
        """Where the score is above a threshold, (z, y, x) bool; compared in float64."""
        return np.asarray((self.values > threshold)[self.codes])

    def marked_by(self, rater: str) -> npt.NDArray[np.bool_]:
        """Where a rater marked, (z, y, x) bool."""
        return (self._votes() >> np.uint8(self.raters.index(rater)) & 1).astype(bool)

    def mhr_above(self, threshold: float) -> npt.NDArray[np.bool_]:
        """Where the mean human response is above a threshold, (z, y, x) bool; compared in float64."""
        marks = np.bitwise_count(np.arange(256))
        return np.asarray((marks / len(self.raters) > threshold)[self._votes()])

    def _votes(self) -> npt.NDArray[np.uint8]:
        if self.votes is None:
            raise FitError("there are no raters")
        return self.votes
