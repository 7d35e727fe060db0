"""Conformance kits for those who write kernels, calibrators, metrics and readers.

Each kit is a class of tests that pytest collects from a class derived from it, and a function that makes the same
checks in any program: `KernelConformance` and `check_kernel`, `CalibratorConformance` and `check_calibrator`,
`MetricConformance` and `check_metric`, `ReaderConformance` and `check_reader`. docs/plugins.md shows them at work.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twintrack_core.testing.calibrators import CalibratorConformance, check_calibrator
    from twintrack_core.testing.kernels import KernelConformance, check_kernel
    from twintrack_core.testing.metrics import MetricConformance, check_metric
    from twintrack_core.testing.readers import ReaderConformance, check_reader

__all__ = [
    "CalibratorConformance",
    "KernelConformance",
    "MetricConformance",
    "ReaderConformance",
    "check_calibrator",
    "check_kernel",
    "check_metric",
    "check_reader",
]

_KITS = ("calibrators", "kernels", "metrics", "readers")


def __getattr__(name: str) -> Any:
    # A kit loads when it is first used: that of kernels needs NumPy only, wherever kernels are to be checked.
    if name in _KITS:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    kit = name.removesuffix("Conformance").removeprefix("check_").lower()
    return getattr(importlib.import_module(f"{__name__}.{kit}s"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_KITS})
