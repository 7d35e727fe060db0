"""Statistics on disk: a Zarr v3 group with the cells of all cases as four concatenated columns.

The columns ``region``, ``code``, ``pattern`` and ``count`` hold the canonical cells of one case after the other; case i
is at ``offset[i]:offset[i + 1]``. The root's attributes say which cases these are. Nothing in a store is trusted.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from twintrack_core.codes import N_CODES
from twintrack_core.errors import RequestError, StoreError, WorkError
from twintrack_core.histogram.cells import N_PATTERNS, Cells, place_keys
from twintrack_core.histogram.cohort import CaseStatistics, CohortStatistics
from twintrack_core.histogram.joint import JointHistogram
from twintrack_core.names import are_skipped, shown
from twintrack_core.storage import Folder, new_folder, open_folder, read_json
from twintrack_core.storage.folder import METADATA
from twintrack_core.storage.metadata import find_json, require_same
from twintrack_core.storage.retry import again
from twintrack_core.system import require_memory

FORMAT = "statistics"
VERSION = 1

_COLUMNS: dict[str, type[np.generic]] = {"region": np.uint8, "code": np.uint16, "pattern": np.uint8, "count": np.int64}
_CHUNK = 1 << 16
_MAX_CHUNK = 1 << 20  # what one file of a few bytes can make a reader allocate
_MAX_METADATA_BYTES = 1 << 26
_MAX_VOXELS = 2**58  # of a case, so that sums over cases stay within int64
_REMEDY = "Accumulate the cohort again, or restore the store."


def write(statistics: CohortStatistics, path: str | os.PathLike[str]) -> None:
    """Write statistics; see `CohortStatistics.save`."""
    folder = new_folder(path)
    try:
        begin(folder)
        finish(statistics, folder)
    except OSError as error:
        raise WorkError(
            f"Cannot write {folder}: {error.strerror or error}.", None, "Remove what is left of it and try again."
        ) from error


def begin(folder: Folder, run: Mapping[str, Any] | None = None) -> None:
    """Make a store that says that it is not whole, and which run makes it."""
    attributes = {"format": FORMAT, "version": VERSION} | ({} if run is None else {"run": dict(run)})
    metadata = {"attributes": {"twintrack": attributes}, "zarr_format": 3, "node_type": "group"}
    folder.write(METADATA, json.dumps(metadata, indent=2).encode())


def resume(folder: Folder, run: Mapping[str, Any]) -> CohortStatistics | None:
    """Return the statistics of a store if it is whole, None if the same run began it.

    Raises
    ------
    RequestError
        If another run began it. A whole store does not tell of its run: its rule and cases must be the same.
    StoreError
        If it is of another format or version, or damaged.
    """
    attributes = _check_format(folder)
    if attributes.get("complete") is not True:
        require_same(folder, "run", attributes.get("run"), dict(run))
        return None
    found = read(folder)
    require_same(folder, "roi", found.roi, run["roi"])
    require_same(folder, "cases", sorted([*found, *found.skipped]), sorted(run["cases"]))
    return found


def finish(statistics: CohortStatistics, folder: Folder) -> None:
    """Write all there is to a store that was begun, and make it whole."""
    import zarr
    from zarr.codecs import ZstdCodec

    histograms = [case.histogram for _, case in statistics.items()]
    folder_of_arrays = zarr.storage.MemoryStore()
    group = zarr.create_group(folder_of_arrays)
    for name, values in _columns_of(histograms):  # one at a time: all of them are as much again as the statistics
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
    group.attrs["twintrack"] = {
        "format": FORMAT,
        "version": VERSION,
        "roi": statistics.roi,
        "cases": [describe(name, case) for name, case in statistics.items()],
        "digest": statistics.digest(),
        "complete": True,
        **({"skipped": dict(statistics.skipped)} if statistics.skipped else {}),
    }
    content = _content(folder_of_arrays)
    whole = content.pop(METADATA)
    for key, data in content.items():
        folder.write(key, data)
    folder.write(METADATA, whole)  # last, since it is what makes the store whole


def _columns_of(histograms: Sequence[JointHistogram]) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Give the arrays of a store by name, each made when it is asked for."""
    yield "offset", np.cumsum([0, *(len(histogram.count) for histogram in histograms)], dtype=np.int64)
    for name, dtype in _COLUMNS.items():
        columns = [getattr(histogram, name) for histogram in histograms]
        yield name, np.concatenate([np.zeros(0, dtype=dtype), *columns])


def describe(name: str, case: CaseStatistics) -> dict[str, Any]:
    """Return what is written of a case besides its cells, as JSON."""
    return {
        "name": name,
        "raters": list(case.histogram.raters),
        "spacing_mm": list(case.spacing_mm),
        "voxels": {"whole": case.histogram.n_voxels, "roi": case.histogram.n_inside},
        "attributes": dict(case.attributes),
        "shape": None if case.shape is None else list(case.shape),
        "marks": None if case.marks is None else [list(pair) for pair in case.marks],
    }


def _content(store: Any) -> dict[str, bytes]:
    """What zarr-python wrote to a store in memory, by key."""
    return {key: data.to_bytes() for key, data in store._store_dict.items()}  # noqa: SLF001 - its public way is async


def read(path: str | os.PathLike[str] | Folder) -> CohortStatistics:
    """Read and check statistics; see `CohortStatistics.load`."""
    folder = open_folder(path)
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
        name, case = read_case(folder, entry, cells)
        if name in cases:
            raise _damaged(folder, f"it has two cases {name!r}")
        cases[name] = case
    skipped = attributes.get("skipped", {})
    if not are_skipped(skipped) or not set(skipped).isdisjoint(cases):
        raise _damaged(folder, f"its skipped cases are {skipped!r:.80}")
    return CohortStatistics(cases, roi, skipped=skipped)


def check_digest(statistics: CohortStatistics, path: str | os.PathLike[str] | Folder) -> bool:
    """Whether the cells that were read are those that were written; True for a store too old to tell."""
    return _check_format(open_folder(path)).get("digest") in (None, statistics.digest())


def _read_attributes(folder: Folder) -> Mapping[str, Any]:
    attributes = _check_format(folder)
    if attributes.get("complete") is not True:
        raise StoreError(
            f"{folder} is incomplete: writing it was cut off.",
            None,
            "Accumulate again with --resume, or remove it and start anew.",
        )
    return attributes


def _check_format(folder: Folder) -> Mapping[str, Any]:
    """Read the root's attributes and check that they are those of statistics of this version."""
    try:
        metadata = find_json(folder, limit=_MAX_METADATA_BYTES)
    except StoreError as error:
        raise _damaged(folder, error.what.removesuffix(".")) from error
    if metadata is None:
        there = folder.exists() if folder.local is None else folder.local.is_dir()
        what = "is not a Zarr v3 store" if there else "does not exist or is no folder"
        raise RequestError(f"{folder} {what}.", "Allowed: the folder of a statistics store.")
    try:
        attributes = metadata["attributes"]["twintrack"]
    except (KeyError, TypeError) as error:
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
    return attributes


def _read_array(folder: Folder, name: str, dtype: type[np.generic], size: int) -> npt.NDArray[Any]:
    """Read a column. Only the codecs it is written with are read: what a store names must not choose what is run."""
    column = folder / name
    kind = np.dtype(dtype)
    try:
        metadata = read_json(column)
        found, shape = metadata["data_type"], metadata["shape"]
        (chunk,) = metadata["chunk_grid"]["configuration"]["chunk_shape"]
        names = metadata["chunk_key_encoding"]
        separator = (names.get("configuration") or {}).get("separator", "/")
        plain = metadata["chunk_grid"]["name"] == "regular" and names["name"] == "default" and separator in ("/", ".")
        codecs = [codec["name"] for codec in metadata["codecs"]]
        endian = (metadata["codecs"][0].get("configuration") or {}).get("endian", "little")
    except (StoreError, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        why = error.what.removesuffix(".") if isinstance(error, StoreError) else f"its zarr.json lacks {error!s:.80}"
        raise _damaged(folder, f"{name} cannot be read: {why}") from error
    if found != kind.name or shape != [size]:
        raise _damaged(folder, f"{name} is {shown(found)} of shape {shown(shape)}, not {kind} ({size},)")
    if codecs != ["bytes", "zstd"] or endian != "little" or not plain:
        raise _damaged(folder, f"{name} has the codecs {codecs!s:.80}, not bytes (little) and zstd, in plain chunks")
    if type(chunk) is not int or not 0 < chunk <= _MAX_CHUNK:
        raise _damaged(folder, f"{name} has chunks of more than {_MAX_CHUNK} values, or of none")
    require_memory(f"{column}", size * kind.itemsize, StoreError, _REMEDY)
    try:
        values = np.empty(size, dtype=kind)
    except MemoryError as error:
        raise _damaged(folder, f"{name} has {size} values, which do not fit into memory") from error
    for start in range(0, size, chunk):
        key = f"c{separator}{start // chunk}"
        try:
            read = functools.partial(_read_chunk, column, key, kind, chunk)
            part = again(read, (ValueError, RuntimeError), local=column.local is not None)
        except (OSError, ValueError, RuntimeError) as error:
            why = (error.strerror if isinstance(error, OSError) else None) or f"{error!s:.200}"
            raise _damaged(folder, f"{name} cannot be read: {why.removesuffix('.')}") from error
        if part is None:
            raise _damaged(folder, f"{name} lacks its chunk {key}")
        values[start : start + chunk] = part[: size - start]
    return values


def _read_chunk(column: Folder, key: str, dtype: np.dtype[Any], length: int) -> npt.NDArray[Any] | None:
    from numcodecs import zstd

    size = length * dtype.itemsize
    data = column.read(key, limit=2 * size + 4096)
    if data is None:
        return None
    # It refuses what does not fit into a buffer, but not what leaves some of it empty. What fits may be made anew.
    zstd.decompress(data, np.empty(size, dtype=np.uint8))
    content = bytes(zstd.decompress(data))
    if len(content) != size:
        raise ValueError(f"a chunk holds {len(content)} bytes, not {size}")
    return np.frombuffer(content, dtype=dtype.newbyteorder("<"))


def read_case(folder: Folder, entry: Any, cells: Cells) -> tuple[str, CaseStatistics]:
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


def _damaged(folder: Folder, why: str) -> StoreError:
    return StoreError(f"{folder} is damaged: {why}.", "Allowed: statistics this package wrote.", _REMEDY)
