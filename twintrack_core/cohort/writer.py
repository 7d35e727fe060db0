"""Writing a cohort store, case by case; until it is finished it is visibly incomplete."""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from twintrack_core.codes import MAX_RATERS, SCORE_DTYPES
from twintrack_core.cohort.case import Case, Geometry
from twintrack_core.cohort.chunks import ChunkedArray, Scratch, open_array, write_atomically
from twintrack_core.cohort.store import (
    DIMENSIONS,
    FORMAT,
    PART_DTYPES,
    VERSION,
    are_raters,
    is_complete,
    read_attributes,
    twintrack_attributes,
)
from twintrack_core.errors import GeometryError, RequestError, StoreError
from twintrack_core.names import check_case_name, some
from twintrack_core.paths import require_new

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
        Folder to make.
    names
        Cases to expect.
    source
        What is recorded of the store as a whole.
    resume
        Continue a store of the same cases and source that was cut off.

    Raises
    ------
    RequestError
        If ``path`` exists, or if it cannot be resumed because it is another run's.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        names: Sequence[str],
        *,
        source: Mapping[str, Any] | None = None,
        resume: bool = False,
    ) -> None:
        self.path = Path(path)
        self.names = tuple(check_case_name(name, str(path)) for name in names)
        if not self.names or len(set(self.names)) != len(self.names):
            raise RequestError(
                f"{path}: {len(self.names)} cases are no cohort.", "Allowed: one or more, named uniquely."
            )
        attributes = {"format": FORMAT, "version": VERSION, "cases": list(self.names), "source": dict(source or {})}
        self._attributes = json.loads(_json(attributes, self.path))  # as a resumed run will find them
        if resume and (self.path / "zarr.json").is_file():
            self._check_same_run()
        elif self.path.exists() and not (resume and self.path.is_dir() and self._leftovers() == {*self.path.iterdir()}):
            require_new(path)
        else:
            _write_group(self.path, {**self._attributes, "complete": False})
        for leftover in self._leftovers():
            leftover.unlink()

    def _leftovers(self) -> set[Path]:
        """What a run leaves that is killed while it writes the root's metadata."""
        return {*self.path.glob("zarr.json.*.partial")}

    def _check_same_run(self) -> None:
        found = read_attributes(self.path, FORMAT, VERSION)
        for key, wanted in self._attributes.items():
            if found.get(key) != wanted:
                raise RequestError(
                    f"{self.path} was begun by another run: its {key} is {found.get(key)!r:.120}, not {wanted!r:.120}.",
                    "Allowed: resuming a run with the same input and the same map.",
                    "Choose another output, or remove this one.",
                )

    @property
    def finished(self) -> bool:
        """Whether the whole store is there."""
        return is_complete(self.path)

    def has_case(self, name: str) -> bool:
        """Whether a case is there and complete."""
        return is_complete(self.path / name)

    def begin_case(
        self,
        name: str,
        *,
        raters: Sequence[str],
        geometry: Geometry,
        attributes: Mapping[str, Any],
        source: Mapping[str, Any],
    ) -> Path:
        """Make the case's group, removing what an earlier run left of it. Returns its folder."""
        if name not in self.names:
            raise RequestError(f"{self.path} does not expect a case {name!r}.", f"Allowed: {some(self.names)}.")
        folder = self.path / name
        if folder.exists():
            shutil.rmtree(folder)
        _write_group(
            folder,
            {
                "raters": list(raters),
                "spacing_mm": list(map(float, geometry.spacing_mm)),
                "geometry": {
                    "origin": list(map(float, geometry.origin)),
                    "direction": list(map(float, geometry.direction)),
                },
                "attributes": dict(attributes),
                "source": dict(source),
                "complete": False,
            },
        )
        return folder

    def end_case(self, name: str) -> None:
        """Mark a case complete."""
        _mark_complete(self.path / name)

    def write_case(self, case: Case) -> None:
        """Write a whole case. Chunks that hold nothing but zeros stay unwritten.

        Raises
        ------
        GeometryError
            If its arrays differ in shape.
        RequestError
            If it has other dtypes than `Case` says, more than 8 raters, raters of one name, votes without raters or
            raters without votes, or attributes that JSON cannot hold.
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

    def finish(self) -> None:
        """Mark the store complete.

        Raises
        ------
        StoreError
            If a case is missing.
        """
        missing = [name for name in self.names if not self.has_case(name)]
        if missing:
            raise StoreError(f"{self.path}: {len(missing)} cases are not complete: {some(missing)}.")
        _mark_complete(self.path)


def create_array(
    folder: Path, shape: Sequence[int], dtype: Any, *, chunks: Sequence[int] | None = None, fill: float = 0
) -> ChunkedArray:
    """Make an empty array of a case, (z, y, x) or (member, z, y, x), with the store's codec and chunks."""
    spatial = tuple(chunks or default_chunks(tuple(shape)[-3:]))
    metadata = json.loads(_template(len(shape), np.dtype(dtype).name, fill + 0.0))  # -0.0 would find what 0.0 made
    metadata["shape"] = list(shape)
    metadata["chunk_grid"]["configuration"]["chunk_shape"] = [1] * (len(shape) - 3) + list(spatial)
    folder.mkdir(parents=True)
    write_atomically(str(folder / "zarr.json"), json.dumps(metadata, indent=2).encode())
    return open_array(folder)


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


def _write_array(folder: Path, values: npt.NDArray[Any]) -> None:
    array = create_array(folder, values.shape, values.dtype)
    scratch = Scratch()
    for index in np.ndindex(array.grid):
        chunk = values[array.box(index)]
        if chunk.any():
            array.write_chunk(index, chunk, scratch)


def _write_group(folder: Path, attributes: Mapping[str, Any]) -> None:
    metadata = {"attributes": {"twintrack": dict(attributes)}, "node_type": "group", "zarr_format": 3}
    write_atomically(str(folder / "zarr.json"), _json(metadata, folder).encode())


def _json(content: Mapping[str, Any], where: Path) -> str:
    try:
        return json.dumps(content, indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RequestError(
            f"{where}: its attributes cannot be written: {error}.",
            "Allowed: text, finite numbers, true, false, null, and lists and objects of these.",
        ) from error


def _mark_complete(folder: Path) -> None:
    _write_group(folder, {**twintrack_attributes(folder), "complete": True})


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
