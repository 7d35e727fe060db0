"""The reliability diagram: what voxels are scored, what raters say of them, and how many voxels say so."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from twintrack_core.metrics import Reliability
from twintrack_core.metrics.reliability import N_BINS
from twintrack_core.report.figures.drawing import (
    CALIBRATED,
    PAPER,
    QUIET,
    RAW,
    SQUARE_HEIGHT,
    AxesAt,
    finish_square,
    square_over_counts,
)

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Binned:
    """Data of one curve: its bins, and the ends of the interval of each bin's mean human response."""

    bins: Reliability
    low: _Floats
    high: _Floats


@dataclass(frozen=True, eq=False)
class ReliabilityFigure:
    """The scores before and after."""

    raw: Binned
    calibrated: Binned

    @property
    def height(self) -> float:
        """Height of the figure in inches."""
        return SQUARE_HEIGHT

    def draw(self, axes_at: AxesAt) -> None:
        """Draw it."""
        axes, below = square_over_counts(axes_at)
        edges = np.arange(N_BINS + 1) / N_BINS
        for label, shown, style in (("raw", self.raw, RAW), ("calibrated", self.calibrated, CALIBRATED)):
            there = shown.bins.voxels > 0
            score, response = shown.bins.mean_score[there], shown.bins.mean_mhr[there]
            axes.vlines(score, shown.low[there], shown.high[there], color=style["color"], linewidth=1.1, zorder=2)
            axes.plot(score, response, label=label, markeredgecolor=PAPER, markeredgewidth=0.6, zorder=3, **style)
            below.stairs(
                np.maximum(shown.bins.voxels, 0.5), edges, baseline=0.5, color=style["color"],
                linestyle=style["linestyle"], linewidth=1.3,
            )  # fmt: skip
        axes.plot([], [], color=QUIET, linewidth=0.9, linestyle=":", label="perfectly calibrated")
        finish_square(axes, below, "score", "mean human response")
