"""Writing a cohort store, case by case; until it is finished it is visibly incomplete."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from twintrack_core.codes import MAX_RATERS, SCORE_DTYPES
from twintrack_core.cohort.array_metadata import describe_array
from twintrack_core.cohort.case import Case, Geometry
from twintrack_core.cohort.chunks import ChunkedArray
from twintrack_core.cohort.scratch import Scratch
from twintrack_core.cohort.store import (
    DIMENSIONS,
    FORMAT,
    PART_DTYPES,
    VERSION,
    are_raters,
    expected_cases,
    is_complete,
    read_attributes,
    twintrack_attributes,
)
from twintrack_core.errors import GeometryError, RequestError, StoreError
from twintrack_core.names import check_case_name, some
from twintrack_core.storage import Folder, new_folder, open_folder
from twintrack_core.storage.folder import LOCK, METADATA, is_begun
from twintrack_core.storage.metadata import OTHER_OUTPUT, require_same

_TARGET_VOXELS = 1 << 18  # a chunk of scores and votes, and a table's hot lines, stay in a core's L2 cache


def default_chunks(shape: Sequence[int]) -> tuple[int, ...]:
    """Chunk shape for a volume: near-cubic, near-equal pieces, so that chunks at the border have little padding."""
    pieces = [1] * len(shape)
    chunk = list(shape)
    while np.prod(chunk, dtype=np.int64) > _TARGET_VOXELS:
        axis = int(np.argmax(chunk))
        pieces[axis] += 1
        chunk[axis] = -(-shape[axis] // pieces[axis])
    return tuple(chunk)


class CohortWriter:
    """Writes a cohort case by case; until `finish` the store is visibly incomplete.

    Parameters
    ----------
    path
        Folder to make, or the URL of one. It may hold the lock of this run, and nothing else.
    names
        Cases to expect.
    source
        What is recorded of the store as a whole.
    resume
        Continue a store of the same cases, source and run that was cut off. What is there stays, since workers of a
        run that was killed may be writing yet: the same bytes.
    run
        What else tells one run from another, as JSON: by name, the settings that decide about the bytes. It is
        recorded until the store is finished.

    Raises
    ------
    RequestError
        If ``path`` exists, or if it cannot be resumed because it is another run's.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | Folder,
        names: Sequence[str],
        *,
        source: Mapping[str, Any] | None = None,
        resume: bool = False,
        run: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = open_folder(path)
        self.names = tuple(check_case_name(name, str(path)) for name in names)
        if not self.names or len(set(self.names)) != len(self.names):
            raise RequestError(
                f"{path}: {len(self.names)} cases are no cohort.", "Allowed: one or more, named uniquely."
            )
        attributes: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "cases": list(self.names),
            "source": dict(source or {}),
        }
        if run is not None:
            attributes["run"] = dict(run)
        self._attributes = json.loads(_json(attributes, self.folder))  # as a resumed run will find them
        if resume and self.folder.has(METADATA):
            self._check_same_run()
        elif self.folder.exists() and not (self._is_locked() or (resume and is_begun(self.folder))):
            new_folder(self.folder)
        else:
            _write_group(self.folder, {**self._attributes, "complete": False})
        self.folder.sweep(deep=False)

    def _is_locked(self) -> bool:
        """Whether nothing is there but the lock of this run."""
        return self.folder.names() == frozenset({LOCK})

    def _check_same_run(self) -> None:
        found = read_attributes(self.folder, FORMAT, VERSION)
        wanted = dict(self._attributes)
        if found.get("complete") is True:
            wanted.pop("run", None)  # a finished store does not tell of which run it is any more
            left_out = expected_cases(self.folder).skipped
            wanted["cases"] = [name for name in self.names if name not in left_out]
        for key, value in wanted.items():
            require_same(self.folder, key, found.get(key), value)

    @property
    def finished(self) -> bool:
        """Whether the whole store is there."""
        return is_complete(self.folder)

    def has_case(self, name: str) -> bool:
        """Whether a case is there and complete."""
        return is_complete(self.folder / name)

    def begin_case(
        self,
        name: str,
        *,
        raters: Sequence[str],
        geometry: Geometry,
        attributes: Mapping[str, Any],
        source: Mapping[str, Any],
    ) -> Folder:
        """Make the case's group unless it is there, and return its folder.

        Raises
        ------
        RequestError
            If the store expects no such case, or the one that is there is described otherwise.
        """
        if name not in self.names:
            raise RequestError(f"{self.folder} does not expect a case {name!r}.", f"Allowed: {some(self.names)}.")
        folder = self.folder / name
        described = {
            "raters": list(raters),
            "spacing_mm": list(map(float, geometry.spacing_mm)),
            "geometry": {
                "origin": list(map(float, geometry.origin)),
                "direction": list(map(float, geometry.direction)),
            },
            "attributes": dict(attributes),
            "source": dict(source),
        }
        content = _group({**described, "complete": False}, folder)
        if not folder.create(METADATA, content):
            found = twintrack_attributes(folder)
            for key, wanted in json.loads(content)["attributes"]["twintrack"].items():
                if key != "complete":
                    require_same(folder, key, found.get(key), wanted)
        return folder

    def end_case(self, name: str) -> None:
        """Mark a case complete, and remove what writers of it left that were killed."""
        folder = self.folder / name
        folder.sweep()
        _mark_complete(folder)

    def write_case(self, case: Case) -> None:
        """Write a whole case. Chunks that hold nothing but zeros stay unwritten; those that are there are replaced.

        Raises
        ------
        GeometryError
            If its arrays differ in shape.
        RequestError
            If it has other dtypes than `Case` says, more than 8 raters, raters of one name, votes without raters or
            raters without votes, or attributes that JSON cannot hold; or if another run began it otherwise.
        """
        _check_case(case)
        folder = self.begin_case(
            case.name, raters=case.raters, geometry=case.geometry, attributes=case.attributes, source=case.source
        )
        arrays = {"probability": case.probability, "votes": case.votes, "roi": case.roi, "vessels": case.vessels}
        # A thread of its own: in the main thread Blosc would use several, and the bytes would depend on their race.
        with ThreadPoolExecutor(1) as pool:
            for name, array in arrays.items():
                if array is not None:
                    pool.submit(_write_array, folder / name, array).result()
        self.end_case(case.name)

    def finish(self, skipped: Mapping[str, str] | None = None) -> None:
        """Mark the store complete.

        Parameters
        ----------
        skipped
            Cases that it is complete without, and why; what is there of them is removed.

        Raises
        ------
        StoreError
            If a case is missing.
        """
        left_out = skipped or {}
        missing = [name for name in self.names if name not in left_out and not self.has_case(name)]
        if missing:
            raise StoreError(f"{self.folder}: {len(missing)} cases are not complete: {some(missing)}.")
        for name in left_out:
            (self.folder / name).remove()
        changed = {"skipped": dict(left_out)} if left_out else {}
        _mark_complete(self.folder, cases=[name for name in self.names if name not in left_out], **changed)


def create_array(
    place: str | os.PathLike[str] | Folder,
    shape: Sequence[int],
    dtype: Any,
    *,
    chunks: Sequence[int] | None = None,
    fill: float = 0,
) -> ChunkedArray:
    """Make an array of a case, (z, y, x) or (member, z, y, x), with the store's codec and chunks.

    It is empty, unless an equal one is there.

    Raises
    ------
    RequestError
        If another one is there.
    """
    folder = open_folder(place)
    spatial = tuple(chunks or default_chunks(tuple(shape)[-3:]))
    metadata = json.loads(_template(len(shape), np.dtype(dtype).name, fill + 0.0))  # -0.0 would find what 0.0 made
    metadata["shape"] = list(shape)
    metadata["chunk_grid"]["configuration"]["chunk_shape"] = [1] * (len(shape) - 3) + list(spatial)
    content = json.dumps(metadata, indent=2).encode()
    if not folder.create(METADATA, content) and folder.read(METADATA) != content:
        raise RequestError(f"{folder} was begun by another run, as another array.", None, OTHER_OUTPUT)
    return describe_array(folder, metadata)


@functools.cache  # zarr-python takes milliseconds, and a store has two or three kinds of arrays
def _template(n_axes: int, dtype: str, fill: float) -> str:
    """Metadata of an array of one voxel, as zarr-python writes them."""
    import zarr
    from zarr.codecs import BloscCodec

    array = zarr.create_array(
        store={},
        shape=(1,) * n_axes,
        chunks=(1,) * n_axes,
        dtype=dtype,
        fill_value=bool(fill) if dtype == "bool" else fill,
        compressors=BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle", typesize=np.dtype(dtype).itemsize),
        dimension_names=DIMENSIONS[n_axes],
    )
    return json.dumps(array.metadata.to_dict())


def _write_array(folder: Folder, values: npt.NDArray[Any]) -> None:
    array = create_array(folder, values.shape, values.dtype)
    scratch = Scratch()
    for index in np.ndindex(array.grid):
        chunk = values[array.box(index)]
        if chunk.any():
            array.write_chunk(index, chunk, scratch)
    scratch.finish()


def _write_group(folder: Folder, attributes: Mapping[str, Any]) -> None:
    folder.write(METADATA, _group(attributes, folder))


def _group(attributes: Mapping[str, Any], where: Folder) -> bytes:
    metadata = {"attributes": {"twintrack": dict(attributes)}, "node_type": "group", "zarr_format": 3}
    return _json(metadata, where).encode()


def _json(content: Mapping[str, Any], where: Folder) -> str:
    try:
        return json.dumps(content, indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RequestError(
            f"{where}: its attributes cannot be written: {error}.",
            "Allowed: text, finite numbers, true, false, null, and lists and objects of these.",
        ) from error


def _mark_complete(folder: Folder, **changed: Any) -> None:
    attributes = twintrack_attributes(folder)
    attributes.pop("run", None)  # how it was made is no matter once it is whole
    _write_group(folder, {**attributes, **changed, "complete": True})


def _check_case(case: Case) -> None:
    shape = case.probability.shape[-3:]
    if case.probability.ndim not in DIMENSIONS or 0 in case.probability.shape:
        raise GeometryError(
            f"{case.name}: probability has shape {case.probability.shape}.", "Allowed: (z, y, x) or (member, z, y, x)."
        )
    if case.probability.dtype not in SCORE_DTYPES:
        raise RequestError(
            f"{case.name}: probability is {case.probability.dtype}.", "Allowed: float16, float32 or uint8."
        )
    for name, dtype in PART_DTYPES.items():
        part = getattr(case, name)
        if part is not None and part.shape != shape:
            raise GeometryError(f"{case.name}: {name} has shape {part.shape}.", f"Allowed: {shape}, as probability.")
        if part is not None and part.dtype != dtype:
            raise RequestError(f"{case.name}: {name} is {part.dtype}.", f"Allowed: {dtype}.")
    if not are_raters(list(case.raters)) or (case.votes is None) != (not case.raters):
        raise RequestError(
            f"{case.name}: its raters are {case.raters!r:.120}, with {'no ' if case.votes is None else ''}votes.",
            f"Allowed: 1 to {MAX_RATERS} different names with votes, or neither.",
        )
