"""Conformance kits for those who write kernels, calibrators, metrics and readers.

Each kit is a class of tests that pytest collects from a class derived from it, and a function that makes the same
checks in any program: `KernelConformance` and `check_kernel`, `CalibratorConformance` and `check_calibrator`,
`MetricConformance` and `check_metric`, `ReaderConformance` and `check_reader`. docs/plugins.md shows them at work.
"""

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
