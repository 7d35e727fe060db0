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

# Half a code beyond the outermost codes between 0 and 1, whose logarithms are not finite.
_CLIP_LOW = 2.0**-25
_CLIP_HIGH = 1.0 - 2.0**-12


def clip(score: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Clip (n,) scores to [2^-25, 1 - 2^-12], where logarithms are finite; only 0 and 1 change."""
    return np.clip(score, _CLIP_LOW, _CLIP_HIGH)


def logit(score: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return ln(p / (1 - p)) of (n,) scores p, clipped."""
    clipped = clip(score)
    return np.asarray(np.log(clipped) - np.log1p(-clipped))


def to_knots(
    function: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]], parameters: Mapping[str, Any]
) -> Knots:
    """Keep as few codes of a function as its interpolation at all the others needs.

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
    kept = _sparse(CODE_VALUES.tolist(), value.tolist())
    return Knots(CODE_VALUES[kept], value[kept], parameters)


def _sparse(x: list[float], y: list[float]) -> list[int]:
    """Return the points, first and last included, between which all others lie within the tolerance of the chords.

    Each chord reaches on while it passes all points since its start: slopes that pass them form an interval, which
    shrinks with every point. Plain numbers, since every point depends on the one before.
    """
    kept, last = [0], len(x) - 1
    while kept[-1] < last:
        start = end = kept[-1]
        x_start, y_start = x[start], y[start]
        least, most = 0.0, float("inf")
        for point in range(start + 1, last + 1):
            width, height = x[point] - x_start, y[point] - y_start
            slope = height / width
            if least <= slope <= most:
                end = point
            least = max(least, (height - TOLERANCE) / width)
            most = min(most, (height + TOLERANCE) / width)
            if least > most:
                break
        kept.append(end)
    return kept
