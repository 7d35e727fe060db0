"""A chunked Zarr array as plain data: where its chunks lie and how to read, write and list them.

A `ChunkedArray` is small and frozen, so a task can carry it to any worker; it opens nothing until it is used.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from twintrack_core.cohort.codecs import ChunkDecodeError, Codec, codec_of
from twintrack_core.cohort.shards import KnownShards, ShardError, Sharding, sharding_of
from twintrack_core.errors import StoreError

Box = tuple[slice, ...]
"""A half-open box of voxels: one slice with start and stop per axis."""

_DTYPES = ("float16", "float32", "uint8", "bool")
_MAX_CHUNK_BYTES = 1 << 31  # what Blosc can hold
_MOST_DIGITS = 16


class Scratch:
    """Buffers a task reuses from chunk to chunk, because fresh pages cost more than the work done in them.

    Parameters
    ----------
    empty
        Makes (n,) uint8 arrays of any content: ``numpy.empty``, or its counterpart for other memory.

    Attributes
    ----------
    last
        Index of the chunk that the buffer named by an array's path holds.
    shards
        Indices of the shards read last.
    """

    def __init__(self, empty: Callable[..., npt.NDArray[np.uint8]] = np.empty) -> None:
        self._empty = empty
        self._buffers: dict[str, npt.NDArray[np.uint8]] = {}
        self.last: dict[str, tuple[int, ...]] = {}
        self.shards = KnownShards()

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

    def forget(self) -> None:
        """Let go of the chunks of arrays, which another task has no use for."""
        for path in self.last:
            self._buffers.pop(path, None)
        self.last.clear()
        self.shards.forget()


@dataclass(frozen=True)
class ChunkedArray:
    """One array of a local Zarr v3 store.

    Attributes
    ----------
    path
        Folder of the array.
    shape, chunks
        Shape of the array and of a chunk (of a shard, where only zarr-python can read it).
    dtype
        Name of the dtype.
    fill
        Value of every voxel of an unwritten chunk.
    codec
        How chunks are decoded directly, or None for an array that only zarr-python can read.
    separator
        What stands between the indices in a chunk's name, or None for names that are not Zarr's default.
    sharding
        How files hold several chunks each, or None where every chunk is a file. Such arrays are only read.
    """

    path: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: str
    fill: float
    codec: Codec | None
    separator: str | None
    sharding: Sharding | None = None

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of chunks per axis."""
        return tuple(-(-size // chunk) for size, chunk in zip(self.shape, self.chunks, strict=True))

    @property
    def chunk_bytes(self) -> int:
        """Size of a decoded chunk in bytes."""
        return math.prod(self.chunks) * np.dtype(self.dtype).itemsize

    def box(self, index: tuple[int, ...]) -> Box:
        """Voxels of a chunk that lie in the array."""
        return tuple(
            slice(i * chunk, min((i + 1) * chunk, size))
            for i, chunk, size in zip(index, self.chunks, self.shape, strict=True)
        )

    def written(self) -> npt.NDArray[np.int64]:
        """Indices of the chunks that were written, (n, ndim) int64 in ascending order.

        Found by listing files, and in their indices where they are shards.

        Raises
        ------
        StoreError
            If they cannot be listed, or a shard's index is damaged.
        """
        if self.separator is None:
            return np.array(list(np.ndindex(self.grid)), dtype=np.int64).reshape(-1, len(self.shape))
        files = np.array(self._files(), dtype=np.int64).reshape(-1, len(self.shape))
        return files if self.sharding is None else self._written_in(files, self.sharding)

    def _written_in(self, shards: npt.NDArray[np.int64], sharding: Sharding) -> npt.NDArray[np.int64]:
        """Indices of the chunks that were written in (n, ndim) shards, in ascending order."""
        found = [np.empty((0, len(self.shape)), dtype=np.int64)]
        for shard in shards:
            path = self._file_path(shard.tolist())
            try:
                chunks = sharding.written(path, self.chunk_bytes) + shard * sharding.chunks
            except ShardError as error:
                raise _damaged(path, "the shard", error) from error
            except OSError as error:
                raise StoreError(f"{path}: the shard cannot be read: {error.strerror}.") from error
            found.append(chunks[(chunks < self.grid).all(axis=1)])  # a shard at the border goes on past it
        chunks = np.concatenate(found)
        return chunks[np.lexsort(chunks.T[::-1])]

    @property
    def _file_grid(self) -> tuple[int, ...]:
        """Number of files per axis."""
        if self.sharding is None:
            return self.grid
        return tuple(-(-n // per_shard) for n, per_shard in zip(self.grid, self.sharding.chunks, strict=True))

    def _files(self) -> list[tuple[int, ...]]:
        """Indices of the files there are, in ascending order."""
        found: list[tuple[int, ...]] = []
        try:
            if self.separator == "/":
                self._list(f"{self.path}/c", (), found)
            else:
                self._list_flat(found)
        except OSError as error:
            raise StoreError(
                f"{error.filename or self.path}: its chunks cannot be listed: {error.strerror}."
            ) from error
        found.sort()
        return found

    def _list(self, folder: str, prefix: tuple[int, ...], found: list[tuple[int, ...]]) -> None:
        """Add the chunks below a folder, which is that of the first indices in their names."""
        limit = self._file_grid[len(prefix)]
        last = len(prefix) == len(self.shape) - 1
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
            for entry in entries:
                index = _chunk_number(entry.name)
                if index is None or index >= limit:
                    continue
                if not last:
                    self._list(entry.path, (*prefix, index), found)
                elif entry.is_file():
                    found.append((*prefix, index))

    def _list_flat(self, found: list[tuple[int, ...]]) -> None:
        grid = self._file_grid
        with os.scandir(self.path) as entries:
            for entry in entries:
                first, *parts = entry.name.split(".")
                index = tuple(map(_chunk_number, parts))
                if first != "c" or len(index) != len(self.shape) or not entry.is_file():
                    continue
                if all(i is not None and i < limit for i, limit in zip(index, grid, strict=True)):
                    found.append(index)  # type: ignore[arg-type]  # no index is None

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
        assert self.codec is not None  # noqa: S101 - for mypy; `read` is the only caller
        path = self._file_path(self._file_index(index))
        try:
            data = self._chunk_data(path, index, scratch)
            if data is None:
                return False
            self.codec.decode(data, out)
        except ChunkDecodeError as error:
            raise _damaged(path, "the chunk" if self.sharding is None else f"chunk {index} in it", error) from error
        except ShardError as error:
            raise _damaged(path, "the shard", error) from error
        except OSError as error:
            raise StoreError(f"{path}: the chunk cannot be read: {error.strerror}.") from error
        return True

    def _chunk_data(self, path: str, index: tuple[int, ...], scratch: Scratch | None) -> bytes | None:
        """Bytes of a chunk, or None if it was never written."""
        if self.sharding is not None:
            place = tuple(i % n for i, n in zip(index, self.sharding.chunks, strict=True))
            known = KnownShards() if scratch is None else scratch.shards
            return self.sharding.read(path, place, self.chunk_bytes, known)
        try:
            with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - half the cost of Path.read_bytes
                return file.read()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):  # as zarr-python sees it
            return None

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
        if self.codec is None:
            out[...] = self._read_with_zarr(box)
            return True
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
        chunk = scratch.array(self.path, self.chunks, self.dtype)
        if scratch.last.get(self.path) != index:
            scratch.last.pop(self.path, None)
            if not self.read_chunk(index, chunk, scratch):
                return None
            scratch.last[self.path] = index
        return chunk

    def read_all(self) -> npt.NDArray[Any]:
        """Read the whole array."""
        out = np.empty(self.shape, dtype=self.dtype)
        self.read(tuple(slice(0, size) for size in self.shape), out, Scratch())
        return out

    def write_chunk(self, index: tuple[int, ...], values: npt.NDArray[Any], scratch: Scratch) -> None:
        """Write one chunk from the values of its box, padded with the fill value. Whole or not at all.

        Call it outside the main thread; see `Codec.encode`.

        Raises
        ------
        StoreError
            If the array has shards, of which a chunk would take the place.
        """
        if self.sharding is not None:
            raise StoreError(f"{self.path} has shards, which are only read.")
        assert self.codec is not None  # noqa: S101 - arrays this package creates have one
        if values.shape != self.chunks or values.dtype != self.dtype or not values.flags.c_contiguous:
            padded = scratch.array("padded", self.chunks, self.dtype)
            padded[...] = self.fill
            padded[tuple(slice(0, size) for size in values.shape)] = values
            values = padded
        write_atomically(self._file_path(index), self.codec.encode(values))

    def _touched(self, box: Box) -> Iterator[tuple[int, ...]]:
        """Indices of the chunks a box lies in."""
        return itertools.product(*(range(s.start // c, -(-s.stop // c)) for s, c in zip(box, self.chunks, strict=True)))

    def _file_index(self, index: tuple[int, ...]) -> tuple[int, ...]:
        """Index of the file that a chunk is, or lies in."""
        if self.sharding is None:
            return index
        return tuple(i // n for i, n in zip(index, self.sharding.chunks, strict=True))

    def _file_path(self, index: Sequence[int]) -> str:
        separator = self.separator or "/"
        return f"{self.path}/c{separator}{separator.join(map(str, index))}"

    def _read_with_zarr(self, box: Box) -> npt.NDArray[Any]:
        import zarr

        try:
            array = zarr.open_array(self.path, mode="r")
            for index in map(self._file_index, self._touched(box)):
                path = f"{self.path}/{array.metadata.encode_chunk_key(index)}"
                # zarr-python reads an empty shard as the fill value.
                if os.path.isfile(path) and not os.path.getsize(path):  # noqa: PTH113, PTH202
                    raise _damaged(path, "the chunk", "it is empty")
            return np.asarray(array[box])
        except StoreError:
            raise
        except Exception as error:  # codecs raise what they like: zlib.error, EOFError, SystemError
            raise StoreError(
                f"{self.path}: voxels {_text(box)} cannot be read: {error}.",
                None,
                "Make the store anew from its source, or restore its files.",
            ) from error


def _chunk_number(name: str) -> int | None:
    """Return the index that part of a chunk's name stands for, as Zarr writes it; None for anything else."""
    if not (name.isascii() and name.isdigit()) or len(name) > _MOST_DIGITS or (name[0] == "0" and name != "0"):
        return None
    return int(name)


def _damaged(path: str, what: str, why: object) -> StoreError:
    return StoreError(
        f"{path}: {what} is damaged: {why}.", None, "Make the store anew from its source, or restore the file."
    )


def write_atomically(path: str, data: bytes) -> None:
    """Write a file under a temporary name and rename it, so that it is whole or absent."""
    temporary = f"{path}.{os.getpid()}.partial"
    try:
        try:
            _write(temporary, data)
        except FileNotFoundError:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            _write(temporary, data)
        os.replace(temporary, path)  # noqa: PTH105 - paths are strings here, to spare a Path per chunk
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink(missing_ok=True)
        raise


def _write(path: str, data: bytes) -> None:
    with open(path, "wb", buffering=0) as file:  # noqa: PTH123
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]


def open_array(path: Path) -> ChunkedArray:
    """Describe the array in folder ``path`` from its metadata.

    Raises
    ------
    StoreError
        If the metadata are not those of a Zarr v3 array this package can read.
    """
    metadata = read_json(path / "zarr.json")
    try:
        if metadata["node_type"] != "array" or metadata["zarr_format"] != 3:
            raise ValueError("it is not a Zarr v3 array")
        if metadata["chunk_grid"]["name"] != "regular":
            raise ValueError(f"its chunk grid is {metadata['chunk_grid']['name']!r}, not regular")
        dtype = metadata["data_type"]
        if dtype not in _DTYPES:
            raise ValueError(f"its data type is {dtype!r}, not one of {', '.join(_DTYPES)}")
        shape = _sizes(metadata["shape"], minimum=1)
        chunks = _sizes(metadata["chunk_grid"]["configuration"]["chunk_shape"], minimum=1)
        if len(shape) != len(chunks):
            raise ValueError(f"its shape {shape} and chunks {chunks} differ in length")
        fill = _fill(metadata["fill_value"], dtype)
        separator = _separator(metadata["chunk_key_encoding"])
        codec, sharding = None, None
        if separator:
            codec = codec_of(metadata["codecs"], np.dtype(dtype))
            if found := sharding_of(metadata["codecs"], chunks, np.dtype(dtype)):
                sharding, chunks, codec = found
        if codec and math.prod(chunks) * np.dtype(dtype).itemsize > _MAX_CHUNK_BYTES:
            raise ValueError(f"its chunks of {chunks} voxels have more than {_MAX_CHUNK_BYTES} bytes")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise StoreError(
            f"{path / 'zarr.json'}: {error}.", "Allowed: Zarr v3 arrays of a regular chunk grid."
        ) from error
    return ChunkedArray(str(path), shape, chunks, dtype, fill, codec, separator, sharding)


def read_json(path: Path, limit: int = 64 << 20) -> dict[str, Any]:
    """Read a JSON object of at most ``limit`` bytes from a store.

    Raises
    ------
    StoreError
        If it is missing, too large or no JSON object.
    """
    try:
        if path.stat().st_size > limit:
            raise ValueError(f"it has more than {limit} bytes")
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        if not isinstance(content, dict):
            raise TypeError("it is not a JSON object")
    except FileNotFoundError:
        raise StoreError(f"{path} is missing.", "Allowed: a Zarr v3 store as this package writes it.") from None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise StoreError(f"{path} cannot be read: {error}.", "Allowed: the JSON of a Zarr v3 store.") from error
    return content


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _sizes(values: Any, minimum: int) -> tuple[int, ...]:
    sizes = tuple(values)
    if not sizes or not all(type(size) is int and size >= minimum for size in sizes) or math.prod(sizes) >= 2**48:
        raise ValueError(f"{values!r:.80} are no sizes")
    return sizes


def _fill(value: Any, dtype: str) -> float:
    """Return the fill value as the array's dtype holds it."""
    fill = float(value)
    largest = {"uint8": 255, "bool": 1}.get(dtype)
    if largest is not None and not (fill.is_integer() and 0 <= fill <= largest):
        raise ValueError(f"its fill value {value!r:.40} is no {dtype}")
    with np.errstate(over="ignore"):
        return float(np.dtype(dtype).type(fill))


def _separator(encoding: Any) -> str | None:
    if encoding["name"] != "default":
        return None
    separator = (encoding.get("configuration") or {}).get("separator", "/")
    return separator if separator in ("/", ".") else None


def _text(box: Box) -> str:
    return "[" + ", ".join(f"{s.start}:{s.stop}" for s in box) + "]"
