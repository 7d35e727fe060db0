"""What a run over a cohort would take: chunks, bytes and memory, found by listing."""

from __future__ import annotations

import errno
import math
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from twintrack_core.cohort.chunks import ChunkedArray
from twintrack_core.cohort.roi import parse_roi, region_of
from twintrack_core.cohort.store import StoredCase
from twintrack_core.engine.memory import process_bytes, to_count, to_relabel
from twintrack_core.storage.retry import again, unreadable


@dataclass(frozen=True)
class Cost:
    """What it takes to count a case, or some, or to write them calibrated.

    Attributes
    ----------
    chunks
        Chunks that were written of the arrays that are read: probability and votes.
    score_chunks
        Those of probability.
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

    chunks: int = 0
    score_chunks: int = 0
    grid: int = 0
    stored_bytes: int | None = 0
    decoded_bytes: int = 0
    accumulate_bytes: int = 0
    apply_bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        """Return what both take, one after the other."""
        known = None not in (self.stored_bytes, other.stored_bytes)
        return Cost(
            self.chunks + other.chunks,
            self.score_chunks + other.score_chunks,
            self.grid + other.grid,
            (self.stored_bytes or 0) + (other.stored_bytes or 0) if known else None,
            self.decoded_bytes + other.decoded_bytes,
            max(self.accumulate_bytes, other.accumulate_bytes),
            max(self.apply_bytes, other.apply_bytes),
        )

    def process_bytes(self, workers: int) -> int:
        """Memory of a process with so many workers at most, whichever of the two it does."""
        return process_bytes(max(self.accumulate_bytes, self.apply_bytes), workers)


def cost_of(case: StoredCase) -> Cost:
    """Find out what a run over a case takes; nothing but lists is read.

    Raises
    ------
    StoreError
        If a store cannot be listed.
    """
    scores = _cost_of_array(case.probability)
    votes = _cost_of_array(case.parts["votes"]) if "votes" in case.parts else Cost()
    accumulate_bytes = to_count(case, region_of(case, parse_roi("full")))
    apply_bytes = to_relabel(case, np.dtype(np.float16))
    return replace(
        scores + votes, score_chunks=scores.chunks, accumulate_bytes=accumulate_bytes, apply_bytes=apply_bytes
    )


def _cost_of_array(array: ChunkedArray) -> Cost:
    n = len(array.written())
    return Cost(n, 0, math.prod(array.grid), _stored_bytes(array), n * array.chunk_bytes)


def _stored_bytes(array: ChunkedArray) -> int | None:
    """Bytes of an array's files; None where they cannot be listed."""
    try:
        return sum(size for _, size in again(partial(array.folder.files, array.names.folder)))
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return None
        raise unreadable(f"{array.folder}: its chunks cannot be listed", error) from error
