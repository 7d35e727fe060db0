"""Devices: whether there is a usable one, and which arrays are on one. CuPy is imported only where it is used."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from twintrack_core.errors import RequestError, WorkError

OLDEST = (7, 0)
"""Oldest compute capability: Volta, the first whose lanes can find who else has their value (``__match_any_sync``)."""

OLDEST_CUPY = 14
"""Oldest CuPy: the first that takes the streams of other libraries (``Stream.from_external``)."""

INSTALL = (
    "pip install 'twintrack-core[gpu]' for CUDA 12, or 'twintrack-core[gpu13]' for CUDA 13; or use the device cpu."
)
"""What to do where CuPy or a part of it is missing."""

_ANOTHER_DEVICE = "Choose another device with CUDA_VISIBLE_DEVICES, or use the device cpu."
_HOST = "on the host"
_LIBRARIES = ("cupy", "torch")
_INSUFFICIENT_DRIVER, _NO_DEVICE = 35, 100  # of cudaError_t
_SHARED_BYTES = 97  # of cudaDeviceAttr: MaxSharedMemoryPerBlockOptin


@dataclass(frozen=True)
class Device:
    """A usable CUDA device.

    Attributes
    ----------
    index
        Its number among those that the process sees.
    capability
        Compute capability, (major, minor).
    multiprocessors
        Their number.
    shared
        Bytes of shared memory that a block may have, if it asks for them.
    """

    index: int
    name: str
    capability: tuple[int, int]
    multiprocessors: int
    shared: int

    @property
    def dotted(self) -> str:
        """Compute capability as NVIDIA writes it, such as 9.0."""
        return _dotted(self.capability)


def is_installed() -> bool:
    """Whether there is a CuPy to import; whether it works is not tried."""
    try:
        return importlib.util.find_spec("cupy") is not None
    except ValueError:  # a module of that name without a spec, as tests of others put in its place
        return False


def require_device() -> Device:
    """Return the current device.

    Raises
    ------
    WorkError
        Without CuPy, a driver, a device, the compiler for kernels, or with one of them that is too old: says which,
        and how to get it.
    """
    runtime = _require_cupy().cuda.runtime
    if runtime.is_hip:
        raise WorkError("This CuPy was built for ROCm.", "Allowed: a CuPy for CUDA.", INSTALL)
    return device_at(_require_driver(runtime))


@functools.cache  # asked for once a launch
def device_at(index: int) -> Device:
    """Return a device there is.

    Raises
    ------
    WorkError
        If it is too old, or there is no compiler for its kernels.
    """
    runtime = _require_cupy().cuda.runtime
    properties = runtime.getDeviceProperties(index)
    name = properties["name"]
    device = Device(
        index,
        name.decode() if isinstance(name, bytes) else str(name),
        (int(properties["major"]), int(properties["minor"])),
        int(properties["multiProcessorCount"]),
        int(runtime.deviceGetAttribute(_SHARED_BYTES, index)),
    )
    if device.capability < OLDEST:
        raise WorkError(
            f"{device.name} has compute capability {device.dotted}.",
            f"Allowed: {_dotted(OLDEST)} or newer.",
            _ANOTHER_DEVICE,
        )
    _require_compiler(device)
    return device


def _require_cupy() -> Any:
    if not is_installed():
        raise WorkError("A CUDA device cannot be used without CuPy.", None, INSTALL)
    try:
        cupy = importlib.import_module("cupy")
    except Exception as error:  # what a broken installation raises differs with what is broken
        raise WorkError(f"CuPy is installed but cannot be imported: {first_line(error)}", None, INSTALL) from error
    major = cupy.__version__.partition(".")[0]
    if int(major) < OLDEST_CUPY:
        raise WorkError(f"CuPy {cupy.__version__} is too old.", f"Allowed: {OLDEST_CUPY} or newer.", INSTALL)
    return cupy


def _require_driver(runtime: Any) -> int:
    """Return the number of the current device, if there is a driver and a device."""
    driver = "Install or update NVIDIA's driver (nvidia-smi shows it), or use the device cpu."
    try:
        count = runtime.getDeviceCount()
        if count > 0:
            return int(runtime.getDevice())
        why = _NO_DEVICE
    except runtime.CUDARuntimeError as error:
        why = error.status
        if why not in (_INSUFFICIENT_DRIVER, _NO_DEVICE):
            raise WorkError(f"CUDA cannot be used: {error}.", None, driver) from error
    if why == _NO_DEVICE:
        raise WorkError(
            "There is no CUDA device.",
            "Allowed: an NVIDIA GPU that this process sees.",
            "See nvidia-smi and CUDA_VISIBLE_DEVICES, or use the device cpu.",
        )
    found, needed = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    if not found:
        raise WorkError("There is no NVIDIA driver.", None, driver)
    raise WorkError(
        f"The NVIDIA driver is too old: it is for CUDA {_version(found)}.",
        f"Allowed: CUDA {_version(needed)} or newer, which this CuPy was built for.",
        driver,
    )


def _require_compiler(device: Device) -> None:
    """Refuse a device that the compiler knows no more: that of CUDA 13 begins at compute capability 7.5."""
    from cupy.cuda import nvrtc

    try:
        version, architectures = nvrtc.getVersion(), nvrtc.getSupportedArchs()
    except Exception as error:  # which one depends on the version of CuPy
        raise WorkError("CuPy finds no NVRTC, which compiles the kernels.", None, INSTALL) from error
    oldest = divmod(min(architectures), 10)
    if device.capability < oldest:
        raise WorkError(
            f"{device.name} has compute capability {device.dotted}.",
            f"Allowed: {_dotted(oldest)} or newer, for which NVRTC {_dotted(version)} compiles.",
            f"For CUDA 12, pip install 'twintrack-core[gpu]'. {_ANOTHER_DEVICE}",
        )


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _dotted(numbers: Iterable[int]) -> str:
    return ".".join(map(str, numbers))


def first_line(error: BaseException) -> str:
    """Return what an error says first: those of compilers go on for pages, and CuPy's begin with a ruled line."""
    lines = (line.strip() for line in str(error).splitlines() if any(map(str.isalnum, line)))
    return next(lines, type(error).__name__)


def library_of(array: Any) -> str | None:
    """Return "cupy" or "torch" for an array on a device, None for anything on the host."""
    for base in type(array).__mro__:
        root = base.__module__.partition(".")[0]
        if root in _LIBRARIES:
            return root if root == "cupy" or array.is_cuda else None
    return None


def are_on_device(**arrays: Any) -> bool:
    """Whether arrays, None among them, are on a device.

    Raises
    ------
    RequestError
        If some are and some are not, or they are on different devices or of different libraries, whose streams
        differ: nothing is copied that nobody asked for.
    """
    places = {name: _place_of(array) for name, array in arrays.items() if array is not None}
    if len(set(places.values())) > 1:
        raise RequestError(
            f"{', '.join(f'{name} is {place}' for name, place in places.items())}.",
            "Allowed: all arrays on the host, or all on one device, of CuPy or of torch.",
            "Move the others first.",
        )
    return set(places.values()) != {_HOST}


def _place_of(array: Any) -> str:
    library = library_of(array)
    if library is None:
        return _HOST
    return f"on cuda:{array.device.id if library == 'cupy' else array.device.index}, of {library}"


def as_array(array: Any) -> npt.NDArray[Any]:
    """Return what is on the host as a NumPy array, and what is on a device as a CuPy array of the same memory."""
    return np.asarray(array) if library_of(array) is None else cast("npt.NDArray[Any]", _cupy().as_array(array))


def stream_of(array: Any) -> contextlib.AbstractContextManager[Any]:
    """Make the device and stream that the caller uses for an array the current ones; nothing for one on the host."""
    if library_of(array) is None:
        return contextlib.nullcontext()
    return cast("contextlib.AbstractContextManager[Any]", _cupy().stream_of(array))


def _cupy() -> Any:
    """Import the kernels for arrays that are on a device: so CuPy or torch has one already, if not both."""
    require_device()
    return importlib.import_module("twintrack_core.kernels.cupy")
