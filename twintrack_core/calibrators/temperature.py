"""Temperature scaling: the score's logit, divided by one number."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from twintrack_core.calibrators import smooth
from twintrack_core.calibrators.knots import Knots
from twintrack_core.calibrators.likelihood import ACTION, Design, maximise, means, shares
from twintrack_core.errors import FitError
from twintrack_core.targets import BinnedTarget


def temperature(target: BinnedTarget) -> Knots:
    """Fit sigmoid(logit(p) / T), T > 0, by maximum likelihood.

    The likelihood is expected over the voxels: sum of w [m ln q + (1 - m) ln(1 - q)], m the mean target and w the
    number of voxels at each score. It is concave in 1 / T. Scores of 0 and 1 count as 2^-25 and 1 - 2^-12.

    Raises
    ------
    FitError
        Where no T above 0 is best: the target is 1 at every score above 0.5 and 0 below, so that ever lower ones are
        better, or does not rise with the score, so that ever higher ones are.

    References
    ----------
    C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger: On calibration of modern neural networks, ICML 2017.
    """
    x, mean = smooth.logit(target.score), means(target)
    if (shares(target) * (mean - 0.5) * x).sum() <= 0:  # the slope of the likelihood at 1 / T = 0
        raise FitError(
            "The targets do not rise with the score, so the likelihood has no maximum: any higher temperature is "
            "better.",
            "Allowed: targets nearer to 1 at scores above 0.5, or nearer to 0 at scores below.",
            ACTION,
        )
    if not ((x > 0) & (mean < 1) | (x < 0) & (mean > 0)).any():
        raise FitError(
            "All targets are 1 at scores above 0.5 and 0 at scores below, so the likelihood has no maximum: any lower "
            "temperature is better.",
            "Allowed: targets below 1 at some score above 0.5, or above 0 at some score below.",
            ACTION,
        )
    (factor,), iterations = maximise(Design.dense(x), target, np.ones(1), free=0)

    def function(score: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(expit(factor * smooth.logit(score)))

    return smooth.to_knots(function, {"temperature": float(1 / factor), "iterations": iterations})
