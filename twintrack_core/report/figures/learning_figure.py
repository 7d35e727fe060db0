"""The learning curve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from twintrack_core.report.figures.drawing import CALIBRATED, RAW, AxesAt
from twintrack_core.validation import LearningCurve


@dataclass(frozen=True, eq=False)
class LearningFigure:
    """A metric of held-out cases against the number of cases fitted to.

    Attributes
    ----------
    curve
        What was found.
    label
        Title of the vertical axis.
    """

    curve: LearningCurve
    label: str

    @property
    def height(self) -> float:
        """Height of the figure in inches."""
        return 3.1

    def draw(self, axes_at: AxesAt) -> None:
        """Draw it."""
        axes, curve = axes_at(0.82, 0.52, 3.44, 2.42), self.curve
        axes.fill_between(
            curve.size,
            curve.low,
            curve.high,
            color=CALIBRATED["color"],
            alpha=0.2,
            linewidth=0,
            label="8 of 10 choices",
        )
        axes.axhline(curve.raw, color=RAW["color"], linestyle=RAW["linestyle"], label="raw scores")
        axes.plot(curve.size, curve.mean, label="calibrated", **CALIBRATED)
        top = np.nanmax(np.concatenate([curve.high, curve.mean, [curve.raw, 0.0]]))
        axes.set(xscale="log", xlabel="cases fitted to", ylabel=self.label, ylim=(0, 1.32 * top if top > 0 else 1))
        axes.set_xticks(curve.size, [str(size) for size in curve.size], minor=False)
        axes.set_xticks([], minor=True)
        axes.legend(loc="upper right", ncols=2, columnspacing=1.2)
