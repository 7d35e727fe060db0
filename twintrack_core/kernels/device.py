"""Devices: whether there is a usable one, and which arrays are on one. CuPy is imported only where it is used."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from twintrack_core.errors import RequestError, WorkError

OLDEST = (7, 0)
"""Oldest compute capability: Volta, the first whose lanes can find who else has their value (``__match_any_sync``)."""

_INSTALL = (
    "pip install 'twintrack-core[gpu]' for CUDA 12, or 'twintrack-core[gpu13]' for CUDA 13; or use the device cpu."
)
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
        Without CuPy, a driver, a device, one that is new enough, or the compiler for kernels: says which, and how to
        get it.
    """
    runtime = _require_cupy().cuda.runtime
    if runtime.is_hip:
        raise WorkError("This CuPy was built for ROCm.", "Allowed: a CuPy for CUDA.", _INSTALL)
    return device_at(_require_driver(runtime))


@functools.cache  # asked for once a launch
def device_at(index: int) -> Device:
    """Return a device there is.

    Raises
    ------
    WorkError
        If it is too old, or there is no compiler for kernels.
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
            f"{device.name} has compute capability {_dotted(device.capability)}.",
            f"Allowed: {_dotted(OLDEST)} or newer.",
            "Choose another device with CUDA_VISIBLE_DEVICES, or use the device cpu.",
        )
    _require_compiler()
    return device


def _require_cupy() -> Any:
    if not is_installed():
        raise WorkError("A CUDA device cannot be used without CuPy.", None, _INSTALL)
    try:
        return importlib.import_module("cupy")
    except Exception as error:  # what a broken installation raises differs with what is broken
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WorkError(f"CuPy is installed but cannot be imported: {reason}", None, _INSTALL) from error


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


def _require_compiler() -> None:
    from cupy.cuda import nvrtc

    try:
        nvrtc.getVersion()
    except Exception as error:  # which one depends on the version of CuPy
        raise WorkError("CuPy finds no NVRTC, which compiles the kernels.", None, _INSTALL) from error


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))


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
        If some are and some are not, or they are of different libraries, whose streams differ: nothing is copied that
        nobody asked for.
    """
    places = {name: library_of(array) or "the host" for name, array in arrays.items() if array is not None}
    if len(set(places.values())) > 1:
        raise RequestError(
            f"{', '.join(f'{name} is of {place}' for name, place in places.items())}.".replace("of the", "on the"),
            "Allowed: all arrays on the host, or all of CuPy, or all of torch on one device.",
            "Move the others first.",
        )
    return set(places.values()) != {"the host"}


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
