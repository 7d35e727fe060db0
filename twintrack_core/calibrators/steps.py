"""Bins of the score, their means, and the step function that gives every score code the value of its bin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from twintrack_core.calibrators.knots import Knots
from twintrack_core.codes import CODE_VALUES

N_BINS = 15
"""Bins of every binning calibrator: as many as the calibration errors have."""

_Floats = npt.NDArray[np.float64]
_Places = npt.NDArray[np.intp]


class Bins(NamedTuple):
    """The bins that hold voxels, b of them, in order.

    Attributes
    ----------
    start
        (b,) index of the first score of each.
    weight
        (b,) float64 voxels.
    mean
        (b,) float64 mean of a value over these voxels.
    """

    start: _Places
    weight: _Floats
    mean: _Floats


def bin_means(place: _Places, weight: _Floats, value: _Floats) -> Bins:
    """Average a value over each bin.

    Parameters
    ----------
    place
        (n,) bin of each score, ascending.
    weight, value
        (n,) voxels of each score and what to average.
    """
    _, start, filled = np.unique(place, return_index=True, return_inverse=True)
    total = np.asarray(np.bincount(filled, weights=weight), dtype=np.float64)
    mean = np.bincount(filled, weights=weight * value) / total
    # Rounding may carry a mean past what it is the mean of: bins of one value must keep it, and stay in order.
    mean = np.clip(mean, np.minimum.reduceat(value, start), np.maximum.reduceat(value, start))
    return Bins(start, total, mean)


def equal_mass_places(score: _Floats, weight: _Floats) -> _Places:
    """Return the bin, 0 to 14, of each score where bins hold as many voxels each, in the order of their scores.

    A score is never split: all its voxels belong to the bin of the first of them. So a score of many voxels may fill
    several bins' share, and bins after it stay empty.

    Parameters
    ----------
    score
        (n,) ascending; equal ones are one score.
    weight
        (n,) voxels of each.
    """
    lower = (np.cumsum(weight) - weight)[np.searchsorted(score, score)]
    # Whole numbers on both sides, so that up to 2^53 / 15 voxels an edge is met exactly.
    return np.searchsorted(weight.sum() * np.arange(1, N_BINS), N_BINS * lower, side="right")


def ordered_steps(first_code: _Places, bins: Bins) -> Knots:
    """Return bin means as a step function that does not decrease.

    Neighbours that are out of order are pooled with their weights (Barlow et al., Statistical Inference under Order
    Restrictions, 1972), for a map must keep the order of scores.

    Parameters
    ----------
    first_code
        (b,) score code at which each bin starts, ascending.
    bins
        What they hold.
    """
    blocks: list[tuple[float, float, int]] = []
    for weight, mean in zip(bins.weight.tolist(), bins.mean.tolist(), strict=True):
        block = weight, mean, 1
        while blocks and blocks[-1][1] > block[1]:
            block = _pooled(blocks.pop(), block)
        blocks.append(block)
    value = np.repeat([mean for _, mean, _ in blocks], [n for _, _, n in blocks])
    pooled = sum(n for _, _, n in blocks if n > 1)
    return step_knots(first_code, value, {"bins": N_BINS, "filled": len(value), "pooled": pooled})


def _pooled(one: tuple[float, float, int], two: tuple[float, float, int]) -> tuple[float, float, int]:
    weight = one[0] + two[0]
    return weight, (one[0] * one[1] + two[0] * two[1]) / weight, one[2] + two[2]


def step_knots(first_code: _Places, value: _Floats, parameters: Mapping[str, Any]) -> Knots:
    """Return knots on both sides of every step: the last score code below it and the first above.

    Nothing lies between them, so every code has exactly the value of its bin.

    Parameters
    ----------
    first_code
        (b,) score code at which each value starts, ascending; the first value reaches down to 0.
    value
        (b,) non-decreasing.
    parameters
        Of the knots.
    """
    rise = np.flatnonzero(np.diff(value)) + 1
    if not len(rise):
        return Knots(CODE_VALUES[:1], value[:1], parameters)
    step = first_code[rise]
    code = np.unique(np.concatenate([step - 1, step]))
    level = np.append(0, rise)[np.searchsorted(step, code, side="right")]
    return Knots(CODE_VALUES[code], value[level], parameters)
