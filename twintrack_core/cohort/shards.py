"""Single chunks out of files that hold many: Zarr's `sharding_indexed` codec.

A shard is the bytes of its chunks and an index of where each of them lies. The index is read once, then of every chunk
its own bytes; never a whole shard. Nothing the index says is used before it is checked against the file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from twintrack_core.cohort.codecs import Codec, codec_of
from twintrack_core.storage import File, Folder

_ABSENT = np.uint64(2**64 - 1)  # offset and length of a chunk that was never written
_CHECKSUM_BYTES = 4
_MAX_INDEX_BYTES = 1 << 26  # four million chunks
_KNOWN_BYTES = 8 << 20
_KNOWN_OVERHEAD = 1000  # bytes an index takes besides its entries, about


class ShardError(Exception):
    """A shard's index is not what the array's metadata and its file allow. The caller knows which shard it was."""


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """Where the chunks of a shard lie.

    Attributes
    ----------
    version
        What tells this file from one that takes its place.
    extents
        (n, 2) int64, offset and length in bytes of each chunk in C order; length 0 where it was never written.
    """

    version: tuple[object, ...]
    extents: npt.NDArray[np.int64]


class KnownShards:
    """Indices of the shards that were read last, in bounded memory."""

    def __init__(self) -> None:
        self._indices: dict[str, ShardIndex] = {}
        self._n_bytes = 0

    def get(self, path: str, version: tuple[object, ...]) -> ShardIndex | None:
        """Return a shard's index if it is known and the file is still the same."""
        index = self._indices.pop(path, None)
        if index is None:
            return None
        if index.version != version:
            self._n_bytes -= _size(index)
            return None
        self._indices[path] = index  # last in the order, so the last to go
        return index

    def last(self, path: str) -> ShardIndex | None:
        """Return a shard's index if it is known, whether or not the file is still the same."""
        return self._indices.get(path)

    def keep(self, path: str, index: ShardIndex) -> None:
        """Keep a shard's index that is not known, and let go of the ones not asked for longest."""
        self._indices[path] = index
        self._n_bytes += _size(index)
        while self._n_bytes > _KNOWN_BYTES and len(self._indices) > 1:
            self._n_bytes -= _size(self._indices.pop(next(iter(self._indices))))

    def forget(self) -> None:
        """Let go of all of them."""
        self._indices.clear()
        self._n_bytes = 0


def _size(index: ShardIndex) -> int:
    return index.extents.nbytes + _KNOWN_OVERHEAD


@dataclass(frozen=True)
class Sharding:
    """How the shards of an array are laid out.

    Attributes
    ----------
    chunks
        Chunks in a shard along each axis.
    index_first
        Whether the index stands at the start of the file, not at its end.
    checksum
        Whether a CRC-32C of the index follows it.
    """

    chunks: tuple[int, ...]
    index_first: bool
    checksum: bool

    @property
    def index_bytes(self) -> int:
        """Size of an index and its checksum."""
        return 16 * math.prod(self.chunks) + _CHECKSUM_BYTES * self.checksum

    def read(
        self, folder: Folder, key: str, place: Sequence[int], chunk_bytes: int, known: KnownShards
    ) -> bytes | None:
        """Read the bytes of one chunk.

        Parameters
        ----------
        folder, key
            File of the shard.
        place
            Index of the chunk within the shard.
        chunk_bytes
            Size of a decoded chunk.
        known
            Where the shard's index is looked up and kept.

        Returns
        -------
        bytes or None
            None if the chunk, or the whole shard, was never written.

        Raises
        ------
        ShardError
            If the index is damaged or the file ends before the chunk does.
        OSError
            If the file cannot be read.
        """
        name = f"{folder}/{key}"
        if folder.local is None and (index := known.last(name)) is not None:  # looking whether it is the same costs
            offset, length = index.extents[self.number(place)].tolist()
            return folder.read_range(key, offset, length) if length else None
        file = self._open(folder, key)
        if file is None:
            return None
        with file:
            index = known.get(name, file.version)
            if index is None:
                index = ShardIndex(file.version, self._extents(file, chunk_bytes))
                known.keep(name, index)
            offset, length = index.extents[self.number(place)].tolist()
            return _read(file, length, offset) if length else None

    def number(self, place: Sequence[int]) -> int:
        """Where a chunk stands in the index."""
        number = 0
        for i, n in zip(place, self.chunks, strict=True):
            number = number * n + i
        return number

    def written(self, folder: Folder, key: str, chunk_bytes: int) -> npt.NDArray[np.int64]:
        """Indices within a shard of the chunks that were written, (n, ndim); see `read`."""
        extents = self.extents(folder, key, chunk_bytes)
        if extents is None:
            return np.empty((0, len(self.chunks)), dtype=np.int64)
        return np.stack(np.unravel_index(np.flatnonzero(extents[:, 1]), self.chunks), axis=1)

    def extents(self, folder: Folder, key: str, chunk_bytes: int) -> npt.NDArray[np.int64] | None:
        """Read a shard's index, as `ShardIndex` has it; None where there is no file."""
        file = self._open(folder, key)
        if file is None:
            return None
        with file:
            return self._extents(file, chunk_bytes)

    def _open(self, folder: Folder, key: str) -> File | None:
        if self.index_first:
            return folder.open(key, head=self.index_bytes)
        return folder.open(key, tail=self.index_bytes)

    def _extents(self, file: File, chunk_bytes: int) -> npt.NDArray[np.int64]:
        """Read the index of an open shard and check it."""
        size = file.size
        if size < self.index_bytes:
            raise ShardError(f"it has {size} bytes, its index alone has {self.index_bytes}")
        data = _read(file, self.index_bytes, 0 if self.index_first else size - self.index_bytes)
        if self.checksum:
            data, checksum = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
            if _crc32c(data) != int.from_bytes(checksum, "little"):
                raise ShardError("its index does not fit its checksum")
        entries = np.frombuffer(data, dtype="<u8").reshape(-1, 2)
        offsets, lengths = entries.T
        first = self.index_bytes if self.index_first else 0
        room = size - self.index_bytes
        most = min(room, 2 * chunk_bytes + 4096)  # no codec makes so much of a chunk, whatever it holds
        absent = (entries == _ABSENT).all(axis=1)
        # An offset before `first` wraps around, to more than any room.
        wrong = (lengths == 0) | (lengths > most) | (offsets - np.uint64(first) > room - lengths)
        wrong &= ~absent
        if wrong.any():
            number = int(wrong.argmax())
            place = tuple(map(int, np.unravel_index(number, self.chunks)))
            raise ShardError(
                f"its index has {lengths[number]} bytes at {offsets[number]} for its chunk {place}, in a file of {size}"
            )
        extents: npt.NDArray[np.int64] = np.where(absent[:, np.newaxis], 0, entries).astype(np.int64)
        return extents


def sharding_of(
    codecs: Sequence[Any], shard: tuple[int, ...], dtype: np.dtype[Any]
) -> tuple[Sharding, tuple[int, ...], Codec] | None:
    """Layout of the shards, shape of a chunk and its codec, or None where there are none that this package can read.

    Parameters
    ----------
    codecs
        The ``codecs`` of an array's metadata.
    shard
        Shape of a shard.
    dtype
        The array's dtype.

    Raises
    ------
    ValueError
        If a shard cannot be divided as it says, or into too many chunks.
    """
    if len(codecs) != 1 or not isinstance(codecs[0], Mapping) or codecs[0].get("name") != "sharding_indexed":
        return None
    options = codecs[0]["configuration"]
    inner = tuple(options["chunk_shape"])
    if len(inner) != len(shard) or not all(
        type(n) is int and n > 0 and size % n == 0 for size, n in zip(shard, inner, strict=True)
    ):
        raise ValueError(f"its shards of {shard} voxels cannot be divided into chunks of {inner!r:.80}")
    codec = codec_of(options["codecs"], dtype)
    index_codec = codec_of(options["index_codecs"], np.dtype(np.uint64))
    location = options.get("index_location", "end")
    if codec is None or index_codec is None or location not in ("start", "end"):
        return None
    if index_codec not in (Codec("none"), Codec("none", checksum=True)):
        return None
    per_shard = tuple(s // n for s, n in zip(shard, inner, strict=True))
    sharding = Sharding(per_shard, location == "start", index_codec.checksum)
    if sharding.index_bytes > _MAX_INDEX_BYTES:
        raise ValueError(f"its shards have {math.prod(sharding.chunks)} chunks, more than {_MAX_INDEX_BYTES // 16}")
    return sharding, inner, codec


def _read(file: File, length: int, offset: int) -> bytes:
    data = file.read(length, offset)
    if len(data) < length:
        raise ShardError(f"it ended at {offset + len(data)} bytes while it was read")
    return data


def _crc32c(data: bytes) -> int:
    from numcodecs.checksum32 import CRC32C  # of whichever library the installed zarr-python brings

    return int(CRC32C.checksum(data, 0))
