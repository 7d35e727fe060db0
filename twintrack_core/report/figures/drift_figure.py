"""Drift: how scores are spread among the fitted and the new cases, and how many cases stand behind each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from twintrack_core.report.figures.drawing import HAIR, QUIET, THIRD, AxesAt
from twintrack_core.validation import Drift


@dataclass(frozen=True, eq=False)
class DriftFigure:
    """The histograms of drift, and its support."""

    drift: Drift

    @property
    def height(self) -> float:
        """Height of the figure in inches."""
        return 4.4

    def draw(self, axes_at: AxesAt) -> None:
        """Draw it."""
        from matplotlib.ticker import FixedLocator, NullLocator

        from twintrack_core.report.numbers import power_of_ten

        axes, below = axes_at(0.72, 1.95, 3.56, 2.3), axes_at(0.72, 0.5, 3.56, 1.2)
        found = self.drift
        edges = np.linspace(0, 1, len(found.support) + 1)
        shares = np.concatenate([found.fitted, found.new])
        floor = 10.0 ** np.floor(np.log10(shares[shares > 0].min()))
        axes.stairs(
            np.maximum(found.fitted, floor), edges, baseline=floor, color=QUIET, linestyle=(0, (3, 1.5)),
            linewidth=1.3, label="cases fitted to",
        )  # fmt: skip
        axes.stairs(
            np.maximum(found.new, floor), edges, baseline=floor, color=THIRD, linewidth=1.6,
            label="cases looked at",
        )  # fmt: skip
        axes.set_yscale("log")
        exponents = range(int(np.log10(floor)), 1)
        shown = list(exponents)[:: -max(1, (len(exponents) + 4) // 5)]
        axes.yaxis.set_major_locator(FixedLocator([10.0**k for k in shown]))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_yticklabels(["1" if k == 0 else power_of_ten(k) for k in shown])
        axes.set(ylabel="share of voxels", xlim=(0, 1), ylim=(floor, 3))
        axes.tick_params(labelbottom=False)
        axes.legend(loc="upper center")
        below.stairs(found.support, edges, fill=True, color=HAIR)
        below.stairs(found.support, edges, color=QUIET, linewidth=1.1)
        below.axhline(found.least, color=QUIET, linewidth=1.1, linestyle="--")
        below.set(xlabel="raw score", ylabel="cases behind", xlim=(0, 1), ylim=(0, None))
        below.locator_params(axis="y", nbins=4)
