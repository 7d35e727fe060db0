"""Voxels to try a kernel on: every kind of volume, and the scores, votes and regions at which kernels go wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from twintrack_core.codes import CODE_VALUES, HIGHEST_VALID, LOWEST_VALID, N_CODES

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

DTYPES = ("float16", "float32", "uint8")
MEMBERS = (1, 2, 3, 5, 9, 33)

BLOCKS = (256, 512, 1024, 2048, 4096, 8192, 65536)
SIZES = (*range(131), *(block + step for block in BLOCKS for step in (-1, 0, 1)))
"""Numbers of voxels around every likely number that a kernel takes together."""


class Voxels(NamedTuple):
    """What a kernel is given, and a few words for what that is.

    Attributes
    ----------
    words
        What these voxels are, for messages.
    scores
        (M, N).
    votes, region
        (N,) or None.
    n_raters
        R: patterns of 2^R and more are invalid.
    """

    words: str
    scores: npt.NDArray[Any]
    votes: Bytes | None = None
    region: Bytes | None = None
    n_raters: int = 0

    def __str__(self) -> str:
        members, size = self.scores.shape
        return (
            f"{self.words} ({self.scores.dtype}, members: {members}, voxels: {size}, raters: {self.n_raters}, "
            f"votes: {self.votes is not None}, region: {self.region is not None})"
        )

    def part(self, start: int, stop: int) -> Voxels:
        """Return the voxels from ``start`` to ``stop``."""
        votes, region = (None if array is None else array[start:stop].copy() for array in (self.votes, self.region))
        scores = np.ascontiguousarray(self.scores[:, start:stop])
        return Voxels(f"{self.words}, voxels {start} to {stop}", scores, votes, region, self.n_raters)


def stored(scores: npt.NDArray[Any], dtype: str) -> npt.NDArray[Any]:
    """Return scores in [0, 1] as a kernel takes them."""
    return np.ascontiguousarray(np.round(scores * 255) if dtype == "uint8" else scores, dtype)


def float16(codes: npt.ArrayLike) -> npt.NDArray[np.float16]:
    """Return the scores of bit patterns."""
    return np.asarray(codes).astype(np.uint16).view(np.float16)


def float32(bits: npt.ArrayLike) -> Floats:
    """Return the scores of bit patterns."""
    return np.asarray(bits).astype(np.uint32).view(np.float32)


# Kinds of volume: scores (M, N) and votes (N,), of which the lowest R bits are used.
Kind = Callable[[np.random.Generator, int, int], tuple[npt.NDArray[Any], Bytes]]


def _background(_rng: np.random.Generator, members: int, size: int) -> tuple[npt.NDArray[Any], Bytes]:
    return np.zeros((members, size)), np.zeros(size, np.uint8)


def _one_cell(_rng: np.random.Generator, members: int, size: int) -> tuple[npt.NDArray[Any], Bytes]:
    return np.full((members, size), 0.731), np.full(size, 5, np.uint8)


def _any(rng: np.random.Generator, members: int, size: int) -> tuple[npt.NDArray[Any], Bytes]:
    scores = CODE_VALUES[rng.integers(0, N_CODES, (members, size))]
    return scores, rng.integers(0, 256, size, np.uint8)


def _saturated(rng: np.random.Generator, members: int, size: int) -> tuple[npt.NDArray[Any], Bytes]:
    logits = rng.normal(0, 12, size) + rng.normal(0, 1, (members, size))
    return 1 / (1 + np.exp(-logits)), np.where(logits[0] > 0, np.uint8(255), np.uint8(0))


def _softmax_background(rng: np.random.Generator, members: int, size: int) -> tuple[npt.NDArray[Any], Bytes]:
    scores, votes = _sparse(rng, members, size)
    return np.maximum(scores, rng.random((members, size)) * 1e-3), votes


def _sparse(rng: np.random.Generator, members: int, size: int) -> tuple[npt.NDArray[Any], Bytes]:
    scores, votes = _background(rng, members, size)
    places = np.flatnonzero(rng.random(size) < 1e-3)
    scores[rng.integers(0, members, places.size), places] = rng.random(places.size)
    votes[places] = rng.integers(0, 256, places.size)
    return scores, votes


def _marks_without_scores(rng: np.random.Generator, members: int, size: int) -> tuple[npt.NDArray[Any], Bytes]:
    scores, votes = _sparse(rng, members, size)
    return np.zeros_like(scores), votes


def _scores_without_marks(rng: np.random.Generator, members: int, size: int) -> tuple[npt.NDArray[Any], Bytes]:
    scores, votes = _sparse(rng, members, size)
    return scores, np.zeros_like(votes)


def _runs(rng: np.random.Generator, members: int, size: int) -> tuple[npt.NDArray[Any], Bytes]:
    lengths = (10 ** rng.uniform(0, 4.3, size // 500 + 20)).astype(np.int64)
    places = np.resize(np.arange(lengths.size).repeat(lengths), size)
    scores = np.where(rng.random(lengths.size) < 0.4, 0, rng.random((members, lengths.size)))
    votes = np.where(rng.random(lengths.size) < 0.4, 0, rng.integers(0, 256, lengths.size)).astype(np.uint8)
    return scores[:, places], votes[places]


def _alternating(_rng: np.random.Generator, members: int, size: int) -> tuple[npt.NDArray[Any], Bytes]:
    odd = np.arange(size) % 2
    return np.tile(np.where(odd, 0.9, 0.1), (members, 1)), (odd * 255).astype(np.uint8)


def _zeros_and_ones(_rng: np.random.Generator, members: int, size: int) -> tuple[npt.NDArray[Any], Bytes]:
    odd = np.arange(size) % 2
    return np.tile(odd, (members, 1)), (odd ^ 1).astype(np.uint8)


def _negative_zeros(rng: np.random.Generator, members: int, size: int) -> tuple[npt.NDArray[Any], Bytes]:
    scores, votes = _sparse(rng, members, size)
    return np.where(rng.random(scores.shape) < 0.01, -0.0, scores), votes


KINDS: dict[str, Kind] = {
    "background": _background,
    "one cell": _one_cell,
    "any scores and votes": _any,
    "saturated scores": _saturated,
    "small scores everywhere": _softmax_background,
    "sparse scores and marks": _sparse,
    "marks without scores": _marks_without_scores,
    "scores without marks": _scores_without_marks,
    "runs": _runs,
    "alternating scores": _alternating,
    "zeros and ones": _zeros_and_ones,
    "zeros of both signs": _negative_zeros,
}


def volume(kind: str, dtype: str, members: int, size: int, n_raters: int) -> Voxels:
    """Make voxels of one of `KINDS`, with votes and without a region; the same ones every time."""
    rng = np.random.default_rng([list(KINDS).index(kind), members, size])
    scores, votes = KINDS[kind](rng, members, size)
    return Voxels(kind, stored(scores, dtype), votes & np.uint8((1 << n_raters) - 1), None, n_raters)


def regions(size: int) -> Iterator[tuple[str, Bytes]]:
    """Yield regions: every byte but 0 is inside."""
    rng = np.random.default_rng(size)
    odd = np.arange(size) % 2
    yield "nothing inside", np.zeros(size, np.uint8)
    yield "everything inside", np.ones(size, np.uint8)
    yield "every other voxel inside, as 2", (odd * 2).astype(np.uint8)
    yield "inside is any byte", rng.integers(0, 3, size, np.uint8) * rng.integers(0, 256, size, np.uint8)
    runs = rng.choice(np.array([0, 128, 255], np.uint8), size // 700 + 1).repeat(700)[:size]
    yield "runs of inside, as 128 and 255", runs
    last = np.zeros(size, np.uint8)
    last[-1:] = 1
    yield "the last voxel inside", last
    yield "the last voxel outside", 1 - last


def half_midpoints() -> Floats:
    """Return what lies halfway between two codes, with both neighbours in float32, from -2^-25 to 1 + 2^-11."""
    ends = np.concatenate([[2 * LOWEST_VALID], CODE_VALUES, [2 * HIGHEST_VALID - 1]])
    middle = ((ends[1:] + ends[:-1]) / 2).astype(np.float32)  # exact: a midpoint has one bit more than a code
    scores = np.concatenate([np.nextafter(middle, np.float32(-9)), middle, np.nextafter(middle, np.float32(9))])
    return scores[(scores >= LOWEST_VALID) & (scores <= HIGHEST_VALID)]


def near_midpoints(members: int) -> Floats:
    """Return (M, N) scores whose mean is halfway between two codes but for the rounding of the sum and the division."""
    rng = np.random.default_rng(members)
    middle = rng.permutation((CODE_VALUES[1:] + CODE_VALUES[:-1]) / 2)
    spread = middle * rng.uniform(0.5, 1.5, (members - 1, middle.size))
    rest = spread.astype(np.float32)
    last = (members * middle - rest.sum(axis=0, dtype=np.float64)).astype(np.float32)
    scores = np.concatenate([rest, last[np.newaxis]])
    return np.ascontiguousarray(scores[:, ((scores >= 0) & (scores <= 1)).all(axis=0)])


def invalid_scores(dtype: str) -> npt.NDArray[Any]:
    """Return invalid scores of a floating dtype, some of them by a hair."""
    others = np.array([np.inf, -np.inf, -0.1, 1.2, -7.5, 3.7, 65504], dtype)
    if dtype == "float16":
        return np.concatenate([float16([0x7E00, 0xFE00, 0x7C01, 0x8001, N_CODES]), others])
    edges = np.nextafter(np.array([LOWEST_VALID, HIGHEST_VALID], np.float32), np.array([-1, 2], np.float32))
    return np.concatenate([float32([0x7FC00000, 0xFFC00000, 0x7F800001]), edges, others])


def _block_ends(size: int) -> list[int]:
    places = {0, size // 2, size - 1, *(end + step for end in (8, 64, *BLOCKS) for step in (-1, 0))}
    return sorted(place for place in places if place < size)


def with_invalid_scores(voxels: Voxels) -> Iterator[Voxels]:
    """Yield floating voxels with one invalid score at the ends of blocks, each value once or more, and with many."""
    values = invalid_scores(voxels.scores.dtype.name)
    places = _block_ends(voxels.scores.shape[1])
    for i in range(max(len(values), len(places))):
        yield damaged(voxels, values[i % len(values)], places[i % len(places)])
    for value in values:
        yield damaged(voxels, value, places)


def damaged(voxels: Voxels, value: Any, places: int | list[int]) -> Voxels:
    """Return the voxels with another score in one member of some."""
    scores = voxels.scores.copy()
    scores[np.max(places) % len(scores), places] = value
    return voxels._replace(words=f"{voxels.words} with {value!r} at {places}", scores=scores)


def with_invalid_votes(voxels: Voxels) -> Iterator[Voxels]:
    """Yield voxels with patterns of 2^R and more at the ends of blocks, alone, together, and beside invalid scores."""
    size = voxels.scores.shape[1]
    places = _block_ends(size)
    some: list[int | list[int]] = [*places, places]
    for place in some:
        votes = np.zeros(size, np.uint8) if voxels.votes is None else voxels.votes.copy()
        votes[place] = 255 if np.max(place) % 3 == 0 else 1 << voxels.n_raters
        marked = voxels._replace(words=f"{voxels.words} with votes of {votes[place]} at {place}", votes=votes)
        yield marked
        if voxels.scores.dtype != np.uint8:
            yield damaged(marked, np.nan, places[0])
            yield damaged(marked, 1.5, places)


def moved(voxels: Voxels, items: int) -> Voxels:
    """Return the voxels in read-only arrays that start some items past a cache line."""
    votes, region = (None if array is None else _moved(array, items) for array in (voxels.votes, voxels.region))
    words = f"{voxels.words}, read-only and {items} items past a cache line"
    return Voxels(words, _moved(voxels.scores, items), votes, region, voxels.n_raters)


def _moved(array: npt.NDArray[Any], items: int) -> npt.NDArray[Any]:
    whole = np.empty(array.nbytes + 64 + items * array.itemsize, np.uint8)
    first = -whole.ctypes.data % 64 + items * array.itemsize
    copy = whole[first : first + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[:] = array
    copy.flags.writeable = False
    return copy
