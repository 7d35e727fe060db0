"""Voxels by score and raters, condensed once for all maps: what a map changes is which scores are the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from twintrack_core.codes import CODE_ONE, CODE_VALUES, N_CODES
from twintrack_core.errors import RequestError
from twintrack_core.histogram import CaseStatistics, JointHistogram, RegionName
from twintrack_core.targets import target_values

_Counts: TypeAlias = npt.NDArray[np.int64]
_Chosen: TypeAlias = npt.NDArray[np.bool_]


class Condensed:
    """Voxels of a region of cases that share a set of R raters, summed up along the n score codes that occur.

    The voxels of any run of codes are a difference of two sums, as integers, so a map costs no more than to pick rows.

    Attributes
    ----------
    raters
        Names of the raters, sorted.
    code
        (n,) uint16 score codes that occur, ascending.
    sums
        (R + 1 + R, n + 1) int64: before each code and after the last, voxels by number of marks, and by who marked.
    """

    def __init__(self, raters: tuple[str, ...], cases: Sequence[CaseStatistics], region: RegionName) -> None:
        self.raters = raters
        self._histograms = [case.histogram.reorder_raters(raters) for case in cases]
        self._region = region
        patterns = np.arange(1 << len(raters))
        by_marks = np.bitwise_count(patterns) == np.arange(len(raters) + 1)[:, np.newaxis]
        self._bits = 1 << np.arange(len(raters))[:, np.newaxis]
        table = self._table(np.concatenate([by_marks, patterns & self._bits != 0]))
        self.code = np.flatnonzero(table[: len(by_marks)].any(axis=0)).astype(np.uint16)
        self.sums = self._summed(table)

    @cached_property
    def count(self) -> _Counts:
        """(2**R,) int64 voxels of each pattern of marks, read-only."""
        count = np.zeros(1 << len(self.raters), dtype=np.int64)
        for histogram in self._histograms:
            inside = within(histogram, self._region)
            np.add.at(count, histogram.pattern[inside], histogram.count[inside])
        count.flags.writeable = False
        return count

    @property
    def by_marks(self) -> _Counts:
        """(R + 1,) int64 voxels of each number of marks."""
        return self.sums[: len(self.raters) + 1, -1]

    @cached_property
    def sums_of_one(self) -> _Counts:
        """(R + R, n + 1) int64 as `sums`: voxels that one rater alone marked, and that one rater alone did not."""
        patterns = np.arange(1 << len(self.raters))
        return self._summed(
            self._table(np.concatenate([patterns == self._bits, patterns == patterns[-1] - self._bits]))
        )

    def sums_of_staple(self, *, unmarked: bool) -> _Counts:
        """Return (n + 1,) int64 as `sums`: voxels to which their case's STAPLE gives a probability of 0.5 or more.

        Parameters
        ----------
        unmarked
            Whether nothing is marked in a case without a mark, which has no STAPLE.

        Raises
        ------
        FitError
            If a case has no STAPLE.
        """

        def chosen(histogram: JointHistogram) -> _Chosen:
            if unmarked and not histogram.pattern.any():
                return np.zeros((1, 1 << len(self.raters)), dtype=bool)
            return target_values(histogram, "staple")[np.newaxis] >= 0.5

        return np.asarray(self._summed(self._table(chosen))[0])

    def _table(self, chosen: _Chosen | Callable[[JointHistogram], _Chosen]) -> _Counts:
        """Return the voxels of each code in the patterns that are chosen, (c, 15361) for c choices of 2**R patterns."""
        table = np.zeros((0, N_CODES), dtype=np.int64)
        for histogram in self._histograms:
            rows = chosen(histogram) if callable(chosen) else chosen
            table = table if len(table) else np.zeros((len(rows), N_CODES), dtype=np.int64)
            inside = within(histogram, self._region)
            code, pattern, count = histogram.code[inside], histogram.pattern[inside], histogram.count[inside]
            for row, of_pattern in zip(table, rows, strict=True):
                cells = np.flatnonzero(of_pattern[pattern])
                np.add.at(row, code[cells], count[cells])
        return table

    def _summed(self, table: _Counts) -> _Counts:
        sums = np.zeros((len(table), len(self.code) + 1), dtype=np.int64)
        np.cumsum(table.take(self.code, axis=1), axis=1, out=sums[:, 1:])
        return sums


class PanelScores:
    """The voxels of cases that share a set of R raters by score, as it is or as a map makes it.

    Attributes
    ----------
    condensed
        The voxels by scores as they are.
    raters
        Names of the raters, sorted.
    code
        (k,) uint16 score codes that occur, ascending.
    score
        (k,) float64 their exact values.
    by_marks
        (R + 1, k) int64 voxels of each number of marks and each score.
    by_rater
        (R, k) int64 voxels of each score that each rater marked.
    voxels
        (k,) int64 voxels of each score.
    """

    def __init__(self, condensed: Condensed, codes: npt.NDArray[np.integer[Any]] | None = None) -> None:
        """Take the scores as they are, or what each of the 15361 codes becomes."""
        self.condensed = condensed
        self.raters = condensed.raters
        new = condensed.code if codes is None else codes.take(condensed.code).astype(np.uint16, copy=False)
        if (new[1:] < new[:-1]).any():
            raise RequestError("The codes of a map decrease.", "Allowed: codes that do not.")
        last = np.append(np.flatnonzero(new[1:] != new[:-1]), np.arange(len(new))[-1:])
        self.code = new[last]
        self.score = CODE_VALUES[self.code]
        self._places = np.concatenate([[0], last + 1])
        self._sums = condensed.sums.take(self._places, axis=1)
        counts = np.diff(self._sums, axis=1)
        self.by_marks, self.by_rater = counts[: len(self.raters) + 1], counts[len(self.raters) + 1 :]
        self.voxels = np.asarray(self.by_marks.sum(axis=0))

    def of_runs(self, stops: npt.NDArray[np.intp]) -> tuple[_Counts, _Counts]:
        """Return the voxels of runs of scores, (R + 1, n + 1) by number of marks and (R, n + 1) by who marked them.

        Parameters
        ----------
        stops
            (n,) ascending places in `score` at which a run ends and the next one begins.
        """
        counts = np.diff(self._sums.take([0, *stops, len(self.code)], axis=1), axis=1)
        return counts[: len(self.by_marks)], counts[len(self.by_marks) :]

    @cached_property
    def at_ends(self) -> tuple[_Counts, _Counts]:
        """The voxels of the scores 0 and 1, (R + 1, 2) by number of marks and (R, 2) by who marked them."""
        by_marks, by_rater = self.of_runs(self._inner)
        return by_marks[:, ::2], by_rater[:, ::2]

    def contradicted_by_others(self) -> _Counts:
        """Return for each rater the voxels with a score of 0 or 1 that another rater contradicts, (R,) int64."""
        first, last = self._places[self._inner]
        sums, n_raters = self.condensed.sums_of_one, len(self.raters)
        alone_marked = sums[:n_raters, first]
        alone_unmarked = sums[n_raters:, -1] - sums[n_raters:, last]
        low, high = self.at_ends[0].T
        return np.asarray(low[1:].sum() - alone_marked + high[:-1].sum() - alone_unmarked)

    def label(self, sums: _Counts) -> _Counts:
        """Return the voxels of each score, (k,) int64, that (n + 1,) sums like those of `condensed` count."""
        return np.diff(sums.take(self._places))

    @property
    def _inner(self) -> npt.NDArray[np.intp]:
        """Where the scores between 0 and 1 begin, and where they end."""
        return np.searchsorted(self.code, np.array([1, CODE_ONE], dtype=np.uint16))


def within(histogram: JointHistogram, region: RegionName) -> slice:
    """Return which cells of a histogram lie in a region; those of "whole" are not folded, and may share a place."""
    return slice(0 if region == "whole" else int(np.searchsorted(histogram.region, 1)), None)
