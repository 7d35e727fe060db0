"""The map: what a score becomes, how far that may lie off, and how many voxels have such a score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from twintrack_core.report.figures.drawing import (
    CALIBRATED,
    HAIR,
    QUIET,
    RAW,
    SQUARE_HEIGHT,
    THIRD,
    AxesAt,
    finish_square,
    square_over_counts,
)

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class MapFigure:
    """A map.

    Attributes
    ----------
    score, value
        (n,) knots.
    band
        Scores, and the low and high ends of the band of refitted maps there; None without.
    bounds
        (n,) lower and upper bounds of the map itself; None without.
    edges, voxels
        (k + 1,) edges of the bins of the score, and (k,) voxels in them.
    target
        Title of the vertical axis.
    """

    score: _Floats
    value: _Floats
    band: tuple[_Floats, _Floats, _Floats] | None
    bounds: tuple[_Floats, _Floats] | None
    edges: _Floats
    voxels: _Floats
    target: str

    @property
    def height(self) -> float:
        """Height of the figure in inches."""
        return SQUARE_HEIGHT

    def draw(self, axes_at: AxesAt) -> None:
        """Draw it."""
        axes, below = square_over_counts(axes_at)
        # Beyond its outermost knots a map is constant.
        score = np.concatenate([[0.0], self.score, [1.0]])
        if self.bounds is not None:
            for bound, label in zip(self.bounds, ("its own bounds", None), strict=True):
                ends = np.concatenate([bound[:1], bound, bound[-1:]])
                axes.plot(score, ends, color=THIRD, linewidth=1.1, linestyle="-.", label=label, zorder=3)
        if self.band is not None:
            place, low, high = self.band
            axes.fill_between(
                place, low, high, color=CALIBRATED["color"], alpha=0.2, linewidth=0, label="band of refitted maps"
            )
        value = np.concatenate([self.value[:1], self.value, self.value[-1:]])
        axes.plot(score, value, color=CALIBRATED["color"], label="map", zorder=4)
        axes.plot([], [], color=QUIET, linewidth=0.9, linestyle=":", label="no change")
        below.stairs(np.maximum(self.voxels, 0.5), self.edges, baseline=0.5, fill=True, color=HAIR)
        below.stairs(np.maximum(self.voxels, 0.5), self.edges, baseline=0.5, color=RAW["color"], linewidth=1.1)
        finish_square(axes, below, "raw score", self.target)
