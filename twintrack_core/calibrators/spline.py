"""Spline calibration: a smooth non-decreasing function of the score's logit."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from twintrack_core.calibrators import smooth
from twintrack_core.calibrators.knots import Knots
from twintrack_core.calibrators.likelihood import Design, check_determined, maximise, shares
from twintrack_core.codes import CODE_VALUES
from twintrack_core.targets import BinnedTarget

_PIECES = 16
_DEGREE = 3
_PENALTY = 1e-4

_Array = npt.NDArray[np.float64]


def spline(target: BinnedTarget) -> Knots:
    """Fit sigmoid(f(logit p)), f a non-decreasing cubic spline, by penalised maximum likelihood.

    f is a sum of 19 cubic B-splines whose knots cut the logits of 2^-25 to 1 - 2^-12, which scores of 0 and 1 count as,
    into 16 equal pieces of length h: quantiles of the voxels would crowd where most of them are, and leave the ends,
    where maps bend most, to a single piece. f does not decrease as its coefficients c_j do not, that is, as the slopes
    s_j = (c_j+1 - c_j) / h are 0 or more. What is maximised is

        mean of m ln q + (1 - m) ln(1 - q)  -  1e-4 V / 2 sum_j (s_j+1 - s_j)^2

    over voxels, m the mean target at the score and V the mean of p (1 - p), so that background does not change how much
    the penalty, on second differences of coefficients, counts. It is small: it is there to settle f where there are no
    voxels, by going straight on. It leaves straight lines, which are Platt scaling, alone.

    Raises
    ------
    FitError
        For one score only, targets that are all 0 or all 1, and zeros that a score separates from the ones.

    References
    ----------
    P. H. C. Eilers, B. D. Marx: Flexible smoothing with B-splines and penalties, Statistical Science 1996. J. O.
    Ramsay: Monotone regression splines in action, Statistical Science 1988.
    """
    check_determined(target, 2)
    p, weight = smooth.clip(target.score), shares(target)
    knots = _knots()
    n_slopes = _PIECES + _DEGREE - 1
    differences = np.hstack([np.zeros((n_slopes - 1, 1)), np.diff(np.eye(n_slopes), axis=0)])
    penalty = np.sqrt(_PENALTY * (weight * p * (1 - p)).sum()) * differences
    start = np.append(knots[2], np.ones(n_slopes))  # no change
    theta, iterations = maximise(_design(target.score), target, start, free=1, penalty=penalty)

    def function(score: _Array) -> _Array:
        return np.asarray(expit(_design(score).logits(theta)))

    coefficients = theta[0] + np.append(0.0, np.cumsum(theta[1:] * (knots[1] - knots[0])))
    parameters = {"knots": knots.tolist(), "coefficients": coefficients.tolist(), "iterations": iterations}
    return smooth.to_knots(function, parameters)


@lru_cache(maxsize=1)
def _knots() -> _Array:
    """Return equally spaced knots, three beyond either end."""
    low, high = smooth.logit(np.array([0.0, 1.0]))
    inside = np.linspace(low, high, _PIECES + 1)  # has the ends exactly
    beyond = np.arange(1, _DEGREE + 1) * (high - low) / _PIECES
    knots = np.concatenate([low - beyond[::-1], inside, high + beyond])
    knots.flags.writeable = False
    return knots


@lru_cache(maxsize=1)
def _basis() -> tuple[_Array, npt.NDArray[np.intp]]:
    """Return the B-splines that are not 0 at each code, (4, 15361), and which is the first of them."""
    from scipy.interpolate import BSpline

    stored = BSpline.design_matrix(smooth.logit(CODE_VALUES), _knots(), _DEGREE)
    basis = np.ascontiguousarray(stored.data.reshape(-1, _DEGREE + 1).T)
    first = stored.indices[:: _DEGREE + 1].astype(np.intp)
    for array in (basis, first):
        array.flags.writeable = False
    return basis, first


def _design(score: _Array) -> Design:
    """Return the functions of which f is the sum: 1, and one for each slope, all non-decreasing.

    In each piece they are sums of its four B-splines: a slope lifts the coefficients of all that come after it.
    """
    basis, first = _basis()
    code = np.searchsorted(CODE_VALUES, score)
    piece, start = np.unique(first[code], return_index=True)
    n_splines = _PIECES + _DEGREE
    lifts = np.tril(np.full((n_splines, n_splines), _knots()[1] - _knots()[0]))
    lifts[:, 0] = 1.0  # what all B-splines add up to
    return Design(basis[:, code], start, lifts[piece[:, np.newaxis] + np.arange(_DEGREE + 1)])
