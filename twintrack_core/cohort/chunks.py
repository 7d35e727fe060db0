"""A chunked Zarr array as plain data: where its chunks lie and how to read, write and list them.

A `ChunkedArray` is small and frozen, so a task can carry it to any worker; it opens nothing until it is used.
"""

from __future__ import annotations

import errno
import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from twintrack_core.cohort.codecs import ChunkDecodeError, Codec
from twintrack_core.cohort.scratch import Scratch
from twintrack_core.cohort.shards import KnownShards, ShardError, Sharding
from twintrack_core.errors import StoreError
from twintrack_core.storage import Folder
from twintrack_core.storage.ahead import Ahead
from twintrack_core.storage.folder import METADATA
from twintrack_core.storage.retry import REMAKE, again, unreadable
from twintrack_core.system import require_memory

Box = tuple[slice, ...]
"""A half-open box of voxels: one slice with start and stop per axis."""

MEMORY = "Use a machine with more memory, or commands that work chunk by chunk, as accumulate and apply do."
"""What to do about an array that does not fit."""

_MOST_DIGITS = 16
_DAMAGE = (ChunkDecodeError, ShardError)


@dataclass(frozen=True)
class ChunkNames:
    """How the files of an array's chunks, or shards, are called.

    Attributes
    ----------
    prefix
        What stands before the indices: "c" in Zarr's default encoding, nothing in the one of version 2.
    separator
        What stands between them: "/" or ".".
    """

    prefix: str
    separator: str

    @property
    def folder(self) -> str:
        """Key of the folder that all of them lie below."""
        return self.prefix if self.separator == "/" else ""

    def key(self, index: Sequence[int]) -> str:
        """Key of one file."""
        name = self.separator.join(map(str, index))
        return f"{self.prefix}{self.separator}{name}" if self.prefix else name

    def indices(self, keys: Sequence[str], grid: Sequence[int]) -> list[tuple[int, ...]]:
        """Indices of the files among some that are those of chunks in a grid, in ascending order."""
        found: list[tuple[int, ...]] = []
        number = functools.cache(_chunk_number)  # the same few again and again
        first = 1 if self.prefix else 0
        for key in keys:
            parts = key.split(self.separator)
            if len(parts) != len(grid) + first or (first and parts[0] != self.prefix):
                continue
            index = tuple(map(number, parts[first:]))
            if all(i < limit for i, limit in zip(index, grid, strict=True)):
                found.append(index)  # type: ignore[arg-type]  # no index is infinite
        found.sort()
        return found


@dataclass(frozen=True)
class ChunkedArray:
    """One array of a Zarr v3 store.

    Attributes
    ----------
    folder
        Folder of the array.
    shape, chunks
        Shape of the array and of a chunk.
    dtype
        Name of the dtype.
    fill
        Value of every voxel of an unwritten chunk.
    codec
        How chunks are decoded.
    names
        How the files are called.
    sharding
        How files hold several chunks each, or None where every chunk is a file. Such arrays are only read.
    """

    folder: Folder
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: str
    fill: float
    codec: Codec
    names: ChunkNames
    sharding: Sharding | None = None

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of chunks per axis."""
        return tuple(-(-size // chunk) for size, chunk in zip(self.shape, self.chunks, strict=True))

    @property
    def chunk_bytes(self) -> int:
        """Size of a decoded chunk in bytes."""
        return math.prod(self.chunks) * np.dtype(self.dtype).itemsize

    @property
    def n_bytes(self) -> int:
        """Size of the whole array in bytes, decoded."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def box(self, index: tuple[int, ...]) -> Box:
        """Voxels of a chunk that lie in the array."""
        return tuple(
            slice(i * chunk, min((i + 1) * chunk, size))
            for i, chunk, size in zip(index, self.chunks, self.shape, strict=True)
        )

    def written(self) -> npt.NDArray[np.int64]:
        """Indices of the chunks that were written, (n, ndim) int64 in ascending order.

        Found by listing files, and in their indices where they are shards. Over https nothing can be listed: every
        chunk may have been written then, and those that are not found when they are read were not.

        Raises
        ------
        StoreError
            If they cannot be listed, or a shard's index is damaged.
        """
        found = self.listed()
        return np.indices(self.grid).reshape(len(self.grid), -1).T if found is None else found

    def listed(self) -> npt.NDArray[np.int64] | None:
        """Return what `written` does; None where chunks cannot be listed."""
        files = self._files()
        if files is None:
            return None
        found = np.array(files, dtype=np.int64).reshape(-1, len(self.shape))
        return found if self.sharding is None else self._written_in(found, self.sharding)

    def _written_in(self, shards: npt.NDArray[np.int64], sharding: Sharding) -> npt.NDArray[np.int64]:
        """Indices of the chunks that were written in (n, ndim) shards, in ascending order."""
        found = [np.empty((0, len(self.shape)), dtype=np.int64)]
        for shard in shards:
            key = self.names.key(shard.tolist())
            try:
                read = functools.partial(sharding.written, self.folder, key, self.chunk_bytes)
                places = again(read, _DAMAGE, local=self.folder.local is not None)
            except ShardError as error:
                raise _damaged(f"{self.folder}/{key}", "the shard", error) from error
            except OSError as error:
                raise unreadable(f"{self.folder}/{key}: the shard cannot be read", error) from error
            chunks = places + shard * sharding.chunks
            found.append(chunks[(chunks < self.grid).all(axis=1)])  # a shard at the border goes on past it
        chunks = np.concatenate(found)
        return chunks[np.lexsort(chunks.T[::-1])]

    @property
    def _file_grid(self) -> tuple[int, ...]:
        """Number of files per axis."""
        if self.sharding is None:
            return self.grid
        return tuple(-(-n // per_shard) for n, per_shard in zip(self.grid, self.sharding.chunks, strict=True))

    def _files(self) -> list[tuple[int, ...]] | None:
        """Indices of the files there are, in ascending order; None where that cannot be told."""
        try:
            keys = again(functools.partial(self.folder.keys, self.names.folder))
            if keys == [] and not again(functools.partial(self.folder.has, METADATA)):
                raise StoreError(f"{self.folder} is gone.", None, "See what became of the store, and run again.")
        except OSError as error:
            raise unreadable(f"{error.filename or self.folder}: its chunks cannot be listed", error) from error
        return None if keys is None else self.names.indices(keys, self._file_grid)

    def read_chunk(self, index: tuple[int, ...], out: npt.NDArray[Any], scratch: Scratch | None = None) -> bool:
        """Decode a whole chunk, padding included, into ``out``; False if it was never written.

        Parameters
        ----------
        index
            Index of the chunk.
        out
            C-contiguous array of a chunk's shape.
        scratch
            Keeps the index of the chunk's shard for the next chunk.

        Raises
        ------
        StoreError
            If the chunk is damaged or cannot be read.
        """
        key = self.names.key(self._file_index(index))
        try:
            read = functools.partial(self._decode, key, index, out, scratch)
            found = again(read, _DAMAGE, local=self.folder.local is not None)
        except ChunkDecodeError as error:
            what = "the chunk" if self.sharding is None else f"chunk {index} in it"
            raise _damaged(f"{self.folder}/{key}", what, error) from error
        except ShardError as error:
            raise _damaged(f"{self.folder}/{key}", "the shard", error) from error
        except OSError as error:
            raise unreadable(f"{self.folder}/{key}: the chunk cannot be read", error) from error
        if not found and scratch is not None and index in scratch.required.get(self.folder, ()):
            raise StoreError(
                f"{self.folder}/{key}: chunk {index} was there, and is gone.",
                None,
                "See what became of the store, and run again.",
            )
        return found

    def expect(self, boxes: Iterable[Box], scratch: Scratch) -> None:
        """Say which boxes of voxels will be read, in the order they will be read in.

        The chunks of remote arrays are fetched several at a time then, and those that a list says were never written
        are not asked for. Nothing is to be gained from local ones. Fetching begins with the first `read`.
        """
        if self.folder.local is not None:
            return
        ahead = scratch.ahead = scratch.ahead or Ahead()
        sizes: Any = ahead.known(self.folder, self._sizes)
        for box in boxes:
            for index in self._touched(box):
                file = self._file_index(index)
                key = self.names.key(file)
                if sizes is not None and key not in sizes:
                    ahead.expect_nothing((self.folder, index))
                elif self.sharding is None:
                    limit = most_bytes(self.chunk_bytes)
                    ahead.expect((self.folder, index), self.folder, key, limit, sizes and sizes[key])
                else:
                    self._expect_in_shard(index, key, self.sharding, ahead)

    def _sizes(self) -> dict[str, int] | None:
        """Sizes of the files there are; None where they cannot be listed."""
        try:
            return dict(again(functools.partial(self.folder.files, self.names.folder)))
        except OSError as error:
            if error.errno == errno.ENOTSUP:
                return None
            raise unreadable(f"{self.folder}: its chunks cannot be listed", error) from error

    def _expect_in_shard(self, index: tuple[int, ...], key: str, sharding: Sharding, ahead: Ahead) -> None:
        """Expect a chunk where its shard says that it lies; a shard that cannot be looked into says so when read."""

        def find() -> npt.NDArray[np.int64] | None:
            try:
                return again(functools.partial(sharding.extents, self.folder, key, self.chunk_bytes), _DAMAGE)
            except (OSError, ShardError):
                return None

        extents: Any = ahead.known((self.folder, key), find)
        if extents is None:
            return
        offset, length = extents[sharding.number(self._place(index, sharding))].tolist()
        if length:
            ahead.expect_range((self.folder, index), self.folder, key, offset, length)
        else:
            ahead.expect_nothing((self.folder, index))

    def _place(self, index: tuple[int, ...], sharding: Sharding) -> tuple[int, ...]:
        """Index of a chunk within its shard."""
        return tuple(i % n for i, n in zip(index, sharding.chunks, strict=True))

    def _decode(self, key: str, index: tuple[int, ...], out: npt.NDArray[Any], scratch: Scratch | None) -> bool:
        expected = False
        ahead = None if scratch is None else scratch.ahead
        if ahead is not None:
            expected, data = ahead.take((self.folder, index))
        if expected:
            pass
        elif self.sharding is None:
            data = self.folder.read(key, limit=most_bytes(self.chunk_bytes))
        else:
            place = self._place(index, self.sharding)
            known = KnownShards() if scratch is None else scratch.shards
            data = self.sharding.read(self.folder, key, place, self.chunk_bytes, known)
        if data is None:
            return False
        try:
            self.codec.decode(data, out)
        except ChunkDecodeError:
            if ahead is not None:
                ahead.distrust((self.folder, index))
            raise
        return True

    def read(self, box: Box, out: npt.NDArray[Any], scratch: Scratch) -> bool:
        """Read a box of voxels into the C-contiguous array ``out`` of the box's shape.

        Returns
        -------
        bool
            Whether some of it was written, as far as that can be told; otherwise all of it has the fill value.

        Raises
        ------
        StoreError
            If a chunk is damaged.
        """
        if out.shape == self.chunks and not any(s.start % c for s, c in zip(box, self.chunks, strict=True)):
            # A whole chunk, the usual case: straight into place.
            return self._read_or_fill(tuple(s.start // c for s, c in zip(box, self.chunks, strict=True)), out, scratch)
        written = False
        for index in self._touched(box):
            chunk_start = tuple(i * c for i, c in zip(index, self.chunks, strict=True))
            common = tuple(
                slice(max(s.start, o), min(s.stop, o + c))
                for s, o, c in zip(box, chunk_start, self.chunks, strict=True)
            )
            target = out[tuple(slice(s.start - b.start, s.stop - b.start) for s, b in zip(common, box, strict=True))]
            if target.shape == self.chunks and target.flags.c_contiguous:
                written |= self._read_or_fill(index, target, scratch)
                continue
            chunk = self._decoded_chunk(index, scratch)
            if chunk is not None:
                written = True
                target[...] = chunk[
                    tuple(slice(s.start - o, s.stop - o) for s, o in zip(common, chunk_start, strict=True))
                ]
            else:
                target[...] = self.fill
        return written

    def _read_or_fill(self, index: tuple[int, ...], out: npt.NDArray[Any], scratch: Scratch) -> bool:
        written = self.read_chunk(index, out, scratch)
        if not written:
            out[...] = self.fill
        return written

    def _decoded_chunk(self, index: tuple[int, ...], scratch: Scratch) -> npt.NDArray[Any] | None:
        """Return a chunk that a box needs only a part of, kept until the next one: boxes beside each other share it."""
        name = str(self.folder)
        chunk = scratch.array(name, self.chunks, self.dtype)
        if scratch.last.get(name) != index:
            scratch.last.pop(name, None)
            if not self.read_chunk(index, chunk, scratch):
                return None
            scratch.last[name] = index
        return chunk

    def read_all(self) -> npt.NDArray[Any]:
        """Read the whole array; a `StoreError` if it does not fit into memory."""
        require_memory(str(self.folder), self.n_bytes, StoreError, MEMORY)
        box, scratch = tuple(slice(0, size) for size in self.shape), Scratch()
        try:
            out = np.empty(self.shape, dtype=self.dtype)
            self.expect([box], scratch)
            self.read(box, out, scratch)
        except MemoryError as error:
            raise StoreError(f"{self.folder} does not fit into the memory that is left.", None, MEMORY) from error
        return out

    def write_chunk(self, index: tuple[int, ...], values: npt.NDArray[Any], scratch: Scratch) -> None:
        """Write one chunk from the values of its box, padded with the fill value. Whole or not at all.

        Where it is remote it may not be written before `Scratch.finish` returns. Call it outside the main thread; see
        `Codec.encode`.

        Raises
        ------
        StoreError
            If the array has shards, of which a chunk would take the place.
        """
        if self.sharding is not None:
            raise StoreError(f"{self.folder} has shards, which are only read.")
        if values.shape != self.chunks or values.dtype != self.dtype or not values.flags.c_contiguous:
            padded = scratch.array("padded", self.chunks, self.dtype)
            padded[...] = self.fill
            padded[tuple(slice(0, size) for size in values.shape)] = values
            values = padded
        scratch.write(self.folder, self.names.key(index), self.codec.encode(values))

    def _touched(self, box: Box) -> Iterator[tuple[int, ...]]:
        """Indices of the chunks a box lies in."""
        return itertools.product(*(range(s.start // c, -(-s.stop // c)) for s, c in zip(box, self.chunks, strict=True)))

    def _file_index(self, index: tuple[int, ...]) -> tuple[int, ...]:
        """Index of the file that a chunk is, or lies in."""
        if self.sharding is None:
            return index
        return tuple(i // n for i, n in zip(index, self.sharding.chunks, strict=True))


def _chunk_number(name: str) -> float:
    """Return the index that part of a chunk's name stands for, as Zarr writes it; infinity for anything else."""
    if not (name.isascii() and name.isdigit()) or len(name) > _MOST_DIGITS or (name[0] == "0" and name != "0"):
        return math.inf
    return int(name)


def most_bytes(chunk_bytes: int) -> int:
    """Bytes that a chunk may have encoded: no codec makes so much of it, whatever it holds."""
    return 2 * chunk_bytes + 4096


def _damaged(path: str, what: str, why: object) -> StoreError:
    return StoreError(f"{path}: {what} is damaged: {why}.", None, REMAKE)
