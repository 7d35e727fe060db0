"""Guards of a fit: scores pooled until enough cases stand behind them, and means drawn towards the score."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from twintrack_core.errors import FitError
from twintrack_core.targets import BinnedTarget, CaseTargets

_Floats = npt.NDArray[np.float64]

_SHORT = 32  # most groups have fewer scores, and are found for all starts at once


def pool_scores(binned: BinnedTarget, cases: CaseTargets, times: _Floats, scale: _Floats, least: float) -> BinnedTarget:
    """Give neighbouring scores their common mean, in groups of which each has enough effective cases.

    Groups are closed from the lowest score on as soon as they have enough; what is left at the top joins those below.
    The effective number of the cases of a group is Kish's, (sum of w)^2 / (sum of w^2) over cases, w the weight that a
    case has in the group: many cases of which one has nearly all voxels count as one. Groups that are joined never have
    fewer than the least of them, so every plateau that a calibrator makes of whole groups has enough too.

    Parameters
    ----------
    binned
        The pooled target.
    cases
        What it was pooled from.
    times, scale
        (cases,) how often each case counts, and the weight of its voxels.
    least
        Effective number of cases that every group has at least.

    Raises
    ------
    FitError
        If all scores together have fewer.

    References
    ----------
    L. Kish: Survey Sampling, 1965, for the effective number.
    """
    columns = np.searchsorted(cases.score, binned.score)
    starts = _close_groups(cases, columns, times, scale, least)
    sizes = np.diff([*starts, len(columns)])
    mean = np.add.reduceat(binned.weight * binned.mean, starts) / np.add.reduceat(binned.weight, starts)
    return BinnedTarget(binned.score, binned.weight, np.minimum(np.repeat(mean, sizes), 1.0))


def _close_groups(
    cases: CaseTargets, columns: npt.NDArray[np.intp], times: _Floats, scale: _Floats, least: float
) -> list[int]:
    """Return where groups of scores start, each with enough effective cases."""
    weight = cases.voxels[:, columns] * scale[:, np.newaxis]  # of one copy of each case
    lengths = _short_lengths(weight, times, least).tolist()
    starts, place = [0], 0
    while place < len(columns):
        length = lengths[place] or _length(weight[:, place:], times, least)
        if not length:
            break
        place += length
        starts.append(place)
    # What is left at the top, which may be nothing, joins groups below until it has enough.
    left = starts.pop()
    while left == len(columns) or not _have_enough(weight[:, left:].sum(axis=1, keepdims=True), times, least)[0]:
        if not starts:
            total, squares = _moments(weight.sum(axis=1, keepdims=True), times)
            raise FitError(
                f"All voxels come from {total[0] ** 2 / squares[0]:.6g} effective cases, fewer than {least:.6g}.",
                "Allowed: a smaller min_cases, or more cases.",
                "Weight cases equally where one has most of the voxels.",
            )
        left = starts.pop()
    return [*starts, left]


def _short_lengths(weight: _Floats, times: _Floats, least: float) -> npt.NDArray[np.int64]:
    """Return how many of (cases, n) columns, from each on, it takes to have enough; 0 if more than `_SHORT`."""
    lengths = np.zeros(weight.shape[1], dtype=np.int64)
    start, together = np.arange(weight.shape[1]), weight
    for length in range(1, _SHORT + 1):
        enough = _have_enough(together, times, least)
        lengths[start[enough]] = length
        left = ~enough & (start + length < weight.shape[1])
        start, together = start[left], together[:, left]
        if not len(start):
            break
        together = together + weight[:, start + length]
    return lengths


def _length(weight: _Floats, times: _Floats, least: float) -> int:
    """Return how many of the first (cases, n) columns it takes to have enough; 0 if all are too few."""
    start, length, before = 0, 2 * _SHORT, np.zeros((len(weight), 1))
    while start < weight.shape[1]:
        together = before + np.cumsum(weight[:, start : start + length], axis=1)
        enough = _have_enough(together, times, least)
        if enough.any():
            return start + int(np.argmax(enough)) + 1
        before, start, length = together[:, -1:], start + length, 2 * length
    return 0


def _have_enough(weight: _Floats, times: _Floats, least: float) -> npt.NDArray[np.bool_]:
    """Whether the weights of each of (cases, n) columns come from enough effective cases, (n,)."""
    total, squares = _moments(weight, times)
    # A little less is enough, lest rounding part what is equal.
    return np.asarray((total > 0) & (total**2 >= least * (1 - 1e-12) * squares))


def _moments(weight: _Floats, times: _Floats) -> tuple[_Floats, _Floats]:
    copies = times[:, np.newaxis]
    return np.asarray((copies * weight).sum(axis=0)), np.asarray((copies * weight**2).sum(axis=0))


def shrink(binned: BinnedTarget, share: float) -> BinnedTarget:
    """Draw the mean at every score towards the score.

    With a share of k / (n + k), it is the mean that k more cases would leave beside n, were their scores distributed as
    those of the n and their raters' response exactly the score: a map of few cases stays near the identity, and one of
    many does not.

    Parameters
    ----------
    binned
        The pooled target.
    share
        Weight of the score, 0 to 1, against that of the mean.
    """
    return BinnedTarget(binned.score, binned.weight, (1 - share) * binned.mean + share * binned.score)
