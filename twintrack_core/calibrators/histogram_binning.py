"""Histogram binning: the mean target of bins of equal width."""

from __future__ import annotations

import numpy as np

from twintrack_core.calibrators.knots import Knots
from twintrack_core.calibrators.steps import N_BINS, bin_means, ordered_steps
from twintrack_core.codes import CODE_VALUES
from twintrack_core.targets import BinnedTarget

_INNER_EDGES = np.arange(1, N_BINS) / N_BINS


def histogram_binning(target: BinnedTarget) -> Knots:
    """Give every score the mean target of the voxels of its bin: [k/15, (k+1)/15), the last one closed.

    Edges are compared as float64 values of the score codes. A bin without voxels has the value of the nearest lower bin
    with voxels; below the lowest of these, of that one.

    The original does not ask bins to be in order; a map must not decrease, so neighbouring bins that would are pooled
    with their weights. The parameters say how many of the 15 bins are ``filled``, and how many of these were
    ``pooled``.

    References
    ----------
    B. Zadrozny, C. Elkan: Obtaining calibrated probability estimates from decision trees and naive Bayesian
    classifiers, ICML 2001.
    """
    place = np.searchsorted(_INNER_EDGES, target.score, side="right")
    bins = bin_means(place, target.weight, target.mean)
    first_code = np.append(0, np.searchsorted(CODE_VALUES, _INNER_EDGES))
    return ordered_steps(first_code[place[bins.start]], bins)
