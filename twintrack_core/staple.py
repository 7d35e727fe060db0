"""STAPLE (Warfield, Zou and Wells 2004) on pattern counts: its EM sees a voxel only through who marked it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from twintrack_core.errors import FitError

_START = 0.99999  # sensitivity and specificity of every rater before the first iteration
_TOLERANCE = 1e-13  # of the probabilities, per iteration
_MAX_ITERATIONS = 200_000  # five raters take tens, two that never agree tens of thousands


@dataclass(frozen=True)
class Staple:
    """A STAPLE estimate. Its arrays are read-only.

    Attributes
    ----------
    probability
        (2**R,) float64 probability of the true mark given each rater pattern; 0 for patterns that do not occur.
    sensitivity, specificity
        (R,) float64 of each rater.
    iterations
        Iterations until the probabilities stood still.
    """

    probability: npt.NDArray[np.float64]
    sensitivity: npt.NDArray[np.float64]
    specificity: npt.NDArray[np.float64]
    iterations: int


def staple(pattern_counts: npt.NDArray[np.int64], n_raters: int) -> Staple:
    """Estimate the true segmentation and each rater's performance by expectation maximisation.

    Sensitivities and specificities start at 0.99999; the prior is fixed at the mean of all raters' decisions.

    Parameters
    ----------
    pattern_counts
        (2**R,) int64 voxels of each pattern, over the whole volume.
    n_raters
        Number of raters R, at least 1.

    Raises
    ------
    FitError
        Without a mark there is nothing to estimate; or if the EM does not settle.

    References
    ----------
    S. K. Warfield, K. H. Zou, W. M. Wells: Simultaneous truth and performance level estimation (STAPLE), IEEE
    Transactions on Medical Imaging 23(7), 2004.
    """
    found = _estimate(np.asarray(pattern_counts, dtype=np.int64).tobytes(), n_raters, _MAX_ITERATIONS)
    if isinstance(found, str):
        raise FitError(found, None, "Leave the case out, or use another target.")
    return found


@lru_cache(maxsize=4096)  # of 2 kB at most; a case is asked for anew for every metric, region and map
def _estimate(counts: bytes, n_raters: int, max_iterations: int) -> Staple | str:
    """Return the estimate, or why there is none."""
    pattern_counts = np.frombuffer(counts, dtype=np.int64)
    patterns = np.flatnonzero(pattern_counts)
    voxels = pattern_counts[patterns].astype(np.float64)
    marked = ((patterns[:, np.newaxis] >> np.arange(n_raters)) & 1).astype(bool)
    decisions = np.concatenate([marked, ~marked], axis=1).astype(np.float64)
    n_marks = float((voxels * marked.sum(axis=1)).sum())
    if n_marks == 0:
        return "STAPLE is undefined where no rater marked a voxel."
    prior = n_marks / (float(voxels.sum()) * n_raters)

    # Rates of marking and of not marking, given a true mark (first row) and none. The small ones are estimated directly
    # rather than as 1 minus the large ones, which would cancel.
    rates = np.repeat([[_START, 1 - _START], [1 - _START, _START]], n_raters, axis=1)
    truth = np.full((2, len(patterns)), np.nan)
    for iteration in range(max_iterations):
        likelihood = np.where(marked, rates[:, np.newaxis, :n_raters], rates[:, np.newaxis, n_raters:]).prod(axis=2)
        joint = likelihood * [[prior], [1 - prior]]
        evidence = joint.sum(axis=0)
        # Where everything underflows, and for a rate without voxels, the last estimate stands.
        updated = np.divide(joint, evidence, out=truth.copy(), where=evidence > 0)
        if np.abs(updated[0] - truth[0]).max() <= _TOLERANCE:
            probability = np.zeros(1 << n_raters)
            probability[patterns] = updated[0]
            arrays = probability, rates[0, :n_raters].copy(), rates[1, n_raters:].copy()
            for array in arrays:
                array.flags.writeable = False
            return Staple(*arrays, iteration)
        truth = updated
        # Summed in a fixed order, unlike a matrix product, so that every machine gives the same bits.
        sums = ((truth * voxels)[:, :, np.newaxis] * decisions).sum(axis=1)
        total = np.tile(sums[:, :n_raters] + sums[:, n_raters:], 2)
        rates = np.divide(sums, total, out=rates, where=total > 0)
    return f"STAPLE did not settle within {max_iterations} iterations: the marks do not determine it."
