"""Platt scaling: a logistic function of the score's logit."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from twintrack_core.calibrators import smooth
from twintrack_core.calibrators.knots import Knots
from twintrack_core.calibrators.likelihood import Design, check_determined, maximise
from twintrack_core.targets import BinnedTarget


def platt(target: BinnedTarget) -> Knots:
    """Fit sigmoid(a logit(p) + b), a >= 0, by maximum likelihood.

    The likelihood is expected over the voxels: sum of w [m ln q + (1 - m) ln(1 - q)], m the mean target and w the
    number of voxels at each score. Scores of 0 and 1 count as 2^-25 and 1 - 2^-12. Where a would be negative it is 0,
    which ``dropped`` among the parameters says, and b is fitted without it.

    Raises
    ------
    FitError
        For one score only, targets that are all 0 or all 1, and zeros that a score separates from the ones.

    References
    ----------
    J. Platt: Probabilistic outputs for support vector machines and comparisons to regularized likelihood methods, 1999;
    here of the logit of a probability, with the targets as they are.
    """
    check_determined(target, 2)
    x = smooth.logit(target.score)
    start = np.array([0.0, 1.0])  # no change
    (b, a), iterations = maximise(Design.dense(np.ones_like(x), x), target, start, free=1)

    def function(score: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(expit(a * smooth.logit(score) + b))

    dropped = ["a"] if a == 0 else []
    return smooth.to_knots(function, {"a": float(a), "b": float(b), "dropped": dropped, "iterations": iterations})
