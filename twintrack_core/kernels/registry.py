"""Kernels by name: ours, and those that other distributions offer as entry points of the group "twintrack.kernels"."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from twintrack_core.errors import RequestError, WorkError
from twintrack_core.kernels.device import is_installed, require_device
from twintrack_core.kernels.findings import Findings
from twintrack_core.plugins import Registry

_ON_DEVICE = "cupy"
_OURS = {name: f"twintrack_core.kernels.{name}" for name in ("reference", "numba", "cython", _ON_DEVICE)}
_AUTO = ("cython", "numba")  # the fastest first


class Kernel(Protocol):
    """A backend: both kernels under the contract of `twintrack_core.kernels.findings`."""

    def accumulate(
        self,
        scores: npt.NDArray[Any],
        votes: npt.NDArray[np.uint8] | None,
        region: npt.NDArray[np.uint8] | None,
        table: npt.NDArray[np.uint32],
        *,
        clip: bool = False,
    ) -> Findings:
        """Count voxels into ``table``."""

    def relabel(
        self, scores: npt.NDArray[Any], lut: npt.NDArray[Any], out: npt.NDArray[Any], *, clip: bool = False
    ) -> Findings:
        """Look codes up in ``lut``."""


def get(name: str = "auto") -> Kernel:
    """Return a kernel by name; "auto" is the fastest of ours.

    Raises
    ------
    RequestError
        If there is none of that name, or ours of that name was not built.
    WorkError
        For "cupy", if there is no usable device.
    PluginError
        If the one that another distribution offers cannot be used.
    """
    return KERNELS.get(name)


@functools.cache
def _fastest() -> Kernel:
    return _import(next(filter(_is_built, _AUTO)))


def _import(name: str) -> Kernel:
    if name == "auto":
        return _fastest()
    if name == _ON_DEVICE:
        require_device()
    elif not _is_built(name):
        raise RequestError(
            f"The kernel {name!r} was not built when twintrack-core was installed.",
            f"Allowed: auto, {', '.join(names())}.",
            "Install twintrack-core anew where there is a C compiler, or choose numba.",
        )
    return cast("Kernel", importlib.import_module(_OURS[name]))


def _is_built(name: str) -> bool:
    if name == _ON_DEVICE:
        return is_installed()
    # Finding a module does not import it: no Numba for a list of names.
    return importlib.util.find_spec(_OURS[name]) is not None


def _why_not() -> str | None:
    """Say why the device cannot be used, if it cannot."""
    try:
        require_device()
    except WorkError as error:
        return error.what.rstrip(".")
    return None


def _check(_: str, kernel: Any) -> str | None:
    missing = [name for name in ("accumulate", "relabel") if not callable(getattr(kernel, name, None))]
    return f"it has no {' and no '.join(missing)}" if missing else None


KERNELS: Registry[Kernel] = Registry(
    "kernel",
    tuple(_OURS),
    _import,
    _check,
    "a module or an object with accumulate and relabel",
    is_there=lambda name: _is_built(name),
    default="auto",
    unlisted={_ON_DEVICE: _why_not},
)

names = KERNELS.names
