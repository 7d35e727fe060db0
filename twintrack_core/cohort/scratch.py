"""What a task keeps from chunk to chunk: buffers, what is fetched ahead and written behind, and what must be there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from twintrack_core.cohort.shards import KnownShards
from twintrack_core.storage import Folder
from twintrack_core.storage.ahead import Ahead, Behind

Listed: TypeAlias = Sequence[tuple[Folder, npt.NDArray[np.int64]]]
"""Chunks that are there: folders of arrays, and (n, ndim) indices."""


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
