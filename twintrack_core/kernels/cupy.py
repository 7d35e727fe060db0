"""Both kernels on a CUDA device, through CuPy: compiled with NVRTC at first use, queued on the current stream.

`accumulate` and `relabel` keep the contract of `twintrack_core.kernels.findings`. They take CuPy arrays in place, and
NumPy arrays by way of the device, a piece at a time. What is done with more than one call, without waiting for each
(`twintrack_core.engine.device`), queues `launch_accumulate` and `launch_relabel` itself.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cupy as cp
import numpy as np
import numpy.typing as npt

from twintrack_core.codes import N_CODES, SCORE_DTYPES, OnInvalid, wrong_dtype
from twintrack_core.errors import RequestError, WorkError
from twintrack_core.kernels import cuda
from twintrack_core.kernels.device import INSTALL, Device, device_at, first_line, library_of
from twintrack_core.kernels.dispatch import Place, check_like, check_policy, lut_with_invalid, report, stack
from twintrack_core.kernels.findings import Findings
from twintrack_core.kernels.tally import CAPACITY, Columns, columns_of

_HOST_PIECE = 1 << 24  # voxels of NumPy arrays that are on the device at a time
_MEMBERS_PIECE = 1 << 26  # voxels copied together where members do not lie together once cut
_SHARED_UNASKED = 48 << 10  # bytes of shared memory that a kernel may have without asking
_NULL = np.uint64(0)  # CuPy passes None as something else
_OPTIONS = ("--std=c++17",)

_compiled: dict[tuple[Any, ...], Any] = {}
_compiling = threading.Lock()


def accumulate(
    scores: Any,
    votes: Any,
    region: Any,
    table: Any,
    *,
    clip: bool = False,
) -> Findings:
    """Count voxels into ``table[region, pattern, code]``; see `twintrack_core.kernels.findings` for the contract."""
    if isinstance(table, cp.ndarray):
        return _accumulate(scores, votes, region, table, clip=clip)
    held = cp.asarray(table)
    found = Findings()
    for piece in _cut(scores.shape[1], _HOST_PIECE):
        marks, inside = (None if array is None else cp.asarray(array[piece]) for array in (votes, region))
        found += _accumulate(cp.asarray(scores[:, piece]), marks, inside, held, clip=clip).shifted(piece.start)
    table[...] = held.get()
    return found


def relabel(scores: Any, lut: Any, out: Any, *, clip: bool = False) -> Findings:
    """Write ``lut[code]`` to ``out``; see `twintrack_core.kernels.findings` for the contract."""
    held = cp.asarray(lut)
    if isinstance(out, cp.ndarray):
        return _relabel(scores, held, out, clip=clip)
    found = Findings()
    for piece in _cut(scores.shape[1], _HOST_PIECE):
        values = cp.empty(out[piece].shape, held.dtype)
        found += _relabel(cp.asarray(scores[:, piece]), held, values, clip=clip).shifted(piece.start)
        out[piece] = values.get()
    return found


def _accumulate(scores: Any, votes: Any, region: Any, table: Any, *, clip: bool) -> Findings:
    pieces = _device_pieces(scores)
    found = no_findings(len(pieces))
    for row, piece in enumerate(pieces):
        marks, inside = (None if array is None else array[piece] for array in (votes, region))
        launch_accumulate(_contiguous(scores, piece), marks, inside, table, found[row], clip=clip)
    return gathered(found.get(), pieces)


def _relabel(scores: Any, lut: Any, out: Any, *, clip: bool) -> Findings:
    pieces = _device_pieces(scores)
    found = no_findings(len(pieces))
    for row, piece in enumerate(pieces):
        launch_relabel(_contiguous(scores, piece), lut, out[piece], found[row], clip=clip)
    return gathered(found.get(), pieces)


def launch_accumulate(scores: Any, votes: Any, region: Any, table: Any, found: Any, *, clip: bool) -> None:
    """Queue counting on the current stream.

    Parameters
    ----------
    scores, votes, region, table
        CuPy arrays as in the contract, at most ``cuda.MAX_VOXELS`` voxels. They must stay as they are until the stream
        has come to the end of this.
    found
        (4,) uint64, zeros before the first of the launches that share it.
    """
    members, n = scores.shape
    if n == 0:
        return
    device = _device()
    if region is None:
        table = table[-1:]
    regions, patterns, _ = table.shape
    variant = cuda.Variant(scores.dtype.name, _known(members), patterns, regions, clip, device.shared)
    launch = cuda.accumulate_launch(variant, n, device.multiprocessors)
    marks, inside = (_NULL if array is None else array for array in (votes, region))
    arguments = (scores, np.int64(n), np.int32(members), marks, inside, table, found)
    _launch(_kernel("accumulate", cuda.accumulate_source, variant), launch, arguments)


def launch_relabel(scores: Any, lut: Any, out: Any, found: Any, *, clip: bool) -> None:
    """Queue looking up on the current stream; as `launch_accumulate`."""
    members, n = scores.shape
    if n == 0:
        return
    device = _device()
    dtype, into = scores.dtype.name, out.dtype.name
    kernel = _kernel("relabel", cuda.relabel_source, dtype, _known(members), into, clip, device.shared)
    launch = cuda.relabel_launch(dtype, into, n, device.multiprocessors, device.shared)
    _launch(kernel, launch, (scores, np.int64(n), np.int32(members), lut, out, found))


def _launch(kernel: Any, launch: cuda.Launch, arguments: tuple[Any, ...]) -> None:
    if launch.shared > _SHARED_UNASKED and kernel.max_dynamic_shared_size_bytes < launch.shared:
        kernel.max_dynamic_shared_size_bytes = launch.shared
    kernel((launch.grid,), (launch.block,), arguments, shared_mem=launch.shared)


def _known(members: int) -> int:
    return members if members <= cuda.MAX_UNROLLED else 0


def _kernel(name: str, source_of: Callable[..., str], *variant: Any) -> Any:
    """Compile a variant once a device in a process; CuPy keeps what NVRTC made of it on disk."""
    device = _device()
    key = (device.index, name, *variant)
    with _compiling:  # threads that begin together would all compile it
        if key not in _compiled:
            words = f"{name} ({', '.join(map(str, variant))})"
            _compiled[key] = _compile(name, source_of(*variant), f"{words} for compute capability {device.dotted}")
        return _compiled[key]


def _compile(name: str, source: str, words: str) -> Any:
    try:
        return cp.RawModule(code=source, options=_OPTIONS).get_function(name)
    except (cp.cuda.compiler.CompileException, OSError, RuntimeError) as error:  # CUDA's are of the last kind
        raise WorkError(
            f"The kernel {words} cannot be compiled and loaded: {first_line(error)}",
            None,
            "Name a folder that can be written with CUPY_CACHE_DIR, where CuPy keeps kernels."
            if isinstance(error, OSError)
            else INSTALL,
        ) from error


def _device() -> Device:
    return device_at(cp.cuda.runtime.getDevice())


def no_findings(n: int) -> Any:
    """Return room for the findings of n launches, (n, 4) uint64 on the device."""
    return cp.zeros((n, 4), np.uint64)


def findings_of(row: npt.NDArray[np.uint64]) -> Findings:
    """Return what a launch found, from (4,) uint64 on the host."""
    scores, votes = row[::2].tolist()
    first_score, first_vote = (~row[1::2]).tolist()
    return Findings(scores, first_score if scores else -1, votes, first_vote if votes else -1)


def gathered(rows: npt.NDArray[np.uint64], pieces: Sequence[slice]) -> Findings:
    """Return what launches on successive pieces found together."""
    found = Findings()
    for row, piece in zip(rows, pieces, strict=True):
        found += findings_of(row).shifted(piece.start)
    return found


def _cut(n: int, length: int) -> list[slice]:
    return [slice(start, min(start + length, n)) for start in range(0, n, length)]


def _device_pieces(scores: Any) -> list[slice]:
    members, n = scores.shape
    return _cut(n, cuda.MAX_VOXELS if members == 1 or n <= cuda.MAX_VOXELS else min(cuda.MAX_VOXELS, _MEMBERS_PIECE))


def _contiguous(scores: Any, piece: slice) -> Any:
    """Scores of a piece, in place unless the members would not lie together."""
    return cp.ascontiguousarray(scores[:, piece])


class DeviceTally:
    """A joint table on the device, of any total, for the current device and stream. The counterpart of `Tally`.

    Parameters
    ----------
    n_raters
        Number of raters R, 0 to 8.
    """

    def __init__(self, n_raters: int) -> None:
        self._table = cp.zeros((2, 1 << n_raters, N_CODES), dtype=np.uint32)
        self._room = CAPACITY
        self._moved: Any = None

    @staticmethod
    def bytes_held(n_raters: int) -> int:
        """Most device memory that a tally ever holds.

        A cell of 4 bytes and one of 8 where counts were moved; and while it is drained, a mask of 8 bytes a cell, and
        the place and count of those that are not 0, 8 bytes each and once more while they are gathered.
        """
        return (4 + 8 + 8 + 4 * 8) * 2 * (1 << n_raters) * N_CODES

    def add(self, scores: Any, votes: Any, region: Any, found: Any, *, clip: bool) -> None:
        """Queue counting (M, N) scores, N up to ``cuda.MAX_VOXELS``; True or False is a region that is all the same."""
        n = scores.shape[1]
        if n > self._room:
            self._move()
        self._room -= n
        if isinstance(region, bool):
            launch_accumulate(scores, votes, None, self._table[int(region) :][:1], found, clip=clip)
        else:
            launch_accumulate(scores, votes, region, self._table, found, clip=clip)

    def _move(self) -> None:
        """Queue moving all counts to 64 bits."""
        if self._moved is None:
            self._moved = cp.zeros(self._table.shape, dtype=np.int64)
        variant = cuda.Variant("float16", 1, self._table.shape[1], 2, clip=False)  # flush is the same in all of them
        flush = _kernel("flush", cuda.accumulate_source, variant)
        launch = cuda.flush_launch(variant, _device().multiprocessors)
        _launch(flush, launch, (self._table, self._moved, np.int64(self._table.size)))
        self._room = CAPACITY

    def drain(self) -> Columns:
        """Empty the table, as `Tally.drain`: only its non-zero cells leave the device. Waits for the stream."""
        if self._moved is not None:
            self._move()
        table = (self._table if self._moved is None else self._moved).reshape(-1)
        places = cp.flatnonzero(table)
        columns = columns_of(places.get(), table[places].get(), self._table.shape[1])
        self._table.fill(0)
        self._moved = None
        self._room = CAPACITY
        return columns


def cells_of(
    probability: Any, votes: Any, roi: Any, n_raters: int, *, members: bool = False, on_invalid: OnInvalid = "error"
) -> Columns:
    """Count arrays that are on the device, in place and on the caller's stream; as `dispatch.cells_of`."""
    clip = check_policy(on_invalid) == "clip"
    with stream_of(probability):
        scores, shape = _flat_scores(probability, members)
        marks = None if votes is None else _flat(votes, "votes", shape, np.uint8)
        region = None if roi is None else _flat(roi, "roi", shape, np.bool_).view(np.uint8)
        tally = DeviceTally(n_raters)
        pieces = _device_pieces(scores)
        found = no_findings(len(pieces))
        for row, piece in enumerate(pieces):
            tally.add(
                _contiguous(scores, piece),
                None if marks is None else marks[piece],
                True if region is None else region[piece],
                found[row],
                clip=clip,
            )
        findings = gathered(found.get(), pieces)
        report(findings, scores, Place("probability", shape), on_invalid, votes=marks, n_raters=n_raters)
        return tally.drain()


def look_up(probability: Any, lut: npt.NDArray[Any], *, members: bool = False, on_invalid: OnInvalid = "error") -> Any:
    """Look up arrays that are on the device, in place and on the caller's stream; as `dispatch.relabel`.

    Returns
    -------
    cupy.ndarray or torch.Tensor
        (...) of ``lut``'s dtype, of the kind that came in, in memory of its library.
    """
    clip = check_policy(on_invalid) == "clip"
    table = lut_with_invalid(lut, on_invalid)
    with stream_of(probability):
        scores, shape = _flat_scores(probability, members)
        result = _empty_like(probability, shape, table.dtype)
        values = as_array(result).reshape(-1)
        findings = _relabel(scores, cp.asarray(table), values, clip=clip)
        report(findings, scores, Place("probability", shape), on_invalid)
    return result


@contextlib.contextmanager
def stream_of(array: Any) -> Iterator[None]:
    """Make the device and stream that the caller uses for an array the current ones."""
    if library_of(array) == "cupy":
        with array.device:
            yield
        return
    index = array.device.index
    stream = sys.modules["torch"].cuda.current_stream(index).cuda_stream
    with cp.cuda.Device(index), cp.cuda.Stream.from_external(_Stream(stream)) if stream else cp.cuda.Stream.null:
        yield


class _Stream:
    """A stream of another library, for CuPy; not all versions of torch offer this themselves."""

    def __init__(self, pointer: int) -> None:
        self._pointer = pointer

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self._pointer


def as_array(array: Any) -> Any:
    """Return a CuPy array, or one of the same memory as a torch tensor."""
    if library_of(array) == "cupy":
        return array
    torch = sys.modules["torch"]
    tensor = array.detach()
    if tensor.dtype == torch.bool:  # not every version of DLPack knows it
        return cp.from_dlpack(tensor.view(torch.uint8)).view(np.bool_)
    try:
        return cp.from_dlpack(tensor)
    except (BufferError, RuntimeError, TypeError) as error:  # bfloat16, for one
        raise RequestError(
            f"A torch tensor of {tensor.dtype} cannot be used: {str(error).strip():.120}.",
            "Allowed: float16, float32 and float64 in [0, 1], or uint8 meaning k / 255.",
            "Convert it with Tensor.to.",
        ) from error


def _empty_like(array: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    if library_of(array) == "cupy":
        return cp.empty(shape, dtype)
    torch = sys.modules["torch"]
    return torch.empty(shape, dtype=getattr(torch, dtype.name), device=array.device)


def _flat_scores(probability: Any, members: bool) -> tuple[Any, tuple[int, ...]]:
    """Scores as (M, N) and the spatial shape."""
    array = as_array(probability)
    if array.dtype == np.float64:
        array = _halves(array)
    if array.dtype not in SCORE_DTYPES:
        raise wrong_dtype(array.dtype)
    stacked = stack(array, members=members)
    return cp.ascontiguousarray(stacked).reshape(len(stacked), -1), tuple(stacked.shape[1:])


def _flat(array: Any, name: str, shape: tuple[int, ...], dtype: Any) -> Any:
    values = as_array(array)
    check_like(values, name, shape, dtype)
    return cp.ascontiguousarray(values).reshape(-1)


def _halves(scores: Any) -> Any:
    """Round float64 to float16 once; CuPy's own conversion goes by way of float32 and so rounds twice."""
    return _round_once()(scores)


@functools.cache
def _round_once() -> Any:
    # Cut to float32, and made odd where something was cut off, a number rounds to float16 as the whole one would.
    return cp.ElementwiseKernel(
        "float64 x",
        "float16 y",
        "float cut = __double2float_rz(x);"
        "y = __uint_as_float(__float_as_uint(cut) | (cut != x && cut == cut ? 1u : 0u))",
        "twintrack_round_once",
    )
