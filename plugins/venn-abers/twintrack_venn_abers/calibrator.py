"""The inductive Venn-Abers predictor of every score code, from the table of scores that calibration leaves."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from twintrack_core.calibrators import BinnedTarget, Knots

_Floats = npt.NDArray[np.float64]
_Places = npt.NDArray[np.intp]

_CODE_VALUES: _Floats = np.arange(0x3C00 + 1, dtype=np.uint16).view(np.float16).astype(np.float64)
"""Every score there is, (15361,) ascending: the float16 values of [0, 1]."""


def venn_abers(target: BinnedTarget) -> Knots:
    """Fit isotonic regression to the calibration voxels and one more, which is unmarked, then marked, at every score.

    At a score s the lower bound p0 is the value at s of the isotonic regression of all calibration voxels and one of
    score s and target 0; the upper bound p1 is the same with target 1. The value is p1 / (1 - p0 + p1), whose log loss
    exceeds that of p0 at an unmarked voxel by as much as that of p1 at a marked one. Targets need not be 0 or 1, and
    the voxel that is added weighs 1, as a calibration voxel does.

    Parameters
    ----------
    target
        Scores, their weights in voxels and their mean targets.

    Returns
    -------
    Knots
        Value and band, exact at every score code: the knots are both ends of every run of codes that have the same.

    References
    ----------
    V. Vovk, I. Petej: Venn-Abers predictors, UAI 2014. V. Vovk, I. Petej, V. Fedorova: Large-scale probabilistic
    predictors with and without guarantees of validity, NeurIPS 2015, which gives the value and a linear algorithm.
    Theirs walks along sums over all voxels, where the differences that matter drown if one score has 10^12 of them;
    ours, of n scores in n log n, pools the blocks of the regression, whose sums are of their own voxels only.
    """
    p0, p1 = bounds(target)
    # At a score that occurs, a voxel of target 0 pools with those there as if it came right after them, one of target 1
    # as if right before: either depends only on how many scores come before it.
    lower = p0[np.searchsorted(target.score, _CODE_VALUES, side="right")]
    upper = p1[np.searchsorted(target.score, _CODE_VALUES, side="left")]
    value = np.maximum.accumulate(np.clip(upper / (1 - lower + upper), lower, upper))
    step = (np.diff(lower) != 0) | (np.diff(upper) != 0) | (np.diff(value) != 0)
    ends = np.append(True, step) | np.append(step, True)
    return Knots(_CODE_VALUES[ends], value[ends], lower=lower[ends], upper=upper[ends])


def bounds(target: BinnedTarget) -> tuple[_Floats, _Floats]:
    """Return p0 and p1 of a voxel that is added between scores.

    Parameters
    ----------
    target
        n scores.

    Returns
    -------
    p0, p1
        (n + 1,) float64, non-decreasing, p0 <= p1: item k is for a voxel after k of the scores.
    """
    weight = target.weight.astype(np.float64)
    total = weight * target.mean
    before = _prefixes(weight, total)
    mirrored = _prefixes(weight[::-1], -total[::-1])  # of a regression that is turned round, and so of the suffixes
    p0, p1 = (_pool(before, mirrored, added) for added in (0.0, 1.0))
    # Both rise by themselves, but for rounding.
    p0, p1 = (np.maximum.accumulate(np.clip(p, 0.0, 1.0)) for p in (p0, p1))
    return np.minimum(p0, p1), p1


class _Prefixes(NamedTuple):
    """The blocks of the isotonic regression of the first k scores, for all k, as linked lists that share their ends.

    Item k, 0 to n, is the last block of the first k scores; those before it are the blocks of the first ``rest[k]``.

    Attributes
    ----------
    weight, total
        (n + 1,) sums over the block; a block of no scores, 0 and 0, ends each list.
    rest
        (n + 1,) how many scores come before the block.
    leaps
        Leap j lands on the 2^j-th block, the last one being the first.
    """

    weight: _Floats
    total: _Floats
    rest: _Places
    leaps: list[_Leap]


class _Leap(NamedTuple):
    """From each of the blocks back to another.

    Attributes
    ----------
    landing
        (n + 1,) the block that it reaches; 0 if there are not so many.
    weight, total
        (n + 1,) sums over the blocks from where it starts up to the landing, which is not among them.
    """

    landing: _Places
    weight: _Floats
    total: _Floats


def _prefixes(weight: _Floats, total: _Floats) -> _Prefixes:
    """Pool adjacent violators one score after another, keeping what each leaves; then make the leaps, each of two."""
    weights, totals, rests = [0.0], [0.0], [0]
    for place, (own_weight, own_total) in enumerate(zip(weight.tolist(), total.tolist(), strict=True)):
        block_weight, block_total, rest = own_weight, own_total, place
        while rest and totals[rest] * block_weight >= block_total * weights[rest]:
            block_weight += weights[rest]
            block_total += totals[rest]
            rest = rests[rest]
        weights.append(block_weight)
        totals.append(block_total)
        rests.append(rest)
    blocks = _Prefixes(np.array(weights), np.array(totals), np.array(rests, dtype=np.intp), [])
    leap = _Leap(np.arange(len(weights)), np.zeros(len(weights)), np.zeros(len(weights)))
    while leap.landing.any():
        blocks.leaps.append(leap)
        landing, start = leap.landing, blocks.rest[leap.landing]
        leap = _Leap(
            landing[start],
            leap.weight + blocks.weight[landing] + leap.weight[start],
            leap.total + blocks.total[landing] + leap.total[start],
        )
    return blocks


def _pool(before: _Prefixes, mirrored: _Prefixes, added: float) -> _Floats:
    """Return the mean of the block that a voxel of some target becomes part of, (n + 1,): after 0, ..., n scores.

    It starts as a block of its own and takes in its neighbours while they are out of order, on either side in turn. On
    one side means only fall, so a block is taken in if and only if it is out of order with all that come before it
    taken in: leaps find the last one in as many steps as their number has digits. All places are done at a time.
    """
    n = len(before.weight) - 1
    weight, total = np.ones(n + 1), np.full(n + 1, added)
    left = np.arange(n + 1)
    right = n - left  # how many scores come after it
    moving = True
    while moving:
        moving = False
        for blocks, end, sign in ((before, left, 1.0), (mirrored, right, -1.0)):
            for leap in reversed(blocks.leaps):
                landing = leap.landing[end]
                new_weight, new_total = weight + leap.weight[end], total + sign * leap.total[end]
                # The landing's mean is above that of all up to it; mirrored, its total is negative and it is below.
                taken = blocks.total[landing] * new_weight > sign * new_total * blocks.weight[landing]
                weight[taken] = (new_weight + blocks.weight[landing])[taken]
                total[taken] = (new_total + sign * blocks.total[landing])[taken]
                end[taken] = blocks.rest[landing[taken]]
                moving |= bool(taken.any())
    # One block has one mean, in whatever order it was summed.
    _, first, block = np.unique(left * (n + 1) + right, return_index=True, return_inverse=True)
    return (total / weight)[first][block]
