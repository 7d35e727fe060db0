"""A kernel beside the oracle on the same voxels: an AssertionError says where they differ."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from twintrack_core.codes import N_CODES
from twintrack_core.kernels import reference
from twintrack_core.kernels.findings import Findings
from twintrack_core.kernels.registry import Kernel
from twintrack_core.testing._checks import fail
from twintrack_core.testing._voxels import Voxels, float16

# Enough for what one pattern too many would hit, and odd, so that what lies between is aligned to its items only.
_MARGIN = N_CODES + 4
_GUARD = 77

LUT_DTYPES = ("float16", "float32", "float64", "uint8")


@functools.cache
def look_up_table(dtype: str) -> npt.NDArray[Any]:
    """Return read-only values for `relabel`: in no order, of floats all different, and NaN last."""
    rng = np.random.default_rng(7)
    if dtype == "uint8":
        lut = rng.integers(0, 256, N_CODES + 1, np.uint8)
    elif dtype == "float16":
        lut = np.append(float16(rng.permutation(N_CODES)), np.float16(np.nan))
    else:  # thirds fill a mantissa, so that a detour through a narrower dtype shows
        lut = np.append(rng.permutation(N_CODES) / 3, np.nan).astype(dtype)
    lut.flags.writeable = False
    return lut


def compare(kernel: Kernel, voxels: Voxels, *, clip: bool = False) -> None:
    """Compare what both functions make of the voxels: results, findings, and what is not theirs to touch."""
    compare_counts(kernel, voxels, clip=clip)
    compare_values(kernel, voxels, clip=clip)


def compare_counts(
    kernel: Kernel, voxels: Voxels, *, clip: bool = False, start: npt.ArrayLike = 0, planes: int = 2
) -> None:
    """Compare what `accumulate` adds to a table that holds ``start``."""
    shape = (planes, 1 << voxels.n_raters, N_CODES)
    what = f"accumulate, {voxels}, clip={clip}"
    guarded, table = _guarded(shape, np.uint32)
    table[:] = start
    found = _call(what, voxels, kernel.accumulate, voxels.scores, voxels.votes, voxels.region, table, clip=clip)
    expected = np.empty(shape, np.uint32)
    expected[:] = start
    compare_findings(what, found, reference.accumulate(voxels.scores, voxels.votes, voxels.region, expected, clip=clip))
    compare_arrays(what, "counts", table, expected)
    _check_guards(what, "table", guarded)


def compare_values(kernel: Kernel, voxels: Voxels, *, clip: bool = False, dtype: str = "float32") -> None:
    """Compare what `relabel` writes for a table of a dtype."""
    lut = look_up_table(dtype)
    what = f"relabel to {dtype}, {voxels}, clip={clip}"
    guarded, out = _guarded(voxels.scores.shape[1:], lut.dtype)
    found = _call(what, voxels, kernel.relabel, voxels.scores, lut, out, clip=clip)
    expected = np.empty_like(out)
    compare_findings(what, found, reference.relabel(voxels.scores, lut, expected, clip=clip))
    compare_arrays(what, "values", out, expected)
    _check_guards(what, "out", guarded)


def compare_split(kernel: Kernel, voxels: Voxels, cuts: Sequence[int], *, clip: bool = False) -> None:
    """Compare calls on the parts between ``cuts``, in order, with one call of the oracle on everything."""
    what = f"{voxels}, clip={clip}, cut at {list(cuts)}"
    bounds = list(pairwise((0, *cuts, voxels.scores.shape[1])))
    tables = np.zeros((2, 2, 1 << voxels.n_raters, N_CODES), np.uint32)
    outs = np.zeros((2, voxels.scores.shape[1]), np.float32)
    lut = look_up_table("float32")
    counted, looked_up = Findings(), Findings()
    for start, stop in bounds:
        part = voxels.part(start, stop)
        found = _call(what, part, kernel.accumulate, part.scores, part.votes, part.region, tables[0], clip=clip)
        counted += found.shifted(start)
        looked_up += _call(what, part, kernel.relabel, part.scores, lut, outs[0, start:stop], clip=clip).shifted(start)
    expected = reference.accumulate(voxels.scores, voxels.votes, voxels.region, tables[1], clip=clip)
    compare_findings(f"accumulate, {what}", counted, expected)
    compare_findings(f"relabel, {what}", looked_up, reference.relabel(voxels.scores, lut, outs[1], clip=clip))
    compare_arrays(f"accumulate, {what}", "counts", *tables)
    compare_arrays(f"relabel, {what}", "values", *outs)


def compare_findings(what: str, found: Findings, expected: Findings) -> None:
    """Fail unless the findings are the oracle's."""
    if found != expected:
        fail(what, f"found {found} instead of {expected}")


def compare_arrays(what: str, name: str, array: npt.NDArray[Any], expected: npt.NDArray[Any]) -> None:
    """Fail unless two arrays are equal, NaN included."""
    if (_bits(array) == _bits(expected)).all():
        return
    both_nan = np.isnan(array) & np.isnan(expected)  # of whatever bits
    different = np.argwhere((array != expected) & ~both_nan)
    if len(different):
        first = tuple(map(int, different[0]))
        fail(
            what,
            f"{len(different)} {name} differ; the first, at {list(first)}, is {array[first]} instead of "
            f"{expected[first]}",
        )


def _bits(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return array.view(f"u{array.itemsize}")


def _call(what: str, voxels: Voxels, function: Callable[..., Findings], *arguments: Any, clip: bool) -> Findings:
    """Call a kernel and check that it leaves its input as it is."""
    before = _bytes_of(voxels)
    try:
        found = function(*arguments, clip=clip)
    except Exception as error:
        raise AssertionError(f"{what}: raised {error!r}") from error
    if not isinstance(found, Findings):
        fail(what, f"returned {found!r} instead of Findings")
    if _bytes_of(voxels) != before:
        fail(what, "the input was changed")
    return found


def _bytes_of(voxels: Voxels) -> list[bytes]:
    return [array.tobytes() for array in (voxels.scores, voxels.votes, voxels.region) if array is not None]


def _guarded(shape: tuple[int, ...], dtype: Any) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return an array between two margins, and the whole."""
    size = int(np.prod(shape))
    whole = np.full(size + 2 * _MARGIN, _GUARD, dtype)
    return whole, whole[_MARGIN : _MARGIN + size].reshape(shape)


def _check_guards(what: str, name: str, guarded: npt.NDArray[Any]) -> None:
    for side, margin in (("before", guarded[:_MARGIN]), ("after", guarded[-_MARGIN:])):
        if not (margin == _GUARD).all():
            fail(what, f"memory {side} {name} was written to")
