"""Scaling-binning: a scaling function, and then the mean of its outputs in bins of equal mass."""

from __future__ import annotations

import numpy as np

from twintrack_core.calibrators.knots import Knots
from twintrack_core.calibrators.platt import platt
from twintrack_core.calibrators.steps import N_BINS, bin_means, equal_mass_places, step_knots
from twintrack_core.codes import CODE_VALUES
from twintrack_core.maps import CalibrationMap
from twintrack_core.targets import BinnedTarget


def scaling_binning(target: BinnedTarget) -> Knots:
    """Fit Platt's function g to the target, then give every score the mean of g over the voxels of its bin.

    Bins hold as many voxels each, by rank of g; an output of g is never split, as in equal-mass binning. What they
    average is g and not the target: that varies less than the target does, and is why the calibration error of such a
    map can be estimated from few voxels. The means of g rise with the bins, so none is pooled.

    The original splits the data in three: for g, for the bins, for the means. Here all voxels serve all steps, for
    their counts are a population rather than a sample; what generalises is found across cases.

    The parameters say how many of the 15 bins are ``filled``, and what g is (``scaling``).

    References
    ----------
    A. Kumar, P. Liang, T. Ma: Verified Uncertainty Calibration, NeurIPS 2019.

    Raises
    ------
    FitError
        As Platt's function does, where the target does not determine it: for one score only, for example.
    """
    scaling = platt(target)
    # Interpolation may round past a knot, by one unit in the last place.
    g = np.maximum.accumulate(CalibrationMap(scaling.score, scaling.value).table)
    output = g[np.searchsorted(CODE_VALUES, target.score)]
    place = equal_mass_places(output, target.weight)
    bins = bin_means(place, target.weight, output)
    # A bin starts right above the last output of the bin before; the first reaches down to 0.
    first_code = np.append(0, np.searchsorted(g, output[bins.start[1:] - 1], side="right"))
    parameters = {"bins": N_BINS, "filled": len(bins.mean), "scaling": dict(scaling.parameters)}
    return step_knots(first_code, bins.mean, parameters)
