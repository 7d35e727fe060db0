"""What to calibrate to: targets as functions of the rater pattern, and their mean at every score.

A target is named "mhr" (the mean human response: the fraction of raters who marked the voxel), "majority" (more than
half of them did; a tie counts as unmarked), "staple" (the probability STAPLE gives the voxel) or "rater:NAME" (that
rater's mark).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from twintrack_core.codes import CODE_VALUES, N_CODES
from twintrack_core.errors import FitError, RequestError
from twintrack_core.histogram import CohortStatistics, JointHistogram, RegionName
from twintrack_core.staple import Staple, staple

__all__ = ["BinnedTarget", "CaseTargets", "Staple", "check_target", "staple", "target_values"]

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


def _fraction(histogram: JointHistogram, target: str) -> tuple[npt.NDArray[np.float64], int]:
    """Return a target other than STAPLE as (2**R,) whole numbers over one denominator, so that sums of it are exact."""
    n_raters = len(histogram.raters)
    patterns = np.arange(1 << n_raters)
    marks = np.bitwise_count(patterns).astype(np.float64)
    if target == "mhr":
        return marks, n_raters
    if target == "majority":
        return (2 * marks > n_raters).astype(np.float64), 1
    check_target(target)
    name = target.removeprefix(_RATER)
    if name not in histogram.raters:
        raise RequestError(
            f"There is no rater {name!r}.",
            f"Allowed: {', '.join(histogram.raters)}.",
            "Leave out the cases that this rater did not mark, or choose another target.",
        )
    return ((patterns >> histogram.raters.index(name)) & 1).astype(np.float64), 1


@dataclass(frozen=True, eq=False)
class BinnedTarget:
    """Mean of a target at every score that occurs: all a calibrator needs to know of the voxels.

    Attributes
    ----------
    score
        (n,) float64 scores that occur, ascending, values of score codes.
    weight
        (n,) float64 voxels of each score, above 0; where cases count equally, multiples of them.
    mean
        (n,) float64 mean of the target over these voxels, in [0, 1].
    """

    score: npt.NDArray[np.float64]
    weight: npt.NDArray[np.float64]
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
        return CaseTargets.from_histogram(histogram, target, region).binned()

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
        return CaseTargets.from_statistics(statistics, target, region).binned()


@dataclass(frozen=True, eq=False)
class CaseTargets:
    """A target at every score, case by case: cases can be left out, repeated and weighted without reading cells again.

    Attributes
    ----------
    score
        (n,) float64 scores that occur in any case, ascending, values of score codes.
    voxels
        (cases, n) float64 voxels of each score.
    total
        (cases, n) float64 sums over these voxels of the target times ``denominator``: whole numbers but for STAPLE, so
        that up to 2^53 they add up to the same in any order.
    denominator
        What the numbers of raters divide.
    """

    score: npt.NDArray[np.float64]
    voxels: npt.NDArray[np.float64]
    total: npt.NDArray[np.float64]
    denominator: int

    @classmethod
    def from_histogram(cls, histogram: JointHistogram, target: str, region: RegionName = "roi") -> CaseTargets:
        """Take one case; see `BinnedTarget.from_histogram`."""
        return cls._of([_sums(histogram, target, region)])

    @classmethod
    def from_statistics(cls, statistics: CohortStatistics, target: str, region: RegionName = "roi") -> CaseTargets:
        """Take the cases of a cohort, in its order; see `BinnedTarget.from_statistics`."""
        found = []
        for name, case in statistics.items():
            try:
                found.append(_sums(case.histogram, target, region))
            except (RequestError, FitError) as error:
                raise type(error)(f"Case {name}: {error.what}", error.allowed, error.action) from error
        return cls._of(found)

    @classmethod
    def _of(cls, cases: Sequence[_Sums]) -> CaseTargets:
        denominator = math.lcm(*(case.denominator for case in cases))
        occurs = np.zeros(N_CODES, dtype=bool)
        for case in cases:
            occurs[case.code] = True
        column = np.cumsum(occurs) - 1
        voxels, total = (np.zeros((len(cases), int(occurs.sum()))) for _ in range(2))
        for row, case in enumerate(cases):
            voxels[row, column[case.code]] = case.voxels
            total[row, column[case.code]] = case.total * (denominator // case.denominator)
        return cls(CODE_VALUES[occurs], voxels, total, denominator)

    @cached_property
    def size(self) -> npt.NDArray[np.float64]:
        """Voxels of each case, (cases,) float64."""
        return np.asarray(self.voxels.sum(axis=1))

    def binned(self, times: npt.NDArray[np.float64] | None = None) -> BinnedTarget:
        """Pool the cases.

        Parameters
        ----------
        times
            (cases,) float64 how often each case counts, 0 or more; all of them once by default.
        """
        factor = np.ones(len(self.voxels)) if times is None else times
        weight, total = np.zeros(len(self.score)), np.zeros(len(self.score))
        # Row by row rather than by a matrix product, whose rounding depends on the machine; most rows may be left out.
        for row in np.flatnonzero(factor):
            weight += factor[row] * self.voxels[row]
            total += factor[row] * self.total[row]
        present = weight > 0
        # Rounding may carry a mean of ones past 1.
        mean = np.minimum(total[present] / self.denominator / weight[present], 1.0)
        return BinnedTarget(self.score[present], weight[present], mean)


class _Sums(NamedTuple):
    """A case's voxels and its sums of the target times the denominator at the codes that occur, ascending."""

    code: npt.NDArray[np.intp]
    voxels: npt.NDArray[np.float64]
    total: npt.NDArray[np.float64]
    denominator: int


def _sums(histogram: JointHistogram, target: str, region: RegionName) -> _Sums:
    cells = histogram.select(region)
    values = target_values(histogram, target)  # refuses what has no target
    denominator = 1
    if target != "staple":
        values, denominator = _fraction(histogram, target)
    voxels = np.bincount(cells.code, weights=cells.count).astype(np.float64, copy=False)
    total = np.bincount(cells.code, weights=cells.count * values[cells.pattern]).astype(np.float64, copy=False)
    code = np.flatnonzero(voxels)
    return _Sums(code, voxels[code], total[code], denominator)
