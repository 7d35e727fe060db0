"""Beta calibration: the map between two classes whose scores follow beta distributions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from twintrack_core.calibrators import smooth
from twintrack_core.calibrators.knots import Knots
from twintrack_core.calibrators.likelihood import Design, check_determined, maximise
from twintrack_core.targets import BinnedTarget


def beta(target: BinnedTarget) -> Knots:
    """Fit sigmoid(a ln p - b ln(1 - p) + c), a, b >= 0, by maximum likelihood.

    The likelihood is expected over the voxels: sum of w [m ln q + (1 - m) ln(1 - q)], m the mean target and w the
    number of voxels at each score. Scores of 0 and 1 count as 2^-25 and 1 - 2^-12. Where a or b would be negative it is
    0, which ``dropped`` among the parameters says, and the others are fitted without it, as the authors' betacal does;
    unlike there, this holds for the one that is left too, so the map never falls.

    Raises
    ------
    FitError
        For fewer than three scores, targets that are all 0 or all 1, and zeros that a score separates from the ones.

    References
    ----------
    M. Kull, T. Silva Filho, P. Flach: Beta calibration: a well-founded and easily implemented improvement on logistic
    calibration for binary classifiers, AISTATS 2017.
    """
    check_determined(target, 3)
    p = smooth.clip(target.score)
    start = np.array([0.0, 1.0, 1.0])  # no change
    (c, a, b), iterations = maximise(Design.dense(np.ones_like(p), np.log(p), -np.log1p(-p)), target, start, free=1)

    def function(score: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        clipped = smooth.clip(score)
        return np.asarray(expit(a * np.log(clipped) - b * np.log1p(-clipped) + c))

    parameters = {"a": float(a), "b": float(b), "c": float(c)}
    dropped = [name for name in "ab" if parameters[name] == 0]
    return smooth.to_knots(function, {**parameters, "dropped": dropped, "iterations": iterations})
