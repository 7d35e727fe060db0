"""From a smooth calibration function to knots: what the parametric calibrators and the spline share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from twintrack_core.calibrators.knots import Knots
from twintrack_core.codes import CODE_VALUES

TOLERANCE = 1e-7
"""How far linear interpolation between the knots may be from the function, at any code."""

# What chords are planned for, so that few have to be split.
_PLANNED = 0.9 * TOLERANCE

# Half a code beyond the outermost codes between 0 and 1, whose logarithms are not finite.
_CLIP_LOW = 2.0**-25
_CLIP_HIGH = 1.0 - 2.0**-12


def clip(score: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Clip (n,) scores to [2^-25, 1 - 2^-12], where logarithms are finite; only 0 and 1 change."""
    return np.clip(score, _CLIP_LOW, _CLIP_HIGH)


def logit(score: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return ln(p / (1 - p)) of (n,) scores p, clipped."""
    clipped = clip(score)
    return np.asarray(np.log(clipped / (1 - clipped)))  # of a code's value p, 1 - p is exact


def to_knots(
    function: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]], parameters: Mapping[str, Any]
) -> Knots:
    """Keep few codes of a function, enough for its interpolation at all the others.

    Parameters
    ----------
    function
        From (n,) scores in [0, 1], ascending, to (n,) calibrated scores in [0, 1], non-decreasing but for rounding.
    parameters
        What was fitted.

    Returns
    -------
    Knots
        Scores of codes and the function's values there, exact at the knots and within `TOLERANCE` at every code.
    """
    value = np.maximum.accumulate(np.clip(function(CODE_VALUES), 0.0, 1.0))
    kept = _sparse(CODE_VALUES, value)
    return Knots(CODE_VALUES[kept], value[kept], parameters)


def _sparse(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """Return (k,) points, first and last included, between which all others lie within the tolerance of the chords.

    A chord of length h is off by h^2 |y''| / 8, which tells how much of one each point uses up. Where that is not
    true enough, the point that is farthest off is added.
    """
    width = np.diff(x)
    around = (width[:-1] + width[1:]) / 2
    bend = np.abs(np.diff(np.diff(y) / width)) / around
    points = np.sqrt(8 * _PLANNED / np.maximum(bend, 1e-9)) / around
    used = 1 / np.floor(np.maximum(points, 1.0))
    # Thirds must add up to 1.
    kept = np.concatenate([[True], np.diff(np.floor(np.cumsum(used) + 1e-9), prepend=0) > 0, [True]])
    while True:
        at = np.flatnonzero(kept)
        off = np.abs(np.interp(x, x[at], y[at]) - y)
        farthest = np.repeat(np.maximum.reduceat(off, at[:-1]), np.diff(at))
        add = (off[:-1] == farthest) & (farthest > TOLERANCE)
        if not add.any():
            return at
        kept[:-1] |= add
