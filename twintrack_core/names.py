"""Names of cases: which are safe, and choosing some of them."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence

from twintrack_core.errors import RequestError, StoreError

_WILD = frozenset("*?[")
_CASE_NAME = re.compile(r"\w[\w .+=@,()-]{0,199}")
_MAX_BYTES = 240  # file systems allow 255, and an image's suffix comes on top
_MAX_GLOBS = 1000  # each is held against every name
_SHOWN = 100


def matching(names: Sequence[str], patterns: Sequence[str], where: object) -> tuple[str, ...]:
    """Return the names that match one of the shell patterns, in order; all of them without a pattern.

    Raises
    ------
    RequestError
        If a pattern matches no name, or very many of them have wildcards.
    """
    if not patterns:
        return tuple(names)
    globs = {pattern for pattern in patterns if not _WILD.isdisjoint(pattern)}
    if len(globs) > _MAX_GLOBS:
        raise RequestError(
            f"{where}: {len(globs)} patterns with wildcards are too many.",
            f"Allowed: at most {_MAX_GLOBS}, and any number of names.",
        )
    chosen = set(names).intersection(patterns)
    for pattern in dict.fromkeys(patterns):
        found = [name for name in names if fnmatch.fnmatchcase(name, pattern)] if pattern in globs else []
        if not found and pattern not in chosen:
            raise RequestError(f"{where} has no case {pattern!r:.80}.", f"Allowed: {some(names)}.")
        chosen.update(found)
    return tuple(name for name in names if name in chosen)


def some(names: Iterable[object]) -> str:
    """Join names for a message, the first eight of them; "none" without any."""
    found = list(names)
    rest = len(found) - 8
    return (", ".join(map(shown, found[:8])) or "none") + (f" and {rest} more" if rest > 0 else "")


def shown(name: object) -> str:
    """Return a name for a message: on one line, and not all of a long one."""
    text = str(name)
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


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
        f"{where}: {name!r:.80} cannot be the name of a case.",
        "Allowed: 1 to 200 letters, digits, spaces and . _ - + = @ , ( ), starting with a letter, digit or _.",
        "Rename the case's files.",
    )


def are_skipped(found: object) -> bool:
    """Whether this is a word for each of some cases: why they were left out."""
    return isinstance(found, dict) and all(
        isinstance(name, str) and _CASE_NAME.fullmatch(name) and isinstance(why, str) and why.isidentifier()
        for name, why in found.items()
    )
