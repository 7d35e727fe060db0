"""Label maps of a case: raters' masks, the region of interest, vessels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from twintrack_core.cohort.images import ImageInfo, check_geometry, read_info, read_volume
from twintrack_core.errors import ImageError, InvalidVotesError

VESSEL_LABELS = range(6)
"""Labels of a vessel map."""

_SHOWN = 5


def read_rater(path: Path, case: str, reference: ImageInfo, labels: tuple[int, ...] | None) -> npt.NDArray[np.bool_]:
    """Read what a rater marked.

    Parameters
    ----------
    path
        A mask or label map.
    case
        Name of the case, for messages.
    reference
        The file whose geometry it must have.
    labels
        Values that count as marked; None for a mask of 0 and 1 only.

    Returns
    -------
    array
        (z, y, x) bool.

    Raises
    ------
    GeometryError
        If it does not lie where ``reference`` lies.
    InvalidVotesError
        If it holds other values than 0 and 1, or with ``labels`` numbers that are not whole.
    """
    values = _read(path, case, reference)
    if labels is not None:
        found = _unexpected(values, None)
        if found:
            raise InvalidVotesError(f"Case {case}: {path} holds {found}.", "Allowed: whole numbers, as in a label map.")
        return np.isin(values, labels)
    found = _unexpected(values, range(2))
    if found:
        raise InvalidVotesError(
            f"Case {case}: {path} holds {found}.",
            "Allowed: 0 and 1, unless labels say which values count as marked.",
            "Name them, as in --label 1,2.",
        )
    return np.asarray(values != 0, dtype=bool)


def read_roi(path: Path, case: str, reference: ImageInfo) -> npt.NDArray[np.bool_]:
    """Read a region of interest, (z, y, x) bool; errors as for `read_vessels`."""
    values = _read(path, case, reference)
    found = _unexpected(values, range(2))
    if found:
        raise ImageError(f"Case {case}: the region of interest {path} holds {found}.", "Allowed: 0 and 1.")
    return np.asarray(values != 0, dtype=bool)


def read_vessels(path: Path, case: str, reference: ImageInfo) -> npt.NDArray[np.uint8]:
    """Read a map of vessels, (z, y, x) uint8.

    Raises
    ------
    GeometryError
        If it does not lie where ``reference`` lies.
    ImageError
        If it holds a value that is not one of `VESSEL_LABELS`.
    """
    values = _read(path, case, reference)
    found = _unexpected(values, VESSEL_LABELS)
    if found:
        raise ImageError(f"Case {case}: the vessel map {path} holds {found}.", "Allowed: the labels 0 to 5.")
    return values.astype(np.uint8)


def _read(path: Path, case: str, reference: ImageInfo) -> npt.NDArray[Any]:
    check_geometry(case, reference, read_info(path))  # before the voxels are read
    return read_volume(path)[0]


def _unexpected(values: npt.NDArray[Any], allowed: range | None) -> str | None:
    """Describe the values that are not in ``allowed`` (any whole number if None), or return None."""
    if allowed is not None:
        wrong = (values < allowed.start) | (values >= allowed.stop)
    else:
        wrong = np.zeros(values.shape, dtype=bool)
    if values.dtype.kind == "f":
        with np.errstate(invalid="ignore"):  # of NaN that signal
            wrong |= ~np.isfinite(values) | (np.rint(values) != values)
    if not wrong.any():
        return None
    found, counts = np.unique(values[wrong], return_counts=True)
    shown = [f"{value:g} ({count} voxels)" for value, count in zip(found[:_SHOWN], counts[:_SHOWN], strict=True)]
    rest = f" and {len(found) - _SHOWN} other values" if len(found) > _SHOWN else ""
    return ", ".join(shown) + rest
