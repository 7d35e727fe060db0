"""Calibrators by name."""

from __future__ import annotations

from twintrack_core.calibrators.identity import identity
from twintrack_core.calibrators.isotonic import isotonic
from twintrack_core.calibrators.knots import Calibrator
from twintrack_core.errors import RequestError

_CALIBRATORS: dict[str, Calibrator] = {"identity": identity, "isotonic": isotonic}


def names() -> tuple[str, ...]:
    """Names of the calibrators there are."""
    return tuple(_CALIBRATORS)


def get(name: str) -> Calibrator:
    """Return a calibrator by name.

    Raises
    ------
    RequestError
        If there is none of that name.
    """
    if name not in _CALIBRATORS:
        raise RequestError(f"There is no calibrator {name!r}.", f"Allowed: {', '.join(_CALIBRATORS)}.")
    return _CALIBRATORS[name]
