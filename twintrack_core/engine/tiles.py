"""Tiles: the pieces a case is worked on in, and the scores, votes and region of each.

The tiles of a case are the chunks of its probability array. Only those that overlap something written are visited;
the rest is background by definition, and counted or left unwritten without being read.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from twintrack_core.cohort.chunks import Box, ChunkedArray
from twintrack_core.cohort.scratch import Listed, Scratch
from twintrack_core.cohort.store import StoredCase
from twintrack_core.cohort.writer import default_chunks

Tile = tuple[int, ...]
"""Index of a tile in the grid of a case."""

_MAX_TILE_VOXELS = 1 << 24


def tile_shape(case: StoredCase) -> tuple[int, ...]:
    """Spatial chunk of the case's probability, or the store's default where that is too large to be a tile."""
    chunks = case.probability.chunks[-3:]
    return chunks if math.prod(chunks) <= _MAX_TILE_VOXELS else default_chunks(case.shape)


def tile_grid(case: StoredCase) -> tuple[int, ...]:
    """Tiles along (z, y, x)."""
    return tuple(-(-size // tile) for size, tile in zip(case.shape, tile_shape(case), strict=True))


def tile_box(tile: Tile, shape: Sequence[int], size: Sequence[int]) -> Box:
    """Voxels of a tile of ``shape`` in a volume of ``size``."""
    return tuple(slice(i * n, min((i + 1) * n, end)) for i, n, end in zip(tile, shape, size, strict=True))


class Listing:
    """The chunks of an array of a case that were written, listed once.

    Parameters
    ----------
    case
        The case.
    array
        One of its arrays.

    Raises
    ------
    StoreError
        If they cannot be listed.
    """

    def __init__(self, case: StoredCase, array: ChunkedArray) -> None:
        listed = array.listed()
        self._case = case
        self._array = array
        self._chunks = array.written() if listed is None else listed
        self._is_known = listed is not None

    def tiles(self, halo: Sequence[int] = (0, 0, 0)) -> npt.NDArray[np.int64]:
        """Tiles that overlap a written chunk, or its surroundings of ``halo`` voxels an axis.

        Returns
        -------
        numpy.ndarray
            (n,) int64, their places in the grid in C order.
        """
        case, shape = self._case, tile_shape(self._case)
        chunks = self._chunks[:, -3:]  # members share tiles, so only the spatial part of a chunk's index counts
        size = self._array.chunks[-3:]
        if size != shape or any(halo):
            found: set[Tile] = set()
            for index in np.unique(chunks, axis=0).tolist():
                found.update(_overlapping(index, size, halo, shape, case.shape))
            chunks = np.array(list(found), dtype=np.int64).reshape(-1, 3)
        return np.asarray(np.ravel_multi_index(tuple(chunks.T), tile_grid(case)), dtype=np.int64)

    def within(self, tiles: npt.NDArray[np.int64], halo: Sequence[int] = (0, 0, 0)) -> Listed:
        """Return the chunks in some of the case's (n, 3) tiles, or their surroundings of ``halo`` voxels an axis.

        Where chunks are not the tiles' own, or there are surroundings, it is those in the box around all of the tiles.
        """
        if not self._is_known:
            return []
        chunks, size, shape = self._chunks, self._array.chunks[-3:], tile_shape(self._case)
        if not len(tiles):
            chunks = chunks[:0]
        elif size == shape and not any(halo):
            grid = tile_grid(self._case)
            places = np.ravel_multi_index(tuple(chunks[:, -3:].T), grid)
            chunks = chunks[np.isin(places, np.ravel_multi_index(tuple(tiles.T), grid))]
        else:
            first = tiles.min(axis=0) * shape - np.asarray(halo)
            end = (tiles.max(axis=0) + 1) * shape + np.asarray(halo)
            starts = chunks[:, -3:] * np.asarray(size)
            chunks = chunks[((starts < end) & (starts + size > first)).all(axis=1)]
        return [(self._array.folder, chunks)]


def union(case: StoredCase, *places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Indices of the tiles at any of some places, (n, 3) int64, in ascending order within each shard of the scores."""
    tiles = np.stack(np.unravel_index(np.unique(np.concatenate(places)), tile_grid(case)), axis=1)
    sharding = case.probability.sharding
    if sharding is None:
        return tiles
    shard = np.multiply(sharding.chunks[-3:], case.probability.chunks[-3:])
    files = tiles * tile_shape(case) // shard
    return np.asarray(tiles[np.lexsort((*tiles.T[::-1], *files.T[::-1]))])


def _overlapping(
    index: Sequence[int], chunks: Sequence[int], halo: Sequence[int], shape: Sequence[int], size: Sequence[int]
) -> Iterator[Tile]:
    ranges = []
    for i, chunk, reach, tile, end in zip(index, chunks, halo, shape, size, strict=True):
        start, stop = max(0, i * chunk - reach), min(end, (i + 1) * chunk + reach)
        ranges.append(range(start // tile, -(-stop // tile)))
    return itertools.product(*ranges)


def tile_bounds(
    tiles: npt.NDArray[np.int64], shape: Sequence[int], size: Sequence[int]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First voxels of (n, 3) tiles, and the voxels after their last ones: `tile_box` of many."""
    starts = tiles * np.asarray(shape)
    return starts, np.minimum(starts + shape, size)


def tile_bytes(case: StoredCase) -> int:
    """Decoded bytes of the scores and votes of a tile."""
    return math.prod(tile_shape(case)) * (case.members * np.dtype(case.probability.dtype).itemsize + 1)


def expect_scores(probability: ChunkedArray, boxes: Iterable[Box], scratch: Scratch) -> None:
    """Say which spatial boxes `read_scores` will read; see `ChunkedArray.expect`."""
    every = () if len(probability.shape) == 3 else (slice(0, probability.shape[0]),)
    probability.expect(((*every, *box) for box in boxes), scratch)


def read_scores(probability: ChunkedArray, box: Box, scratch: Scratch) -> npt.NDArray[Any]:
    """Scores of a spatial box as (member, z, y, x); valid until the next call with the same scratch."""
    return read_written_scores(probability, box, scratch)[0]


def read_written_scores(probability: ChunkedArray, box: Box, scratch: Scratch) -> tuple[npt.NDArray[Any], bool]:
    """`read_scores`, and whether any of them were written."""
    shape = tuple(s.stop - s.start for s in box)
    if len(probability.shape) == 3:
        scores = scratch.array("scores", shape, probability.dtype)
        written = probability.read(box, scores, scratch)
        return scores[np.newaxis], written
    members = probability.shape[0]
    scores = scratch.array("scores", (members, *shape), probability.dtype)
    written = probability.read((slice(0, members), *box), scores, scratch)
    return scores, written


def background_score(probability: ChunkedArray) -> npt.NDArray[Any]:
    """Stored scores of one voxel of an unwritten chunk, (members, 1)."""
    members = probability.shape[0] if len(probability.shape) == 4 else 1
    return np.full((members, 1), probability.fill, dtype=probability.dtype)
