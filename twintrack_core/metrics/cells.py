"""What a metric sees: scores, mean human responses, and how many voxels have both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from twintrack_core.codes import CODE_VALUES, N_CODES
from twintrack_core.histogram import JointHistogram, RegionName


@dataclass(frozen=True, eq=False)
class ScoredCells:
    """Voxels of a region of one case, or of several taken as one volume, grouped by score and mean human response.

    Attributes
    ----------
    score
        (n,) float64 scores, exact values of score codes.
    mhr
        (n,) float64 mean human responses: marks / raters.
    count
        (n,) int64 voxels, above 0. The cells are sorted by number of raters, score and marks.
    n_raters
        Number of raters; None where cases differ.
    voxel_mm3
        Volume of a voxel in mm3; None where cases differ.
    """

    score: npt.NDArray[np.float64]
    mhr: npt.NDArray[np.float64]
    count: npt.NDArray[np.int64]
    n_raters: int | None = None
    voxel_mm3: float | None = None

    @classmethod
    def of(
        cls, histograms: Sequence[JointHistogram], region: RegionName = "whole", voxel_mm3: float | None = None
    ) -> ScoredCells:
        """Pool the voxels of histograms of one rater or more each; the raters may differ.

        Counts add as integers, so the order of the histograms does not matter.
        """
        tables: dict[int, npt.NDArray[np.int64]] = {}
        for histogram in histograms:
            n_raters = len(histogram.raters)
            table = tables.setdefault(n_raters, np.zeros((N_CODES, n_raters + 1), dtype=np.int64))
            marks = np.bitwise_count(histogram.pattern)
            # "whole" needs no folding first: the cells of both regions meet here.
            seen = slice(None) if region == "whole" else histogram.region == 1
            np.add.at(table, (histogram.code[seen], marks[seen]), histogram.count[seen])
        score, mhr, count = [np.zeros(0)], [np.zeros(0)], [np.zeros(0, dtype=np.int64)]
        for n_raters, table in sorted(tables.items()):
            code, marks = np.nonzero(table)
            score.append(CODE_VALUES[code])
            mhr.append(marks / n_raters)
            count.append(table[code, marks])
        return cls(
            np.concatenate(score),
            np.concatenate(mhr),
            np.concatenate(count),
            next(iter(tables)) if len(tables) == 1 else None,
            voxel_mm3,
        )

    @property
    def n_voxels(self) -> int:
        """Number of voxels."""
        return int(self.count.sum())
