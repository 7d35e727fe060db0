"""Cases one by one: what each was and became, or for many of them how the differences are spread."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from twintrack_core.report.figures.drawing import (
    CALIBRATED,
    HAIR,
    INK,
    PAPER,
    QUIET,
    RAW,
    WIDTH,
    AxesAt,
    shortened,
)

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CasesFigure:
    """A line a case, from its raw to its calibrated value; the first is at the top.

    Attributes
    ----------
    names
        Of the n cases.
    raw, calibrated
        (n,) values, 0 or more.
    label
        Title of the horizontal axis.
    """

    names: tuple[str, ...]
    raw: _Floats
    calibrated: _Floats
    label: str

    @property
    def height(self) -> float:
        """Height of the figure in inches."""
        return 0.95 + 0.21 * len(self.names)

    def draw(self, axes_at: AxesAt) -> None:
        """Draw it."""
        left = 0.3 + 0.085 * max(len(shortened(name)) for name in self.names)
        axes = axes_at(left, 0.52, WIDTH - left - 0.16, self.height - 0.85)
        place = np.arange(len(self.names))
        axes.hlines(
            place,
            np.minimum(self.raw, self.calibrated),
            np.maximum(self.raw, self.calibrated),
            color=QUIET,
            linewidth=1.2,
        )
        for label, values, style in (("raw", self.raw, RAW), ("calibrated", self.calibrated, CALIBRATED)):
            axes.plot(
                values, place, color=style["color"], marker=style["marker"], markersize=6, linestyle="none",
                markeredgecolor=PAPER, markeredgewidth=0.8, label=label,
            )  # fmt: skip
        axes.set_yticks(place, [shortened(name) for name in self.names])
        axes.set(xlim=(0, None), ylim=(len(self.names) - 0.4, -0.6), xlabel=self.label)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="y")
        axes.locator_params(axis="x", nbins=5)
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderaxespad=0.1, handlelength=0.8)


@dataclass(frozen=True, eq=False)
class DifferencesFigure:
    """How many cases changed by how much.

    Attributes
    ----------
    edges, cases
        (k + 1,) edges of bins of the difference, 0 among them, and (k,) cases in each.
    label
        Title of the horizontal axis.
    """

    edges: _Floats
    cases: npt.NDArray[np.int64]
    label: str

    @property
    def height(self) -> float:
        """Height of the figure in inches."""
        return 2.8

    def draw(self, axes_at: AxesAt) -> None:
        """Draw it."""
        axes = axes_at(0.62, 0.52, 3.62, 2.1)
        axes.stairs(self.cases, self.edges, fill=True, color=HAIR)
        axes.stairs(self.cases, self.edges, color=CALIBRATED["color"], linewidth=1.2)
        axes.axvline(0, color=INK, linewidth=1)
        axes.set(xlabel=self.label, ylabel="cases", ylim=(0, None))
        axes.locator_params(axis="x", nbins=5)
        axes.locator_params(axis="y", integer=True, nbins=5)
