"""Calibrators by name: ours, and those of other distributions, entry points of the group "twintrack.calibrators"."""

from __future__ import annotations

from typing import Any

from twintrack_core.calibrators.identity import identity
from twintrack_core.calibrators.isotonic import isotonic
from twintrack_core.calibrators.knots import Calibrator
from twintrack_core.plugins import Registry

_OURS: dict[str, Calibrator] = {"identity": identity, "isotonic": isotonic}


def _check(_: str, calibrator: Any) -> str | None:
    return None if callable(calibrator) else f"it is of type {type(calibrator).__name__}"


CALIBRATORS: Registry[Calibrator] = Registry(
    "calibrator", _OURS, _OURS.__getitem__, _check, "a function of a BinnedTarget that returns Knots"
)

names, get = CALIBRATORS.names, CALIBRATORS.get
