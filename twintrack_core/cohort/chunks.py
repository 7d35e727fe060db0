"""A chunked Zarr array as plain data: where its chunks lie and how to read, write and list them.

A `ChunkedArray` is small and frozen, so a task can carry it to any worker; it opens nothing until it is used.
"""

from __future__ import annotations

import errno
import functools
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from twintrack_core.cohort.codecs import ALLOWED as ALLOWED_CODECS
from twintrack_core.cohort.codecs import ChunkDecodeError, Codec, codec_of
from twintrack_core.cohort.shards import KnownShards, ShardError, Sharding, sharding_of
from twintrack_core.errors import StoreError
from twintrack_core.names import shown
from twintrack_core.storage import Folder, open_folder, read_json
from twintrack_core.storage.ahead import Ahead, Behind
from twintrack_core.storage.folder import METADATA
from twintrack_core.storage.memory import require_memory
from twintrack_core.storage.retry import REMAKE, again, unreadable

Box = tuple[slice, ...]
"""A half-open box of voxels: one slice with start and stop per axis."""

Listed: TypeAlias = Sequence[tuple[Folder, npt.NDArray[np.int64]]]
"""Chunks that are there: folders of arrays, and (n, ndim) indices."""

MEMORY = "Use a machine with more memory, or commands that work chunk by chunk, as accumulate and apply do."
"""What to do about an array that does not fit."""

_DTYPES = ("float16", "float32", "uint8", "bool")
_MAX_CHUNK_BYTES = 1 << 30  # what a few bytes of metadata can make a reader allocate; Blosc holds twice that
_MAX_CHUNKS = 1 << 24  # each is a step for a reader, whether or not there is a file
_MAX_AXES = 4
_MOST_DIGITS = 16
_DAMAGE = (ChunkDecodeError, ShardError)


class Scratch:
    """Buffers a task reuses from chunk to chunk, because fresh pages cost more than the work done in them.

    Parameters
    ----------
    empty
        Makes (n,) uint8 arrays of any content: ``numpy.empty``, or its counterpart for other memory.

    Attributes
    ----------
    last
        Index of the chunk that the buffer named by an array's folder holds.
    shards
        Indices of the shards read last.
    ahead
        What is fetched of remote arrays before it is read; None where nothing is expected.
    required
        Indices of chunks that are known to be there, by the folder of their array; see `require`.
    """

    def __init__(self, empty: Callable[..., npt.NDArray[np.uint8]] = np.empty) -> None:
        self._empty = empty
        self._buffers: dict[str, npt.NDArray[np.uint8]] = {}
        self.last: dict[str, tuple[int, ...]] = {}
        self.shards = KnownShards()
        self.ahead: Ahead | None = None
        self.required: dict[Folder, frozenset[tuple[int, ...]]] = {}
        self._behind: Behind | None = None

    def array(self, use: str, shape: tuple[int, ...], dtype: Any) -> npt.NDArray[Any]:
        """Return an array of any content; valid until ``use`` is asked for again."""
        n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        buffer = self._buffers.get(use)
        if buffer is None or buffer.nbytes < n_bytes:
            self._buffers.pop(use, None)
            buffer = None  # the old one goes before the new one comes
            buffer = self._buffers[use] = self._empty(n_bytes, dtype=np.uint8)
        view: npt.NDArray[Any] = buffer[:n_bytes].view(dtype).reshape(shape)
        return view

    def require(self, listed: Listed) -> None:
        """Say which chunks are there: one that is not found any more is an error then, and not unwritten."""
        self.required = {folder: frozenset(map(tuple, chunks.tolist())) for folder, chunks in listed}

    def write(self, folder: Folder, key: str, data: bytes) -> None:
        """Write a file, or begin to where it is remote: `finish` waits for it."""
        if folder.local is not None:
            folder.write(key, data)
            return
        if self._behind is None:
            self._behind = Behind()
        self._behind.write(folder, key, data)

    def finish(self) -> None:
        """Wait for all that is being written, and raise what failed."""
        if self._behind is not None:
            self._behind.finish()

    def forget(self) -> None:
        """Finish writing, and let go of the chunks of arrays, which another task has no use for."""
        self.finish()
        if self.ahead is not None:
            self.ahead.forget()
            self.ahead = None
        for path in self.last:
            self._buffers.pop(path, None)
        self.last.clear()
        self.required = {}
        self.shards.forget()


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


def open_array(place: str | os.PathLike[str] | Folder) -> ChunkedArray:
    """Describe the array in a folder from its metadata.

    Raises
    ------
    StoreError
        If the metadata are not those of a Zarr v3 array this package can read.
    """
    folder = open_folder(place)
    return describe_array(folder, read_json(folder))


def describe_array(folder: Folder, metadata: dict[str, Any]) -> ChunkedArray:
    """Describe an array as `open_array` does, from metadata that were read."""
    try:
        if metadata["node_type"] != "array" or metadata["zarr_format"] != 3:
            raise ValueError("it is not a Zarr v3 array")
        if metadata["chunk_grid"]["name"] != "regular":
            raise ValueError(f"its chunk grid is {metadata['chunk_grid']['name']!r:.80}, not regular")
        dtype = metadata["data_type"]
        if dtype not in _DTYPES:
            raise ValueError(f"its data type is {dtype!r:.80}, not one of {', '.join(_DTYPES)}")
        shape = _sizes(metadata["shape"], minimum=1)
        chunks = _sizes(metadata["chunk_grid"]["configuration"]["chunk_shape"], minimum=1)
        if len(shape) != len(chunks):
            raise ValueError(f"its shape {shape} and chunks {chunks} differ in length")
        fill = _fill(metadata["fill_value"], dtype)
        names = _chunk_names(metadata["chunk_key_encoding"])
        codecs = metadata["codecs"]
        codec, sharding = codec_of(codecs, np.dtype(dtype)), None
        if shards := sharding_of(codecs, chunks, np.dtype(dtype)):
            sharding, chunks, codec = shards
        if codec is None:  # what a store names must not choose what code is run
            raise ValueError(f"its codecs are {_codec_names(codecs)}, which are not read")
        if codec.order is not None and len(codec.order) != len(shape):
            raise ValueError(f"its {len(shape)} axes cannot be stored in the order {codec.order}")
        if math.prod(chunks) * np.dtype(dtype).itemsize > _MAX_CHUNK_BYTES:
            raise ValueError(f"its chunks of {chunks} voxels have more than {_MAX_CHUNK_BYTES} bytes")
        found = ChunkedArray(folder, shape, chunks, dtype, fill, codec, names, sharding)
        if math.prod(found.grid) > _MAX_CHUNKS:
            raise ValueError(f"it has {math.prod(found.grid)} chunks, more than {_MAX_CHUNKS}")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        why = f"it lacks {error!s:.80}" if isinstance(error, KeyError) else f"{error!s:.500}"
        raise StoreError(f"{folder}/zarr.json: {why}.", f"Allowed: {_ALLOWED}") from error
    return found


_ALLOWED = (
    f"Zarr v3 arrays of 1 to {_MAX_AXES} axes and a regular chunk grid. Codecs: {ALLOWED_CODECS}; or shards of "
    "chunks of such codecs."
)


def _codec_names(codecs: Any) -> str:
    """Names of codecs, and in brackets those that one of them has."""
    names = []
    for codec in codecs:
        if isinstance(codec, str):
            names.append(shown(codec))
            continue
        options = codec.get("configuration") or {}
        inner = [_codec_names(options[key]) for key in ("codecs", "index_codecs") if options.get(key)]
        plain = [f"{key} {options[key]!r:.20}" for key in ("endian", "order", "shuffle") if key in options]
        names.append(shown(codec.get("name")) + (f" ({'; '.join(inner + plain)})" if inner + plain else ""))
    return f"{', '.join(names) or 'none':.300}"


def _sizes(values: Any, minimum: int) -> tuple[int, ...]:
    sizes = tuple(values)
    if (
        not 0 < len(sizes) <= _MAX_AXES
        or not all(type(size) is int and minimum <= size < 2**48 for size in sizes)
        or math.prod(sizes) >= 2**48
    ):
        raise ValueError(f"{values!r:.80} are no sizes of 1 to {_MAX_AXES} axes")
    return sizes


def _fill(value: Any, dtype: str) -> float:
    """Return the fill value as the array's dtype holds it."""
    fill = float(value)
    largest = {"uint8": 255, "bool": 1}.get(dtype)
    if largest is not None and not (fill.is_integer() and 0 <= fill <= largest):
        raise ValueError(f"its fill value {value!r:.40} is no {dtype}")
    with np.errstate(over="ignore"):
        return float(np.dtype(dtype).type(fill))


def _chunk_names(encoding: Any) -> ChunkNames:
    name = encoding["name"]
    if name not in ("default", "v2"):
        raise ValueError(f"its chunks are named by the encoding {name!r:.80}, not default or v2")
    separator = (encoding.get("configuration") or {}).get("separator", "/" if name == "default" else ".")
    if separator not in ("/", "."):
        raise ValueError(f"the names of its chunks have the separator {separator!r:.80}, not / or .")
    return ChunkNames("c" if name == "default" else "", separator)
