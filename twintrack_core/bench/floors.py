"""Floors: the least that could be done with the same bytes by the same number of threads.

What is decoded is found beforehand and decoded with numcodecs and zlib alone, so these floors know nothing of how this
package reads a store.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import os
import shutil
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numba
import numpy as np
import numpy.typing as npt

T = TypeVar("T")

_ABSENT = 2**64 - 1  # offset and length, in a shard's index, of a chunk that was never written
_JOB_BYTES = 1 << 24
_BLOSC_SHUFFLES = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}
_PARTS = ("probability", "votes", "roi", "vessels")


@numba.njit(nogil=True)  # type: ignore[untyped-decorator]
def _or(words: Any) -> Any:
    bits = words.dtype.type(0)
    for i in range(words.size):
        bits |= words[i]
    return bits


def read(arrays: Sequence[npt.NDArray[Any]], threads: int) -> None:
    """Read every byte of some C-contiguous arrays."""
    pieces = [piece for array in arrays for piece in np.array_split(_words(array), threads)]
    _share(_or, pieces, threads)


def copy(source: npt.NDArray[Any], target: npt.NDArray[Any], threads: int) -> None:
    """Copy a C-contiguous array."""
    pairs = zip(np.array_split(source.reshape(-1), threads), np.array_split(target.reshape(-1), threads), strict=True)
    _share(lambda pair: np.copyto(pair[1], pair[0]), list(pairs), threads)


def _words(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    flat = array.reshape(-1)
    return flat.view(np.uint64 if flat.nbytes % 8 == 0 else np.uint8)


def _share(work: Callable[[T], object], pieces: Sequence[T], threads: int) -> None:
    if threads == 1:
        for piece in pieces:
            work(piece)
    else:
        list(_pool(threads).map(work, pieces))


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that wait for work: starting some takes as long as reading megabytes."""
    return ThreadPoolExecutor(threads)


@dataclass(frozen=True)
class Compressor:
    """A chunk's compressor, as an array's metadata name it; "none" for none."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def decode(self, data: Any, out: npt.NDArray[np.uint8]) -> None:
        """Decode a chunk into a buffer that holds one chunk."""
        from numcodecs import blosc, zstd

        if self.name == "blosc":
            blosc.decompress(data, out)
        elif self.name == "zstd":
            zstd.decompress(data, out)
        elif self.name == "gzip":
            np.copyto(out, np.frombuffer(zlib.decompress(data, wbits=31, bufsize=out.nbytes), dtype=np.uint8))
        else:
            np.copyto(out, np.frombuffer(data, dtype=np.uint8))

    def encode(self, chunk: npt.NDArray[np.uint8]) -> bytes:
        """Encode a chunk."""
        from numcodecs import blosc, zstd

        options = self.options
        if self.name == "blosc":
            shuffle, size = _BLOSC_SHUFFLES[options["shuffle"]], options["typesize"]
            name, level = options["cname"].encode(), options["clevel"]
            return bytes(blosc.compress(chunk.view(f"u{size}"), name, level, shuffle, options["blocksize"], size))
        if self.name == "zstd":
            return bytes(zstd.compress(chunk, options["level"], options.get("checksum", False)))
        if self.name == "gzip":
            return zlib.compress(chunk.data, options["level"], wbits=31)
        return chunk.tobytes()


@dataclass(frozen=True)
class Chunks:
    """The written chunks of one array: its compressor, a chunk's size decoded, and files with the chunks in each."""

    folder: Path
    compressor: Compressor
    chunk_bytes: int
    files: tuple[tuple[str, tuple[tuple[int, int], ...]], ...]  # path, (offset, length) of each chunk in it

    def __len__(self) -> int:
        return sum(len(pieces) for _, pieces in self.files)


def written(store: Path, parts: Sequence[str] = _PARTS) -> list[Chunks]:
    """Find the written chunks of the arrays of every case of a cohort store."""
    arrays = [case / part for case in sorted(store.iterdir()) if case.is_dir() for part in parts]
    return [_chunks(array) for array in arrays if array.is_dir()]


def _chunks(folder: Path) -> Chunks:
    metadata = json.loads((folder / "zarr.json").read_text(encoding="utf-8"))
    shape, codecs = metadata["chunk_grid"]["configuration"]["chunk_shape"], metadata["codecs"]
    sharded = codecs[0]["name"] == "sharding_indexed"
    if sharded:
        inner, codecs = codecs[0]["configuration"]["chunk_shape"], codecs[0]["configuration"]["codecs"]
        per_shard = math.prod(n // i for n, i in zip(shape, inner, strict=True))
        shape = inner
    compressor = Compressor(codecs[1]["name"], codecs[1]["configuration"]) if len(codecs) > 1 else Compressor("none")
    paths = sorted(str(path) for path in folder.glob("c/**/*") if path.is_file())
    pieces = [tuple(_index(path, per_shard)) if sharded else ((0, os.path.getsize(path)),) for path in paths]  # noqa: PTH202
    size = math.prod(shape) * np.dtype(metadata["data_type"]).itemsize
    return Chunks(folder, compressor, size, tuple(zip(paths, pieces, strict=True)))


def _index(path: str, chunks: int) -> Iterator[tuple[int, int]]:
    """Offsets and lengths of a shard's written chunks: the index stands at the end, before its checksum."""
    index = np.frombuffer(Path(path).read_bytes()[-16 * chunks - 4 : -4], dtype="<u8").reshape(-1, 2)
    return ((int(offset), int(length)) for offset, length in index if offset != _ABSENT)


def decode(arrays: Sequence[Chunks], threads: int) -> None:
    """Read and decode written chunks into one buffer per thread."""
    _each(arrays, threads, lambda _array, _chunk: None)


def recode(arrays: Sequence[Chunks], into: Compressor, threads: int) -> None:
    """Read and decode written chunks, and encode each with the compressor of what is to be written."""
    _each(arrays, threads, lambda _array, chunk: into.encode(chunk))


def rewrite(arrays: Sequence[Chunks], into: Compressor, copied: Sequence[Chunks], threads: int, folder: Path) -> None:
    """Recode written chunks and write each to a file; copy the files of other arrays as they are."""
    folder.mkdir()
    names = itertools.count()
    for number, array in enumerate(copied):
        shutil.copytree(array.folder, folder / f"copied{number}")

    def write(_array: Chunks, chunk: npt.NDArray[np.uint8]) -> None:
        (folder / str(next(names))).write_bytes(into.encode(chunk))

    _each(arrays, threads, write)


def _each(arrays: Sequence[Chunks], threads: int, use: Callable[[Chunks, npt.NDArray[np.uint8]], object]) -> None:
    buffers = threading.local()

    def work(job: tuple[Chunks, Sequence[tuple[str, tuple[tuple[int, int], ...]]]]) -> None:
        array, files = job
        if getattr(buffers, "size", 0) < array.chunk_bytes:
            buffers.size, buffers.chunk = array.chunk_bytes, np.empty(array.chunk_bytes, dtype=np.uint8)
        chunk = buffers.chunk[: array.chunk_bytes]
        for path, pieces in files:
            with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - half the cost of Path.read_bytes
                data = memoryview(file.read())
            for offset, length in pieces:
                array.compressor.decode(data[offset : offset + length], chunk)
                use(array, chunk)

    jobs = [(array, files) for array in arrays for files in _batches(array)]
    # A pool for one thread too: in the main thread Blosc would use several.
    list(_pool(threads).map(work, jobs))


def _batches(array: Chunks) -> Iterator[Sequence[tuple[str, tuple[tuple[int, int], ...]]]]:
    """Files of some megabytes together, so that threads end at about the same time."""
    shard = max((len(pieces) for _, pieces in array.files), default=1)
    n = max(1, _JOB_BYTES // (array.chunk_bytes * max(1, shard)))
    return (array.files[start : start + n] for start in range(0, len(array.files), n))


def decoded_bytes(arrays: Sequence[Chunks]) -> int:
    """Bytes of written chunks, decoded."""
    return sum(len(array) * array.chunk_bytes for array in arrays)
