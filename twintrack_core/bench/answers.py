"""Whether what a contender gives is the answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt


def difference(found: Any, expected: Any, tolerance: float = 0.0) -> str | None:
    """Say how an answer differs from the one expected, None where it does not.

    Parameters
    ----------
    found, expected
        Arrays or numbers of one shape, or mappings of them; a mapping may hold fewer than expected, but one at least.
    tolerance
        Of numbers, relative to the one expected, or absolute where that is below 1.
    """
    if not isinstance(expected, Mapping):
        return _difference(np.asarray(found), np.asarray(expected), tolerance)
    if not found or not set(found) <= set(expected):
        return f"it has {sorted(found)}, not some of {sorted(expected)}"
    reasons = {name: difference(value, expected[name], tolerance) for name, value in found.items()}
    return next((f"{name}: {reason}" for name, reason in reasons.items() if reason), None)


def _difference(found: npt.NDArray[Any], expected: npt.NDArray[Any], tolerance: float) -> str | None:
    if found.shape != expected.shape:
        return f"its shape is {found.shape}, not {expected.shape}"
    if tolerance == 0 or expected.dtype == bool:
        wrong = found != expected
    else:
        # A NaN is near to nothing, and so is wrong.
        wrong = ~(np.abs(found - expected) <= tolerance * np.maximum(np.abs(expected), 1))
    if not wrong.any():
        return None
    first = tuple(int(i) for i in np.argwhere(wrong)[0])
    place = f" at {first}" if first else ""
    return (
        f"{int(wrong.sum())} of {wrong.size} values differ; the first is {found[first]}, not {expected[first]}{place}"
    )
