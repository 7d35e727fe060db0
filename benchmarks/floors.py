"""Floors: the least that could be done with the same bytes by the same number of threads."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from twintrack_core.cohort.chunks import ChunkedArray, Scratch
from twintrack_core.cohort.store import Cohort


@numba.njit(nogil=True)  # type: ignore[untyped-decorator]
def _or(words: Any) -> Any:
    bits = np.uint64(0)
    for i in range(words.size):
        bits |= words[i]
    return bits


def read(arrays: Sequence[npt.NDArray[Any]], threads: int) -> None:
    """Read every byte of some arrays."""
    _share([array.reshape(-1).view(np.uint64) for array in arrays], _or, threads)


def copy(source: npt.NDArray[Any], target: npt.NDArray[Any], threads: int) -> None:
    """Copy an array."""
    parts = zip(np.array_split(source.reshape(-1), threads), np.array_split(target.reshape(-1), threads), strict=True)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda pair: np.copyto(pair[1], pair[0]), parts))


def _share(arrays: Sequence[npt.NDArray[Any]], work: Callable[[Any], Any], threads: int) -> None:
    with ThreadPoolExecutor(threads) as pool:
        for array in arrays:
            list(pool.map(work, np.array_split(array, threads)))


def decode(cohort: Cohort, threads: int, *, parts: bool = True, encode: bool = False) -> None:
    """Read and decode every written chunk, into one buffer per task; with ``encode``, encode it again."""
    _chunks(
        cohort,
        threads,
        lambda array, chunk: array.codec.encode(chunk) if encode and array.codec else None,
        parts=parts,
    )


def rewrite(cohort: Cohort, threads: int, folder: Path) -> None:
    """Decode and encode the scores and write them, and copy the files of the rest, with nothing else around it."""
    folder.mkdir()
    names = itertools.count()
    for case in cohort:
        for part, array in case.parts.items():
            shutil.copytree(array.path, folder / f"{case.name}-{part}")

    def write(array: ChunkedArray, chunk: npt.NDArray[Any]) -> None:
        if array.codec is not None:
            (folder / str(next(names))).write_bytes(array.codec.encode(chunk))

    _chunks(cohort, threads, write, parts=False)


def _chunks(
    cohort: Cohort, threads: int, use: Callable[[ChunkedArray, npt.NDArray[Any]], object], *, parts: bool
) -> None:
    def work(job: tuple[ChunkedArray, npt.NDArray[np.int64]]) -> None:
        array, indices = job
        chunk = Scratch().array("chunk", array.chunks, array.dtype)
        for index in indices.tolist():
            array.read_chunk(tuple(index), chunk)
            use(array, chunk)

    jobs: list[tuple[ChunkedArray, npt.NDArray[np.int64]]] = []
    for case in cohort:
        for array in (case.probability, *(case.parts.values() if parts else ())):
            written = array.written()
            jobs += [(array, piece) for piece in np.array_split(written, max(1, len(written) // 64)) if len(piece)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, jobs))


def decoded_bytes(cohort: Cohort) -> int:
    """Bytes of a cohort's written chunks, decoded."""
    arrays = [array for case in cohort for array in (case.probability, *case.parts.values())]
    return sum(len(array.written()) * array.chunk_bytes for array in arrays)


def voxels(cohort: Cohort) -> int:
    """Voxels of a cohort."""
    return sum(math.prod(case.shape) for case in cohort)
