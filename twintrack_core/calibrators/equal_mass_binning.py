"""Equal-mass binning: the mean target of bins that hold as many voxels each."""

from __future__ import annotations

import numpy as np

from twintrack_core.calibrators.knots import Knots
from twintrack_core.calibrators.steps import bin_means, equal_mass_places, ordered_steps
from twintrack_core.codes import CODE_VALUES
from twintrack_core.targets import BinnedTarget


def equal_mass_binning(target: BinnedTarget) -> Knots:
    """Give every score the mean target of the voxels of its bin: 15 bins of as many voxels each, by rank of the score.

    These are the bins of the adaptive calibration error. A score is never split: its bin is the number of edges
    ceil(voxels * j / 15), j = 1 to 14, that are at most the voxels of lower scores. So background of score 0 fills most
    bins' share, and few bins are left for the rest: fit inside a region of interest to have more. Scores that do not
    occur are binned by the same rule, which puts them with the next higher score that does.

    Neighbouring bins that are out of order are pooled, as in histogram binning. The parameters say how many of the 15
    bins are ``filled``, and how many of these were ``pooled``.

    References
    ----------
    B. Zadrozny, C. Elkan: Obtaining calibrated probability estimates from decision trees and naive Bayesian
    classifiers, ICML 2001, whose bins hold as many examples each.
    """
    place = equal_mass_places(target.score, target.weight)
    bins = bin_means(place, target.weight, target.mean)
    # A bin starts right above the last score of the bin before; the first reaches down to 0.
    first_code = np.searchsorted(CODE_VALUES, target.score[bins.start[1:] - 1], side="right")
    return ordered_steps(np.append(0, first_code), bins)
