"""Distance of two sets of angles, each taken as a normal distribution: their 1-Wasserstein distance, in degrees."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

_GRID = np.linspace(0, 360, 1000)
_SPREAD = 1e-6
_FURTHEST = 360.0


def official_distance(raters: npt.NDArray[np.float64], predicted: npt.NDArray[np.float64]) -> float:
    """Distance as the challenge's evaluation gives it, in degrees.

    Both densities are sampled at linspace(0, 360, 1000) and divided by their sums. A narrow density may vanish at all
    these points. If both do, the distance is 0; if only the prediction's does, it is the mean of the raters' angles if
    their density is a spike on one point, else 360; if only the raters' does, it is 360.

    Parameters
    ----------
    raters, predicted
        Angles in degrees, one of each rater and one for each threshold.
    """
    rater_density, predicted_density = _density(*_normal(raters)), _density(*_normal(predicted))
    rater_sum, predicted_sum = float(rater_density.sum()), float(predicted_density.sum())
    if rater_sum == 0:
        return 0.0 if predicted_sum == 0 else _FURTHEST
    if predicted_sum == 0:
        return _normal(raters)[0] if np.count_nonzero(rater_density) == 1 else _FURTHEST
    difference = np.cumsum(rater_density / rater_sum - predicted_density / predicted_sum)
    return float((np.abs(difference[:-1]) * np.diff(_GRID)).sum())


def exact_distance(raters: npt.NDArray[np.float64], predicted: npt.NDArray[np.float64]) -> float:
    """Distance of the two normal distributions in closed form, in degrees.

    With d = |mu1 - mu2| and s = |sigma1 - sigma2|: the mean of |X| for X normal of mean d and standard deviation s,
    s sqrt(2 / pi) exp(-d^2 / (2 s^2)) + d (1 - 2 Phi(-d / s)); d where s is 0.
    """
    (mean1, spread1), (mean2, spread2) = _normal(raters), _normal(predicted)
    d, s = abs(mean1 - mean2), abs(spread1 - spread2)
    if s == 0:
        return d
    z = d / s
    return s * math.sqrt(2 / math.pi) * math.exp(-z * z / 2) + d * (1 - 2 * float(ndtr(-z)))


def _normal(angles: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Mean and population standard deviation, the latter a little above 0."""
    return float(angles.mean()), float(angles.std()) + _SPREAD


def _density(mean: float, spread: float) -> npt.NDArray[np.float64]:
    with np.errstate(under="ignore"):
        z = (_GRID - mean) / spread
        return np.asarray(np.exp(-z * z / 2) / math.sqrt(2 * math.pi) / spread)
