"""Cohorts on disk: cases, the Zarr store, readers and writers of images, regions of interest.

The names below are what a reader of another distribution is made of. They load when they are first used, so that a
module of this package can be imported without the others.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twintrack_core.cohort.case import Case, Geometry, pack_votes
    from twintrack_core.cohort.images import ImageInfo, check_geometry, read_info, read_volume, write_volume
    from twintrack_core.cohort.masks import read_rater, read_roi, read_vessels
    from twintrack_core.cohort.probabilities import read_probabilities
    from twintrack_core.cohort.readers import Annotations, MissingRater, Reader
    from twintrack_core.names import check_case_name, matching

__all__ = [
    "Annotations",
    "Case",
    "Geometry",
    "ImageInfo",
    "MissingRater",
    "Reader",
    "check_case_name",
    "check_geometry",
    "matching",
    "pack_votes",
    "read_info",
    "read_probabilities",
    "read_rater",
    "read_roi",
    "read_vessels",
    "read_volume",
    "write_volume",
]

_MODULES = {
    "Annotations": "cohort.readers",
    "Case": "cohort.case",
    "Geometry": "cohort.case",
    "ImageInfo": "cohort.images",
    "MissingRater": "cohort.readers",
    "Reader": "cohort.readers",
    "check_case_name": "names",
    "check_geometry": "cohort.images",
    "matching": "names",
    "pack_votes": "cohort.case",
    "read_info": "cohort.images",
    "read_probabilities": "cohort.probabilities",
    "read_rater": "cohort.masks",
    "read_roi": "cohort.masks",
    "read_vessels": "cohort.masks",
    "read_volume": "cohort.images",
    "write_volume": "cohort.images",
}


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"twintrack_core.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
