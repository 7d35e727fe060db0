"""Scores against single raters, and against all raters but one: p is a voxel's score, y a rater's mark, 0 or 1.

A rater's figure is over the cases that have the rater. The plain name of a metric is the mean over raters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt

from twintrack_core.codes import CODE_ONE
from twintrack_core.errors import FitError, RequestError
from twintrack_core.metrics.cells import LabelledScores, Panel, ScoredCells
from twintrack_core.metrics.metric import Metric, Noted, Result
from twintrack_core.metrics.proper import log_losses
from twintrack_core.metrics.reliability import N_BINS, bins_of, sums


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
    found = _marks(cells, rater)
    place = bins_of(found.score)
    voxels = found.marked + found.unmarked
    gap = np.abs(sums(place, voxels * found.score) - sums(place, found.marked))
    return float(gap.sum() / int(voxels.sum()))


def brier_of_rater(cells: ScoredCells, rater: str) -> float:
    """Brier score to a rater: mean of (p - y)^2."""
    found = _marks(cells, rater)
    loss = found.marked * (1 - found.score) ** 2 + found.unmarked * found.score**2
    return float(loss.sum() / int((found.marked + found.unmarked).sum()))


def log_loss_of_rater(cells: ScoredCells, rater: str) -> Result:
    """Log loss to a rater: mean of -y log p - (1 - y) log(1 - p), in nats, p clipped to [2^-25, 1 - 2^-12]."""
    return _log_loss(cells, rater).noted("voxels have a score of 0 or 1 that the rater contradicts")


def ece_rater(cells: ScoredCells) -> float:
    """Mean over raters of `ece_of_rater`."""
    return _mean([ece_of_rater(cells, rater) for rater in _raters(cells)])


def log_loss_rater(cells: ScoredCells) -> Result:
    """Mean over raters of `log_loss_of_rater`."""
    found = [_log_loss(cells, rater) for rater in _raters(cells)]
    return _together(found).noted("decisions of raters contradict a score of 0 or 1")


def brier_rater(cells: ScoredCells) -> float:
    """Brier score to the raters: mean over voxels of the mean over their raters of (p - y)^2.

    It is `brier_mhr` plus the mean of m (1 - m), m the mean of y: the disagreement that no score can mend.
    """
    scores = cells.scores
    loss = scores.mean * (1 - scores.score) ** 2 + (1 - scores.mean) * scores.score**2
    return float((scores.count * loss).sum() / cells.n_voxels)


def ece_without_rater(cells: ScoredCells, rater: str) -> float:
    """`ece_mhr` to the mean human response of all raters but one."""
    return _without(cells, rater).ece


def brier_without_rater(cells: ScoredCells, rater: str) -> float:
    """`brier_mhr` to the mean human response of all raters but one."""
    return _without(cells, rater).brier


def log_loss_without_rater(cells: ScoredCells, rater: str) -> Result:
    """`cross_entropy_mhr` to the mean human response of all raters but one."""
    return _without(cells, rater).log_loss.noted("voxels have a score of 0 or 1 that a rater contradicts")


def ece_without(cells: ScoredCells) -> float:
    """Mean of `ece_without_rater` over the rater left out."""
    return _mean([found.ece for found in _all_left_out(cells)])


def brier_without(cells: ScoredCells) -> float:
    """Mean of `brier_without_rater` over the rater left out."""
    return _mean([found.brier for found in _all_left_out(cells)])


def log_loss_without(cells: ScoredCells) -> Result:
    """Mean of `log_loss_without_rater` over the rater left out."""
    found = _together([found.log_loss for found in _all_left_out(cells)])
    return found.noted("voxels, counted for every rater left out, have a score of 0 or 1 that a rater contradicts")


@dataclass(frozen=True)
class _LogLoss:
    """A mean logarithmic loss, and how many of how many decisions contradicted a score that was clipped."""

    value: float
    refuted: int
    total: int

    def noted(self, what: str) -> Result:
        if not self.refuted:
            return self.value
        return Noted(self.value, f"{self.refuted} of {self.total} {what}; it was clipped")


@dataclass
class _LeftOut:
    """Sums over voxels of scores against the mean human response of all raters but one."""

    voxels: int = 0
    gaps: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(N_BINS))
    squares: float = 0.0
    losses: float = 0.0
    refuted: int = 0

    @property
    def ece(self) -> float:
        return float(np.abs(self.gaps).sum() / self.voxels)

    @property
    def brier(self) -> float:
        return max(0.0, self.squares / self.voxels)

    @property
    def log_loss(self) -> _LogLoss:
        return _LogLoss(self.losses / self.voxels, self.refuted, self.voxels)


def _without(cells: ScoredCells, rater: str) -> _LeftOut:
    cells.require_rater(rater)
    found = _left_out(cells).get(rater)
    if found is None:
        raise FitError("there is no other rater")
    if not found.voxels:
        raise FitError("there are no voxels")
    return found


def _left_out(cells: ScoredCells) -> dict[str, _LeftOut]:
    """Return the sums for every rater who has another in some case; three metrics share them."""
    return cells.once((__name__, "left out"), lambda: _leave_out(cells))


def _leave_out(cells: ScoredCells) -> dict[str, _LeftOut]:
    found: dict[str, _LeftOut] = {}
    for panel in cells.panels:
        if len(panel.raters) > 1:
            cases = tuple(case for case in cells.cases if set(case.histogram.raters) == set(panel.raters))
            alike = cells if len(cases) == len(cells.cases) else replace(cells, cases=cases)
            _add_panel(found, alike, panel)
    return found


def _add_panel(found: dict[str, _LeftOut], cells: ScoredCells, panel: Panel) -> None:
    """Add the voxels of cases that share a panel, for every rater of it.

    It takes no more of the others' marks than how many there are at each score and, for the squares, how many there
    are of each pattern.
    """
    score, count = cells.scores.score, cells.scores.count
    place = bins_of(score)
    of_marked, of_unmarked = log_losses(score)
    n_voxels, expected = int(count.sum()), sums(place, count * score)
    square, unmarked_loss = float((count * score**2).sum()), float((count * of_unmarked).sum())
    own = [cells.labelled(f"rater:{rater}").marked for rater in panel.raters]
    everybodys = np.sum(own, axis=0, dtype=np.float64)  # R times as many as there are voxels: int64 might overflow
    for bit, rater in enumerate(panel.raters):
        marked = (everybodys - own[bit]) / (len(own) - 1)
        mhr = np.bitwise_count(np.arange(len(panel.count)) & ~(1 << bit)) / (len(own) - 1)
        total = found.setdefault(rater, _LeftOut())
        total.voxels += n_voxels
        total.gaps += expected - sums(place, marked)
        total.squares += square - 2 * float((score * marked).sum()) + float((panel.count * mhr**2).sum())
        total.losses += unmarked_loss + float((marked * (of_marked - of_unmarked)).sum())
        total.refuted += _refuted(cells, rater)


def _refuted(cells: ScoredCells, left_out: str) -> int:
    """Return the voxels with a score of 0 or 1 that a rater other than one contradicts."""
    refuted = 0
    for case in cells.cases:
        histogram = case.histogram
        others = (1 << len(histogram.raters)) - 1 - (1 << histogram.raters.index(left_out))
        marked = histogram.pattern & np.uint8(others)
        contradicted = ((histogram.code == 0) & (marked != 0)) | ((histogram.code == CODE_ONE) & (marked != others))
        if cells.region == "roi":
            contradicted &= histogram.region == 1
        refuted += int(histogram.count[contradicted].sum())
    return refuted


def _all_left_out(cells: ScoredCells) -> list[_LeftOut]:
    found = [sums_of_one for sums_of_one in _left_out(cells).values() if sums_of_one.voxels]
    if not found:
        raise FitError("it takes 2 raters or more")
    return found


def _raters(cells: ScoredCells) -> list[str]:
    """Return the raters whose cases hold voxels."""
    return [rater for rater in cells.raters if len(cells.labelled(f"rater:{rater}").score)]


def _marks(cells: ScoredCells, rater: str) -> LabelledScores:
    found = cells.labelled(f"rater:{rater}")
    if not len(found.score):
        raise FitError("there are no voxels")
    return found


def _log_loss(cells: ScoredCells, rater: str) -> _LogLoss:
    found = _marks(cells, rater)
    of_marked, of_unmarked = log_losses(found.score)
    total = int((found.marked + found.unmarked).sum())
    value = float((found.marked * of_marked + found.unmarked * of_unmarked).sum() / total)
    refuted = found.marked[found.score == 0].sum() + found.unmarked[found.score == 1].sum()
    return _LogLoss(value, int(refuted), total)


def _together(found: list[_LogLoss]) -> _LogLoss:
    return _LogLoss(
        _mean([loss.value for loss in found]), sum(loss.refuted for loss in found), sum(loss.total for loss in found)
    )


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


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
