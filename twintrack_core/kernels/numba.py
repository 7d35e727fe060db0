"""Both kernels in Numba: compiled at first use, cached on disk, free of the GIL.

Voxels are taken in stretches. A stretch whose scores and marks are all zero bits is recognised by OR-ing its words,
which runs at the speed of memory, and is counted or filled without looking at its voxels. Any other stretch is turned
into codes first (a vectorised loop that also tells whether every score is valid) and then scattered or looked up; only
one that holds something invalid takes the careful path, voxel by voxel.

Everything that is compiled lives in this file, because Numba's cache notices changes in the file of the outer
function only.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from twintrack_core.codes import CODE_NEGATIVE_ZERO, CODE_ONE, HIGHEST_VALID, LOWEST_VALID, N_CODES
from twintrack_core.kernels.findings import Findings

STRETCH = 4096
"""Voxels handled together. A stretch costs some 300 ns by itself; longer ones drag more background along with a lesion,
and no longer lie in L1 with their codes."""

_ONE = np.uint16(CODE_ONE)
_ONE_FLOAT32 = np.float32(1).view(np.uint32)
_NEGATIVE_ZERO = np.uint16(CODE_NEGATIVE_ZERO)
_INVALID = N_CODES  # where a look-up table keeps the value for invalid scores
_LOW = np.float32(LOWEST_VALID)
_HIGH = np.float32(HIGHEST_VALID)


def accumulate(
    scores: npt.NDArray[Any],
    votes: npt.NDArray[np.uint8] | None,
    region: npt.NDArray[np.uint8] | None,
    table: npt.NDArray[np.uint32],
    *,
    clip: bool = False,
) -> Findings:
    """Count voxels into ``table[region, pattern, code]``; see `twintrack_core.kernels.findings` for the contract."""
    nothing = np.empty(0, dtype=np.uint8)
    marks, inside = (nothing if array is None else array for array in (votes, region))
    found = np.array(Findings(), dtype=np.int64)
    _accumulate(scores.dtype.name)(*_views(scores), marks, inside, table, clip, found)
    return Findings(*found.tolist())


def relabel(scores: npt.NDArray[Any], lut: npt.NDArray[Any], out: npt.NDArray[Any], *, clip: bool = False) -> Findings:
    """Write ``lut[code]`` to ``out``; see `twintrack_core.kernels.findings` for the contract."""
    values = _storable(lut)
    found = np.array(Findings(), dtype=np.int64)
    _relabel(scores.dtype.name, values.dtype.name)(*_views(scores), values, _storable(out), clip, found)
    return Findings(*found.tolist())


def _storable(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """View float16, which Numba does not know on a CPU, as the bits it is made of."""
    return array.view(np.uint16) if array.dtype == np.float16 else array


def _views(scores: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.uint16]]:
    """Scores as the kernels take them: as stored, as unsigned integers that can be OR-ed, and as codes if they are."""
    halves = scores.view(np.uint16) if scores.dtype == np.float16 else np.empty((0, 0), dtype=np.uint16)
    return _storable(scores), scores.view(f"u{scores.dtype.itemsize}"), halves


_VIEW_TYPES = {
    "float16": (types.uint16, types.uint16),
    "float32": (types.float32, types.uint32),
    "uint8": (types.uint8, types.uint8),
}


@functools.cache
def _accumulate(scores: str) -> Callable[..., None]:
    mask, table = _array(types.uint8, 1), types.Array(types.uint32, 3, "C")
    return _compile(
        _accumulate_stretches, types.void(*_view_types(scores), mask, mask, table, types.boolean, types.int64[::1])
    )


@functools.cache
def _relabel(scores: str, out: str) -> Callable[..., None]:
    value = getattr(types, out)
    return _compile(
        _relabel_stretches,
        types.void(*_view_types(scores), _array(value, 1), value[::1], types.boolean, types.int64[::1]),
    )


def _view_types(scores: str) -> list[Any]:
    return [_array(dtype, 2) for dtype in (*_VIEW_TYPES[scores], types.uint16)]


def _array(dtype: Any, ndim: int) -> Any:
    # One read-only signature takes writable arrays too; left to Numba, each kind would be compiled separately.
    return types.Array(dtype, ndim, "C", readonly=True)


def _compile(function: Callable[..., None], signature: Any) -> Callable[..., None]:
    """Compile one signature, with a disk cache where Numba finds a writable place for it."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        compiled: Callable[..., None] = numba.njit([signature], cache=True, **options)(function)
    except (RuntimeError, OSError) as error:  # no place for a cache, and a full disk under it
        if isinstance(error, RuntimeError) and "cannot cache" not in str(error):
            raise
        warnings.warn(
            f"Numba cannot write its cache ({error}), so kernels are compiled anew in every process. "
            "Set NUMBA_CACHE_DIR to a writable folder.",
            RuntimeWarning,
            stacklevel=4,
        )
        compiled = numba.njit([signature], **options)(function)
    return compiled


@intrinsic  # type: ignore[untyped-decorator]
def _half_bits(_typing: Any, _value: Any) -> Any:
    """Bits of a float32 rounded to float16. LLVM lowers it to the hardware's conversion (to nearest-even)."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.bitcast(builder.fptrunc(args[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(types.float32), codegen


@intrinsic  # type: ignore[untyped-decorator]
def _score(_typing: Any, stored: Any) -> Any:
    """Score as float32 of a stored value: float16 bits, float32, or uint8 meaning k / 255."""

    def codegen(_context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if signature.args[0] == types.uint16:
            return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())
        if signature.args[0] == types.uint8:
            return builder.fdiv(builder.uitofp(args[0], ir.FloatType()), ir.Constant(ir.FloatType(), 255.0))
        return args[0]

    return types.float32(stored), codegen


_inner = numba.njit(nogil=True, error_model="numpy")
# Inner functions get a block's own slices and index them from 0: Numba then knows no index is negative, leaves out the
# test for indices from the end, and LLVM can vectorise.


@_inner  # type: ignore[untyped-decorator]
def _any_bits(values: Any) -> bool:
    """Whether any value is not zero. No early exit, so that the loop vectorises."""
    bits = values.dtype.type(0)
    for i in range(values.size):
        bits |= values[i]
    return bool(bits != 0)


@_inner  # type: ignore[untyped-decorator]
def _largest(bits: Any) -> Any:
    largest = bits.dtype.type(0)
    for i in range(bits.size):
        largest = max(largest, bits[i])
    return largest


@_inner  # type: ignore[untyped-decorator]
def _background(bits: Any, start: int, stop: int) -> bool:
    found = False
    for member in range(bits.shape[0]):
        found |= _any_bits(bits[member, start:stop])
    return not found


@_inner  # type: ignore[untyped-decorator]
def _careful_code(stored: Any, clip: bool) -> int:
    """Code of the mean of one voxel's (M,) scores, `_INVALID` if one of them is invalid."""
    total = np.float32(0)
    for member in range(stored.size):
        value = _score(stored[member])
        if clip:
            if value < np.float32(0):
                value = np.float32(0)
            elif value > np.float32(1):
                value = np.float32(1)
        if not (value >= _LOW and value <= _HIGH):
            return _INVALID
        total += value
    code = _half_bits(total / np.float32(stored.size))
    return 0 if code == _NEGATIVE_ZERO else int(code)


@_inner  # type: ignore[untyped-decorator]
def _single_codes(row: Any, codes: Any) -> bool:
    """Write one member's codes; False if one is not a code of [0, 1]."""
    largest = np.uint16(0)
    for i in range(row.size):
        code = _half_bits(_score(row[i]))
        largest = max(largest, code)
        codes[i] = code
    return bool(largest <= _ONE)


@_inner  # type: ignore[untyped-decorator]
def _add_member(row: Any, total: Any) -> None:
    for i in range(row.size):
        total[i] += _score(row[i])


@_inner  # type: ignore[untyped-decorator]
def _surely_valid(bits: Any) -> bool:
    """Whether no score is above 1 or negative: bits of floats, read as integers, are in the floats' order."""
    largest = _largest(bits)
    if bits.itemsize == 4:
        return bool(largest <= _ONE_FLOAT32)
    return bool(bits.itemsize == 1 or largest <= _ONE)


@_inner  # type: ignore[untyped-decorator]
def _mean_codes(total: Any, members: int, codes: Any) -> bool:
    """Write the codes of the mean; False if one is not a code of [0, 1]."""
    divisor = np.float32(members)
    largest = np.uint16(0)
    for i in range(total.size):
        code = _half_bits(total[i] / divisor)
        largest = max(largest, code)
        codes[i] = code
    return bool(largest <= _ONE)


@_inner  # type: ignore[untyped-decorator]
def _fill_codes(scores: Any, bits: Any, start: int, stop: int, codes: Any, total: Any) -> bool:
    """Write the codes of a stretch; False if a voxel needs care, and then ``codes`` is not to be used."""
    members = scores.shape[0]
    if members == 1:
        return bool(_single_codes(scores[0, start:stop], codes))
    total[:] = np.float32(0)
    fine = True
    for member in range(members):
        _add_member(scores[member, start:stop], total)
        fine &= _surely_valid(bits[member, start:stop])
    return bool(fine and _mean_codes(total, members, codes))


@_inner  # type: ignore[untyped-decorator]
def _count_inside(n: int, region: Any) -> Any:
    if region.size == 0:
        return n
    inside = 0
    for i in range(region.size):
        inside += region[i] != 0
    return inside


@_inner  # type: ignore[untyped-decorator]
def _scatter_plane(codes: Any, votes: Any, cells: Any) -> None:
    if votes.size == 0:
        for i in range(codes.size):
            cells[np.uint64(codes[i])] += 1
    else:
        for i in range(codes.size):
            cells[np.uint64(votes[i]) * np.uint64(N_CODES) + np.uint64(codes[i])] += 1


@_inner  # type: ignore[untyped-decorator]
def _scatter(codes: Any, votes: Any, region: Any, table: Any) -> None:
    """Count a stretch of valid codes."""
    # One plane at a time: a plane's offset in the index costs a tenth of the speed.
    outside, inside = table[0].reshape(-1), table[table.shape[0] - 1].reshape(-1)
    n_inside = _count_inside(codes.size, region)
    if n_inside == codes.size:
        _scatter_plane(codes, votes, inside)
    elif n_inside == 0:
        _scatter_plane(codes, votes, outside)
    else:
        for i in range(codes.size):
            cell = np.uint64(codes[i])
            if votes.size > 0:
                cell += np.uint64(votes[i]) * np.uint64(N_CODES)
            if region[i] != 0:
                inside[cell] += 1
            else:
                outside[cell] += 1


@_inner  # type: ignore[untyped-decorator]
def _scatter_carefully(
    scores: Any, votes: Any, region: Any, start: int, stop: int, table: Any, clip: bool, found: Any
) -> None:
    patterns = table.shape[1]
    for i in range(start, stop):
        plane = 0 if region.size > 0 and region[i] == 0 else table.shape[0] - 1
        pattern = votes[i] if votes.size > 0 else np.uint8(0)
        code = _careful_code(scores[:, i], clip)
        if code == _INVALID:
            found[1] = i if found[0] == 0 else found[1]
            found[0] += 1
        if pattern >= patterns:
            found[3] = i if found[2] == 0 else found[3]
            found[2] += 1
        if code != _INVALID and pattern < patterns:
            table[plane, pattern, code] += 1


def _accumulate_stretches(
    scores: Any, bits: Any, halves: Any, votes: Any, region: Any, table: Any, clip: bool, found: Any
) -> None:
    n = scores.shape[1]
    codes = np.empty(STRETCH, dtype=np.uint16)
    total = np.empty(STRETCH, dtype=np.float32)
    for start in range(0, n, STRETCH):
        stop = min(start + STRETCH, n)
        some_votes, some_region = votes[start:stop], region[start:stop]
        marks = np.uint8(0)
        for i in range(some_votes.size):
            marks |= some_votes[i]
        if marks == 0 and _background(bits, start, stop):
            inside = _count_inside(stop - start, some_region)
            table[0, 0, 0] += stop - start - inside
            table[table.shape[0] - 1, 0, 0] += inside
            continue
        if marks == 0:
            some_votes = votes[:0]  # what nobody marked needs no look at the votes
        if marks >= table.shape[1]:
            _scatter_carefully(scores, votes, region, start, stop, table, clip, found)
        elif halves.shape[0] == 1 and _largest(halves[0, start:stop]) <= _ONE:
            # One float16 member is its codes; copying them would cost a fifth of the speed.
            _scatter(halves[0, start:stop], some_votes, some_region, table)
        elif _fill_codes(scores, bits, start, stop, codes[: stop - start], total[: stop - start]):
            _scatter(codes[: stop - start], some_votes, some_region, table)
        else:
            _scatter_carefully(scores, votes, region, start, stop, table, clip, found)


def _relabel_stretches(scores: Any, bits: Any, halves: Any, lut: Any, out: Any, clip: bool, found: Any) -> None:
    n = scores.shape[1]
    codes = np.empty(STRETCH, dtype=np.uint16)
    total = np.empty(STRETCH, dtype=np.float32)
    for start in range(0, n, STRETCH):
        stop = min(start + STRETCH, n)
        values = out[start:stop]
        if _background(bits, start, stop):
            values[:] = lut[0]
        elif halves.shape[0] == 1 and _largest(halves[0, start:stop]) <= _ONE:
            _look_up(halves[0, start:stop], lut, values)
        elif _fill_codes(scores, bits, start, stop, codes[: stop - start], total[: stop - start]):
            _look_up(codes[: stop - start], lut, values)
        else:
            for i in range(values.size):
                code = _careful_code(scores[:, start + i], clip)
                if code == _INVALID:
                    found[1] = start + i if found[0] == 0 else found[1]
                    found[0] += 1
                values[i] = lut[code]


@_inner  # type: ignore[untyped-decorator]
def _look_up(codes: Any, lut: Any, values: Any) -> None:
    for i in range(codes.size):
        values[i] = lut[codes[i]]
