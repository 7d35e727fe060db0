"""Paths of outputs: refused if they exist, before any work is done."""

from __future__ import annotations

import os
from pathlib import Path

from twintrack_core.errors import RequestError


def require_new(path: str | os.PathLike[str]) -> Path:
    """Return ``path`` if nothing is there.

    Raises
    ------
    RequestError
        If something is, or if its folder does not exist.
    """
    place = Path(path)
    if place.exists() or place.is_symlink():
        raise RequestError(
            f"{place} exists already.", "Allowed: a path that does not exist.", "Choose another, or remove it."
        )
    if not place.absolute().parent.is_dir():
        raise RequestError(f"{place} cannot be made.", "Allowed: a path in a folder that exists.")
    return place
