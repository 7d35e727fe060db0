"""Scores against single raters, and against all raters but one: p is a voxel's score, y a rater's mark, 0 or 1.

A rater's figure is over the cases that have the rater. The plain name of a metric is the mean over raters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt

from twintrack_core.errors import FitError, RequestError
from twintrack_core.metrics.cells import ScoredCells
from twintrack_core.metrics.metric import Metric, Noted, Result
from twintrack_core.metrics.proper import log_losses
from twintrack_core.metrics.reliability import N_BINS, binned
from twintrack_core.metrics.tables import Condensed, PanelScores


class OfRater(Protocol):
    """A function of cells and of the name of a rater."""

    def __call__(self, cells: ScoredCells, rater: str) -> Result:
        """Return the value for the rater; raise FitError where it is undefined."""


def with_rater(base: Metric, function: OfRater) -> Metric:
    """Return a metric that takes the name of a rater after a colon.

    Parameters
    ----------
    base
        The metric without a name.
    function
        Value for one rater.
    """

    def of_rater(rater: str) -> Metric:
        if not rater:
            raise RequestError(f"{base.name!r} is given a colon, but no rater.", "Allowed: the name of a rater.")
        text = base.description.removesuffix(", mean over raters")
        return replace(
            base,
            name=f"{base.name}:{rater}",
            function=partial(function, rater=rater),
            description=f"{text}; the rater is {rater}",
        )

    return replace(base, argument="NAME", with_argument=of_rater)


def ece_of_rater(cells: ScoredCells, rater: str) -> float:
    """Expected calibration error to a rater: mean over voxels of |mean p - mean y| of their bin, 15 bins."""
    return _mean(_alone(cells, rater).ece)


def brier_of_rater(cells: ScoredCells, rater: str) -> float:
    """Brier score to a rater: mean of (p - y)^2."""
    return _mean(_alone(cells, rater).brier)


def log_loss_of_rater(cells: ScoredCells, rater: str) -> Result:
    """Log loss to a rater: mean of -y log p - (1 - y) log(1 - p), in nats, p clipped to [2^-25, 1 - 2^-12]."""
    return _alone(cells, rater).log_loss("voxels have a score of 0 or 1 that the rater contradicts")


def ece_rater(cells: ScoredCells) -> float:
    """Mean over raters of `ece_of_rater`."""
    return _mean(_each_alone(cells).ece)


def log_loss_rater(cells: ScoredCells) -> Result:
    """Mean over raters of `log_loss_of_rater`."""
    return _each_alone(cells).log_loss("decisions of raters contradict a score of 0 or 1")


def brier_rater(cells: ScoredCells) -> float:
    """Brier score to the raters: mean over voxels of the mean over their raters of (p - y)^2.

    It is `brier_mhr` plus the mean of m (1 - m), m the mean of y: the disagreement that no score can mend.
    """
    scores = cells.scores
    loss = scores.mean * (1 - scores.score) ** 2 + (1 - scores.mean) * scores.score**2
    return float((scores.count * loss).sum() / cells.n_voxels)


def ece_without_rater(cells: ScoredCells, rater: str) -> float:
    """`ece_mhr` to the mean human response of all raters but one."""
    return _mean(_without(cells, rater).ece)


def brier_without_rater(cells: ScoredCells, rater: str) -> float:
    """`brier_mhr` to the mean human response of all raters but one."""
    return _mean(_without(cells, rater).brier)


def log_loss_without_rater(cells: ScoredCells, rater: str) -> Result:
    """`cross_entropy_mhr` to the mean human response of all raters but one."""
    return _without(cells, rater).log_loss("voxels have a score of 0 or 1 that a rater contradicts")


def ece_without(cells: ScoredCells) -> float:
    """Mean of `ece_without_rater` over the rater left out."""
    return _mean(_each_left_out(cells).ece)


def brier_without(cells: ScoredCells) -> float:
    """Mean of `brier_without_rater` over the rater left out."""
    return _mean(_each_left_out(cells).brier)


def log_loss_without(cells: ScoredCells) -> Result:
    """Mean of `log_loss_without_rater` over the rater left out."""
    return _each_left_out(cells).log_loss(
        "voxels, counted for every rater left out, have a score of 0 or 1 that a rater contradicts"
    )


@dataclass(frozen=True)
class _Sums:
    """Sums over voxels of scores against what each of some raters marked, or against the mean of all raters but each.

    Attributes
    ----------
    raters
        Names of the n raters.
    voxels, refuted
        (n,) int64 voxels of their cases, and those whose score of 0 or 1 is contradicted.
    gaps
        (n, 15) float64 sums of score less mark over bins.
    squares, losses
        (n,) float64 sums of squared differences, and of logarithmic losses.
    """

    raters: tuple[str, ...]
    voxels: npt.NDArray[np.int64]
    refuted: npt.NDArray[np.int64]
    gaps: npt.NDArray[np.float64]
    squares: npt.NDArray[np.float64]
    losses: npt.NDArray[np.float64]

    @property
    def ece(self) -> npt.NDArray[np.float64]:
        return np.asarray(np.abs(self.gaps).sum(axis=1) / self.voxels)

    @property
    def brier(self) -> npt.NDArray[np.float64]:
        return np.maximum(self.squares / self.voxels, 0)

    def log_loss(self, what: str) -> Result:
        """Return the mean over raters of the logarithmic loss; ``what`` has a score that was clipped."""
        value = _mean(self.losses / self.voxels)
        refuted, total = (sum(counts.tolist()) for counts in (self.refuted, self.voxels))
        return Noted(value, f"{refuted} of {total} {what}; it was clipped") if refuted else value

    def of(self, rater: str) -> _Sums:
        """Return those of a rater."""
        return self._take([self.raters.index(rater)])

    def with_voxels(self) -> _Sums:
        """Return those of the raters whose cases hold voxels."""
        return self if self.voxels.all() else self._take(np.flatnonzero(self.voxels).tolist())

    def _take(self, places: list[int]) -> _Sums:
        raters = tuple(self.raters[i] for i in places)
        voxels, refuted = self.voxels[places], self.refuted[places]
        return _Sums(raters, voxels, refuted, self.gaps[places], self.squares[places], self.losses[places])

    @classmethod
    def added(cls, parts: Sequence[_Sums]) -> _Sums:
        """Add those of several panels, in order."""
        if len(parts) == 1:
            return parts[0]
        raters = tuple(sorted({rater for part in parts for rater in part.raters}))
        n = len(raters)
        counts = np.zeros((2, n), dtype=np.int64)
        gaps, squares, losses = np.zeros((n, N_BINS)), np.zeros(n), np.zeros(n)
        for part in parts:
            places = [raters.index(rater) for rater in part.raters]
            counts[:, places] += (part.voxels, part.refuted)
            gaps[places] += part.gaps
            squares[places] += part.squares
            losses[places] += part.losses
        return cls(raters, counts[0], counts[1], gaps, squares, losses)


def _alone(cells: ScoredCells, rater: str) -> _Sums:
    """Return the sums against a rater."""
    cells.require_rater(rater)
    found = _each_alone(cells)
    if rater not in found.raters:
        raise FitError("there are no voxels")
    return found.of(rater)


def _without(cells: ScoredCells, rater: str) -> _Sums:
    """Return the sums against all raters but one."""
    cells.require_rater(rater)
    found = _against(cells)[1]
    if rater not in found.raters:
        raise FitError("there is no other rater")
    if rater not in found.with_voxels().raters:
        raise FitError("there are no voxels")
    return found.of(rater)


def _each_alone(cells: ScoredCells) -> _Sums:
    return _against(cells)[0].with_voxels()


def _each_left_out(cells: ScoredCells) -> _Sums:
    found = _against(cells)[1].with_voxels()
    if not found.raters:
        raise FitError("it takes 2 raters or more")
    return found


def _against(cells: ScoredCells) -> tuple[_Sums, _Sums]:
    """Return the sums against every rater, and for every rater who has another in some case; metrics share them."""
    return cells.once((__name__, "sums"), lambda: _sums_of(cells))


def _sums_of(cells: ScoredCells) -> tuple[_Sums, _Sums]:
    alone = [_against_each(table, *binned(cells, table)) for table in cells.tables]
    panels = zip(cells.tables, alone, strict=True)
    left_out = [_against_others(cells, table, found) for table, found in panels if len(table.raters) > 1]
    return _Sums.added(alone), _Sums.added(left_out)


def _against_each(
    table: PanelScores,
    expected: npt.NDArray[np.float64],
    by_marks: npt.NDArray[np.int64],
    by_rater: npt.NDArray[np.int64],
) -> _Sums:
    of_marked, of_unmarked = log_losses(table.code)
    marked = table.by_rater.astype(np.float64)
    unmarked = table.voxels - marked
    low, high = table.at_ends[1].T
    return _Sums(
        table.raters,
        voxels=np.full(len(table.raters), by_marks.sum()),
        refuted=low + table.at_ends[0][:, 1].sum() - high,
        gaps=expected - by_rater,
        squares=(marked * (1 - table.score) ** 2 + unmarked * table.score**2).sum(axis=1),
        losses=(marked * of_marked + unmarked * of_unmarked).sum(axis=1),
    )


def _against_others(cells: ScoredCells, table: PanelScores, alone: _Sums) -> _Sums:
    """Return the sums against the others of a panel.

    What is linear in the mean of their marks y is the mean of what is against each of them; so is the square, but for
    the mean of y^2, which is y, in place of the square of the mean.
    """
    others = ~np.eye(len(table.raters), dtype=bool)

    def mean(sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.stack([sums[chosen].mean(axis=0) for chosen in others])

    disagreement = cells.of_marks((__name__, table.raters), lambda _: _disagreement(table.condensed))
    return _Sums(
        table.raters,
        alone.voxels,
        table.contradicted_by_others(),
        mean(alone.gaps),
        mean(alone.squares) - disagreement,
        mean(alone.losses),
    )


def _disagreement(condensed: Condensed) -> npt.NDArray[np.float64]:
    """Return the sum over voxels of m (1 - m), m the mean of all raters but each, (R,) float64."""
    patterns = np.arange(len(condensed.count))
    others = len(condensed.raters) - 1
    without = [np.bitwise_count(patterns & ~(1 << bit)) / others for bit in range(len(condensed.raters))]
    return np.array([float((condensed.count * mhr * (1 - mhr)).sum()) for mhr in without])


def _mean(values: npt.NDArray[np.float64]) -> float:
    return math.fsum(values.tolist()) / len(values)


METRICS = (
    with_rater(
        Metric(
            name="ece_rater",
            function=ece_rater,
            unit="1",
            better="lower",
            range=(0.0, 1.0),
            description=f"Expected calibration error to a rater's marks, {N_BINS} equal bins, mean over raters",
            source="Naeini, Cooper and Hauskrecht, AAAI 2015",
        ),
        ece_of_rater,
    ),
    with_rater(
        Metric(
            name="brier_rater",
            function=brier_rater,
            unit="1",
            better="lower",
            range=(0.0, 1.0),
            description="Brier score to a rater's marks, mean over raters",
            source="Brier, Monthly Weather Review 1950",
        ),
        brier_of_rater,
    ),
    with_rater(
        Metric(
            name="log_loss_rater",
            function=log_loss_rater,
            unit="nat",
            better="lower",
            range=(0.0, math.inf),
            description="Log loss to a rater's marks, natural logarithm, mean over raters",
            source="Good, Journal of the Royal Statistical Society B 1952",
        ),
        log_loss_of_rater,
    ),
    with_rater(
        Metric(
            name="ece_without",
            function=ece_without,
            unit="1",
            better="lower",
            range=(0.0, 1.0),
            description="ece_mhr to the raters but one, mean over raters",
            source="ece_mhr, leaving one rater out",
        ),
        ece_without_rater,
    ),
    with_rater(
        Metric(
            name="brier_without",
            function=brier_without,
            unit="1",
            better="lower",
            range=(0.0, 1.0),
            description="brier_mhr to the raters but one, mean over raters",
            source="brier_mhr, leaving one rater out",
        ),
        brier_without_rater,
    ),
    with_rater(
        Metric(
            name="log_loss_without",
            function=log_loss_without,
            unit="nat",
            better="lower",
            range=(0.0, math.inf),
            description="cross_entropy_mhr to the raters but one, mean over raters",
            source="cross_entropy_mhr, leaving one rater out",
        ),
        log_loss_without_rater,
    ),
)
