"""Arrays of any shape to kernels: choose a backend, check, flatten, share the work among threads, report."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from twintrack_core.codes import MAX_MEMBERS, MAX_RATERS, N_CODES, OnInvalid, as_scores
from twintrack_core.errors import InvalidScoresError, InvalidVotesError, RequestError
from twintrack_core.kernels.device import are_on_device, require_device
from twintrack_core.kernels.findings import Findings
from twintrack_core.kernels.registry import get
from twintrack_core.kernels.tally import Columns, Tally

T = TypeVar("T")

_MIN_VOXELS_PER_THREAD = 1 << 18  # below this a private table costs more than the thread saves
_PIECE_VOXELS = 1 << 18  # members of a slab do not lie together; a copy of this many voxels stays in the cache
_LONGEST_PIECE = 1 << 30  # what a table of 32-bit counts can hold, several times over
_SLAB_ALIGNMENT = 1 << 12  # slabs start on a cache line of every dtype


def default_threads() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def tally_of(
    probability: npt.ArrayLike,
    votes: npt.NDArray[np.uint8] | None,
    roi: npt.NDArray[np.bool_] | None,
    n_raters: int,
    *,
    members: bool = False,
    kernel: str = "auto",
    threads: int | None = None,
    on_invalid: OnInvalid = "error",
) -> Tally:
    """Count score codes and rater patterns, outside and inside a region.

    Parameters
    ----------
    probability
        (...) scores, or (M, ...) with ``members=True``; see `codes.as_scores` for dtypes.
    votes
        (...) uint8, bit r set where rater r marked the voxel; None for no marks.
    roi
        (...) bool, or None for everything inside.
    n_raters
        Number of raters R, 0 to 8.
    kernel
        Name of the kernel, see `names`.
    threads
        Slabs counted at a time into tables of their own; all cores by default.
    on_invalid
        "error", "clip" or "exclude", see `codes.OnInvalid`.

    Returns
    -------
    Tally
        The joint counts.

    Raises
    ------
    RequestError
        For shapes that differ, or dtypes that mean something else.
    InvalidScoresError, InvalidVotesError
        For scores that are not probabilities, unless ``on_invalid`` allows them, and marks of raters there are not.
    """
    backend = get(kernel)
    scores, shape = _flat_scores(probability, members)
    if not 0 <= n_raters <= MAX_RATERS:
        raise RequestError(f"{n_raters} raters cannot be counted.", f"Allowed: 0 to {MAX_RATERS} raters.")
    flat_votes = None if votes is None else _flat(votes, "votes", shape, np.uint8)
    region = None if roi is None else _flat(roi, "roi", shape, np.bool_).view(np.uint8)
    clip = check_policy(on_invalid) == "clip"

    def count_slab(start: int, stop: int) -> tuple[Tally, Findings]:
        counted = Tally(n_raters)
        findings = Findings()
        for piece, members_scores in _pieces(scores, start, stop):
            some_votes = None if flat_votes is None else flat_votes[piece]
            some_region = True if region is None else region[piece]
            findings += counted.add(backend, members_scores, some_votes, some_region, clip=clip).shifted(piece.start)
        return counted, findings

    parts = _run_slabs(count_slab, scores.shape[1], threads)
    findings = sum((part[1] for part in parts[1:]), parts[0][1])
    report(findings, scores, Place("probability", shape), on_invalid, votes=flat_votes, n_raters=n_raters)
    total = parts[0][0]
    for counted, _ in parts[1:]:
        total.absorb(counted)
    return total


def cells_of(
    probability: Any,
    votes: Any,
    roi: Any,
    n_raters: int,
    *,
    kernel: str = "auto",
    threads: int | None = None,
    **options: Any,
) -> Columns:
    """Sorted region, code, pattern and count of what there is; as `tally_of`, and of arrays on a device, in place."""
    if not are_on_device(probability=probability, votes=votes, roi=roi):
        return tally_of(probability, votes, roi, n_raters, kernel=kernel, threads=threads, **options).drain()
    if kernel not in ("auto", "cupy"):
        raise RequestError(
            f"The kernel {kernel!r} does not count what is on a device.", "Allowed: auto, or cupy, which it stands for."
        )
    require_device()
    from twintrack_core.kernels import cupy

    return cupy.cells_of(probability, votes, roi, n_raters, **options)


def count(
    probability: npt.ArrayLike,
    votes: npt.NDArray[np.uint8] | None,
    roi: npt.NDArray[np.bool_] | None,
    n_raters: int,
    **options: Any,
) -> npt.NDArray[np.int64]:
    """Joint counts as a dense table, (2, 15361, 2**R) int64: [outside / inside, code, pattern]; else as `tally_of`."""
    return tally_of(probability, votes, roi, n_raters, **options).counts().swapaxes(1, 2)


def relabel(
    probability: npt.ArrayLike,
    lut: npt.NDArray[Any],
    *,
    members: bool = False,
    out: npt.NDArray[Any] | None = None,
    kernel: str = "auto",
    threads: int | None = None,
    on_invalid: OnInvalid = "error",
) -> npt.NDArray[Any]:
    """Look the code of every score up in a table.

    Parameters
    ----------
    probability
        (...) scores, or (M, ...) with ``members=True``, which are averaged first.
    lut
        (15361,) float16, float32, float64 or uint8: the value of each code.
    out
        (...) of ``lut``'s dtype, C-contiguous: where to write the result. It must not overlap ``probability``.
    on_invalid
        With "exclude" an invalid score becomes NaN, which needs a floating ``lut``.

    Returns
    -------
    numpy.ndarray
        (...) of ``lut``'s dtype.

    Raises
    ------
    RequestError
        For a table or ``out`` of another shape or dtype, and for "exclude" with an integer table.
    InvalidScoresError
        For scores that are not probabilities, unless ``on_invalid`` allows them.
    """
    backend = get(kernel)
    scores, shape = _flat_scores(probability, members)
    clip = check_policy(on_invalid) == "clip"
    table = lut_with_invalid(lut, on_invalid)
    result = np.empty(shape, dtype=lut.dtype) if out is None else out
    if result.shape != shape or result.dtype != lut.dtype or not (result.flags.c_contiguous and result.flags.aligned):
        raise RequestError(
            f"out is {result.dtype} of shape {result.shape}, with strides {result.strides}.",
            f"Allowed: aligned, C-contiguous {lut.dtype} of shape {shape}.",
        )
    values = result.reshape(-1)

    def relabel_slab(start: int, stop: int) -> Findings:
        findings = Findings()
        for piece, members_scores in _pieces(scores, start, stop):
            findings += backend.relabel(members_scores, table, values[piece], clip=clip).shifted(piece.start)
        return findings

    parts = _run_slabs(relabel_slab, scores.shape[1], threads)
    report(sum(parts[1:], parts[0]), scores, Place("probability", shape), on_invalid)
    return result


def lut_with_invalid(lut: npt.NDArray[Any], on_invalid: OnInvalid) -> npt.NDArray[Any]:
    """Append what an invalid score becomes: NaN, or 0 where it is an error anyway."""
    if lut.shape != (N_CODES,):
        raise RequestError(f"A look-up table has shape {lut.shape}.", f"Allowed: ({N_CODES},), one value a code.")
    if lut.dtype.kind == "f":
        return np.append(lut, lut.dtype.type(np.nan))
    if on_invalid == "exclude":
        raise RequestError(
            f'on_invalid="exclude" marks invalid scores as NaN, which {lut.dtype} cannot hold.',
            "Allowed: a floating dtype.",
        )
    return np.append(lut, lut.dtype.type(0))


class Place(NamedTuple):
    """What a kernel's N voxels are: a name, the shape they were flattened from, and the index of the first."""

    name: str
    shape: tuple[int, ...]
    origin: tuple[int, ...] | None = None

    def of(self, voxel: int) -> tuple[int, ...]:
        """Index of one of the N voxels."""
        origin = self.origin or (0,) * len(self.shape)
        return tuple(int(i) + o for i, o in zip(np.unravel_index(voxel, self.shape), origin, strict=True))


def report(
    findings: Findings,
    scores: npt.NDArray[Any],
    place: Place,
    on_invalid: OnInvalid,
    *,
    votes: npt.NDArray[np.uint8] | None = None,
    n_raters: int = 0,
) -> None:
    """Raise for what a kernel found in (M, N) ``scores`` and (N,) ``votes``, with value, index and count."""
    if findings.invalid_votes and votes is not None:
        first = findings.first_invalid_vote
        raise InvalidVotesError(
            f"{place.name}: {findings.invalid_votes} of {votes.size} votes have marks of raters there are not; "
            f"the first is {int(votes[first])} at index {place.of(first)}.",
            f"Allowed: 0 to {(1 << n_raters) - 1} for {n_raters} raters.",
        )
    if findings.invalid_scores and on_invalid != "exclude":
        first = findings.first_invalid_score
        values = ", ".join(repr(float(value)) for value in scores[:, first])
        members = f"members {values}" if len(scores) > 1 else values
        raise InvalidScoresError(
            f"{place.name}: {findings.invalid_scores} of {scores.shape[1]} scores are not probabilities; the first is "
            f"{members} at index {place.of(first)}.",
            "Allowed: finite values in [0, 1]." if on_invalid == "error" else "Allowed: anything but NaN.",
            'Pass probabilities, not logits; or, in Python, choose on_invalid="clip" or "exclude".',
        )


def check_policy(on_invalid: str) -> str:
    """Return a policy for invalid scores; a RequestError if it is none."""
    if on_invalid not in ("error", "clip", "exclude"):
        raise RequestError(f"on_invalid={on_invalid!r} is no policy.", "Allowed: error, clip, exclude.")
    return on_invalid


def _flat_scores(probability: npt.ArrayLike, members: bool) -> tuple[npt.NDArray[Any], tuple[int, ...]]:
    """Scores as (M, N) and the spatial shape."""
    stacked = stack(as_scores(probability), members=members)
    return np.require(stacked, requirements="A").reshape(len(stacked), -1), stacked.shape[1:]


def stack(array: Any, *, members: bool) -> Any:
    """Return an array with the ensemble's axis first."""
    stacked = array if members else array[np.newaxis]
    if stacked.ndim < 1 or not 1 <= len(stacked) <= MAX_MEMBERS:
        raise RequestError(
            f"probability has shape {array.shape}, which does not hold 1 to {MAX_MEMBERS} members.",
            "Allowed: (member, ...) with members=True.",
        )
    return stacked


def _flat(array: Any, name: str, shape: tuple[int, ...], dtype: Any) -> npt.NDArray[Any]:
    values = np.asarray(array)
    check_like(values, name, shape, dtype)
    return np.require(values, requirements=["C", "A"]).reshape(-1)


def check_like(values: Any, name: str, shape: tuple[int, ...], dtype: Any) -> None:
    """Refuse votes or a region of another shape than the probability's, or another dtype than theirs."""
    if values.shape != shape:
        raise RequestError(
            f"{name} has shape {values.shape}, probability {shape}.",
            "Allowed: the same shape.",
            "Pass members=True if the first axis of probability is the ensemble's.",
        )
    if values.dtype != dtype:
        raise RequestError(f"{name} has dtype {values.dtype}.", f"Allowed: {np.dtype(dtype)}.")


def _pieces(scores: npt.NDArray[Any], start: int, stop: int) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
    """Cut a slab of (M, N) scores into contiguous pieces: one, or short copies where the members lie apart."""
    length = min(max(1, stop - start), _LONGEST_PIECE) if len(scores) == 1 else _PIECE_VOXELS
    for low in range(start, max(stop, start + 1), length):
        piece = slice(low, min(low + length, stop))
        yield piece, np.ascontiguousarray(scores[:, piece])


def _run_slabs(work: Callable[[int, int], T], n: int, threads: int | None) -> list[T]:
    """Call ``work(start, stop)`` on one slab of the voxels per thread, in order."""
    if threads is not None and threads < 1:
        raise RequestError(f"threads={threads} cannot work.", "Allowed: 1 or more, or None for all cores.")
    wanted = min(threads or default_threads(), max(1, n // _MIN_VOXELS_PER_THREAD))
    size = -(-n // wanted // _SLAB_ALIGNMENT) * _SLAB_ALIGNMENT if wanted > 1 else n
    bounds = [(start, min(start + size, n)) for start in range(0, n, size)] if n else [(0, 0)]
    if len(bounds) == 1:
        return [work(*bounds[0])]
    with ThreadPoolExecutor(len(bounds)) as pool:
        return list(pool.map(lambda bound: work(*bound), bounds))
