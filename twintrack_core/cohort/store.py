"""The cohort store: open one and read its cases. Zarr v3, one group per case, complete or refused."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twintrack_core.codes import MAX_MEMBERS, MAX_RATERS
from twintrack_core.cohort.case import Case, Geometry
from twintrack_core.cohort.chunks import ChunkedArray, open_array, read_json
from twintrack_core.errors import GeometryError, RequestError, StoreError
from twintrack_core.names import check_case_name, matching, some

FORMAT = "cohort"
VERSION = 1

DIMENSIONS = {3: ("z", "y", "x"), 4: ("member", "z", "y", "x")}
PART_DTYPES = {"votes": "uint8", "roi": "bool", "vessels": "uint8"}


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
    def shape(self) -> tuple[int, int, int]:
        """Voxels along (z, y, x)."""
        z, y, x = self.probability.shape[-3:]
        return z, y, x

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
    return _cohort_of(folder, attributes)


def is_complete(folder: Path) -> bool:
    """Whether a store's root, or a case, is marked complete."""
    return (folder / "zarr.json").is_file() and twintrack_attributes(folder).get("complete") is True


def expected_cases(folder: Path) -> Cohort:
    """Return the cohort that a store is, or will be once it is complete."""
    return _cohort_of(folder, read_attributes(folder, FORMAT, VERSION))


def _cohort_of(folder: Path, attributes: Mapping[str, Any]) -> Cohort:
    names = attributes.get("cases")
    if not isinstance(names, list) or not names or len(set(map(str, names))) != len(names):
        raise StoreError(f"{folder}: its list of cases is {names!r:.80}.", "Allowed: one or more different names.")
    source = attributes.get("source", {})
    if not isinstance(source, dict):
        raise StoreError(f"{folder}: its source is {source!r:.80}.", "Allowed: a JSON object.")
    return Cohort(folder, tuple(check_case_name(name, str(folder)) for name in names), source)


def fingerprint(cohort: Cohort) -> str:
    """SHA-256 that tells one input from another: all metadata, and the name and size of every chunk.

    Contents of chunks are not read, so inputs whose chunks all compress to the same sizes are not told apart.
    """
    digest = hashlib.sha256()
    root = str(cohort.path)
    for name in cohort.names:
        _require_case(cohort.path / name)
        for path, size in _files(os.path.join(root, name)):  # noqa: PTH118 - paths are strings here, there are many
            digest.update(f"{path[len(root) + 1 :]}\0{size}\0".encode())
            if path.endswith("zarr.json"):
                digest.update(Path(path).read_bytes())
    return digest.hexdigest()


def _files(folder: str) -> Iterator[tuple[str, int]]:
    """Files below a folder and their sizes, in an order that does not depend on the file system."""
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_dir():
                yield from _files(entry.path)
            else:
                yield entry.path, entry.stat().st_size


def read_attributes(folder: Path, kind: str, version: int) -> dict[str, Any]:
    """Read the ``twintrack`` attributes of a store's root and check its format and version."""
    if not folder.exists():
        raise RequestError(f"{folder} does not exist.", f"Allowed: the folder of a {kind} store.")
    if not (folder / "zarr.json").is_file():
        raise RequestError(f"{folder} is not a Zarr v3 store.", f"Allowed: the folder of a {kind} store.")
    attributes = twintrack_attributes(folder)
    if attributes.get("format") != kind:
        raise RequestError(f"{folder} holds the format {attributes.get('format')!r}.", f"Allowed: {kind!r}.")
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


def twintrack_attributes(folder: Path) -> dict[str, Any]:
    """Read the ``twintrack`` attributes of a store's root or of a case."""
    attributes = read_json(folder / "zarr.json").get("attributes")
    found = attributes.get("twintrack") if isinstance(attributes, dict) else None
    if not isinstance(found, dict):
        raise StoreError(f"{folder} has no twintrack attributes.", "Allowed: a store this package wrote.")
    return found


def _require_case(folder: Path) -> None:
    if not (folder / "zarr.json").is_file():
        raise StoreError(
            f"{folder.parent}: case {folder.name} is missing.", None, "Make the store anew from its source."
        )


def _open_case(folder: Path, name: str) -> StoredCase:
    where = f"{folder.parent}: case {name}"
    _require_case(folder)
    attributes = twintrack_attributes(folder)
    require_complete(attributes, where)
    probability = open_array(folder / "probability")
    if len(probability.shape) not in DIMENSIONS or probability.dtype == "bool":
        raise StoreError(
            f"{where}: probability is {probability.dtype} of shape {probability.shape}.",
            "Allowed: float16, float32 or uint8, (z, y, x) or (member, z, y, x).",
        )
    if len(probability.shape) == 4 and probability.shape[0] > MAX_MEMBERS:
        raise StoreError(f"{where}: it has {probability.shape[0]} members.", f"Allowed: at most {MAX_MEMBERS}.")
    parts = {}
    for part, dtype in PART_DTYPES.items():
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
    if not are_raters(names):
        raise StoreError(f"{where}: its raters are {names!r:.120}.", f"Allowed: at most {MAX_RATERS} different names.")
    return tuple(names)


def are_raters(names: Any) -> bool:
    """Whether these are names of at most 8 different raters."""
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
