"""Isotonic regression: the non-decreasing function that is closest to the target in mean square."""

from __future__ import annotations

import numpy as np

from twintrack_core.calibrators.knots import Knots
from twintrack_core.targets import BinnedTarget


def isotonic(target: BinnedTarget) -> Knots:
    """Fit by pooling adjacent violators on the mean target at every score.

    Voxels of one score have one value, so the fit to their mean, weighted by their number, is the fit to the voxels: it
    is scikit-learn's ``IsotonicRegression(out_of_bounds="clip")`` fitted to them in float64.

    References
    ----------
    R. E. Barlow, D. J. Bartholomew, J. M. Bremner, H. D. Brunk: Statistical Inference under Order Restrictions, 1972.
    """
    from scipy.optimize import isotonic_regression

    fitted = isotonic_regression(target.mean, weights=target.weight)
    value = np.clip(fitted.x, 0.0, 1.0)  # rounding may carry the mean of a block of ones past 1
    # Interpolation needs only the ends of each run of equal values.
    step = np.diff(value) != 0
    ends = np.append(True, step) | np.append(step, True)
    return Knots(target.score[ends], value[ends])
