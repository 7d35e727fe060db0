"""Choosing cases by name."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from twintrack_core.errors import RequestError


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


def some(names: Sequence[str]) -> str:
    """Join names for a message, the first eight of them."""
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
