"""JSON that a store holds, of which nothing is trusted."""

from __future__ import annotations

from typing import Any

from twintrack_core.errors import RequestError, StoreError
from twintrack_core.json_text import parse_object
from twintrack_core.storage.folder import METADATA, Folder
from twintrack_core.storage.retry import again, unreadable

_LIMIT = 16 << 20  # a million names of cases


def read_json(folder: Folder, key: str = METADATA, *, limit: int = _LIMIT) -> dict[str, Any]:
    """Read a JSON object of at most ``limit`` bytes from a store.

    Raises
    ------
    StoreError
        If it is missing, too large or no JSON object.
    """
    found = find_json(folder, key, limit=limit)
    if found is None:
        raise StoreError(f"{folder}/{key} is missing.", "Allowed: a Zarr v3 store as this package writes it.")
    return found


def find_json(folder: Folder, key: str = METADATA, *, limit: int = _LIMIT) -> dict[str, Any] | None:
    """Read a JSON object as `read_json` does; None where there is no file."""
    try:
        data = again(lambda: folder.read(key, limit=limit))
        return None if data is None else parse_object(data, limit)
    except OSError as error:
        raise unreadable(f"{folder}/{key} cannot be read", error) from error
    except ValueError as error:
        raise StoreError(f"{folder}/{key} cannot be read: {error}.", "Allowed: the JSON of a Zarr v3 store.") from error


def require_same(folder: Folder, key: str, found: Any, wanted: Any) -> None:
    """Refuse to resume what differs, naming the first thing in it that does.

    Raises
    ------
    RequestError
        If something does.
    """
    if found == wanted:
        return
    if isinstance(wanted, dict) and isinstance(found, dict):
        for inner in {**wanted, **found}:
            require_same(folder, inner if key == "run" else f"{key} {inner}", found.get(inner), wanted.get(inner))
    raise RequestError(
        f"{folder} was begun by another run: its {key} is {found!r:.60}, not {wanted!r:.60}.",
        "Allowed: resuming a run with the same input and the same settings.",
        OTHER_OUTPUT,
    )


OTHER_OUTPUT = "Choose another output, or remove this one."
