"""What a metric sees: the voxels of a region, grouped by score and by who marked them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from twintrack_core.codes import CODE_VALUES, N_CODES
from twintrack_core.errors import FitError
from twintrack_core.histogram import CaseStatistics, JointHistogram, RegionName
from twintrack_core.metrics.once import Once
from twintrack_core.names import some
from twintrack_core.targets import target_values


@dataclass(frozen=True, eq=False)
class Scores:
    """Voxels grouped by score.

    Attributes
    ----------
    score
        (k,) float64 scores that occur, ascending, exact values of score codes.
    count
        (k,) int64 voxels of each score, above 0.
    mean
        (k,) float64 mean of the mean human response over these voxels.
    """

    score: npt.NDArray[np.float64]
    count: npt.NDArray[np.int64]
    mean: npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LabelledScores:
    """Voxels grouped by score, told apart by a yes or no: a rater's mark, or a consensus.

    Attributes
    ----------
    score
        (k,) float64 scores that occur, ascending, exact values of score codes.
    marked, unmarked
        (k,) int64 voxels of each score that are marked, and that are not.
    """

    score: npt.NDArray[np.float64]
    marked: npt.NDArray[np.int64]
    unmarked: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Panel:
    """Voxels of the cases that share a set of raters, grouped by who marked them.

    Attributes
    ----------
    raters
        Names of the R raters, sorted.
    count
        (2**R,) int64 voxels of each pattern: bit r is set where ``raters[r]`` marked.
    """

    raters: tuple[str, ...]
    count: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ScoredCells(Once):
    """Voxels of a region of one case, or of several taken as one volume.

    Everything is computed when first asked for. Counts add as integers, so the order of the cases does not matter.

    Attributes
    ----------
    cases
        Statistics of the cases, with one rater or more each; the raters may differ.
    region
        "whole", or "roi" for the inside of the region of interest.
    roi
        Rule of the region of interest that made the statistics; None if it is not known.
    """

    cases: tuple[CaseStatistics, ...]
    region: RegionName = "whole"
    roi: str | None = None

    @classmethod
    def of(cls, cases: Sequence[CaseStatistics], region: RegionName = "whole", roi: str | None = None) -> ScoredCells:
        """Take the voxels of cases; those without raters are left out."""
        return cls(tuple(case for case in cases if case.histogram.raters), region, roi)

    @property
    def score(self) -> npt.NDArray[np.float64]:
        """(n,) float64 scores of the cells, exact values of score codes."""
        return self._cells[0]

    @property
    def mhr(self) -> npt.NDArray[np.float64]:
        """(n,) float64 mean human responses of the cells: marks / raters."""
        return self._cells[1]

    @property
    def count(self) -> npt.NDArray[np.int64]:
        """(n,) int64 voxels of the cells, above 0, sorted by number of raters, score and marks."""
        return self._cells[2]

    @cached_property
    def n_voxels(self) -> int:
        """Number of voxels."""
        return int(self.count.sum())

    @cached_property
    def n_raters(self) -> int | None:
        """Number of raters; None where cases differ."""
        numbers = {len(case.histogram.raters) for case in self.cases}
        return numbers.pop() if len(numbers) == 1 else None

    @cached_property
    def raters(self) -> tuple[str, ...]:
        """Names of everybody who rated a case, sorted."""
        return tuple(sorted({rater for case in self.cases for rater in case.histogram.raters}))

    def require_rater(self, name: str) -> None:
        """Refuse the name of a rater who rated no case.

        Raises
        ------
        FitError
            Metrics that let it pass are undefined then.
        """
        if name not in self.raters:
            raise FitError(f"there is no rater {name!r} among {some(self.raters)}")

    @cached_property
    def scores(self) -> Scores:
        """The voxels grouped by score alone."""
        voxels = np.zeros(N_CODES, dtype=np.int64)
        total = np.zeros(N_CODES)
        for n_raters, table in self._tables.items():
            voxels += table @ np.ones(n_raters + 1, dtype=np.int64)  # several times as quick as the sum of short rows
            total += table @ np.arange(n_raters + 1.0) / n_raters  # marks may be more than int64 can count
        present = np.flatnonzero(voxels)
        mean = np.minimum(total[present] / voxels[present], 1.0)  # rounding may carry a mean of ones past 1
        return Scores(*_read_only(CODE_VALUES[present], voxels[present], mean))

    @cached_property
    def panels(self) -> tuple[Panel, ...]:
        """The voxels grouped by who marked them alone, a panel for each set of raters."""
        found: dict[tuple[str, ...], npt.NDArray[np.int64]] = {}
        for case in self.cases:
            raters = tuple(sorted(case.histogram.raters))
            histogram = case.histogram.reorder_raters(raters)
            counts = found.setdefault(raters, np.zeros(1 << len(raters), dtype=np.int64))
            inside = within(histogram, self.region)
            np.add.at(counts, histogram.pattern[inside], histogram.count[inside])
        return tuple(Panel(raters, *_read_only(counts)) for raters, counts in sorted(found.items()))

    def labelled(self, consensus: str) -> LabelledScores:
        """Tell the voxels apart by a rater or a consensus.

        Parameters
        ----------
        consensus
            "majority", "staple" (a STAPLE probability of 0.5 or more, estimated over each case's whole volume) or
            "rater:NAME"; see `twintrack_core.targets`. Among several cases, nothing is marked in one without a mark,
            though it has no STAPLE.

        Raises
        ------
        FitError
            If a case has no STAPLE, or no case has that rater; metrics that let it pass are undefined then.
        RequestError
            For an unknown consensus.
        """
        return self.once((__name__, consensus), lambda: self._label(consensus))

    def _label(self, consensus: str) -> LabelledScores:
        name = consensus.removeprefix("rater:")
        if name != consensus:
            self.require_rater(name)
        table = np.zeros((2, N_CODES), dtype=np.int64)
        for case in self.cases:
            histogram = case.histogram
            if name == consensus or name in histogram.raters:
                unmarked = consensus == "staple" and len(self.cases) > 1 and not histogram.pattern.any()
                values = np.zeros(1) if unmarked else target_values(histogram, consensus)
                inside = within(histogram, self.region)
                place = (values >= 0.5).astype(np.intp)[histogram.pattern[inside]] * N_CODES + histogram.code[inside]
                np.add.at(table.reshape(-1), place, histogram.count[inside])
        present = np.flatnonzero(table.any(axis=0))
        return LabelledScores(*_read_only(CODE_VALUES[present], table[1, present], table[0, present]))

    @cached_property
    def _tables(self) -> dict[int, npt.NDArray[np.int64]]:
        """Voxels of every score code and number of marks, (15361, R + 1) for each number of raters R, in order."""
        tables: dict[int, npt.NDArray[np.int64]] = {}
        for case in self.cases:
            histogram = case.histogram
            n_raters = len(histogram.raters)
            table = tables.setdefault(n_raters, np.zeros((N_CODES, n_raters + 1), dtype=np.int64))
            inside = within(histogram, self.region)
            place = histogram.code[inside].astype(np.intp) * (n_raters + 1)
            place += np.bitwise_count(histogram.pattern[inside])
            np.add.at(table.reshape(-1), place, histogram.count[inside])
        return dict(sorted(tables.items()))

    @cached_property
    def _cells(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        score, mhr, count = [np.zeros(0)], [np.zeros(0)], [np.zeros(0, dtype=np.int64)]
        for n_raters, table in self._tables.items():
            flat = table.reshape(-1)
            place = np.flatnonzero(flat > 0)  # of one bool axis: several times as quick as np.nonzero of two
            code, marks = np.divmod(place, n_raters + 1)
            score.append(CODE_VALUES[code])
            mhr.append(marks / n_raters)
            count.append(flat[place])
        columns = np.concatenate(score), np.concatenate(mhr), np.concatenate(count)
        _read_only(*columns)
        return columns


def within(histogram: JointHistogram, region: RegionName) -> slice | npt.NDArray[np.bool_]:
    """Return which cells of a histogram lie in a region; those of "whole" are not folded, and may share a place."""
    return slice(None) if region == "whole" else histogram.region == 1


def _read_only(*arrays: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], ...]:
    """Return arrays that several metrics are given, so that none can change them for the others."""
    for array in arrays:
        array.flags.writeable = False
    return arrays
