"""The cells of a joint histogram as four columns: put into canonical form, merged, their patterns permuted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from twintrack_core.errors import RequestError
from twintrack_core.kernels.tally import Columns

N_PATTERNS = 256  # patterns of the most raters a case can have
_TOO_MANY = 2.0**63
_PATTERN_BITS, _CODE_BITS = 8, 14


Cells: TypeAlias = Columns
"""Cells of a joint histogram: columns region, code, pattern and count of one length.

In canonical form they are sorted by (region, code, pattern), no two share a place, no count is 0, and the columns are
read-only.
"""


def merge(
    region: npt.NDArray[Any], code: npt.NDArray[Any], pattern: npt.NDArray[Any], count: npt.NDArray[np.int64]
) -> Cells:
    """Put cells in any order into canonical form; counts of one place are added, as integers.

    Raises
    ------
    RequestError
        For more voxels than int64 can count.
    """
    # Sums below wrap around beyond int64 without a word.
    if np.abs(count.astype(np.float64)).sum() >= _TOO_MANY:
        raise RequestError("There are 2^63 voxels or more.", "Allowed: what int64 can count.")
    key = place_keys(region, code, pattern)
    if not (np.diff(key) > 0).all():
        order = _order(key)
        key, count = key[order], count[order]
        starts = np.flatnonzero(np.diff(key, prepend=-1))
        key, count = key[starts], np.add.reduceat(count, starts)
    present = count != 0
    return from_keys(key[present], count[present])


def _order(key: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """Return what ``np.argsort(key, kind="stable")`` does, several times as quickly: NumPy sorts with vectors."""
    packed = (key.astype(np.int64) << 32) | np.arange(len(key), dtype=np.int64)
    packed.sort()
    return packed & 0xFFFFFFFF


def place_keys(region: npt.NDArray[Any], code: npt.NDArray[Any], pattern: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """Return one integer a cell that sorts by (region, code, pattern)."""
    key = region.astype(np.int32) << _CODE_BITS
    key |= code.astype(np.int32)
    key <<= _PATTERN_BITS
    key |= pattern.astype(np.int32)
    return key


def from_keys(key: npt.NDArray[np.int32], count: npt.NDArray[np.int64]) -> Cells:
    """Return the cells of ascending `place_keys` and their counts."""
    pattern = key.astype(np.uint8)
    code = (key >> _PATTERN_BITS).astype(np.uint16) & np.uint16((1 << _CODE_BITS) - 1)
    region = (key >> (_PATTERN_BITS + _CODE_BITS)).astype(np.uint8)
    return freeze((region, code, pattern, np.array(count, dtype=np.int64)))


def freeze(columns: Cells) -> Cells:
    """Make columns that are sorted, of different places and without a count of 0, the canonical ones they could be."""
    for column in columns:
        column.flags.writeable = False
    return columns


def concatenate(parts: Sequence[Cells]) -> Cells:
    """Merge the canonical cells of several histograms; none give no cells."""
    if len(parts) == 1:
        return parts[0]
    empty = from_keys(np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int64))
    region, code, pattern, count = (np.concatenate(column) for column in zip(empty, *parts, strict=True))
    return merge(region, code, pattern, count)


def bit_table(sources: Sequence[int]) -> npt.NDArray[np.uint8]:
    """Return what becomes of each of the 256 patterns when bit i of the new one is bit ``sources[i]`` of the old one.

    Bits that are no source are dropped, so one table serves to reorder raters and to leave some out.
    """
    old = np.arange(N_PATTERNS, dtype=np.int32)
    new = np.zeros(N_PATTERNS, dtype=np.int32)
    for bit, source in enumerate(sources):
        new |= ((old >> source) & 1) << bit
    return new.astype(np.uint8)
