"""What a run over a cohort would take: chunks, bytes and memory, found by listing."""

from __future__ import annotations

import errno
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np

from twintrack_core.cohort.chunks import ChunkedArray
from twintrack_core.cohort.roi import parse_roi, region_of
from twintrack_core.cohort.store import StoredCase
from twintrack_core.engine.memory import process_bytes, to_count, to_relabel
from twintrack_core.storage.retry import again, unreadable


@dataclass(frozen=True)
class Cost:
    """What it takes to count the cases of a cohort, or to write them calibrated.

    Attributes
    ----------
    chunks
        Chunks that were written of the arrays that are read: probability and votes.
    grid
        Chunks that these arrays could have.
    stored_bytes
        Bytes of the files that are read; None over https, where they cannot be listed.
    decoded_bytes
        Bytes of what is in them.
    accumulate_bytes, apply_bytes
        Memory of a worker at most, besides what its process holds anyway; for accumulate with the whole volume as the
        region, see `engine.memory`.
    """

    chunks: int
    grid: int
    stored_bytes: int | None
    decoded_bytes: int
    accumulate_bytes: int
    apply_bytes: int

    def process_bytes(self, workers: int) -> int:
        """Memory of a process with so many workers at most, whichever of the two it does."""
        return process_bytes(max(self.accumulate_bytes, self.apply_bytes), workers)


def cost_of(cases: Iterable[StoredCase]) -> Cost:
    """Find out what a run over some cases takes; nothing but lists is read.

    Raises
    ------
    StoreError
        If a store cannot be listed.
    """
    chunks = grid = decoded = accumulate_bytes = apply_bytes = 0
    stored: int | None = 0
    for case in cases:
        for array in (case.probability, *(part for name, part in case.parts.items() if name == "votes")):
            n = len(array.written())
            chunks += n
            grid += math.prod(array.grid)
            decoded += n * array.chunk_bytes
            found = _stored_bytes(array)
            stored = None if stored is None or found is None else stored + found
        accumulate_bytes = max(accumulate_bytes, to_count(case, region_of(case, parse_roi("full"))))
        apply_bytes = max(apply_bytes, to_relabel(case, np.dtype(np.float16)))
    return Cost(chunks, grid, stored, decoded, accumulate_bytes, apply_bytes)


def _stored_bytes(array: ChunkedArray) -> int | None:
    """Bytes of an array's files; None where they cannot be listed."""
    try:
        return sum(size for _, size in again(partial(array.folder.files, array.names.folder)))
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return None
        raise unreadable(f"{array.folder}: its chunks cannot be listed", error) from error
