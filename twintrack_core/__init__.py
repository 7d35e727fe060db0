"""Post-hoc multi-rater calibration of segmentation probabilities, at any scale.

Public names load when they are first used, so that ``import twintrack_core`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from twintrack_core.array_types import ApplyMap, register_array_type

if TYPE_CHECKING:
    from twintrack_core.calibrators import fit
    from twintrack_core.cohort.store import Cohort, open_cohort
    from twintrack_core.engine.accumulate import accumulate
    from twintrack_core.engine.apply import apply
    from twintrack_core.engine.evaluate import evaluate
    from twintrack_core.engine.export import calibrate, export
    from twintrack_core.engine.importing import import_cases
    from twintrack_core.errors import TwinTrackError
    from twintrack_core.histogram import CohortStatistics, JointHistogram
    from twintrack_core.maps import CalibrationMap, load_map
    from twintrack_core.metrics import Evaluation
    from twintrack_core.report.report import html_report
    from twintrack_core.validation import Comparison, compare

__all__ = [
    "CalibrationMap",
    "Cohort",
    "CohortStatistics",
    "Comparison",
    "Evaluation",
    "JointHistogram",
    "TwinTrackError",
    "accumulate",
    "apply",
    "calibrate",
    "compare",
    "evaluate",
    "export",
    "fit",
    "html_report",
    "import_cases",
    "load_map",
    "open_cohort",
]

_MODULES = {
    "CalibrationMap": "maps",
    "Cohort": "cohort.store",
    "CohortStatistics": "histogram",
    "Comparison": "validation",
    "Evaluation": "metrics",
    "JointHistogram": "histogram",
    "TwinTrackError": "errors",
    "accumulate": "engine.accumulate",
    "apply": "engine.apply",
    "calibrate": "engine.export",
    "compare": "validation",
    "evaluate": "engine.evaluate",
    "export": "engine.export",
    "fit": "calibrators",
    "import_cases": "engine.importing",
    "load_map": "maps",
    "open_cohort": "cohort.store",
    "html_report": "report.report",
}


def _later(function: str) -> ApplyMap:
    """Return a function of `engine.arrays` that imports its module when it is called."""

    def apply_map(calibration: CalibrationMap, scores: Any, /, **options: Any) -> Any:
        return getattr(importlib.import_module(f"{__name__}.engine.arrays"), function)(calibration, scores, **options)

    return apply_map


register_array_type("cupy", _later("apply_to_cupy"))
register_array_type("dask", _later("apply_to_dask"))
register_array_type("torch", _later("apply_to_torch"))
register_array_type("zarr", _later("apply_to_zarr"))


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
