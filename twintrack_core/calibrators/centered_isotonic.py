"""Centered isotonic regression: isotonic regression whose plateaus shrink to points, so that scores stay distinct."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from twintrack_core.calibrators.knots import Knots
from twintrack_core.targets import BinnedTarget

_ROUNDING = 1e-12
"""Fitted values that differ by no more are equal: pooling leaves rounding of a few 1e-16."""

_Floats = npt.NDArray[np.float64]


def centered_isotonic(target: BinnedTarget) -> Knots:
    """Fit by isotonic regression, then put each plateau's value at one point: the mean score of the plateau's voxels.

    The function is linear between these points, so it increases strictly from the first to the last; beyond them it is
    constant, as isotonic regression is there. Plateaus of value 0 or 1 are left as they are, from end to end: these are
    the bounds of a probability, and the original takes equal values there for no violation of a strict order.

    Where the whole fit is one plateau, nothing is known of how the target rises: the map is that constant, and a
    ``note`` among the parameters says so. They say of how many ``plateaus`` the fit consists, single scores included.

    Other than isotonic regression and binning, this does not keep the mean of the target exactly.

    References
    ----------
    A. P. Oron, N. Flournoy: Centered Isotonic Regression: Point and Interval Estimation for Dose-Response Studies,
    Statistics in Biopharmaceutical Research 9, 2017.
    """
    from scipy.optimize import isotonic_regression

    weight = target.weight
    fitted = np.clip(isotonic_regression(target.mean, weights=weight).x, 0.0, 1.0)
    start = np.flatnonzero(np.append(True, np.diff(fitted) > _ROUNDING))
    end = np.append(start[1:], len(fitted)) - 1
    plateau = np.repeat(np.arange(len(start)), end - start + 1)
    center = _means(plateau, weight, target.score, target.score[start], target.score[end])
    value = _means(plateau, weight, fitted, fitted[start], fitted[end])
    at_bound = (value <= _ROUNDING) | (value >= 1 - _ROUNDING)
    first = np.where(at_bound, target.score[start], center)
    last = np.where(at_bound, target.score[end], center)
    score, once = np.unique(np.column_stack([first, last]), return_index=True)
    parameters: dict[str, Any] = {"plateaus": len(start)}
    if len(start) == 1:
        parameters["note"] = "The target does not rise with the score, so the map is constant."
    return Knots(score, np.repeat(value, 2)[once], parameters)


def _means(plateau: npt.NDArray[np.intp], weight: _Floats, values: _Floats, low: _Floats, high: _Floats) -> _Floats:
    """Return the mean of values over each plateau, which lie between low and high: rounding must not carry it past."""
    mean = np.bincount(plateau, weights=weight * values) / np.bincount(plateau, weights=weight)
    return np.clip(mean, low, high)
