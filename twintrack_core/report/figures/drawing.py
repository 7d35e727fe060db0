"""What a figure is to the page, before anything is drawn."""

from __future__ import annotations

from typing import Any, Protocol

Axes = Any
"""An axes of matplotlib, which is imported only to draw."""

RAW = {"color": "#000a01", "marker": "s", "linestyle": (0, (4, 2))}
CALIBRATED = {"color": "#000a02", "marker": "o", "linestyle": "-"}
"""How the scores before and after look everywhere: colour, marker and line, so that none is needed to tell them."""

COLOURS = {
    "#000a01": "--raw",
    "#000a02": "--calibrated",
    "#000a03": "--ink",
    "#000a04": "--quiet",
    "#000a05": "--hair",
    "#000a06": "--paper",
    "#000a07": "--third",
}
"""What is drawn with, and the CSS variables that take its place: those of the page, light, dark or printed."""

INK, QUIET, HAIR, PAPER, THIRD = "#000a03", "#000a04", "#000a05", "#000a06", "#000a07"

WIDTH = 4.4
"""Width of a figure in inches: narrow, so that its text can still be read in the column of a phone."""


class Drawing(Protocol):
    """Data that can be drawn."""

    @property
    def height(self) -> float:
        """Height of the figure in inches."""

    def draw(self, axes_at: AxesAt) -> None:
        """Draw it.

        Parameters
        ----------
        axes_at
            Makes axes at left, bottom, width and height in inches.
        """


class AxesAt(Protocol):
    """Makes axes at a place."""

    def __call__(self, left: float, bottom: float, width: float, height: float) -> Axes:
        """Make axes at left, bottom, width and height in inches."""


SQUARE_HEIGHT = 5.42
"""Height in inches of a figure of `square_over_counts`."""


def square_over_counts(axes_at: AxesAt) -> tuple[Axes, Axes]:
    """Make square axes from 0 to 1, with where scores are what they say, and axes of voxels under them."""
    axes, below = axes_at(0.68, 1.62, 3.62, 3.62), axes_at(0.68, 0.5, 3.62, 0.92)
    axes.plot((0, 1), (0, 1), color=QUIET, linewidth=0.9, linestyle=":", zorder=1)
    ticks = [0, 0.2, 0.4, 0.6, 0.8, 1]
    axes.set(xlim=(-0.015, 1.015), ylim=(-0.015, 1.015), xticks=ticks, yticks=ticks)
    return axes, below


def finish_square(axes: Axes, below: Axes, score: str, response: str) -> None:
    """Name the axes that `square_over_counts` made, once all is drawn."""
    axes.set(ylabel=response)
    axes.tick_params(labelbottom=False)
    axes.legend(loc="upper left")
    below.set(xlabel=score, xlim=axes.get_xlim(), xticks=axes.get_xticks())
    counts_below(below, "voxels")


def counts_below(axes: Axes, label: str) -> None:
    """Make the vertical axis one of voxels by powers of ten, the smallest bar being of one voxel."""
    from matplotlib.ticker import FixedLocator, NullLocator

    from twintrack_core.report.numbers import power_of_ten

    axes.set_yscale("log")
    top = max(axes.get_ylim()[1], 10.0)
    decades = [k for k in range(20) if 10.0**k <= top]
    shown = decades[:: max(1, (len(decades) + 2) // 3)]
    axes.yaxis.set_major_locator(FixedLocator([10.0**k for k in shown]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_yticklabels(["1" if k == 0 else "10" if k == 1 else power_of_ten(k) for k in shown])
    axes.set_ylim(0.5, top * 1.6)
    axes.set_ylabel(label)


def shortened(name: str, most: int = 16) -> str:
    """Return a name that fits beside an axis, without its middle: names often differ at their ends."""
    tail = most // 2
    return name if len(name) <= most else f"{name[: most - 1 - tail]}…{name[-tail:]}"
