"""Both kernels in Numba: compiled at first use, cached on disk, free of the GIL.

The algorithm is that of ``stretches.h``. Voxels are taken in stretches. A stretch whose scores and marks are all zero
bits is counted or filled without looking at its voxels. Any other one is turned into codes first, in vectorised loops,
unless its scores are codes already, and then scattered or looked up in blocks; a block that is all the same is counted
at once. Only a stretch that holds something invalid takes the careful path, voxel by voxel.

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

STRETCH = 1024
"""Voxels whose codes are made together: they and the sums they come from lie in L1."""

STRETCH_OF_CODES = 256
"""Voxels taken together where the scores are the codes: a short stretch lets the memory run while the scatter does."""

BLOCK = 64
"""Voxels counted or filled at once if they are all the same."""

WORTH_A_SECOND_TABLE = 1 << 16
"""Voxels of a call from which on unmarked ones are counted in two tables, added up at the end."""

_ONE = {"float16": np.uint16(CODE_ONE), "float32": np.float32(1).view(np.uint32), "uint8": np.uint8(255)}
"""Bits of the score 1. Read as unsigned integers, those of smaller scores are smaller and all others larger."""

_NEGATIVE_ZERO = np.uint16(CODE_NEGATIVE_ZERO)
_INVALID = N_CODES  # where a look-up table keeps the value for invalid scores
_LIMITS = np.array([LOWEST_VALID, HIGHEST_VALID, LOWEST_VALID, HIGHEST_VALID], dtype=np.float32)
_LIMITS_TO_CLIP = np.array([-np.inf, np.inf, 0, 1], dtype=np.float32)  # what is valid, and what it is moved to

# Unsigned constants, so that what is computed with them is unsigned too: see what is said of inner functions.
_N_CODES, _BLOCK = np.uint64(N_CODES), np.uint64(BLOCK)
_1, _2, _3, _4, _8, _16, _24, _32, _48 = np.array([1, 2, 3, 4, 8, 16, 24, 32, 48], dtype=np.uint64)
_8_BITS, _16_BITS = np.uint64(0xFF), np.uint64(0xFFFF)


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
    worth = scores.shape[1] >= WORTH_A_SECOND_TABLE
    second = np.zeros((len(table) if worth else 0, N_CODES), dtype=np.uint32)
    planes = table.reshape(len(table), -1)
    found = np.array(Findings(), dtype=np.int64)
    _accumulate(scores.dtype.name)(*_arguments(scores, clip=clip), marks, inside, planes, second, found)
    if worth:
        table[:, 0] += second
    return Findings(*found.tolist())


def relabel(scores: npt.NDArray[Any], lut: npt.NDArray[Any], out: npt.NDArray[Any], *, clip: bool = False) -> Findings:
    """Write ``lut[code]`` to ``out``; see `twintrack_core.kernels.findings` for the contract."""
    values = _storable(lut)
    found = np.array(Findings(), dtype=np.int64)
    arguments = _arguments(scores, clip=clip)
    _relabel(scores.dtype.name, values.dtype.name)(*arguments, values, _storable(out), found)
    return Findings(*found.tolist())


def _storable(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """View float16, which Numba does not know on a CPU, as the bits it is made of."""
    return array.view(np.uint16) if array.dtype == np.float16 else array


def _arguments(scores: npt.NDArray[Any], *, clip: bool) -> tuple[Any, ...]:
    """What both kernels begin with: bits of the scores, the codes if they are that, bits of 1, limits, and buffers.

    The buffer of codes is there twice, to write and to read: what is compiled for read-only codes then serves both
    kinds.
    """
    bits = scores.view(f"u{scores.dtype.itemsize}")
    are_codes = scores.dtype == np.float16 and len(scores) == 1
    halves = bits[0] if are_codes else np.empty(0, dtype=np.uint16)
    codes = np.empty(STRETCH_OF_CODES if are_codes else STRETCH, dtype=np.uint16)
    total = np.empty(codes.size, dtype=np.float32)
    return bits, halves, _ONE[scores.dtype.name], _LIMITS_TO_CLIP if clip else _LIMITS, total, codes, codes


# Nothing compiled here allocates, so it needs no Numba run-time. Without one, slices of arrays count no references,
# which would cost as much as a block of voxels does.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}

_BITS = {"float16": types.uint16, "float32": types.uint32, "uint8": types.uint8}


@functools.cache
def _accumulate(scores: str) -> Callable[..., None]:
    mask, planes = _array(types.uint8, 1), types.uint32[:, ::1]
    rest = (mask, mask, planes, planes, types.int64[::1])
    return _compile(_accumulate_stretches, types.void(*_argument_types(scores), *rest))


@functools.cache
def _relabel(scores: str, out: str) -> Callable[..., None]:
    value = getattr(types, out)
    rest = (_array(value, 1), value[::1], types.int64[::1])
    return _compile(_relabel_stretches, types.void(*_argument_types(scores), *rest))


def _argument_types(scores: str) -> list[Any]:
    bits, codes, limits = _BITS[scores], _array(types.uint16, 1), _array(types.float32, 1)
    return [_array(bits, 2), codes, bits, limits, types.float32[::1], types.uint16[::1], codes]


def _array(dtype: Any, ndim: int) -> Any:
    # One read-only signature takes writable arrays too; left to Numba, each kind would be compiled separately.
    return types.Array(dtype, ndim, "C", readonly=True)


def _compile(function: Callable[..., None], signature: Any) -> Callable[..., None]:
    """Compile one signature, with a disk cache where Numba finds a writable place for it."""
    try:
        compiled: Callable[..., None] = numba.njit([signature], cache=True, **_OPTIONS)(function)
    except (RuntimeError, OSError) as error:  # no place for a cache, and a full disk under it
        if isinstance(error, RuntimeError) and "cannot cache" not in str(error):
            raise
        warnings.warn(
            f"Numba cannot write its cache ({error}), so kernels are compiled anew in every process. "
            "Set NUMBA_CACHE_DIR to a writable folder.",
            RuntimeWarning,
            stacklevel=4,
        )
        compiled = numba.njit([signature], **_OPTIONS)(function)
    return compiled


@intrinsic  # type: ignore[untyped-decorator]
def _half_bits(_typing: Any, _value: Any) -> Any:
    """Bits of a float32 rounded to float16. LLVM lowers it to the hardware's conversion (to nearest-even)."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.bitcast(builder.fptrunc(args[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(types.float32), codegen


@intrinsic  # type: ignore[untyped-decorator]
def _score(_typing: Any, bits: Any) -> Any:
    """Score as float32 of the bits of a float16, of a float32, or of a uint8 meaning k / 255."""

    def codegen(_context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if signature.args[0] == types.uint16:
            return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())
        if signature.args[0] == types.uint8:
            return builder.fdiv(builder.uitofp(args[0], ir.FloatType()), ir.Constant(ir.FloatType(), 255.0))
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(bits), codegen


@intrinsic  # type: ignore[untyped-decorator]
def _word(_typing: Any, array: Any, _at: Any) -> Any:
    """Eight bytes of an array, from an item on: one load for several voxels, which need not be aligned."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        items = context.make_array(signature.args[0])(context, builder, value=args[0]).data
        start = builder.bitcast(builder.gep(items, [args[1]]), ir.IntType(64).as_pointer())
        return builder.load(start, align=1)

    return types.uint64(array, types.uint64), codegen


# Inner functions get a stretch's own slices and index them from 0, or with unsigned integers: Numba then knows no index
# is negative, leaves out the test for indices from the end, and LLVM can vectorise. Operations on small integers give
# 64-bit ones, so results in vectorised loops are made small again: a register then holds as many as it can.
_inner = numba.njit(**_OPTIONS)
_inlined = numba.njit(**_OPTIONS, forceinline=True)  # what runs once a block or short stretch: a call would show


@_inlined  # type: ignore[untyped-decorator]
def _largest(values: Any) -> Any:
    """No early exit, so that the loop vectorises."""
    largest = values.dtype.type(0)
    for i in range(values.size):
        largest = max(largest, values[i])
    return largest


@_inlined  # type: ignore[untyped-decorator]
def _largest_of_members(bits: Any, start: int, stop: int) -> Any:
    largest = bits.dtype.type(0)
    for member in range(bits.shape[0]):
        largest = max(largest, _largest(bits[member, start:stop]))
    return largest


@_inner  # type: ignore[untyped-decorator]
def _fill(values: Any, value: Any) -> None:
    for i in range(values.size):
        values[i] = value


@_inner  # type: ignore[untyped-decorator]
def _careful_code(bits: Any, voxel: int, limits: Any) -> int:
    """Code of the mean of one voxel's scores, `_INVALID` if one of them is invalid."""
    total = np.float32(0)
    for member in range(bits.shape[0]):
        score = _score(bits[member, voxel])
        if not (score >= limits[0] and score <= limits[1]):
            return _INVALID
        total += _moved(score, limits[2], limits[3])
    return int(_code(total / np.float32(bits.shape[0])))


@_inner  # type: ignore[untyped-decorator]
def _moved(score: Any, low: Any, high: Any) -> Any:
    return min(max(score, low), high)


@_inner  # type: ignore[untyped-decorator]
def _code(score: Any) -> Any:
    code = _half_bits(score)
    return np.uint16(0) if code == _NEGATIVE_ZERO else code


@_inner  # type: ignore[untyped-decorator]
def _single_codes(bits: Any, codes: Any) -> None:
    for i in range(bits.size):
        codes[i] = _code(_score(bits[i]))


@_inner  # type: ignore[untyped-decorator]
def _first_member(bits: Any, total: Any) -> None:
    for i in range(bits.size):
        total[i] = _score(bits[i])


@_inner  # type: ignore[untyped-decorator]
def _next_member(bits: Any, total: Any) -> None:
    for i in range(bits.size):
        total[i] += _score(bits[i])


@_inner  # type: ignore[untyped-decorator]
def _last_member(bits: Any, total: Any, members: int, codes: Any) -> None:
    divisor = np.float32(members)
    for i in range(bits.size):
        codes[i] = _code((total[i] + _score(bits[i])) / divisor)


@_inner  # type: ignore[untyped-decorator]
def _plain_codes(bits: Any, start: int, stop: int, total: Any, codes: Any) -> None:
    """Write the codes of scores from 0 to 1."""
    last = bits.shape[0] - 1
    if last == 0:
        _single_codes(bits[0, start:stop], codes)
        return
    _first_member(bits[0, start:stop], total)
    for member in range(1, last):
        _next_member(bits[member, start:stop], total)
    _last_member(bits[last, start:stop], total, last + 1, codes)


@_inner  # type: ignore[untyped-decorator]
def _add_checked(bits: Any, limits: Any, total: Any) -> bool:
    """Add a member's scores; False if one is invalid."""
    lowest, highest, low, high = limits[0], limits[1], limits[2], limits[3]
    valid = True
    for i in range(bits.size):
        score = _score(bits[i])
        valid &= (score >= lowest) & (score <= highest)
        total[i] += _moved(score, low, high)
    return valid


@_inner  # type: ignore[untyped-decorator]
def _checked_codes(bits: Any, start: int, stop: int, limits: Any, total: Any, codes: Any) -> bool:
    """Write the codes of scores of which some are above 1 or negative; False if one is invalid."""
    valid = True
    _fill(total, np.float32(0))
    for member in range(bits.shape[0]):
        valid &= _add_checked(bits[member, start:stop], limits, total)
    divisor = np.float32(bits.shape[0])
    for i in range(total.size):
        codes[i] = _code(total[i] / divisor)
    return valid


@_inner  # type: ignore[untyped-decorator]
def _fill_codes(bits: Any, start: int, stop: int, plain: bool, limits: Any, total: Any, codes: Any) -> bool:
    """Write the codes of a stretch; False if a score is invalid, and then ``codes`` is not to be used."""
    if not plain:
        return bool(_checked_codes(bits, start, stop, limits, total, codes))
    _plain_codes(bits, start, stop, total, codes)
    return True


@_inlined  # type: ignore[untyped-decorator]
def _same(values: Any, at: Any) -> bool:
    """Whether the values of the block from ``at`` on are all the same."""
    first = values[at]
    if first != values[at + _BLOCK - _1] or first != values[at + _BLOCK // _2]:
        return False  # nearly always enough
    bits = values.dtype.type(0)
    for i in range(at, at + _BLOCK):
        bits = values.dtype.type(bits | (values[i] ^ first))
    return bool(bits == 0)


@_inlined  # type: ignore[untyped-decorator]
def _four_codes(codes: Any, at: Any) -> Any:
    four = _word(codes, at)
    return four & _16_BITS, (four >> _16) & _16_BITS, (four >> _32) & _16_BITS, four >> _48


@_inlined  # type: ignore[untyped-decorator]
def _scatter_unmarked(codes: Any, at: Any, cells: Any, others: Any) -> None:
    """Count a block that nobody marked. Neighbours go to two tables: voxels of one code would wait for each other."""
    if _same(codes, at):
        cells[np.uint64(codes[at])] += BLOCK
        return
    for i in range(at, at + _BLOCK, _4):
        first, second, third, fourth = _four_codes(codes, i)
        cells[first] += 1
        others[second] += 1
        cells[third] += 1
        others[fourth] += 1


@_inlined  # type: ignore[untyped-decorator]
def _scatter_marked(codes: Any, votes: Any, at: Any, cells: Any) -> None:
    """Count a block with its marks, in all cells of a plane."""
    if _same(codes, at) and _same(votes, at):
        cells[np.uint64(votes[at]) * _N_CODES + np.uint64(codes[at])] += BLOCK
        return
    for i in range(at, at + _BLOCK, _8):
        marks = _word(votes, i)
        for j in range(i, i + _8, _4):
            first, second, third, fourth = _four_codes(codes, j)
            cells[(marks & _8_BITS) * _N_CODES + first] += 1
            cells[((marks >> _8) & _8_BITS) * _N_CODES + second] += 1
            cells[((marks >> _16) & _8_BITS) * _N_CODES + third] += 1
            cells[((marks >> _24) & _8_BITS) * _N_CODES + fourth] += 1
            marks >>= _32


@_inner  # type: ignore[untyped-decorator]
def _scatter_mixed(codes: Any, votes: Any, region: Any, planes: Any) -> None:
    """Count any number of voxels, inside and outside."""
    outside, inside = planes[0], planes[planes.shape[0] - 1]
    for i in range(codes.size):
        cell = np.uint64(codes[i])
        if votes.size > 0:
            cell += np.uint64(votes[i]) * _N_CODES
        if region.size == 0 or region[i] != 0:
            inside[cell] += 1
        else:
            outside[cell] += 1


@_inlined  # type: ignore[untyped-decorator]
def _count_inside(n: int, region: Any) -> Any:
    if region.size == 0:
        return n
    inside = 0
    for i in range(region.size):
        inside += region[i] != 0
    return inside


@_inlined  # type: ignore[untyped-decorator]
def _scatter(codes: Any, votes: Any, region: Any, planes: Any, second: Any) -> None:
    """Count a stretch of valid codes, block by block; ``votes`` is empty if nobody marked anything."""
    whole = codes.size - codes.size % BLOCK
    for i in range(0, whole, BLOCK):
        at = np.uint64(i)
        n_inside = BLOCK if region.size == 0 else _count_inside(BLOCK, region[i : i + BLOCK])
        plane = planes.shape[0] - 1 if n_inside == BLOCK else 0
        if n_inside != 0 and n_inside != BLOCK:
            _scatter_mixed(codes[i : i + BLOCK], votes[i : i + BLOCK], region[i : i + BLOCK], planes)
        elif votes.size > 0:
            _scatter_marked(codes, votes, at, planes[plane])
        else:
            _scatter_unmarked(codes, at, planes[plane], second[plane] if second.size > 0 else planes[plane])
    _scatter_mixed(codes[whole:], votes[whole:], region[whole:], planes)


@_inner  # type: ignore[untyped-decorator]
def _scatter_carefully(
    bits: Any, votes: Any, region: Any, start: int, stop: int, planes: Any, limits: Any, found: Any
) -> None:
    patterns = planes.shape[1] // N_CODES
    for i in range(start, stop):
        plane = 0 if region.size > 0 and region[i] == 0 else planes.shape[0] - 1
        pattern = votes[i] if votes.size > 0 else np.uint8(0)
        code = _careful_code(bits, i, limits)
        if code == _INVALID:
            found[1] = i if found[0] == 0 else found[1]
            found[0] += 1
        if pattern >= patterns:
            found[3] = i if found[2] == 0 else found[3]
            found[2] += 1
        if code != _INVALID and pattern < patterns:
            planes[plane, pattern * N_CODES + code] += 1


def _accumulate_stretches(
    bits: Any,
    halves: Any,
    one: Any,
    limits: Any,
    total: Any,
    buffer: Any,
    codes: Any,
    votes: Any,
    region: Any,
    planes: Any,
    second: Any,
    found: Any,
) -> None:
    n, patterns = bits.shape[1], planes.shape[1] // N_CODES
    for start in range(0, n, codes.size):
        stop = min(start + codes.size, n)
        marks, inside = votes[start:stop], region[start:stop]
        pattern = _largest(marks)
        largest = _largest_of_members(bits, start, stop)
        if largest == 0 and pattern == 0:
            n_inside = _count_inside(stop - start, inside)
            planes[0, 0] += stop - start - n_inside
            planes[planes.shape[0] - 1, 0] += n_inside
            continue
        if pattern == 0:
            marks = votes[:0]  # what nobody marked needs no look at the votes
        are_codes = halves.size > 0 and largest <= one
        some = halves[start:stop] if are_codes else codes[: stop - start]
        if pattern < patterns and (
            are_codes
            or _fill_codes(bits, start, stop, largest <= one, limits, total[: stop - start], buffer[: stop - start])
        ):
            _scatter(some, marks, inside, planes, second)
        else:
            _scatter_carefully(bits, votes, region, start, stop, planes, limits, found)


def _relabel_stretches(
    bits: Any,
    halves: Any,
    one: Any,
    limits: Any,
    total: Any,
    buffer: Any,
    codes: Any,
    lut: Any,
    out: Any,
    found: Any,
) -> None:
    n = bits.shape[1]
    for start in range(0, n, codes.size):
        stop = min(start + codes.size, n)
        values = out[start:stop]
        largest = _largest_of_members(bits, start, stop)
        if largest == 0:
            _fill(values, lut[0])
            continue
        are_codes = halves.size > 0 and largest <= one
        some = halves[start:stop] if are_codes else codes[: stop - start]
        if are_codes or _fill_codes(
            bits, start, stop, largest <= one, limits, total[: stop - start], buffer[: stop - start]
        ):
            _look_up(some, lut, values)
        else:
            _look_up_carefully(bits, start, lut, values, limits, found)


@_inlined  # type: ignore[untyped-decorator]
def _look_up(codes: Any, lut: Any, values: Any) -> None:
    whole = codes.size - codes.size % BLOCK
    for i in range(0, whole, BLOCK):
        at = np.uint64(i)
        if _same(codes, at):
            value = lut[np.uint64(codes[at])]
            for j in range(at, at + _BLOCK):
                values[j] = value
        else:
            _look_up_block(codes, at, lut, values)
    for i in range(whole, codes.size):
        values[i] = lut[codes[i]]


@_inlined  # type: ignore[untyped-decorator]
def _look_up_block(codes: Any, at: Any, lut: Any, values: Any) -> None:
    for i in range(at, at + _BLOCK, _4):
        first, second, third, fourth = _four_codes(codes, i)
        values[i] = lut[first]
        values[i + _1] = lut[second]
        values[i + _2] = lut[third]
        values[i + _3] = lut[fourth]


@_inner  # type: ignore[untyped-decorator]
def _look_up_carefully(bits: Any, start: int, lut: Any, values: Any, limits: Any, found: Any) -> None:
    for i in range(values.size):
        code = _careful_code(bits, start + i, limits)
        if code == _INVALID:
            found[1] = start + i if found[0] == 0 else found[1]
            found[0] += 1
        values[i] = lut[code]
