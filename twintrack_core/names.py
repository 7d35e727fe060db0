"""Names of cases: which are safe, and choosing some of them."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence

from twintrack_core.errors import RequestError, StoreError

_CASE_NAME = re.compile(r"\w[\w .+=@,()-]{0,199}")
_MAX_BYTES = 240  # file systems allow 255, and an image's suffix comes on top


def matching(names: Sequence[str], patterns: Sequence[str], where: object) -> tuple[str, ...]:
    """Return the names that match one of the shell patterns, in order; all of them without a pattern.

    Raises
    ------
    RequestError
        If a pattern matches no name.
    """
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
            raise RequestError(f"{where} has no case {pattern!r}.", f"Allowed: {some(names)}.")
    return tuple(
        name for name in names if not patterns or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    )


def some(names: Iterable[object]) -> str:
    """Join names for a message, the first eight of them; "none" without any."""
    texts = [str(name) for name in names]
    return (", ".join(texts[:8]) or "none") + (f" and {len(texts) - 8} more" if len(texts) > 8 else "")


def check_case_name(name: object, where: str) -> str:
    """Return ``name`` if it can safely be a folder of a store.

    Raises
    ------
    StoreError
        If it could leave the store or clash with Zarr's own names.
    """
    if (
        isinstance(name, str)
        and _CASE_NAME.fullmatch(name)
        and not name.startswith("__")
        and name == name.strip(" .")
        and name != "zarr.json"
        and len(name.encode()) <= _MAX_BYTES
    ):
        return name
    raise StoreError(
        f"{where}: {name!r} cannot be the name of a case.",
        "Allowed: 1 to 200 letters, digits, spaces and . _ - + = @ , ( ), starting with a letter, digit or _.",
        "Rename the case's files.",
    )
