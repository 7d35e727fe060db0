"""What a metric sees: the voxels of a region, grouped by score and by who marked them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from twintrack_core.codes import CODE_VALUES
from twintrack_core.errors import FitError
from twintrack_core.histogram import CaseStatistics, RegionName
from twintrack_core.metrics.once import Once
from twintrack_core.metrics.tables import Condensed, PanelScores
from twintrack_core.names import some
from twintrack_core.targets import check_target

T = TypeVar("T")


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
        return sum(int(panel.count.sum()) for panel in self.panels)

    @cached_property
    def n_raters(self) -> int | None:
        """Number of raters; None where cases differ."""
        numbers = {len(panel.raters) for panel in self.panels}
        return numbers.pop() if len(numbers) == 1 else None

    @cached_property
    def raters(self) -> tuple[str, ...]:
        """Names of everybody who rated a case, sorted."""
        return tuple(sorted({rater for panel in self.panels for rater in panel.raters}))

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
        parts = []
        for table in self.tables:
            # Marks may be more than int64 can count.
            marks = sum(k * of_k.astype(np.float64) for k, of_k in enumerate(table.by_marks[1:], 1))
            parts.append((table.code, table.voxels, marks / len(table.raters)))
        code, voxels, total = _added(parts, np.int64, np.float64)
        mean = np.minimum(total / voxels, 1.0)  # rounding may carry a mean of ones past 1
        return Scores(*_read_only(CODE_VALUES[code], voxels, mean))

    @cached_property
    def panels(self) -> tuple[Panel, ...]:
        """The voxels grouped by who marked them alone, a panel for each set of raters."""
        return tuple(Panel(table.raters, table.condensed.count) for table in self.tables)

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

    def relabel(self, codes: npt.NDArray[np.integer[Any]]) -> ScoredCells:
        """Return the voxels of the volumes that a map would write.

        The cells are those of ``ScoredCells.of`` cases that are relabelled. What maps do not change is shared.

        Parameters
        ----------
        codes
            (15361,) score codes that do not decrease: `CalibrationMap.codes`.
        """
        return _Relabelled.by(self._raw, codes if self._codes is None else codes[self._codes])

    def of_marks(self, key: Any, compute: Callable[[ScoredCells], T]) -> T:
        """Return what ``compute`` gives of these cells whatever their scores are: it is called for all maps once.

        Parameters
        ----------
        key
            As in `once`.
        compute
            Function of the cells before any map.
        """
        return self._raw.once(key, lambda: compute(self._raw))

    @cached_property
    def tables(self) -> tuple[PanelScores, ...]:
        """What the rest is made of: the voxels of each set of raters, in order."""
        found: dict[tuple[str, ...], list[CaseStatistics]] = {}
        for case in self.cases:
            found.setdefault(tuple(sorted(case.histogram.raters)), []).append(case)
        return tuple(PanelScores(Condensed(raters, cases, self.region)) for raters, cases in sorted(found.items()))

    @cached_property
    def _raw(self) -> ScoredCells:
        return self

    @cached_property
    def _codes(self) -> npt.NDArray[np.integer[Any]] | None:
        """What became of each score code since."""
        return None

    def _label(self, consensus: str) -> LabelledScores:
        check_target(consensus)
        name = consensus.removeprefix("rater:")
        if name != consensus:
            self.require_rater(name)
        parts = []
        for table in self.tables:
            if name == consensus:
                marked = self._marked(table, consensus)
            elif name in table.raters:
                marked = table.by_rater[table.raters.index(name)]
            else:
                continue
            parts.append((table.code, marked, table.voxels - marked))
        code, marked, unmarked = _added(parts, np.int64, np.int64)
        return LabelledScores(*_read_only(CODE_VALUES[code], marked, unmarked))

    def _marked(self, table: PanelScores, consensus: str) -> npt.NDArray[np.int64]:
        """Return the voxels of each score that a majority or STAPLE marks."""
        if consensus == "majority":
            return np.asarray(table.by_marks[len(table.raters) // 2 + 1 :].sum(axis=0), dtype=np.int64)
        sums = self.of_marks(
            (__name__, "staple", table.raters),
            lambda raw: table.condensed.sums_of_staple(unmarked=len(raw.cases) > 1),
        )
        return table.label(sums)

    @cached_property
    def _cells(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        score, mhr, count = [np.zeros(0)], [np.zeros(0)], [np.zeros(0, dtype=np.int64)]
        for n_raters in sorted({len(table.raters) for table in self.tables}):
            alike = [table for table in self.tables if len(table.raters) == n_raters]
            codes, *by_marks = _added([(table.code, *table.by_marks) for table in alike], *[np.int64] * (n_raters + 1))
            flat = np.column_stack(by_marks).reshape(-1)
            place = np.flatnonzero(flat > 0)  # of one bool axis: several times as quick as np.nonzero of two
            code, marks = np.divmod(place, n_raters + 1)
            score.append(CODE_VALUES[codes[code]])
            mhr.append(marks / n_raters)
            count.append(flat[place])
        columns = np.concatenate(score), np.concatenate(mhr), np.concatenate(count)
        _read_only(*columns)
        return columns


class _Relabelled(ScoredCells):
    """Cells under a map. Few metrics look at the histograms of the cases, which are relabelled when one does."""

    @classmethod
    def by(cls, raw: ScoredCells, codes: npt.NDArray[np.integer[Any]]) -> _Relabelled:
        """Relabel cells that are not."""
        cells = cls.__new__(cls)
        tables = tuple(PanelScores(table.condensed, codes) for table in raw.tables)
        vars(cells).update(region=raw.region, roi=raw.roi, tables=tables, _raw=raw, _codes=codes)
        return cells

    @cached_property
    def cases(self) -> tuple[CaseStatistics, ...]:
        codes = self._codes
        return self._raw.cases if codes is None else tuple(case.relabel(codes) for case in self._raw.cases)


def _added(parts: Sequence[tuple[npt.NDArray[Any], ...]], *dtypes: type[np.generic]) -> tuple[npt.NDArray[Any], ...]:
    """Add columns of several tables at each score code: the codes that occur, ascending, and the sums, in order."""
    if len(parts) == 1:
        return parts[0]
    code = np.unique(np.concatenate([np.zeros(0, dtype=np.uint16), *(part[0] for part in parts)]))
    columns = [np.zeros(len(code), dtype=dtype) for dtype in dtypes]
    for own, *rest in parts:
        place = np.searchsorted(code, own)
        for column, added in zip(columns, rest, strict=True):
            column[place] += added
    return code, *columns


def _read_only(*arrays: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], ...]:
    """Return arrays that several metrics are given, so that none can change them for the others."""
    for array in arrays:
        array.flags.writeable = False
    return arrays
