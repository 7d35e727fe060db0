"""Counts of one thread: 32 bits wide where a kernel adds to them, moved to 64 bits before they could overflow."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from twintrack_core.codes import N_CODES
from twintrack_core.kernels.findings import Findings
from twintrack_core.kernels.registry import Kernel

CAPACITY = (1 << 32) - 1
"""Voxels that a table of 32-bit counts certainly holds."""

Columns: TypeAlias = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint16], npt.NDArray[np.uint8], npt.NDArray[np.int64]]
"""Region, code, pattern and count of cells."""


class Tally:
    """A joint table that kernels add to, of any total.

    Parameters
    ----------
    n_raters
        Number of raters R, 0 to 8.
    """

    def __init__(self, n_raters: int) -> None:
        self._table = np.zeros((2, 1 << n_raters, N_CODES), dtype=np.uint32)
        self._room = CAPACITY
        self._moved: npt.NDArray[np.int64] | None = None

    def add(
        self,
        kernel: Kernel,
        scores: npt.NDArray[Any],
        votes: npt.NDArray[np.uint8] | None,
        region: npt.NDArray[np.uint8] | bool,
        *,
        clip: bool = False,
    ) -> Findings:
        """Count (M, N) scores, N below 2^32; a ``region`` that is all the same is given as True or False."""
        n = scores.shape[1]
        if n > self._room:
            self._move()
        self._room -= n
        if isinstance(region, bool):
            return kernel.accumulate(scores, votes, None, self._table[int(region) :][:1], clip=clip)
        return kernel.accumulate(scores, votes, region, self._table, clip=clip)

    def absorb(self, other: Tally) -> None:
        """Add the counts of another tally of as many raters."""
        if other._moved is not None:
            self._move()[...] += other._move()
            return
        counted = CAPACITY - other._room
        if counted > self._room:
            self._move()
        self._room -= counted
        self._table += other._table

    def _move(self) -> npt.NDArray[np.int64]:
        """Move all counts to 64 bits, and return them."""
        if self._moved is None:
            self._moved = np.zeros(self._table.shape, dtype=np.int64)
        self._moved += self._table
        self._table[:] = 0
        self._room = CAPACITY
        return self._moved

    def counts(self) -> npt.NDArray[np.int64]:
        """The table so far, (2, 2**R, 15361) int64: [outside / inside, pattern, code]."""
        return self._table.astype(np.int64) if self._moved is None else self._move()

    def put(self, code: int, outside: int, inside: int) -> None:
        """Count unmarked voxels of one score code that no kernel saw."""
        table = self._table if outside + inside <= self._room else self._move()
        if table is self._table:
            self._room -= outside + inside
        table[:, 0, code] += np.array([outside, inside], dtype=table.dtype)

    def drain(self) -> Columns:
        """Empty the table: region, code, pattern and count of its non-zero cells, sorted by the first three."""
        table = (self._table if self._moved is None else self._move()).reshape(-1)
        places = np.flatnonzero(table != 0)  # several times as quick as on the counts themselves
        columns = columns_of(places, table[places], self._table.shape[1])
        self._table.reshape(-1)[places] = 0
        self._moved = None
        self._room = CAPACITY
        return columns


def columns_of(places: npt.NDArray[np.int64], counts: npt.NDArray[Any], patterns: int) -> Columns:
    """Sort cells of a flattened (2, patterns, N_CODES) table, given by ascending place, by region, code and pattern."""
    row, code = np.divmod(places, N_CODES)
    short = code.astype(np.uint16)  # sorted by radix
    n_outside = int(np.searchsorted(row, patterns))
    order = np.concatenate(
        [np.argsort(short[:n_outside], kind="stable"), n_outside + np.argsort(short[n_outside:], kind="stable")]
    )
    row = row[order]
    region, pattern = row >= patterns, row & (patterns - 1)
    return region.view(np.uint8), short[order], pattern.astype(np.uint8), counts[order].astype(np.int64)
