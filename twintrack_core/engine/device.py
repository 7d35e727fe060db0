"""Tasks on a CUDA device: chunks decoded by threads into pinned memory, copied and processed on a stream per thread.

While a tile is copied and processed, its thread decodes the next one into the other half of its pinned buffers (and,
for `apply`, encodes the last one); threads do so independently of each other, so that decoding, copying and kernels
overlap. What was never written is not copied: it is filled in on the device, or not there at all. Counts stay on the
device until the end of a task, and come back once, as the cells that are not 0.

Memory is bounded per worker, whatever the cohort. On the device a worker holds, for tiles of V voxels and M members of
s bytes a score, o bytes a calibrated score, and tables of C = 2 x 15361 x 2^R cells for R raters:

    accumulate   V (M s + 2) + 52 C + 32 a tile of the task       apply   V (M s + o) + 15362 o

and 1 MiB for rounding. That is the limit of its memory pool, which is not the one that the caller's arrays come from.
In pinned memory it holds two tiles. Cases that are not in a store are calibrated in pieces of so many voxels that
V (M s + o) is 64 MiB.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from twintrack_core.codes import N_CODES, as_scores
from twintrack_core.cohort.array_metadata import open_array
from twintrack_core.cohort.chunks import Box, ChunkedArray
from twintrack_core.cohort.scratch import Scratch
from twintrack_core.engine.run import Run, go_on
from twintrack_core.engine.tiles import Tile, read_scores, read_written_scores, tile_box
from twintrack_core.errors import RequestError, StoreError, WorkError
from twintrack_core.histogram.cells import Cells, concatenate, freeze
from twintrack_core.kernels.device import require_device
from twintrack_core.kernels.dispatch import Place, lut_with_invalid, report, stack
from twintrack_core.kernels.findings import Findings
from twintrack_core.kernels.tally import Tally

if TYPE_CHECKING:
    from twintrack_core.engine.accumulate import CountTask
    from twintrack_core.engine.apply import RelabelTask

T = TypeVar("T")

Device = Literal["cpu", "cuda"]
"""Where kernels run."""

DEVICES = ("cpu", "cuda")

_ROUNDING = 1 << 20  # the pool hands out multiples of 512 bytes, and findings are 32
_PIECE_BYTES = 64 << 20  # scores and results of a piece of a case that is in memory
_PIECE_STEP = 1 << 12  # voxels that pieces are multiples of, so that the scores of every member are aligned
_TILES = ("scores", "votes", "inside", "values")  # what has something for every voxel of a tile
_STAGED = (*_TILES, "found")  # what is copied to the device or from it
_FINDINGS_BYTES = 32


@dataclass(frozen=True)
class Cuda:
    """What a task must know to run on a device. Pure data.

    Attributes
    ----------
    index
        Number of the device; None for the one that is current where the task runs.
    limit
        Bytes of its memory that a worker may hold.
    workers
        How many workers there are, for messages.
    """

    index: int | None
    limit: int
    workers: int


def check_device(device: str, kernel: str, *, here: bool = True) -> bool:
    """Whether a CUDA device was asked for, which is then there and usable.

    Parameters
    ----------
    device, kernel
        What was asked for.
    here
        Whether tasks run in this process; otherwise each finds out about its own device.

    Raises
    ------
    RequestError
        For another device, or a kernel that does not run on it.
    WorkError
        If there is no usable device: what is missing, and how to get it.
    """
    if device not in DEVICES:
        raise RequestError(f"There is no device {device!r}.", f"Allowed: {', '.join(DEVICES)}.")
    if device == "cpu":
        return False
    if kernel not in ("auto", "cupy"):
        raise RequestError(
            f"The kernel {kernel!r} does not run on a CUDA device.", "Allowed: auto, or cupy, which it stands for."
        )
    if here:
        require_device()
    return True


def plan_memory(bytes_needed: Sequence[int], run: Run) -> Cuda:
    """Bound the device memory of the workers.

    Parameters
    ----------
    bytes_needed
        What each task needs, from `bytes_to_count`, `bytes_to_relabel` or `bytes_to_relabel_pieces`.

    Raises
    ------
    WorkError
        If so many workers need more than is free, or the device lets nobody in.
    """
    limit = max(bytes_needed, default=0) + _ROUNDING
    if not run.here:
        return Cuda(None, limit, 1)
    import cupy as cp

    device = require_device()
    workers = max(1, min(run.threads, len(bytes_needed)))
    try:
        free, _ = cp.cuda.runtime.memGetInfo()  # the first that makes a context
    except cp.cuda.runtime.CUDARuntimeError as error:
        raise WorkError(
            f"{device.name} cannot be used: {error}.",
            None,
            "See with nvidia-smi who else uses it, or use the device cpu.",
        ) from error
    if workers * limit > free:
        raise WorkError(
            f"{workers} workers of up to {_mib(limit)} MiB each need {_mib(workers * limit)} MiB of device memory; "
            f"{_mib(free)} MiB of {device.name} are free.",
            f"Allowed: up to {free // limit} workers.",
            "Use fewer --workers." if free >= limit else "Free device memory, or make the store with smaller chunks.",
        )
    return Cuda(device.index, limit, workers)


def _mib(n_bytes: int) -> int:
    return -(-n_bytes >> 20)


def bytes_to_count(work: CountTask) -> int:
    """Device memory that a worker needs for a task; see the module."""
    from twintrack_core.kernels.cupy import DeviceTally

    tile = math.prod(work.tile_shape) * (_score_bytes(work.probability) + 2)
    return tile + DeviceTally.bytes_held(work.n_raters) + _FINDINGS_BYTES * len(work.tiles)


def bytes_to_relabel(probability: ChunkedArray, tile_shape: Sequence[int], out: np.dtype[Any]) -> int:
    """Device memory that a worker needs for the tiles of a case; see the module."""
    return math.prod(tile_shape) * (_score_bytes(probability) + out.itemsize) + (N_CODES + 1) * out.itemsize


def bytes_to_relabel_pieces(out: np.dtype[Any]) -> int:
    """Device memory that a worker needs for a case in memory, of any size; see the module."""
    return _PIECE_BYTES + (N_CODES + 1) * out.itemsize


def _score_bytes(probability: ChunkedArray) -> int:
    members = probability.shape[0] if len(probability.shape) == 4 else 1
    return members * np.dtype(probability.dtype).itemsize


class _Staging(Scratch):
    """Scratch of which the arrays that are copied to the device or from it lie in pinned memory, twice."""

    def __init__(self) -> None:
        super().__init__()
        self._halves = (Scratch(_empty_pinned), Scratch(_empty_pinned))
        self.half = 0

    def array(self, use: str, shape: tuple[int, ...], dtype: Any) -> npt.NDArray[Any]:
        return self._halves[self.half].array(use, shape, dtype) if use in _STAGED else super().array(use, shape, dtype)


def _empty_pinned(n_bytes: int, dtype: Any) -> npt.NDArray[np.uint8]:
    """Make an (n,) array in pinned memory, which is given back with it.

    It is not of CuPy's pool of pinned memory, which rounds up to powers of two and keeps what it has.
    """
    import cupy as cp

    runtime = cp.cuda.runtime
    try:
        memory = cp.cuda.PinnedMemory(n_bytes, runtime.hostAllocPortable)
    except runtime.CUDARuntimeError as error:
        raise WorkError(
            f"{_mib(n_bytes)} MiB of pinned memory cannot be had: {error}.", None, "Use fewer --workers."
        ) from error
    return np.frombuffer(cp.cuda.PinnedMemoryPointer(memory, 0), dtype, n_bytes)


class _Lane:
    """One thread's way through the device: a stream, buffers on both sides, and the memory pool of those on the device.

    Attributes
    ----------
    staging
        Buffers on the host; those of the half whose turn it is may be written to.
    """

    def __init__(self, index: int) -> None:
        import cupy as cp

        self._cp = cp
        self.index = index
        self.stream = cp.cuda.Stream(non_blocking=True)
        self.pool = cp.cuda.MemoryPool()
        self.staging = _Staging()
        self._device = Scratch(cp.empty)
        # A thread that waits sleeps: its core decodes for another.
        self._events = [cp.cuda.Event(block=True, disable_timing=True) for _ in range(2)]
        self._tally: Any = None
        self._kind: tuple[Any, ...] = ()
        self._voxels = 0

    def begin(self, tile_shape: Sequence[int], *others: Any) -> None:
        """Prepare for tiles of a shape; ``others`` is what else the size of buffers depends on.

        Buffers are made as large as they will ever be, and all anew for others: what grows leaves gaps in the pool, and
        what was larger for others would be held besides.
        """
        if self._kind != (tile_shape, *others):
            self._kind, self._voxels = (tile_shape, *others), math.prod(tile_shape)
            self.staging, self._device, self._tally = _Staging(), Scratch(self._cp.empty), None
            self.pool.free_all_blocks()

    def turn(self) -> None:
        """Take the other half of the pinned buffers, once what was queued with it is done."""
        self.staging.half ^= 1
        self.wait(self.staging.half)

    def mark(self) -> int:
        """Say that all that concerns the half whose turn it is has been queued; return which one it is."""
        self._events[self.staging.half].record(self.stream)
        return self.staging.half

    def wait(self, half: int) -> None:
        """Wait for what `mark` marked last with a half."""
        self._events[half].synchronize()

    def send(self, use: str, array: npt.NDArray[Any]) -> Any:
        """Queue a copy of an array to the device; valid until ``use`` is sent again."""
        held = self.empty(use, array.shape, array.dtype)
        held.set(array, stream=self.stream)
        return held

    def fetch(self, use: str, held: Any) -> npt.NDArray[Any]:
        """Queue a copy to the host, of which the content comes with the next mark."""
        array = self.staging.array(use, held.shape, held.dtype)
        held.get(stream=self.stream, out=array, blocking=False)
        return array

    def empty(self, use: str, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return an array on the device of any content, valid until ``use`` is asked for again.

        On one stream what comes later waits for what came before, so that one buffer is enough.
        """
        if use not in _TILES:
            return self._device.array(use, shape, dtype)
        whole = self._device.array(use, (*shape[:-1], self._voxels), dtype)
        return whole.reshape(-1)[: math.prod(shape)].reshape(shape)

    def tally(self, n_raters: int) -> Any:
        """Return an empty tally, of the raters that `begin` was told of; it must be drained before the task ends."""
        from twintrack_core.kernels.cupy import DeviceTally

        if self._tally is None:
            self._tally = DeviceTally(n_raters)
        return self._tally

    def _allocate(self, size: int) -> Any:
        """Allocate from the pool, of which the limit counts what it keeps for later too."""
        try:
            return self.pool.malloc(size)
        except self._cp.cuda.memory.OutOfMemoryError:
            self.pool.free_all_blocks()
            return self.pool.malloc(size)

    @contextlib.contextmanager
    def entered(self, cuda: Cuda) -> Iterator[None]:
        """Make the device, the stream and the memory pool the running thread's."""
        cp = self._cp
        with cp.cuda.Device(self.index), cp.cuda.using_allocator(self._allocate), self.stream:
            self.pool.set_limit(size=cuda.limit)
            yield


@contextlib.contextmanager
def _telling_failures(cuda: Cuda, case: str) -> Iterator[None]:
    """Make CUDA's errors a WorkError that names the case that was worked on, and says what to do."""
    import cupy as cp

    try:
        yield
    except cp.cuda.memory.OutOfMemoryError as error:
        raise WorkError(
            f"Case {case}: the device is out of memory: {error}",
            f"Each of {cuda.workers} workers takes up to {_mib(cuda.limit)} MiB.",
            "Use fewer --workers, or end what else uses the device.",
        ) from error
    except (cp.cuda.runtime.CUDARuntimeError, cp.cuda.driver.CUDADriverError) as error:
        raise WorkError(f"Case {case}: the device failed: {error}.", None, "See nvidia-smi, and run again.") from error


_threads = threading.local()


@contextlib.contextmanager
def _lane(cuda: Cuda, case: str) -> Iterator[_Lane]:
    """Lend the lane of the running thread to a task, which works on a case."""
    with _telling_failures(cuda, case), _lent(cuda) as lane:
        yield lane


@contextlib.contextmanager
def _lent(cuda: Cuda) -> Iterator[_Lane]:
    import cupy as cp

    lent: _Lane | None = getattr(_threads, "lane", None)
    _threads.lane = None  # a task that fails leaves things queued and counts behind: the next one gets a new lane
    index = require_device().index if cuda.index is None else cuda.index
    if lent is None or lent.index != index:
        with cp.cuda.Device(index):
            lent = _Lane(index)
    try:
        with lent.entered(cuda):
            yield lent
    except BaseException:
        with contextlib.suppress(Exception):  # the first error is the one to tell
            lent.stream.synchronize()  # buffers must outlive what uses them
        raise
    lent.staging.forget()
    _threads.lane = lent


def count_tiles(cuda: Cuda, work: CountTask) -> Cells:
    """Count the tiles of a task, and the background that comes with it; as `accumulate.count_tiles`."""
    from twintrack_core.kernels import cupy

    fault: StoreError | None = None
    with _lane(cuda, work.case) as lane:
        lane.begin(work.tile_shape, work.probability.dtype, _score_bytes(work.probability), work.n_raters)
        tally, found = lane.tally(work.n_raters), cupy.no_findings(len(work.tiles))
        work.announce(lane.staging)
        for row, tile in enumerate(work.tiles):
            go_on()
            lane.turn()
            try:
                _queue_count(lane, work, tile, tally, found[row])
            except StoreError as error:
                fault = error  # told below, after what is wrong with tiles before it, as on the CPU
                break
            lane.mark()
        counted = freeze(tally.drain())
        for tile, row in zip(work.tiles, found.get(), strict=True):
            box = tile_box(tile, work.tile_shape, work.probability.shape[-3:])
            _report(work, work.votes, work.n_raters, tile, box, cupy.findings_of(row))
        if fault is not None:
            raise fault
    if work.background is None:
        return counted
    unseen = Tally(work.n_raters)
    unseen.put(*work.background)
    return concatenate([counted, freeze(unseen.drain())])


def _queue_count(lane: _Lane, work: CountTask, tile: Tile, tally: Any, found: Any) -> None:
    """Decode a tile and queue its copies and its kernel."""
    staging = lane.staging
    box = tile_box(tile, work.tile_shape, work.probability.shape[-3:])
    scores, written = read_written_scores(work.probability, box, staging)
    shape = (len(scores), math.prod(scores.shape[1:]))
    if written:
        held = lane.send("scores", scores.reshape(shape))
    else:
        held = lane.empty("scores", shape, scores.dtype)
        held.fill(work.probability.fill)
    votes = None
    if work.votes is not None and tile in work.marked:
        marks = staging.array("votes", scores.shape[1:], np.uint8)
        work.votes.read(box, marks, staging)
        votes = lane.send("votes", marks.reshape(-1))
    inside = work.region.inside(box, staging)
    if not isinstance(inside, bool):
        staged = staging.array("inside", shape[1:], np.uint8)
        staged[:] = inside.reshape(-1)
        inside = lane.send("inside", staged)
    tally.add(held, votes, inside, found, clip=work.on_invalid == "clip")


def relabel_tiles(cuda: Cuda, work: RelabelTask) -> None:
    """Write the tiles of a task; as `apply.relabel_tiles`."""
    from twintrack_core.kernels import cupy

    output = open_array(work.output)
    with _lane(cuda, work.case) as lane:

        def queue(tile: Tile) -> _Relabelled:
            go_on()
            box = tile_box(tile, work.tile_shape, output.shape)
            scores = read_scores(work.probability, box, lane.staging)
            return _queue_relabel(lane, scores.reshape(len(scores), -1), lut, clip=work.on_invalid == "clip")

        def write(tile: Tile, relabelled: _Relabelled) -> None:
            values, found = relabelled
            box = tile_box(tile, work.tile_shape, output.shape)
            _report(work, None, 0, tile, box, cupy.findings_of(found))
            output.write_chunk(tile, values.reshape([side.stop - side.start for side in box]), lane.staging)

        lane.begin(work.tile_shape, work.probability.dtype, _score_bytes(work.probability), work.lut.dtype)
        lut = lane.send("lut", work.lut)
        work.announce(lane.staging)
        _overlap(lane, work.tiles, queue, write)


def relabel_case(
    cuda: Cuda, case: str, probability: npt.NDArray[Any], lut: npt.NDArray[Any], *, members: bool
) -> npt.NDArray[Any]:
    """Look up the scores of a case that is in memory; as `kernels.relabel`."""
    from twintrack_core.kernels import cupy

    stacked = stack(as_scores(probability), members=members)
    scores, shape = stacked.reshape(len(stacked), -1), stacked.shape[1:]
    table = lut_with_invalid(lut, "error")
    result = np.empty(scores.shape[1], lut.dtype)
    findings: list[Findings] = []
    voxel_bytes = len(scores) * scores.itemsize + lut.itemsize
    size = _PIECE_BYTES // voxel_bytes // _PIECE_STEP * _PIECE_STEP
    pieces = [slice(start, min(start + size, len(result))) for start in range(0, len(result), size)]
    with _lane(cuda, case) as lane:

        def queue(piece: slice) -> _Relabelled:
            staged = lane.staging.array("scores", (len(scores), piece.stop - piece.start), scores.dtype)
            staged[...] = scores[:, piece]
            return _queue_relabel(lane, staged, held, clip=False)

        def keep(piece: slice, relabelled: _Relabelled) -> None:
            result[piece], found = relabelled
            findings.append(cupy.findings_of(found).shifted(piece.start))

        lane.begin((size,), scores.dtype.name, voxel_bytes, lut.dtype)
        held = lane.send("lut", table)
        _overlap(lane, pieces, queue, keep)
    report(sum(findings, Findings()), scores, Place("probability", shape), "error")
    return result.reshape(shape)


_Relabelled: TypeAlias = tuple[npt.NDArray[Any], npt.NDArray[np.uint64]]
"""Where values and findings will be."""


def _queue_relabel(lane: _Lane, scores: npt.NDArray[Any], lut: Any, *, clip: bool) -> _Relabelled:
    """Queue the copies and the kernel of (M, N) scores, which are staged."""
    from twintrack_core.kernels import cupy

    held = lane.send("scores", scores)
    values = lane.empty("values", held.shape[1:], lut.dtype)
    found = lane.empty("found", (4,), np.uint64)
    found.fill(0)  # by the device: a copy of what is not pinned would wait for all that was queued
    cupy.launch_relabel(held, lut, values, found, clip=clip)
    return lane.fetch("values", values), lane.fetch("found", found)


def _overlap(
    lane: _Lane, items: Iterable[T], queue: Callable[[T], _Relabelled], end: Callable[[T, _Relabelled], None]
) -> None:
    """Queue one item after another; each is ended while the next one is on the device."""
    end_last: Callable[[], object] = bool  # there is none yet

    def wait_and_end(half: int, item: T, relabelled: _Relabelled) -> None:
        lane.wait(half)
        end(item, relabelled)

    for item in items:
        lane.turn()
        try:
            relabelled = queue(item)
        except StoreError:
            end_last()  # what is wrong with an item is told before what is wrong with a later one, as on the CPU
            raise
        half = lane.mark()
        end_last()
        end_last = partial(wait_and_end, half, item, relabelled)
    end_last()


def _report(
    work: CountTask | RelabelTask, votes: ChunkedArray | None, n_raters: int, tile: Tile, box: Box, findings: Findings
) -> None:
    """Raise for what a kernel found in a tile, as on the CPU: it is read again, since its buffers have been reused."""
    if not any(findings[::2]):
        return
    scratch = Scratch()
    scores = read_scores(work.probability, box, scratch)
    shape = scores.shape[1:]
    marks = None
    if votes is not None:
        marks = scratch.array("votes", shape, np.uint8)
        votes.read(box, marks, scratch)
    place = Place(f"Case {work.case}, chunk {tile}", shape, tuple(side.start for side in box))
    flat_votes = None if marks is None else marks.reshape(-1)
    report(findings, scores.reshape(len(scores), -1), place, work.on_invalid, votes=flat_votes, n_raters=n_raters)
