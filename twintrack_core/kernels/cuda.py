"""CUDA C++ source of both kernels, and how to launch them: text and numbers, without CUDA.

The loops are in ``cuda_scores.cuh``, ``cuda_accumulate.cuh`` and ``cuda_relabel.cuh``. What a variant fixes at compile
time is put in front of them as constants. Nothing is included, so that a compiler needs the text only.

Kernels of a source (``extern "C"``), T being the stored scores:

``accumulate(const T *scores, int64 n, int members, const uint8 *votes, const uint8 *region, uint32 *table, uint64
*findings)``
    Adds to ``table``, (regions, patterns, 15361), and to four ``findings``: number of invalid scores, complement of the
    place of the first one, the same of votes. All begin as zeros. ``votes`` may be null, ``region`` is read with two
    regions only.
``flush(uint32 *table, int64 *counts, int64 cells)``
    Moves counts to 64 bits and leaves zeros.
``relabel(const T *scores, int64 n, int members, const V *lut, V *out, uint64 *findings)``
    Writes ``out``; the first two findings.

Arrays are as `twintrack_core.kernels.findings` describes them, aligned to their items. CuPy has NVRTC flush subnormal
floats (``-ftz=true``). No result depends on them: halves are never subnormal floats, and what is smaller rounds to 0.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from twintrack_core.codes import HIGHEST_VALID, LOWEST_VALID, N_CODES

MAX_VOXELS = 1 << 31
"""Voxels of one launch: counts of 32 bits in shared memory and registers hold twice as many. ``flush`` after each."""

MAX_UNROLLED = 8
"""Members whose number may be compiled in: their loads all start before the first is used."""

THREADS = 1024
"""Threads of a block. One block fills a multiprocessor as far as tables in shared memory leave room for it."""

SHARED_BYTES = 163 * 1024
"""Shared memory a block may use on compute capability 8.0 (9.0: 227 KB; 8.6 and 8.9: 99 KB; 7.5: 64 KB)."""

_BITS = {
    "float16": "unsigned short",
    "float32": "unsigned int",
    "float64": "unsigned long long",
    "uint8": "unsigned char",
}
_BYTES = {"float16": 2, "float32": 4, "float64": 8, "uint8": 1}
_SCORES = ("float16", "float32", "uint8")

_PLANE_BYTES = 4 * N_CODES
_SLOT_BITS = 12
_CACHE_BYTES = 8 << _SLOT_BITS  # a cell and a count each


class Launch(NamedTuple):
    """Blocks, threads a block, and bytes of dynamic shared memory, to be allowed first if above 48 KB."""

    grid: int
    block: int
    shared: int


@dataclass(frozen=True)
class Variant:
    """What is fixed when ``accumulate`` is compiled.

    Attributes
    ----------
    scores
        float16, float32 or uint8.
    members
        Their number, up to `MAX_UNROLLED`; 0 for any number, given at each launch.
    patterns
        Width of the table, a power of two from 1 to 256.
    regions
        1, or 2 for outside and inside.
    clip
        Move scores outside [0, 1] to the nearest end.
    shared
        Bytes of shared memory a block may use: as many planes of unmarked voxels as fit are counted there.
    """

    scores: str
    members: int
    patterns: int
    regions: int
    clip: bool
    shared: int = SHARED_BYTES

    def __post_init__(self) -> None:
        _check(self.scores, self.members)
        if self.patterns not in [1 << raters for raters in range(9)] or self.regions not in (1, 2):
            raise ValueError(f"{self.patterns} patterns, {self.regions} regions; allowed: 1, 2, 4 ... 256, and 1 or 2")

    @property
    def slots(self) -> int:
        """Cells of marked voxels that shared memory holds at a time: none where there are none, or no room."""
        return 1 << _SLOT_BITS if self.patterns > 1 and self.shared >= _CACHE_BYTES else 0

    @property
    def planes(self) -> int:
        """Planes of unmarked voxels in shared memory."""
        return min(self.regions, max(0, self.shared - 8 * self.slots) // _PLANE_BYTES)


def accumulate_source(variant: Variant) -> str:
    """Source of ``accumulate`` and ``flush``."""
    constants = {
        "unsigned PATTERNS": variant.patterns,
        "unsigned REGIONS": variant.regions,
        "unsigned PLANES": variant.planes,
        "unsigned SLOTS": variant.slots,
        "unsigned SLOT_BITS": _SLOT_BITS,
    }
    return _source("accumulate", variant.scores, variant.members, variant.clip, constants)


def relabel_source(scores: str, members: int, out: str, clip: bool, shared: int = SHARED_BYTES) -> str:
    """Source of ``relabel`` from scores, as in `Variant`, to float16, float32, float64 or uint8."""
    _check(scores, members)
    constants = {"bool TABLE_IN_SHARED": int(_lut_bytes(out, shared) > 0)}
    return f"using Value = {_BITS[out]};\n" + _source("relabel", scores, members, clip, constants)


def accumulate_launch(variant: Variant, n: int, multiprocessors: int) -> Launch:
    """How to launch ``accumulate`` on ``n`` voxels."""
    _check_size(n)
    shared = variant.planes * _PLANE_BYTES + 8 * variant.slots
    return Launch(_grid(n, 16 // _BYTES[variant.scores], multiprocessors), THREADS, shared)


def relabel_launch(scores: str, out: str, n: int, multiprocessors: int, shared: int = SHARED_BYTES) -> Launch:
    """How to launch ``relabel`` on ``n`` voxels, with the ``shared`` of its source."""
    _check_size(n)
    voxels = 16 // max(_BYTES[scores], _BYTES[out])
    return Launch(_grid(n, voxels, multiprocessors), THREADS, _lut_bytes(out, shared))


def flush_launch(variant: Variant, multiprocessors: int) -> Launch:
    """How to launch ``flush`` on a whole table."""
    return Launch(_grid(variant.regions * variant.patterns * N_CODES, 1, 2 * multiprocessors), THREADS, 0)


def _grid(n: int, items_per_thread: int, blocks: int) -> int:
    # Blocks beyond what multiprocessors hold at once would clear and hand on tables of their own for nothing.
    return max(1, min(blocks, -(-n // (items_per_thread * THREADS))))


def _lut_bytes(out: str, shared: int) -> int:
    """Bytes of a look-up table in shared memory; 0 where it does not fit, and is read through L1."""
    size = (N_CODES + 1) * _BYTES[out]
    return size if size <= shared else 0


def _source(kernel: str, scores: str, members: int, clip: bool, constants: dict[str, int]) -> str:
    common = {
        "int MEMBERS": members,
        "bool CLIP": int(clip),
        "unsigned N_CODES": N_CODES,
        "float LOWEST_VALID": f"{LOWEST_VALID.hex()}f",  # powers of two and sums of them: exact
        "float HIGHEST_VALID": f"{HIGHEST_VALID.hex()}f",
        "int THREADS": THREADS,
    }
    lines = [f"using Score = {_BITS[scores]};"]
    lines += [f"constexpr {name} = {value};" for name, value in (common | constants).items()]
    return "\n".join([*lines, "", _text("cuda_scores.cuh"), _text(f"cuda_{kernel}.cuh")])


@functools.cache
def _text(name: str) -> str:
    return Path(__file__).with_name(name).read_text("utf-8")


def _check(scores: str, members: int) -> None:
    if scores not in _SCORES or not 0 <= members <= MAX_UNROLLED:
        raise ValueError(f"{scores} scores, {members} members; allowed: {', '.join(_SCORES)}, and 0 to {MAX_UNROLLED}")


def _check_size(n: int) -> None:
    if not 0 <= n <= MAX_VOXELS:
        raise ValueError(f"{n} voxels in one launch; allowed: 0 to {MAX_VOXELS}")
