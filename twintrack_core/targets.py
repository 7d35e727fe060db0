"""What to calibrate to: targets as functions of the rater pattern, and their mean at every score.

A target is named "mhr" (the mean human response: the fraction of raters who marked the voxel), "majority" (more than
half of them did; a tie counts as unmarked), "staple" (the probability STAPLE gives the voxel) or "rater:NAME" (that
rater's mark).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from twintrack_core.codes import CODE_VALUES, N_CODES
from twintrack_core.errors import FitError, RequestError
from twintrack_core.histogram import CohortStatistics, JointHistogram, RegionName
from twintrack_core.staple import Staple, staple

__all__ = ["BinnedTarget", "Staple", "check_target", "staple", "target_values"]

_RATER = "rater:"


def target_values(histogram: JointHistogram, target: str) -> npt.NDArray[np.float64]:
    """Target of each rater pattern, in [0, 1].

    Parameters
    ----------
    histogram
        Joint histogram of one case with R raters. STAPLE is estimated over its whole volume.
    target
        "mhr", "majority", "staple" or "rater:NAME".

    Returns
    -------
    numpy.ndarray
        (2**R,) float64.

    Raises
    ------
    RequestError
        For an unknown target, or a histogram without raters or without the rater named.
    FitError
        For STAPLE of a volume without a mark.
    """
    if not histogram.raters:
        raise RequestError(
            "There are no raters, so there is no target.", "Allowed: one rater or more.", "Leave such cases out."
        )
    if target == "staple":
        return staple(histogram.pattern_counts, len(histogram.raters)).probability
    numerator, denominator = _fraction(histogram, target)
    return numerator / denominator


def check_target(target: str) -> None:
    """Refuse the name of a target there is not; whether a case has the rater named is seen when it is fitted.

    Raises
    ------
    RequestError
        For an unknown target.
    """
    if target not in ("mhr", "majority", "staple") and not target.startswith(_RATER):
        raise RequestError(f"There is no target {target!r}.", "Allowed: mhr, majority, staple, rater:NAME.")


def _fraction(histogram: JointHistogram, target: str) -> tuple[npt.NDArray[np.int64], int]:
    """Return a target other than STAPLE as (2**R,) integers over one denominator, so that sums of it are exact."""
    n_raters = len(histogram.raters)
    patterns = np.arange(1 << n_raters)
    marks = np.bitwise_count(patterns).astype(np.int64)
    if target == "mhr":
        return marks, n_raters
    if target == "majority":
        return (2 * marks > n_raters).astype(np.int64), 1
    check_target(target)
    name = target.removeprefix(_RATER)
    if name not in histogram.raters:
        raise RequestError(
            f"There is no rater {name!r}.",
            f"Allowed: {', '.join(histogram.raters)}.",
            "Leave out the cases that this rater did not mark, or choose another target.",
        )
    return ((patterns >> histogram.raters.index(name)) & 1).astype(np.int64), 1


@dataclass(frozen=True, eq=False)
class BinnedTarget:
    """Mean of a target at every score that occurs: all a calibrator needs to know of the voxels.

    Attributes
    ----------
    score
        (n,) float64 scores that occur, ascending, values of score codes.
    weight
        (n,) int64 voxels of each score.
    mean
        (n,) float64 mean of the target over these voxels, in [0, 1].
    """

    score: npt.NDArray[np.float64]
    weight: npt.NDArray[np.int64]
    mean: npt.NDArray[np.float64]

    @classmethod
    def from_histogram(cls, histogram: JointHistogram, target: str, region: RegionName = "roi") -> BinnedTarget:
        """Bin the target of one case.

        Parameters
        ----------
        histogram
            Joint histogram of the case.
        target
            "mhr", "majority", "staple" or "rater:NAME".
        region
            "roi" for the inside of the region of interest, "whole" for every voxel.

        Raises
        ------
        RequestError
            For an unknown target or region, or a histogram without raters or without the rater named.
        FitError
            For STAPLE of a volume without a mark.
        """
        sums = _TargetSums()
        sums.add(histogram, target, region)
        return sums.binned()

    @classmethod
    def from_statistics(cls, statistics: CohortStatistics, target: str, region: RegionName = "roi") -> BinnedTarget:
        """Bin the target of a cohort. Targets are pooled, not patterns, so cases may have different raters.

        Parameters
        ----------
        statistics, target, region
            As in `from_histogram`, for many cases.

        Raises
        ------
        RequestError, FitError
            As in `from_histogram`, naming the case.
        """
        sums = _TargetSums()
        for name, case in statistics.items():
            try:
                sums.add(case.histogram, target, region)
            except (RequestError, FitError) as error:
                raise type(error)(f"Case {name}: {error.what}", error.allowed, error.action) from error
        return sums.binned()


class _TargetSums:
    """Sums of weight and target at every code.

    Marks are summed as integers, apart for each number of raters, so the sums depend on no order. STAPLE is not made of
    integers: its sums are float64, in the order of the cases.
    """

    def __init__(self) -> None:
        self._weight = np.zeros(N_CODES, dtype=np.int64)
        self._exact: dict[int, npt.NDArray[np.int64]] = {}
        self._inexact = np.zeros(N_CODES)

    def add(self, histogram: JointHistogram, target: str, region: RegionName) -> None:
        cells = histogram.select(region)
        np.add.at(self._weight, cells.code, cells.count)
        values = target_values(histogram, target)  # refuses what has no target
        if target == "staple":
            self._inexact += np.bincount(cells.code, weights=cells.count * values[cells.pattern], minlength=N_CODES)
        else:
            numerator, denominator = _fraction(histogram, target)
            sums = self._exact.setdefault(denominator, np.zeros(N_CODES, dtype=np.int64))
            np.add.at(sums, cells.code, cells.count * numerator[cells.pattern])

    def binned(self) -> BinnedTarget:
        present = np.flatnonzero(self._weight)
        weight = self._weight[present]
        total = sum((self._exact[n][present] / n for n in sorted(self._exact)), self._inexact[present])
        # Rounding may carry a mean of ones past 1.
        return BinnedTarget(CODE_VALUES[present], weight, np.minimum(total / weight, 1.0))
