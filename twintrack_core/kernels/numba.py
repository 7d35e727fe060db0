"""Both kernels in Numba: compiled at first use, cached on disk, free of the GIL.

Voxels are taken in blocks. A block whose scores and marks are all zero bits is recognised by OR-ing its words, which
runs at the speed of memory, and is counted or filled without looking at its voxels. Any other block is turned into
codes first (a vectorised loop that also tells whether every score is valid) and then scattered or looked up; only a
block that holds something invalid takes the careful path, voxel by voxel.

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

BLOCK = 256
"""Voxels per block: long enough to amortise the test, short enough that a lesion's border costs few blocks."""

_ONE = np.uint16(CODE_ONE)
_NEGATIVE_ZERO = np.uint16(CODE_NEGATIVE_ZERO)
_INVALID = N_CODES  # where a look-up table keeps the value for invalid scores
_LOW = np.float32(LOWEST_VALID)
_HIGH = np.float32(HIGHEST_VALID)


def accumulate(
    scores: npt.NDArray[Any],
    votes: npt.NDArray[np.uint8] | None,
    region: npt.NDArray[np.uint8] | None,
    table: npt.NDArray[np.int64],
    *,
    clip: bool = False,
) -> Findings:
    """Count voxels into ``table[region, code, pattern]``; see `twintrack_core.kernels.findings` for the contract."""
    nothing = np.empty(0, dtype=np.uint8)
    marks, inside = (nothing if array is None else array for array in (votes, region))
    stored = _storable(scores)
    found = np.array(Findings(), dtype=np.int64)
    _accumulate(stored.dtype.name)(stored, _bits(scores), marks, inside, table, clip, found)
    return Findings(*found.tolist())


def relabel(scores: npt.NDArray[Any], lut: npt.NDArray[Any], out: npt.NDArray[Any], *, clip: bool = False) -> Findings:
    """Write ``lut[code]`` to ``out``; see `twintrack_core.kernels.findings` for the contract."""
    stored, values = _storable(scores), _storable(lut)
    found = np.array(Findings(), dtype=np.int64)
    _relabel(stored.dtype.name, values.dtype.name)(stored, _bits(scores), values, _storable(out), clip, found)
    return Findings(*found.tolist())


def _storable(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """View float16, which Numba does not know on a CPU, as the bits it is made of."""
    return array.view(np.uint16) if array.dtype == np.float16 else array


def _bits(scores: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """View scores as unsigned integers, which can be OR-ed."""
    return scores.view(f"u{scores.dtype.itemsize}")


@functools.cache
def _accumulate(scores: str) -> Callable[..., None]:
    stored, mask = _stored_and_bits(scores), _array(types.uint8, 1)
    table = types.Array(types.int64, 3, "C")
    return _compile(_accumulate_blocks, types.void(*stored, mask, mask, table, types.boolean, types.int64[::1]))


@functools.cache
def _relabel(scores: str, out: str) -> Callable[..., None]:
    value = getattr(types, out)
    lut = _array(value, 1)
    return _compile(
        _relabel_blocks, types.void(*_stored_and_bits(scores), lut, value[::1], types.boolean, types.int64[::1])
    )


def _stored_and_bits(scores: str) -> tuple[Any, Any]:
    bits = {"uint16": types.uint16, "float32": types.uint32, "uint8": types.uint8}[scores]
    return _array(getattr(types, scores), 2), _array(bits, 2)


def _array(dtype: Any, ndim: int) -> Any:
    # One read-only signature takes writable arrays too; left to Numba, each kind would be compiled separately.
    return types.Array(dtype, ndim, "C", readonly=True)


def _compile(function: Callable[..., None], signature: Any) -> Callable[..., None]:
    """Compile one signature, with a disk cache where Numba finds a writable place for it."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        compiled: Callable[..., None] = numba.njit([signature], cache=True, **options)(function)
    except RuntimeError as error:
        if "cannot cache" not in str(error):
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
def _add_member(row: Any, total: Any) -> bool:
    """Add one member's scores; False if one is invalid."""
    fine = np.uint8(1)
    for i in range(row.size):
        value = _score(row[i])
        fine &= np.uint8(value >= _LOW) & np.uint8(value <= _HIGH)
        total[i] += value
    return bool(fine != 0)


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
def _fill_codes(scores: Any, start: int, stop: int, codes: Any, total: Any) -> bool:
    """Write the codes of one block; False if a voxel needs care, and then ``codes`` is not to be used."""
    members = scores.shape[0]
    if members == 1:
        return bool(_single_codes(scores[0, start:stop], codes))
    total[:] = np.float32(0)
    fine = True
    for member in range(members):
        fine &= _add_member(scores[member, start:stop], total)
    return bool(fine and _mean_codes(total[: stop - start], members, codes))


@_inner  # type: ignore[untyped-decorator]
def _count_background(n: int, region: Any, table: Any) -> None:
    inside = n
    if region.size > 0:
        inside = 0
        for i in range(region.size):
            inside += region[i] != 0
    table[0, 0, 0] += n - inside
    table[table.shape[0] - 1, 0, 0] += inside


@_inner  # type: ignore[untyped-decorator]
def _scatter(codes: Any, n: int, votes: Any, region: Any, table: Any) -> None:
    has_votes, has_region = votes.size > 0, region.size > 0
    patterns = np.uint64(table.shape[2])
    inside = np.uint64((table.shape[0] - 1) * N_CODES)
    cells = table.reshape(-1)
    for i in range(n):
        row = np.uint64(codes[i])
        if not has_region or region[i] != 0:
            row += inside
        pattern = np.uint64(votes[i]) if has_votes else np.uint64(0)
        cells[row * patterns + pattern] += 1


@_inner  # type: ignore[untyped-decorator]
def _scatter_carefully(
    scores: Any, votes: Any, region: Any, start: int, stop: int, table: Any, clip: bool, found: Any
) -> None:
    patterns = table.shape[2]
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
            table[plane, code, pattern] += 1


def _accumulate_blocks(scores: Any, bits: Any, votes: Any, region: Any, table: Any, clip: bool, found: Any) -> None:
    n = scores.shape[1]
    codes = np.empty(BLOCK, dtype=np.uint16)
    total = np.empty(BLOCK, dtype=np.float32)
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        block_votes, block_region = votes[start:stop], region[start:stop]
        marks = np.uint8(0)
        for i in range(block_votes.size):
            marks |= block_votes[i]
        if marks == 0 and _background(bits, start, stop):
            _count_background(stop - start, block_region, table)
        elif marks < table.shape[2] and _fill_codes(scores, start, stop, codes, total):
            _scatter(codes, stop - start, block_votes, block_region, table)
        else:
            _scatter_carefully(scores, votes, region, start, stop, table, clip, found)


def _relabel_blocks(scores: Any, bits: Any, lut: Any, out: Any, clip: bool, found: Any) -> None:
    n = scores.shape[1]
    codes = np.empty(BLOCK, dtype=np.uint16)
    total = np.empty(BLOCK, dtype=np.float32)
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        block = out[start:stop]
        if _background(bits, start, stop):
            block[:] = lut[0]
        elif _fill_codes(scores, start, stop, codes, total):
            for i in range(block.size):
                block[i] = lut[codes[i]]
        else:
            for i in range(block.size):
                code = _careful_code(scores[:, start + i], clip)
                if code == _INVALID:
                    found[1] = start + i if found[0] == 0 else found[1]
                    found[0] += 1
                block[i] = lut[code]
