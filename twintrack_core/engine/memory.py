"""Memory that a run takes, worked out from chunks before it begins, and held against what there is.

A worker holds the buffers of one tile, the encoded bytes of a chunk and a table of counts, whatever the cohort: for
tiles of V voxels with M members of s bytes a score, R raters, chunks of at most K decoded bytes, o bytes a calibrated
score and 15,361 codes,

    accumulate   V (M s + 1) + region + 3 K + 2 x 2^R x 15361 x (4 + 8 + 1 + 8 + 8)
    apply        V (M s + 2 o) + 3 K

A chunk is held encoded and, where it is not a tile's, decoded; the table is held with 32 bits, where it counts more
than 2^32 voxels with 64 too, and while its cells are taken out as their places and counts. ``region`` is V for a box or
a mask, and 40 W for a mask with a margin, W being the voxels of a tile and its margin (a distance transform in float64
and its indices). From a remote store up to 64 MiB of encoded chunks are fetched ahead, and ``apply`` writes as many
behind.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from twintrack_core.codes import N_CODES
from twintrack_core.cohort.roi import MaskRegion, Region
from twintrack_core.cohort.store import StoredCase
from twintrack_core.engine.run import Crew
from twintrack_core.engine.tiles import tile_shape
from twintrack_core.errors import WorkError
from twintrack_core.storage.ahead import BYTES as IN_FLIGHT_BYTES

_CELL_BYTES = 4 + 8 + 1 + 8 + 8
_DISTANCE_BYTES = 40
_BASE_BYTES = 250 << 20
"""What a process holds before it works: Python and the libraries."""


def process_bytes(a_worker: int, workers: int) -> int:
    """Bytes that a process holds at most, without the results it collects.

    Parameters
    ----------
    a_worker
        Bytes of each of its workers, from `to_count` or `to_relabel`.
    workers
        How many there are.
    """
    return _BASE_BYTES + workers * a_worker


def to_count(case: StoredCase, region: Region) -> int:
    """Bytes that a worker takes at most to count a case."""
    voxels = math.prod(tile_shape(case))
    around = voxels
    if isinstance(region, MaskRegion) and region.margin_mm:
        wide = (side + 2 * halo for side, halo in zip(tile_shape(case), region.halo, strict=True))
        around = _DISTANCE_BYTES * math.prod(wide)
    table = 2 * (1 << len(case.raters)) * N_CODES * _CELL_BYTES
    return voxels * (_score_bytes(case) + 1) + int(around) + 3 * _largest_chunk(case) + table + _ahead(case)


def to_relabel(case: StoredCase, out: np.dtype[np.generic]) -> int:
    """Bytes that a worker takes at most to write a case calibrated."""
    return (
        math.prod(tile_shape(case)) * (_score_bytes(case) + 2 * out.itemsize)
        + 3 * _largest_chunk(case)
        + 2 * _ahead(case)
    )


def _ahead(case: StoredCase) -> int:
    """Bytes of what is being fetched from a remote store, or written to one."""
    return 0 if case.folder.local is not None else IN_FLIGHT_BYTES


def _score_bytes(case: StoredCase) -> int:
    return case.members * np.dtype(case.probability.dtype).itemsize


def _largest_chunk(case: StoredCase) -> int:
    return max(array.chunk_bytes for array in (case.probability, *case.parts.values()))


def require_room(needed: Iterable[int], crew: Crew) -> None:
    """Refuse a run that would not fit.

    Parameters
    ----------
    needed
        Bytes that a worker takes for each of the cases.
    crew
        Who runs the tasks, and the memory they have.

    Raises
    ------
    WorkError
        With the arithmetic.
    """
    a_worker = max(needed, default=0)
    for workers, limit in crew.memory():
        if process_bytes(a_worker, workers) > limit:
            fit = max(0, limit - _BASE_BYTES) // max(1, a_worker)
            raise WorkError(
                f"{workers} workers of up to {_mib(a_worker)} MiB each, and {_mib(_BASE_BYTES)} MiB of their process, "
                f"need {_mib(process_bytes(a_worker, workers))} MiB; {_mib(limit)} MiB are there.",
                f"Allowed: up to {fit} workers.",
                "Use fewer --workers." if fit else "Use a larger machine, or make the store with smaller chunks.",
            )


def _mib(n_bytes: int) -> int:
    return -(-n_bytes >> 20)
