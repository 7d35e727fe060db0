"""Paths of outputs: refused if they exist, before any work is done; written whole; and why writing one failed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from twintrack_core.errors import RequestError, WorkError


def require_local(path: str | os.PathLike[str]) -> Path:
    """Return ``path`` if it is one: a URL would become folders of odd names.

    Raises
    ------
    RequestError
        If it is a URL.
    """
    if "://" in os.fspath(path):
        raise RequestError(f"{path} is a URL, and only stores are written to URLs.", "Allowed: a path on this machine.")
    return Path(path)


def require_new(path: str | os.PathLike[str]) -> Path:
    """Return ``path`` if nothing is there.

    Raises
    ------
    RequestError
        If something is, if its folder does not exist, or if it is a URL.
    """
    place = require_local(path)
    if place.exists() or place.is_symlink():
        raise RequestError(
            f"{place} exists already.", "Allowed: a path that does not exist.", "Choose another, or remove it."
        )
    if not place.absolute().parent.is_dir():
        raise RequestError(
            f"{place} cannot be made: {place.absolute().parent} does not exist.",
            "Allowed: a path in a folder that exists.",
        )
    return place


def write_text(path: Path, text: str, *, overwrite: bool = False) -> None:
    """Write a text file, whole or not at all.

    Raises
    ------
    RequestError
        If ``path`` exists and ``overwrite`` is not set, or its folder does not exist.
    WorkError
        If writing fails, for example on a full disk.
    """
    if path.is_dir() or not overwrite or not path.exists():
        require_new(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise WorkError(f"Cannot write {path}: {error.strerror or error}.") from error


def reason(error: OSError) -> str:
    """Say why the file system refused, and where if that is known."""
    if isinstance(error, shutil.Error):  # of copytree, which collects (source, target, reason) of every file
        return str(error.args[0][0][-1])
    return f"{error.strerror or error}" + (f" ({error.filename})" if error.filename else "")
