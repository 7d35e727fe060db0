"""Candidates of a comparison: how far each is from the raw scores, with its intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from twintrack_core.report.figures.drawing import CALIBRATED, INK, PAPER, THIRD, WIDTH, AxesAt, shortened
from twintrack_core.validation import Estimate

_Kind: TypeAlias = tuple[Sequence[Estimate | None], float, str, str, Any, str]
"""Estimates, how far they are moved down, colour, marker, line style and label."""


@dataclass(frozen=True, eq=False)
class ForestFigure:
    """Differences to the raw scores, the best at the top.

    Attributes
    ----------
    labels
        Of the n candidates.
    fixed
        Their differences; the intervals resample test cases, the maps fixed.
    refitted
        The same with maps refitted in every draw; None where that was not asked for.
    label
        Title of the horizontal axis.
    """

    labels: tuple[str, ...]
    fixed: tuple[Estimate, ...]
    refitted: tuple[Estimate | None, ...]
    label: str

    @property
    def height(self) -> float:
        """Height of the figure in inches."""
        return 1.05 + 0.3 * len(self.labels) + 0.2 * self._refits

    @property
    def _refits(self) -> bool:
        return any(each is not None for each in self.refitted)

    def draw(self, axes_at: AxesAt) -> None:
        """Draw it."""
        labels = [shortened(label, 22) for label in self.labels]
        left = 0.25 + 0.082 * max(len(label) for label in labels)
        head = 0.42 + 0.2 * self._refits
        axes = axes_at(left, 0.55, WIDTH - left - 0.16, self.height - 0.55 - head)
        place = np.arange(len(labels))
        shift = 0.15 if self._refits else 0.0
        kinds: list[_Kind] = [(self.fixed, -shift, str(CALIBRATED["color"]), "o", "-", "maps fixed")]
        if self._refits:
            kinds.append((self.refitted, shift, THIRD, "D", (0, (3, 1.5)), "maps refitted"))
        for found, offset, colour, marker, line, label in kinds:
            for where, each in zip(place + offset, found, strict=True):
                if each is not None and each.low is not None and each.high is not None:
                    axes.hlines(where, each.low, each.high, color=colour, linestyle=line, linewidth=1.5)
            means = [np.nan if each is None or each.mean is None else each.mean for each in found]
            axes.plot(
                means, place + offset, color=colour, marker=marker, linestyle="none", markersize=6,
                markeredgecolor=PAPER, markeredgewidth=0.8, label=label,
            )  # fmt: skip
        axes.axvline(0, color=INK, linewidth=1)
        axes.set_yticks(place, labels)
        axes.set(ylim=(len(labels) - 0.4, -0.6), xlabel=self.label)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.locator_params(axis="x", nbins=4, steps=[1, 2, 4, 5, 10])
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.1, handlelength=0.8)
