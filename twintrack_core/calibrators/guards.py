"""Guards of a fit: scores pooled until enough cases stand behind them, and means drawn towards the score."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from twintrack_core.errors import FitError
from twintrack_core.targets import BinnedTarget, CaseTargets

_Floats = npt.NDArray[np.float64]


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
    enough = least * (1 - 1e-12)  # lest rounding part what is equal
    by_score = np.ascontiguousarray(cases.voxels.T)
    starts, total, squares = [0], 0.0, 0.0
    share = np.zeros(len(times))  # weight of one copy of each case in the group that is open
    for place, column in enumerate(columns.tolist(), start=1):
        share += by_score[column] * scale
        total, squares = float((times * share).sum()), float((times * share**2).sum())
        if total**2 >= enough * squares:
            starts.append(place)
            share[:] = 0.0
    # What is left at the top, which may be nothing, joins groups below until it has enough.
    left = starts.pop()
    while left == len(columns) or total**2 < enough * squares:
        if not starts:
            raise FitError(
                f"All voxels together come from {total**2 / squares:.6g} effective cases, fewer than {least:.6g}.",
                "Allowed: a smaller min_cases, or more cases.",
                "Weight cases equally where one has most of the voxels.",
            )
        left = starts.pop()
        share = by_score[columns[left] :].sum(axis=0) * scale
        total, squares = float((times * share).sum()), float((times * share**2).sum())
    return [*starts, left]


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
