"""The cohort store: open one and read its cases. Zarr v3, one group per case, complete or refused."""

from __future__ import annotations

import errno
import functools
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twintrack_core.codes import MAX_MEMBERS, MAX_RATERS
from twintrack_core.cohort.array_metadata import describe_array
from twintrack_core.cohort.case import Case, Geometry
from twintrack_core.cohort.chunks import MEMORY, ChunkedArray
from twintrack_core.errors import GeometryError, RequestError, StoreError
from twintrack_core.names import are_skipped, check_case_name, matching, some
from twintrack_core.storage import Entry, Folder, open_folder, read_json
from twintrack_core.storage.folder import METADATA
from twintrack_core.storage.metadata import find_json
from twintrack_core.storage.retry import REMAKE, again, unreadable
from twintrack_core.system import require_memory

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
    folder: Folder
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
        """Read the whole case into memory.

        Raises
        ------
        StoreError
            If a chunk is damaged, or the case is larger than this machine's memory.
        """
        n_bytes = sum(array.n_bytes for array in (self.probability, *self.parts.values()))
        require_memory(str(self.folder), n_bytes, StoreError, MEMORY)
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
    folder
        Folder of the store.
    names
        Cases, in the store's order.
    source
        Where the store as a whole comes from, for example the map it was calibrated with.
    skipped
        Cases that were left out when the store was made, since they could not be read, and the kind of the error.
    """

    folder: Folder
    names: tuple[str, ...]
    source: Mapping[str, Any]
    skipped: Mapping[str, str] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """Where the store is on this machine; a `RequestError` for a remote one."""
        if self.folder.local is None:
            raise RequestError(f"{self.folder} is not on this machine.", "Allowed: a store in a local folder.")
        return self.folder.local

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
            raise RequestError(f"{self.folder} has no case {name!r:.80}.", f"Allowed: {some(self.names)}.")
        return _open_case(self.folder, name)

    def select(self, patterns: Sequence[str]) -> Cohort:
        """Return the cohort of the cases that match one of the shell ``patterns``; all of them without a pattern.

        Raises
        ------
        RequestError
            If a pattern matches no case.
        """
        return Cohort(self.folder, matching(self.names, patterns, self.folder), self.source, self.skipped)


def open_cohort(path: str | os.PathLike[str] | Folder) -> Cohort:
    """Open a cohort store, in a folder or at a URL.

    Raises
    ------
    RequestError
        If there is no store at ``path``.
    StoreError
        If the store is of another format or version, or was cut off while being written.
    """
    folder = open_folder(path)
    attributes = read_attributes(folder, FORMAT, VERSION)
    require_complete(attributes, str(folder))
    return _cohort_of(folder, attributes)


def is_complete(folder: Folder) -> bool:
    """Whether a store's root, or a case, is marked complete."""
    metadata = find_json(folder)
    return metadata is not None and _attributes_of(metadata, folder).get("complete") is True


def expected_cases(path: str | os.PathLike[str] | Folder) -> Cohort:
    """Return the cohort that a store is, or will be once it is complete."""
    folder = open_folder(path)
    return _cohort_of(folder, read_attributes(folder, FORMAT, VERSION))


def _cohort_of(folder: Folder, attributes: Mapping[str, Any]) -> Cohort:
    names = attributes.get("cases")
    if not isinstance(names, list) or not names or len(set(map(str, names))) != len(names):
        raise StoreError(f"{folder}: its list of cases is {names!r:.80}.", "Allowed: one or more different names.")
    source = attributes.get("source", {})
    if not isinstance(source, dict):
        raise StoreError(f"{folder}: its source is {source!r:.80}.", "Allowed: a JSON object.")
    checked = tuple(check_case_name(name, str(folder)) for name in names)
    skipped = attributes.get("skipped", {})
    if not are_skipped(skipped) or not set(skipped).isdisjoint(checked):
        raise StoreError(
            f"{folder}: its skipped cases are {skipped!r:.80}.", "Allowed: other names, and a word for each."
        )
    return Cohort(folder, checked, source, skipped)


def fingerprint(cohort: Cohort) -> str:
    """SHA-256 that tells one input from another: all metadata, and the name and size of every chunk.

    Contents of chunks are not read, so inputs whose chunks all compress to the same sizes are not told apart. Over
    https, where nothing can be listed, it is of the metadata only, and inputs with the same metadata are not either.
    """
    digest = hashlib.sha256()
    for name in cohort.names:
        folder = cohort.folder / name
        try:
            files = again(folder.files)
        except OSError as error:
            if error.errno != errno.ENOTSUP:
                raise unreadable(f"{error.filename or folder} cannot be listed", error) from error
            files = _metadata_of(folder)
        if all(key != METADATA for key, _ in files):
            raise _missing_case(cohort.folder, name)
        for key, size in files:
            digest.update(f"{name}/{key}\0{size}\0".encode())
            if key.endswith(METADATA):
                digest.update(_read_metadata(folder, key) or b"")
    return digest.hexdigest()


def _metadata_of(folder: Folder) -> list[Entry]:
    """Metadata of a case and of the arrays it has, where they cannot be listed."""
    keys = [METADATA, *(f"{name}/{METADATA}" for name in ("probability", *PART_DTYPES))]
    found = [(key, _read_metadata(folder, key)) for key in keys]
    return [Entry(key, len(content)) for key, content in found if content is not None]


def _read_metadata(folder: Folder, key: str) -> bytes | None:
    try:
        return again(functools.partial(folder.read, key))
    except OSError as error:
        raise unreadable(f"{folder}/{key} cannot be read", error) from error


def read_attributes(folder: Folder, kind: str, version: int) -> dict[str, Any]:
    """Read the ``twintrack`` attributes of a store's root and check its format and version."""
    metadata = find_json(folder)
    if metadata is None:
        what = "is not a Zarr v3 store" if folder.exists() else "does not exist"
        raise RequestError(f"{folder} {what}.", f"Allowed: the folder of a {kind} store.")
    attributes = _attributes_of(metadata, folder)
    if attributes.get("format") != kind:
        raise RequestError(f"{folder} holds the format {attributes.get('format')!r:.40}.", f"Allowed: {kind!r}.")
    found = attributes.get("version")
    if type(found) is not int or found != version:  # true is 1
        raise StoreError(
            f"{folder} has version {found!r:.40} of the {kind} format.",
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


def twintrack_attributes(folder: Folder) -> dict[str, Any]:
    """Read the ``twintrack`` attributes of a store's root or of a case."""
    return _attributes_of(read_json(folder), folder)


def _attributes_of(metadata: Mapping[str, Any], folder: Folder) -> dict[str, Any]:
    attributes = metadata.get("attributes")
    found = attributes.get("twintrack") if isinstance(attributes, dict) else None
    if not isinstance(found, dict):
        raise StoreError(f"{folder} has no twintrack attributes.", "Allowed: a store this package wrote.")
    return found


def _missing_case(store: Folder, name: str) -> StoreError:
    return StoreError(f"{store}: case {name} is missing.", None, "Make the store anew from its source.")


def _open_case(store: Folder, name: str) -> StoredCase:
    where, folder = f"{store}: case {name}", store / name
    metadata = find_json(folder)
    if metadata is None:
        raise _missing_case(store, name)
    attributes = _attributes_of(metadata, folder)
    require_complete(attributes, where)
    arrays = _open_arrays(folder)
    probability = arrays["probability"]
    if len(probability.shape) not in DIMENSIONS or probability.dtype == "bool":
        raise StoreError(
            f"{where}: probability is {probability.dtype} of shape {probability.shape}.",
            "Allowed: float16, float32 or uint8, (z, y, x) or (member, z, y, x).",
        )
    if len(probability.shape) == 4 and probability.shape[0] > MAX_MEMBERS:
        raise StoreError(f"{where}: it has {probability.shape[0]} members.", f"Allowed: at most {MAX_MEMBERS}.")
    parts = {}
    for part, dtype in PART_DTYPES.items():
        if part in arrays:
            found = parts[part] = arrays[part]
            if (found.dtype, found.shape, found.fill) != (dtype, probability.shape[-3:], 0):
                raise StoreError(
                    f"{where}: {part} is {found.dtype} of shape {found.shape}, fill value {found.fill:g}.",
                    f"Allowed: {dtype} of shape {probability.shape[-3:]}, fill value 0.",
                )
    raters = _raters(attributes.get("raters", []), where)
    if bool(raters) != ("votes" in parts):
        raise StoreError(
            f"{where}: it has {len(raters)} raters and {'' if 'votes' in parts else 'no '}votes.",
            "Allowed: raters and votes, or neither.",
            REMAKE,
        )
    extras = {key: attributes.get(key, {}) for key in ("attributes", "source")}
    for key, extra in extras.items():
        if not isinstance(extra, dict):
            raise StoreError(f"{where}: its {key} is {extra!r:.80}.", "Allowed: JSON objects.", REMAKE)
    return StoredCase(
        name,
        folder,
        raters,
        _geometry(attributes, where),
        extras["attributes"],
        extras["source"],
        probability,
        parts,
    )


def _open_arrays(folder: Folder) -> dict[str, ChunkedArray]:
    """Open the arrays of a case that are there, and probability, which must be."""
    try:
        there = again(folder.names)
    except OSError as error:
        raise unreadable(f"{folder} cannot be listed", error) from error
    found = {"probability": read_json(folder / "probability")}
    for part in PART_DTYPES:
        if there is None:  # whether it is there is found out by reading it
            if (metadata := find_json(folder / part)) is not None:
                found[part] = metadata
        elif part in there:
            found[part] = read_json(folder / part)
    return {name: describe_array(folder / name, metadata) for name, metadata in found.items()}


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
        spacing = _numbers(attributes["spacing_mm"])
        origin, direction = (_numbers(attributes["geometry"][key]) for key in ("origin", "direction"))
        return Geometry(spacing, origin, direction)  # type: ignore[arg-type]  # Geometry checks the lengths
    except GeometryError as error:
        raise StoreError(f"{where}: {error.what}", error.allowed) from error
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise StoreError(
            f"{where}: its geometry cannot be read: {error!r:.120}.", "Allowed: spacing_mm, origin and direction."
        ) from error


def _numbers(values: Any) -> tuple[float, ...]:
    """Numbers of a JSON list; of a long one too many, not all."""
    if not isinstance(values, list) or not all(type(value) in (int, float) for value in values[:10]):
        raise ValueError(f"{values!r:.80} are no numbers")
    return tuple(map(float, values[:10]))
