"""Statistics on disk: a Zarr v3 group with the cells of all cases as four concatenated columns.

The columns ``region``, ``code``, ``pattern`` and ``count`` hold the canonical cells of one case after the other; case i
is at ``offset[i]:offset[i + 1]``. The root's attributes say which cases these are. Nothing in a store is trusted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from twintrack_core.codes import N_CODES
from twintrack_core.errors import RequestError, StoreError, WorkError
from twintrack_core.histogram.cells import N_PATTERNS, Cells, place_keys
from twintrack_core.histogram.cohort import CaseStatistics, CohortStatistics
from twintrack_core.histogram.joint import JointHistogram
from twintrack_core.paths import require_new

FORMAT = "statistics"
VERSION = 1

_COLUMNS: dict[str, type[np.generic]] = {"region": np.uint8, "code": np.uint16, "pattern": np.uint8, "count": np.int64}
_CHUNK = 1 << 16
_MAX_CHUNK = 1 << 20  # what one file of a few bytes can make a reader allocate
_MAX_METADATA_BYTES = 1 << 28
_MAX_VOXELS = 2**58  # of a case, so that sums over cases stay within int64
_REMEDY = "Accumulate the cohort again, or restore the store."


def write(statistics: CohortStatistics, path: str | os.PathLike[str]) -> None:
    """Write statistics; see `CohortStatistics.save`."""
    folder = require_new(path)
    try:
        _write(statistics, folder)
    except OSError as error:
        raise WorkError(
            f"Cannot write {folder}: {error.strerror or error}.", None, "Remove what is left of it and try again."
        ) from error


def _write(statistics: CohortStatistics, folder: Path) -> None:
    import zarr
    from zarr.codecs import ZstdCodec

    histograms = [case.histogram for _, case in statistics.items()]
    sizes = [len(histogram.count) for histogram in histograms]
    arrays: dict[str, npt.NDArray[Any]] = {"offset": np.cumsum([0, *sizes], dtype=np.int64)}
    for name, dtype in _COLUMNS.items():
        columns = [getattr(histogram, name) for histogram in histograms]
        arrays[name] = np.concatenate([np.zeros(0, dtype=dtype), *columns])
    group = zarr.create_group(str(folder), attributes={"twintrack": {"format": FORMAT, "version": VERSION}})
    for name, values in arrays.items():
        array = group.create_array(
            name,
            shape=values.shape,
            dtype=values.dtype,
            chunks=(min(max(len(values), 1), _CHUNK),),
            compressors=ZstdCodec(level=3, checksum=True),  # unlike Blosc's, its bytes do not depend on threads
            fill_value=0,
            dimension_names=("boundary" if name == "offset" else "cell",),
            config={"write_empty_chunks": True},  # so that a missing chunk is damage, not zeros
        )
        array[:] = values
    # Last, since it is what makes the store whole.
    group.attrs["twintrack"] = {
        "format": FORMAT,
        "version": VERSION,
        "roi": statistics.roi,
        "cases": [
            {
                "name": name,
                "raters": list(case.histogram.raters),
                "spacing_mm": list(case.spacing_mm),
                "voxels": {"whole": case.histogram.n_voxels, "roi": case.histogram.n_inside},
                "attributes": dict(case.attributes),
                "shape": None if case.shape is None else list(case.shape),
                "marks": None if case.marks is None else [list(pair) for pair in case.marks],
            }
            for name, case in statistics.items()
        ],
        "complete": True,
    }


def read(path: str | os.PathLike[str]) -> CohortStatistics:
    """Read and check statistics; see `CohortStatistics.load`."""
    folder = Path(path)
    attributes = _read_attributes(folder)
    roi, entries = attributes.get("roi"), attributes.get("cases")
    if not isinstance(roi, str) or not roi or not isinstance(entries, list):
        raise _damaged(folder, "its roi is not a rule, or its cases are not a list")
    offset = _read_array(folder, "offset", np.int64, len(entries) + 1)
    limit = len(entries) * 2 * N_CODES * N_PATTERNS
    if offset[0] != 0 or (np.diff(offset) < 0).any() or offset[-1] > limit:
        raise _damaged(folder, "offset does not ascend from 0, or is too large")
    region, code, pattern, count = (
        _read_array(folder, name, dtype, int(offset[-1])) for name, dtype in _COLUMNS.items()
    )
    cases: dict[str, CaseStatistics] = {}
    for entry, start, stop in zip(entries, offset[:-1], offset[1:], strict=True):
        cells = region[start:stop], code[start:stop], pattern[start:stop], count[start:stop]
        name, case = _read_case(folder, entry, cells)
        if name in cases:
            raise _damaged(folder, f"it has two cases {name!r}")
        cases[name] = case
    return CohortStatistics(cases, roi)


def _read_attributes(folder: Path) -> Mapping[str, Any]:
    metadata = folder / "zarr.json"
    if not folder.is_dir():
        raise RequestError(f"{folder} does not exist or is no folder.", "Allowed: the folder of a statistics store.")
    if not metadata.is_file():
        raise RequestError(f"{folder} is not a Zarr v3 store.", "Allowed: the folder of a statistics store.")
    if metadata.stat().st_size > _MAX_METADATA_BYTES:
        raise _damaged(folder, f"zarr.json is larger than {_MAX_METADATA_BYTES} bytes")
    try:
        attributes = json.loads(metadata.read_bytes())["attributes"]["twintrack"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(folder, f"zarr.json has no twintrack attributes ({type(error).__name__})") from error
    if not isinstance(attributes, dict):
        raise _damaged(folder, "the twintrack attributes are not an object")
    if attributes.get("format") != FORMAT:
        raise StoreError(
            f"{folder} holds the format {attributes.get('format')!r:.40}.",
            f"Allowed: {FORMAT!r}.",
            "Make statistics of a cohort with twintrack accumulate.",
        )
    version = attributes.get("version")
    if version != VERSION or isinstance(version, bool):
        raise StoreError(
            f"{folder} has version {version!r:.40} of the statistics format.",
            f"Allowed: version {VERSION}.",
            "Read it with the version of twintrack-core that wrote it.",
        )
    if attributes.get("complete") is not True:
        raise StoreError(
            f"{folder} is incomplete: writing it was cut off.", None, "Remove it and accumulate the cohort again."
        )
    return attributes


def _read_array(folder: Path, name: str, dtype: type[np.generic], size: int) -> npt.NDArray[Any]:
    import zarr

    try:
        array = zarr.open_array(str(folder / name), mode="r", zarr_format=3)
        if array.dtype != dtype or array.shape != (size,):
            raise _damaged(folder, f"{name} is {array.dtype} of shape {array.shape}, not {np.dtype(dtype)} ({size},)")
        if array.shards is not None or array.chunks[0] > _MAX_CHUNK:
            raise _damaged(folder, f"{name} has shards, or chunks of more than {_MAX_CHUNK} values")
        if array.nchunks_initialized != array.nchunks:
            raise _damaged(folder, f"{name} lacks {array.nchunks - array.nchunks_initialized} of its chunks")
        return np.asarray(array[:])
    except StoreError:
        raise
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, RecursionError) as error:
        raise _damaged(folder, f"{name} cannot be read: {error!s:.200}") from error


def _read_case(folder: Path, entry: Any, cells: Cells) -> tuple[str, CaseStatistics]:
    """Return the name and statistics of one entry of ``cases``."""
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or not entry["name"]:
        raise _damaged(folder, f"a case is described as {entry!r:.80}")
    name = entry["name"]
    where = f"case {name!r:.80}"
    region, code, pattern, count = cells
    if (np.diff(place_keys(region, code, pattern)) <= 0).any() or (count <= 0).any():
        raise _damaged(folder, f"{where}: its cells are not sorted, occur twice or are empty")
    if count.sum(dtype=np.float64) > _MAX_VOXELS:
        raise _damaged(folder, f"{where}: it has more than {_MAX_VOXELS} voxels")
    raters, spacing, attributes = (entry.get(key) for key in ("raters", "spacing_mm", "attributes"))
    lengths = isinstance(spacing, list) and all(type(length) in (int, float) for length in spacing)
    if not isinstance(raters, list) or not isinstance(spacing, list) or not lengths or not isinstance(attributes, dict):
        raise _damaged(folder, f"{where}: raters and spacing_mm must be lists, attributes an object")
    shape: Any = entry.get("shape")  # which older statistics lack, as they do marks
    marks: Any = entry.get("marks")
    try:
        histogram = JointHistogram.from_cells(region, code, pattern, count, raters)
        case = CaseStatistics(histogram, tuple(spacing), attributes, shape, marks)  # it checks what is in them
    except (RequestError, OverflowError) as error:
        reason = error.what if isinstance(error, RequestError) else str(error)
        raise _damaged(folder, f"{where}: {reason.rstrip('.')}") from error
    if entry.get("voxels") != {"whole": histogram.n_voxels, "roi": histogram.n_inside}:
        raise _damaged(folder, f"{where}: its cells do not hold the {entry.get('voxels')!r:.80} voxels it should have")
    return name, case


def _damaged(folder: Path, why: str) -> StoreError:
    return StoreError(f"{folder} is damaged: {why}.", "Allowed: statistics this package wrote.", _REMEDY)
