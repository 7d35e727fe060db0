"""Kernels by name."""

from __future__ import annotations

import importlib
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from twintrack_core.errors import RequestError
from twintrack_core.kernels.findings import Findings

_BACKENDS = {
    "reference": "twintrack_core.kernels.reference",
    "numba": "twintrack_core.kernels.numba",
}
_AUTO = "numba"


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


def names() -> tuple[str, ...]:
    """Names of the kernels there are."""
    return tuple(_BACKENDS)


def get(name: str = "auto") -> Kernel:
    """Return a kernel by name; "auto" is the fastest there is.

    Raises
    ------
    RequestError
        If there is none of that name.
    """
    module = _BACKENDS.get(_AUTO if name == "auto" else name)
    if module is None:
        raise RequestError(f"There is no kernel {name!r}.", f"Allowed: auto, {', '.join(_BACKENDS)}.")
    return cast("Kernel", importlib.import_module(module))
