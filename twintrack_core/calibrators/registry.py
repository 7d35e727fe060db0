"""Calibrators by name: ours, and those of other distributions, entry points of the group "twintrack.calibrators"."""

from __future__ import annotations

import importlib
from typing import Any, cast

from twintrack_core.calibrators.knots import Calibrator
from twintrack_core.plugins import Registry

OURS = (
    "identity",
    "isotonic",
    "centered_isotonic",
    "histogram_binning",
    "equal_mass_binning",
    "platt",
    "temperature",
    "beta",
    "scaling_binning",
    "spline",
)
"""Names of ours."""


def _load(name: str) -> Calibrator:
    # Each is a function in a module of its name; some need parts of SciPy that take long to import.
    return cast("Calibrator", getattr(importlib.import_module(f"twintrack_core.calibrators.{name}"), name))


def _check(_: str, calibrator: Any) -> str | None:
    return None if callable(calibrator) else f"it is of type {type(calibrator).__name__}"


CALIBRATORS: Registry[Calibrator] = Registry(
    "calibrator", OURS, _load, _check, "a function of a BinnedTarget that returns Knots"
)

names, get = CALIBRATORS.names, CALIBRATORS.get
