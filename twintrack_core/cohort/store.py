"""The cohort store: open one, read its cases, write one. Zarr v3, one group per case, complete or refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from twintrack_core.codes import MAX_RATERS, SCORE_DTYPES
from twintrack_core.cohort.case import Case, Geometry, check_case_name
from twintrack_core.cohort.chunks import ChunkedArray, Scratch, open_array, read_json, write_atomically
from twintrack_core.errors import GeometryError, RequestError, StoreError
from twintrack_core.names import matching, some

FORMAT = "cohort"
VERSION = 1

_TARGET_VOXELS = 1 << 18  # a chunk of scores and votes, and a table's hot lines, stay in a core's L2 cache
_DIMENSIONS = {3: ("z", "y", "x"), 4: ("member", "z", "y", "x")}
_PART_DTYPES = {"votes": "uint8", "roi": "bool", "vessels": "uint8"}


@dataclass(frozen=True)
class StoredCase:
    """A case of a store: its description, and its arrays as `ChunkedArray`.

    Attributes
    ----------
    probability
        (z, y, x) or (member, z, y, x).
    parts
        The optional (z, y, x) arrays there are: "votes", "roi", "vessels".
    """

    name: str
    path: str
    raters: tuple[str, ...]
    geometry: Geometry
    attributes: Mapping[str, Any]
    source: Mapping[str, Any]
    probability: ChunkedArray
    parts: Mapping[str, ChunkedArray]

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along (z, y, x)."""
        return self.probability.shape[-3:]

    @property
    def members(self) -> int:
        """Members of the ensemble."""
        return self.probability.shape[0] if len(self.probability.shape) == 4 else 1

    def read(self) -> Case:
        """Read the whole case into memory."""
        arrays = {name: array.read_all() for name, array in self.parts.items()}
        return Case(
            name=self.name,
            probability=self.probability.read_all(),
            raters=self.raters,
            votes=arrays.get("votes"),
            roi=arrays.get("roi"),
            vessels=arrays.get("vessels"),
            geometry=self.geometry,
            attributes=self.attributes,
            source=self.source,
        )


@dataclass(frozen=True)
class Cohort:
    """A complete cohort store, or some of its cases. Cases are opened when asked for.

    Attributes
    ----------
    path
        Folder of the store.
    names
        Cases, in the store's order.
    source
        Where the store as a whole comes from, for example the map it was calibrated with.
    """

    path: Path
    names: tuple[str, ...]
    source: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[StoredCase]:
        return (self[name] for name in self.names)

    def __getitem__(self, name: str) -> StoredCase:
        """Open one case.

        Raises
        ------
        RequestError
            If the cohort has no case of that name.
        StoreError
            If the case was cut off while being written, or its metadata make no sense.
        """
        if name not in self.names:
            raise RequestError(f"{self.path} has no case {name!r}.", f"Allowed: {some(self.names)}.")
        return _open_case(self.path / name, name)

    def select(self, patterns: Sequence[str]) -> Cohort:
        """Return the cohort of the cases that match one of the shell ``patterns``; all of them without a pattern.

        Raises
        ------
        RequestError
            If a pattern matches no case.
        """
        return Cohort(self.path, matching(self.names, patterns, self.path), self.source)


def open_cohort(path: str | os.PathLike[str]) -> Cohort:
    """Open a cohort store.

    Raises
    ------
    RequestError
        If there is no store at ``path``.
    StoreError
        If the store is of another format or version, or was cut off while being written.
    """
    folder = Path(path)
    attributes = read_attributes(folder, FORMAT, VERSION)
    require_complete(attributes, str(folder))
    names = attributes.get("cases")
    if not isinstance(names, list) or not names or len(set(map(str, names))) != len(names):
        raise StoreError(f"{folder}: its list of cases is {names!r:.80}.", "Allowed: one or more different names.")
    source = attributes.get("source", {})
    if not isinstance(source, dict):
        raise StoreError(f"{folder}: its source is {source!r:.80}.", "Allowed: a JSON object.")
    return Cohort(folder, tuple(check_case_name(name, str(folder)) for name in names), source)


def read_attributes(folder: Path, kind: str, version: int) -> dict[str, Any]:
    """Read the ``twintrack`` attributes of a store's root and check its format and version."""
    if not folder.exists():
        raise RequestError(f"{folder} does not exist.", f"Allowed: the folder of a {kind} store.")
    if not (folder / "zarr.json").is_file():
        raise RequestError(f"{folder} is not a Zarr v3 store.", f"Allowed: the folder of a {kind} store.")
    attributes = _twintrack_attributes(folder)
    if attributes.get("format") != kind:
        raise StoreError(f"{folder} holds the format {attributes.get('format')!r}.", f"Allowed: {kind!r}.")
    if attributes.get("version") != version:
        raise StoreError(
            f"{folder} has version {attributes.get('version')!r} of the {kind} format.",
            f"Allowed: version {version}.",
            "Read it with the version of twintrack-core that wrote it.",
        )
    return attributes


def require_complete(attributes: Mapping[str, Any], where: str) -> None:
    """Refuse a store or case that was cut off while being written."""
    if attributes.get("complete") is not True:
        raise StoreError(
            f"{where} is incomplete: writing it was cut off.",
            None,
            "Resume with --resume where the command has it; else remove it and run the command again.",
        )


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
            raise RequestError(
                f"{path} exists already.", "Allowed: a path that does not exist.", "Choose another, or remove it."
            )
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
        return _twintrack_attributes(self.path).get("complete") is True

    def has_case(self, name: str) -> bool:
        """Whether a case is there and complete."""
        folder = self.path / name
        return (folder / "zarr.json").is_file() and _twintrack_attributes(folder).get("complete") is True

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
    import zarr
    from zarr.codecs import BloscCodec

    spatial = tuple(chunks or default_chunks(tuple(shape)[-3:]))
    name = np.dtype(dtype).name
    zarr.create_array(
        store=str(folder),
        shape=tuple(shape),
        chunks=(1,) * (len(shape) - 3) + spatial,
        dtype=name,
        fill_value=bool(fill) if name == "bool" else fill,
        compressors=BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle", typesize=np.dtype(dtype).itemsize),
        dimension_names=_DIMENSIONS[len(shape)],
    )
    return open_array(folder)


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
    _write_group(folder, {**_twintrack_attributes(folder), "complete": True})


def _twintrack_attributes(folder: Path) -> dict[str, Any]:
    attributes = read_json(folder / "zarr.json").get("attributes")
    found = attributes.get("twintrack") if isinstance(attributes, dict) else None
    if not isinstance(found, dict):
        raise StoreError(f"{folder} has no twintrack attributes.", "Allowed: a store this package wrote.")
    return found


def _check_case(case: Case) -> None:
    shape = case.probability.shape[-3:]
    if case.probability.ndim not in _DIMENSIONS or 0 in case.probability.shape:
        raise GeometryError(
            f"{case.name}: probability has shape {case.probability.shape}.", "Allowed: (z, y, x) or (member, z, y, x)."
        )
    if case.probability.dtype not in SCORE_DTYPES:
        raise RequestError(
            f"{case.name}: probability is {case.probability.dtype}.", "Allowed: float16, float32 or uint8."
        )
    for name, dtype in _PART_DTYPES.items():
        part = getattr(case, name)
        if part is not None and part.shape != shape:
            raise GeometryError(f"{case.name}: {name} has shape {part.shape}.", f"Allowed: {shape}, as probability.")
        if part is not None and part.dtype != dtype:
            raise RequestError(f"{case.name}: {name} is {part.dtype}.", f"Allowed: {dtype}.")
    if not _are_raters(list(case.raters)) or (case.votes is None) != (not case.raters):
        raise RequestError(
            f"{case.name}: its raters are {case.raters!r:.120}, with {'no ' if case.votes is None else ''}votes.",
            f"Allowed: 1 to {MAX_RATERS} different names with votes, or neither.",
        )


def _open_case(folder: Path, name: str) -> StoredCase:
    where = f"{folder.parent}: case {name}"
    if not (folder / "zarr.json").is_file():
        raise StoreError(f"{where} is missing.", None, "Make the store anew from its source.")
    attributes = _twintrack_attributes(folder)
    require_complete(attributes, where)
    probability = open_array(folder / "probability")
    if len(probability.shape) not in _DIMENSIONS or probability.dtype == "bool":
        raise StoreError(
            f"{where}: probability is {probability.dtype} of shape {probability.shape}.",
            "Allowed: float16, float32 or uint8, (z, y, x) or (member, z, y, x).",
        )
    parts = {}
    for part, dtype in _PART_DTYPES.items():
        if (folder / part).exists():
            parts[part] = open_array(folder / part)
            found = parts[part]
            if (found.dtype, found.shape, found.fill) != (dtype, probability.shape[-3:], 0):
                raise StoreError(
                    f"{where}: {part} is {found.dtype} of shape {found.shape}, fill value {found.fill:g}.",
                    f"Allowed: {dtype} of shape {probability.shape[-3:]}, fill value 0.",
                )
    raters = _raters(attributes.get("raters", []), where)
    if bool(raters) != ("votes" in parts):
        raise StoreError(f"{where}: it has {len(raters)} raters and {'' if 'votes' in parts else 'no '}votes.")
    extras = {key: attributes.get(key, {}) for key in ("attributes", "source")}
    if not all(isinstance(extra, dict) for extra in extras.values()):
        raise StoreError(f"{where}: attributes and source must be JSON objects.")
    return StoredCase(
        name,
        str(folder),
        raters,
        _geometry(attributes, where),
        extras["attributes"],
        extras["source"],
        probability,
        parts,
    )


def _raters(names: Any, where: str) -> tuple[str, ...]:
    if not _are_raters(names):
        raise StoreError(f"{where}: its raters are {names!r:.120}.", f"Allowed: at most {MAX_RATERS} different names.")
    return tuple(names)


def _are_raters(names: Any) -> bool:
    return (
        isinstance(names, list)
        and all(isinstance(name, str) and name for name in names)
        and len(set(names)) == len(names) <= MAX_RATERS
    )


def _geometry(attributes: Mapping[str, Any], where: str) -> Geometry:
    try:
        spacing = tuple(float(value) for value in attributes["spacing_mm"])
        origin = tuple(float(value) for value in attributes["geometry"]["origin"])
        direction = tuple(float(value) for value in attributes["geometry"]["direction"])
        return Geometry(spacing, origin, direction)  # type: ignore[arg-type]  # Geometry checks the lengths
    except GeometryError as error:
        raise StoreError(f"{where}: {error.what}", error.allowed) from error
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise StoreError(
            f"{where}: its geometry cannot be read: {error!r:.120}.", "Allowed: spacing_mm, origin and direction."
        ) from error
