"""What maps do with the arrays of other libraries; nothing is imported for it until it is done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy.typing as npt

    from twintrack_core.codes import OnInvalid
    from twintrack_core.maps import CalibrationMap


class ApplyMap(Protocol):
    """What a map does with arrays of one kind."""

    def __call__(
        self,
        calibration: CalibrationMap,
        scores: Any,
        /,
        *,
        members: bool,
        dtype: npt.DTypeLike | None,
        on_invalid: OnInvalid,
    ) -> Any:
        """Return the calibrated scores, of the kind of ``scores``."""


array_types: dict[str, ApplyMap] = {}


def register_array_type(root_module: str, apply: ApplyMap) -> None:
    """Make maps accept the arrays of a library.

    Parameters
    ----------
    root_module
        First part of the name of the module that defines the arrays' type, for example "dask".
    apply
        What to do with them.
    """
    array_types[root_module] = apply
