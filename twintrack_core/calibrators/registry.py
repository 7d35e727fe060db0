"""Calibrators by name: ours, and those of other distributions, entry points of the group "twintrack.calibrators"."""

from __future__ import annotations

from typing import Any

from twintrack_core.calibrators.identity import identity
from twintrack_core.calibrators.isotonic import isotonic
from twintrack_core.calibrators.knots import Calibrator
from twintrack_core.plugins import Registry

_OURS: dict[str, Calibrator] = {"identity": identity, "isotonic": isotonic}


def names() -> tuple[str, ...]:
    """Names of the calibrators there are: ours, then those of other distributions."""
    return CALIBRATORS.names()


def get(name: str) -> Calibrator:
    """Return a calibrator by name.

    Raises
    ------
    RequestError
        If there is none of that name.
    PluginError
        If the one that another distribution offers cannot be used.
    """
    return CALIBRATORS.get(name)


def _check(_: str, calibrator: Any) -> str | None:
    return None if callable(calibrator) else f"it is a {type(calibrator).__name__}"


CALIBRATORS: Registry[Calibrator] = Registry(
    "calibrator", _OURS, _OURS.__getitem__, _check, "a function of a BinnedTarget that returns Knots"
)
