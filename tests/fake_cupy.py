"""A CuPy made of NumPy that is as lazy as a device may be: what is queued is done when somebody waits for it.

So a buffer that is written to before its copy was waited for, a result that is read too early, or a kernel on another
stream than its copies gives wrong numbers here. Kernels are the oracle. What the package uses of CuPy is here, and
nothing else.
"""

from __future__ import annotations

import contextlib
import re
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pytest

from twintrack_core.kernels import device, reference, registry
from twintrack_core.kernels.findings import Findings

_POISON = 0xA5
_BACKEND = "twintrack_core.kernels.cupy"
_STORED = {"unsigned short": "float16", "unsigned int": "float32", "unsigned long long": "float64"}
_STORED["unsigned char"] = "uint8"


class Event(NamedTuple):
    """Something that was asked of the device: by which thread, what, on which stream, and what of."""

    thread: int
    what: str
    stream: int
    of: Any = None


class Machine:
    """The state of the driver, and what was asked of it.

    Attributes
    ----------
    log
        Everything that was queued, recorded or waited for, in order.
    peaks
        Largest use of each memory pool that had a limit, and the limit.
    """

    def __init__(self) -> None:
        self.driver, self.runtime, self.count, self.status = 13000, 12090, 1, 0
        self.capability, self.free, self.shared = (9, 0), 1 << 34, 227 << 10
        self.is_hip, self.has_nvrtc = False, True
        self.version, self.architectures = "14.2.0", (50, 70, 75, 80, 90)
        self.pinnable, self.is_taken, self.max_streams = 1 << 34, False, 1 << 10
        self.log: list[Event] = []
        self.pools: list[MemoryPool] = []
        self.pinned: dict[int, int] = {}
        self.pinned_peak = 0
        self.lock = threading.RLock()  # a device does one thing at a time here

    def note(self, what: str, stream: Stream, of: Any = None) -> None:
        self.log.append(Event(threading.get_ident(), what, id(stream), of))

    def is_pinned(self, array: npt.NDArray[Any]) -> bool:
        start = array.__array_interface__["data"][0]
        return any(first <= start < first + size for first, size in self.pinned.items())


class CUDARuntimeError(RuntimeError):
    def __init__(self, status: int) -> None:
        super().__init__(f"cudaError{status}: as the driver says")
        self.status = status


class OutOfMemoryError(MemoryError):
    pass


class CompileException(Exception):  # noqa: N818 - as CuPy's
    pass


class _Local(threading.local):
    def __init__(self) -> None:
        self.streams: list[Stream] = []
        self.allocators: list[Callable[[int], _Memory]] = []


_local = _Local()
MACHINE = Machine()


class Stream:
    null: Stream

    def __init__(self, *, non_blocking: bool = False) -> None:
        if non_blocking:
            MACHINE.max_streams -= 1
            if MACHINE.max_streams < 0:
                raise CUDARuntimeError(2)
        self.queue: list[Callable[[], None]] = []
        self.ptr = 0

    @classmethod
    def from_external(cls, other: Any) -> Stream:
        version, pointer = other.__cuda_stream__()
        assert version == 0
        found = EXTERNAL[pointer]
        assert isinstance(found, Stream)
        return found

    def __enter__(self) -> Self:
        _local.streams.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _local.streams.pop()

    def add(self, what: str, work: Callable[[], None], of: Any = None) -> None:
        with MACHINE.lock:
            MACHINE.note(what, self, of)
            self.queue.append(work)

    def run(self, n: int | None = None) -> None:
        with MACHINE.lock:
            todo = self.queue[:n]
            del self.queue[:n]
            for work in todo:
                work()

    def synchronize(self) -> None:
        self.run()


Stream.null = Stream()
EXTERNAL: dict[int, Stream] = {}


def current() -> Stream:
    return _local.streams[-1] if _local.streams else Stream.null


class CudaEvent:
    def __init__(self, *, block: bool = False, disable_timing: bool = False) -> None:
        self.stream: Stream | None = None
        self.done = True

    def record(self, stream: Stream) -> None:
        marker: dict[str, bool] = {}
        self.stream, self.marker = stream, marker
        stream.add("record", lambda: marker.update(done=True), id(self))

    def synchronize(self) -> None:
        if self.stream is None:
            return
        MACHINE.note("wait", self.stream, id(self))
        with MACHINE.lock:
            while not self.marker:
                self.stream.run(1)


class MemoryPool:
    """Keeps what is released, which counts towards the limit as it does in CuPy, and gives it out whole."""

    def __init__(self) -> None:
        self.limit = self.used = self.peak = 0
        self.kept: list[int] = []
        MACHINE.pools.append(self)

    def set_limit(self, *, size: int) -> None:
        self.limit = size

    def malloc(self, size: int) -> _Memory:
        rounded = -(-size // 512) * 512
        fitting = [kept for kept in self.kept if kept >= rounded]
        if fitting:
            rounded = min(fitting)
            self.kept.remove(rounded)
        held = self.used + sum(self.kept)
        if self.limit and held + rounded > self.limit:
            raise OutOfMemoryError(f"Out of memory allocating {size} bytes (limit set to: {self.limit} bytes)")
        self.used += rounded
        self.peak = max(self.peak, held + rounded)
        return _Memory(self, size, rounded)

    def free_all_blocks(self) -> None:
        self.kept.clear()

    def release(self, rounded: int) -> None:
        self.used -= rounded
        self.kept.append(rounded)


class _Memory:
    def __init__(self, pool: MemoryPool, size: int, rounded: int) -> None:
        self.content = np.full(size, _POISON, np.uint8)
        weakref.finalize(self, pool.release, rounded)


_DEFAULT_POOL = MemoryPool()


@contextlib.contextmanager
def using_allocator(malloc: Callable[[int], _Memory]) -> Iterator[None]:
    _local.allocators.append(malloc)
    try:
        yield
    finally:
        _local.allocators.pop()


class Device:
    def __init__(self, number: int = 0) -> None:
        self.id = number

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other.id == self.id

    __hash__ = None  # type: ignore[assignment]


class ndarray:  # noqa: N801 - as CuPy's
    """An array of which the content is there once its stream was waited for; never on the host by itself."""

    def __init__(self, memory: _Memory, content: npt.NDArray[Any]) -> None:
        self.memory, self.content = memory, content  # the latter is a view of the former
        self.device = Device(0)

    shape = property(lambda self: self.content.shape)
    dtype = property(lambda self: self.content.dtype)
    size = property(lambda self: self.content.size)
    ndim = property(lambda self: self.content.ndim)
    nbytes = property(lambda self: self.content.nbytes)

    def _view(self, content: npt.NDArray[Any]) -> ndarray:
        return ndarray(self.memory, content)

    def __len__(self) -> int:
        return len(self.content)

    def reshape(self, *shape: Any) -> ndarray:
        return self._view(self.content.reshape(*shape))

    def view(self, dtype: Any) -> ndarray:
        return self._view(self.content.view(dtype))

    def __getitem__(self, index: Any) -> ndarray:
        if isinstance(index, ndarray):
            current().run()
            return _computed(self.content[index.content])
        found = self.content[index]
        return self._view(found if isinstance(found, np.ndarray) else self.content[..., np.newaxis][index].reshape(()))

    def fill(self, value: Any) -> None:
        current().add("fill", lambda: self.content.fill(value), self.nbytes)

    def set(self, array: npt.NDArray[Any], stream: Stream | None = None) -> None:
        assert isinstance(array, np.ndarray)
        assert (array.shape, array.dtype) == (self.shape, self.dtype)
        source = array if MACHINE.is_pinned(array) else array.copy()  # what is not pinned is staged at once

        def copy() -> None:
            self.content[...] = source

        (stream or current()).add("to device", copy, self.nbytes)

    def get(
        self, stream: Stream | None = None, out: npt.NDArray[Any] | None = None, *, blocking: bool = True
    ) -> npt.NDArray[Any]:
        on = stream or current()
        result = np.empty(self.shape, self.dtype) if out is None else out
        assert blocking or MACHINE.is_pinned(result)

        def copy() -> None:
            result[...] = self.content

        on.add("to host", copy, self.nbytes)
        if blocking:
            on.run()
        return result

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`.")

    def __array_function__(self, function: Any, _types: Any, arguments: Any, options: Any) -> Any:
        assert function is np.zeros_like
        return zeros(options["shape"], options["dtype"])

    def _now(self) -> Any:
        current().run()
        return self.content

    def __float__(self) -> float:
        return float(self._now())

    def __int__(self) -> int:
        return int(self._now())

    def __bool__(self) -> bool:
        return bool(self._now())

    def __str__(self) -> str:
        return str(self._now())

    def any(self) -> ndarray:
        return _computed(np.asarray(self._now().any()))

    def sum(self) -> ndarray:
        return _computed(np.asarray(self._now().sum()))

    def astype(self, dtype: Any) -> ndarray:
        return _computed(self._now().astype(dtype))

    def _with(self, other: Any, operator: Callable[[Any, Any], Any]) -> ndarray:
        return _computed(operator(self._now(), other.content if isinstance(other, ndarray) else other))

    def __eq__(self, other: object) -> Any:
        return self._with(other, np.equal)

    __hash__ = None  # type: ignore[assignment]

    def __or__(self, other: Any) -> ndarray:
        return self._with(other, np.bitwise_or)

    def __ior__(self, other: Any) -> ndarray:  # noqa: PYI034
        self.content |= self._with(other, lambda _, right: right).content
        return self

    def __lshift__(self, other: Any) -> ndarray:
        return self._with(other, np.left_shift)

    def __invert__(self) -> ndarray:
        return _computed(~self._now())


ndarray.__module__ = "cupy"


def empty(shape: Any, dtype: Any = np.float64) -> ndarray:
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    size = int(np.prod(sizes)) * np.dtype(dtype).itemsize
    memory = (_local.allocators[-1] if _local.allocators else _DEFAULT_POOL.malloc)(size)
    return ndarray(memory, memory.content.view(dtype).reshape(sizes))


def zeros(shape: Any, dtype: Any = np.float64) -> ndarray:
    made = empty(shape, dtype)
    made.fill(0)
    return made


def _computed(content: npt.NDArray[Any]) -> ndarray:
    """Return a result that is there already."""
    made = empty(content.shape, content.dtype)
    made.content[...] = content
    return made


def asarray(array: Any) -> ndarray:
    if isinstance(array, ndarray):
        return array
    made = empty(array.shape, array.dtype)
    made.set(np.ascontiguousarray(array).reshape(array.shape))
    return made


def ascontiguousarray(array: ndarray) -> ndarray:
    if array.content.flags.c_contiguous:
        return array
    made = empty(array.shape, array.dtype)

    def copy() -> None:
        made.content[...] = array.content

    current().add("copy", copy, made.nbytes)
    return made


def flatnonzero(array: ndarray) -> ndarray:
    temporary = empty(array.size, np.int64)  # as CuPy does
    places = np.flatnonzero(array._now())
    temporary.content.fill(0)
    return _computed(places)


def from_dlpack(tensor: Any) -> ndarray:
    if tensor.dtype.name == "bfloat16":
        raise BufferError("unsupported dtype")
    assert tensor.dtype.name != "bool"
    found = tensor.held
    assert isinstance(found, ndarray)
    return found


class PinnedMemory:
    """Exactly so many bytes, until nobody has an array in them."""

    def __init__(self, size: int, flags: int = 0) -> None:
        assert flags == 1  # for every context
        if sum(MACHINE.pinned.values()) + size > MACHINE.pinnable:
            raise CUDARuntimeError(2)
        self.content = np.full(size, _POISON, np.uint8)
        start = self.content.__array_interface__["data"][0]
        MACHINE.pinned[start] = size
        MACHINE.pinned_peak = max(MACHINE.pinned_peak, sum(MACHINE.pinned.values()))
        weakref.finalize(self.content, MACHINE.pinned.pop, start, None)


def pinned_memory_pointer(memory: PinnedMemory, offset: int) -> npt.NDArray[np.uint8]:
    """Return a buffer, as CuPy's PinnedMemoryPointer is one."""
    return memory.content[offset:]


def compiling(code: str) -> None:
    """What NVRTC says to a source: nothing, unless a test puts something else here."""


class RawModule:
    def __init__(self, *, code: str, options: tuple[str, ...]) -> None:
        assert options == ("--std=c++17",)
        self.code = code

    def get_function(self, name: str) -> Kernel:
        compiling(self.code)
        assert re.search(rf'extern "C" __global__ void[^{{]*\b{name}\(', self.code)
        return Kernel(name, self.code)


class Kernel:
    """What the oracle does, for arguments that fit the source."""

    def __init__(self, name: str, code: str) -> None:
        self.name, self.code = name, code
        self.max_dynamic_shared_size_bytes = 48 << 10

    def constant(self, name: str) -> int:
        found = re.search(rf"constexpr \w+ {name} = (\d+);", self.code)
        assert found
        return int(found[1])

    def type_of(self, name: str) -> str:
        found = re.search(rf"using {name} = ([\w ]+);", self.code)
        assert found
        return _STORED[found[1]]

    def __call__(self, grid: Any, block: Any, arguments: tuple[Any, ...], *, shared_mem: int) -> None:
        assert len(grid) == len(block) == 1
        assert 0 < block[0] <= 1024
        assert shared_mem <= min(self.max_dynamic_shared_size_bytes, MACHINE.shared)
        work = getattr(self, f"_{self.name}")(*arguments)
        current().add(self.name, work, [a.shape for a in arguments if isinstance(a, ndarray)])

    def _accumulate(
        self, scores: ndarray, n: np.int64, members: np.int32, votes: Any, region: Any, table: ndarray, found: ndarray
    ) -> Callable[[], None]:
        clip = self._check(scores, n, members, found)
        assert table.shape[:2] == (self.constant("REGIONS"), self.constant("PATTERNS"))
        assert isinstance(region, ndarray) == (table.shape[0] == 2)
        marks, inside = (self._mask(array, scores.shape[1]) for array in (votes, region))

        def run() -> None:
            arrays = [None if a is None else a.content for a in (marks, inside)]
            self._report(reference.accumulate(scores.content, arrays[0], arrays[1], table.content, clip=clip), found)

        return run

    def _relabel(
        self, scores: ndarray, n: np.int64, members: np.int32, lut: ndarray, out: ndarray, found: ndarray
    ) -> Callable[[], None]:
        clip = self._check(scores, n, members, found)
        assert self.type_of("Value") == lut.dtype.name == out.dtype.name
        assert out.shape == scores.shape[1:]
        return lambda: self._report(reference.relabel(scores.content, lut.content, out.content, clip=clip), found)

    def _flush(self, table: ndarray, counts: ndarray, cells: np.int64) -> Callable[[], None]:
        assert (table.dtype, counts.dtype, table.size, counts.size) == (np.uint32, np.int64, cells, cells)

        def run() -> None:
            counts.content[...] += table.content
            table.content[...] = 0

        return run

    def _check(self, scores: ndarray, n: Any, members: Any, found: ndarray) -> bool:
        assert (type(n), type(members)) == (np.int64, np.int32)
        assert scores.shape == (members, n)
        assert scores.content.flags.c_contiguous
        assert self.type_of("Score") == scores.dtype.name
        assert self.constant("MEMBERS") in (0, members)
        assert (found.shape, found.dtype) == ((4,), np.uint64)
        return bool(self.constant("CLIP"))

    @staticmethod
    def _mask(array: Any, n: int) -> ndarray | None:
        if isinstance(array, ndarray):
            assert (array.shape, array.dtype) == ((n,), np.uint8)
            return array
        assert (type(array), array) == (np.uint64, 0)  # a null pointer
        return None

    @staticmethod
    def _report(findings: Findings, found: ndarray) -> None:
        for at, (count, first) in ((0, findings[:2]), (2, findings[2:])):
            if count:
                found.content[at] += np.uint64(count)
                found.content[at + 1] = max(found.content[at + 1], ~np.uint64(first))


class ElementwiseKernel:
    """The one there is: float64 to float16 by way of a float32 that was made odd."""

    def __init__(self, _inputs: str, _outputs: str, operation: str, _name: str) -> None:
        assert "__double2float_rz" in operation

    def __call__(self, x: ndarray) -> ndarray:
        values = x._now()
        with np.errstate(all="ignore"):
            nearest = values.astype(np.float32)
            too_far = np.abs(nearest.astype(np.float64)) > np.abs(values)
            cut = np.where(too_far, np.nextafter(nearest, np.float32(0)), nearest)
            odd = ((cut != values) & (cut == cut)).astype(np.uint32)
            return _computed((cut.view(np.uint32) | odd).view(np.float32).astype(np.float16))


def _modules() -> dict[str, types.ModuleType]:
    cupy, cuda = types.ModuleType("cupy"), types.ModuleType("cupy.cuda")
    for module in (cupy, cuda):
        module.__spec__ = ModuleSpec(module.__name__, None)
    functions = (empty, zeros, asarray, ascontiguousarray, flatnonzero, from_dlpack)
    vars(cupy).update({function.__name__: function for function in functions})
    vars(cupy).update(ndarray=ndarray, RawModule=RawModule, ElementwiseKernel=ElementwiseKernel, cuda=cuda)
    vars(cupy).update(__version__=MACHINE.version)
    runtime = types.SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError,
        is_hip=MACHINE.is_hip,
        hostAllocPortable=1,
        getDeviceCount=_count,
        getDevice=lambda: 0,
        driverGetVersion=lambda: MACHINE.driver,
        runtimeGetVersion=lambda: MACHINE.runtime,
        memGetInfo=_memory,
        deviceGetAttribute=lambda attribute, _: {97: MACHINE.shared}[attribute],
        getDeviceProperties=lambda _: {
            "name": b"Fake GPU",
            "major": MACHINE.capability[0],
            "minor": MACHINE.capability[1],
            "multiProcessorCount": 4,
        },
    )
    vars(cuda).update(
        runtime=runtime,
        Stream=Stream,
        Event=CudaEvent,
        Device=Device,
        MemoryPool=MemoryPool,
        PinnedMemory=PinnedMemory,
        PinnedMemoryPointer=pinned_memory_pointer,
        using_allocator=using_allocator,
        compiler=types.SimpleNamespace(CompileException=CompileException),
        memory=types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
        driver=types.SimpleNamespace(CUDADriverError=type("CUDADriverError", (RuntimeError,), {})),
        nvrtc=types.SimpleNamespace(getVersion=_nvrtc, getSupportedArchs=lambda: MACHINE.architectures),
    )
    return {"cupy": cupy, "cupy.cuda": cuda}


def _count() -> int:
    if MACHINE.status:
        raise CUDARuntimeError(MACHINE.status)
    return MACHINE.count


def _memory() -> tuple[int, int]:
    if MACHINE.is_taken:
        raise CUDARuntimeError(46)
    return MACHINE.free, 1 << 36


def _nvrtc() -> tuple[int, int]:
    if not MACHINE.has_nvrtc:
        raise RuntimeError("libnvrtc.so cannot be opened")
    return (12, 9)


@contextlib.contextmanager
def installed(**state: Any) -> Iterator[Machine]:
    """Make this the CuPy that is imported, on a machine in some state."""
    MACHINE.__init__()  # type: ignore[misc]
    vars(MACHINE).update(state)
    Stream.null.queue.clear()
    EXTERNAL.clear()
    with pytest.MonkeyPatch.context() as patch:
        for name, module in _modules().items():
            patch.setitem(sys.modules, name, module)
        _forget()
        try:
            yield MACHINE
        finally:
            _forget()


def _forget() -> None:
    """Let everything that looked at CuPy look again."""
    from twintrack_core import kernels
    from twintrack_core.engine import device as engine_device

    sys.modules.pop(_BACKEND, None)
    if hasattr(kernels, "cupy"):
        delattr(kernels, "cupy")
    registry.KERNELS._loaded.pop("cupy", None)
    device.device_at.cache_clear()
    engine_device._threads.lane = None
