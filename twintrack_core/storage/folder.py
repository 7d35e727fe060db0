"""What a folder of a store is, wherever it lies; how one is opened, and how files go from one to another."""

from __future__ import annotations

import functools
import os
import re
import urllib.parse
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, Protocol, Self

from twintrack_core.errors import RequestError, StoreError
from twintrack_core.paths import require_new
from twintrack_core.storage.retry import again, unreadable

PARTIAL = ".partial"
"""How the name of a file ends that is not whole yet."""

METADATA = "zarr.json"
"""Name of the metadata of every group and array."""

LOCK = ".lock"
"""Name of the file that keeps a second run out."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")  # one letter is a drive


class Entry(NamedTuple):
    """A file below a folder: its key, with "/" between the parts, and its bytes."""

    key: str
    size: int


class File(Protocol):
    """An open file, read piece by piece."""

    @property
    def size(self) -> int:
        """Its bytes."""

    @property
    def version(self) -> tuple[object, ...]:
        """What tells this file from one that takes its place."""

    def read(self, length: int, offset: int) -> bytes:
        """Read ``length`` bytes from ``offset`` on; fewer if the file ends before."""

    def close(self) -> None:
        """Let go of the file."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class Folder(Protocol):
    """A folder of a store, local or remote. Small, frozen, picklable: a task carries it to any worker.

    Keys name files below it, with "/" between the parts. What fails is an `OSError` with ``strerror`` and
    ``filename``, whatever holds the folder; symbolic links below the one that was opened are a `StoreError`.
    """

    @property
    def name(self) -> str:
        """Last part of its path."""

    @property
    def local(self) -> Path | None:
        """Where it is on this machine; None if it is remote."""

    def __str__(self) -> str:
        """As the user named it, and what was joined since."""

    def __truediv__(self, name: str) -> Folder:
        """Return the folder of that name in this one; a `StoreError` for what is no single name."""

    def exists(self) -> bool:
        """Whether anything is there, a file too. True where that cannot be told."""

    def has(self, key: str) -> bool:
        """Whether there is such a file."""

    def read(self, key: str, *, limit: int | None = None) -> bytes | None:
        """Read a file, None where there is none; one of more than ``limit`` bytes is an error before it is read."""

    def read_range(self, key: str, offset: int, length: int) -> bytes | None:
        """Read some bytes of a file; fewer if it ends before, None where there is no file."""

    def open(self, key: str, *, head: int = 0, tail: int = 0) -> File | None:
        """Open a file, None where there is none.

        Parameters
        ----------
        key
            The file.
        head, tail
            Bytes at its start or end that will be read first: where each reading is a request, this one brings them.
        """

    def names(self) -> frozenset[str] | None:
        """Names of what is directly in it, none where it does not exist; None where that cannot be told (https)."""

    def keys(self, below: str = "") -> list[str] | None:
        """Keys of all files below a folder in it, in any order; None where that cannot be told (https)."""

    def files(self, below: str = "") -> list[Entry]:
        """All files below a folder in it, sorted by the parts of their keys, whatever the file system's order."""

    def write(self, key: str, data: bytes) -> None:
        """Write a file, whole or not at all, in the place of one that may be there, and the folders it lies in.

        On this machine the folder itself is made for a file directly in it only; below one that is not there nothing
        is written.
        """

    def create(self, key: str, data: bytes) -> bool:
        """Write a file unless there is one; say whether it was written."""

    def remove(self, key: str = "") -> None:
        """Remove a file, or a folder and everything below it; the folder itself without a key."""

    def sweep(self, *, deep: bool = True) -> None:
        """Remove what writers left that were killed, in its folders too if ``deep``."""

    def lock(self) -> AbstractContextManager[Callable[[], None]]:
        """Keep other runs from writing here, until the context or this process ends. The folder is made if need be.

        It gives a function that raises a `WorkError` if the lock is lost, as when the folder was removed meanwhile.

        Raises
        ------
        RequestError
            If another run has the lock.
        WorkError
            If what holds the folder has no locks.
        """

    def lies_in(self, other: Folder) -> bool:
        """Whether it is the other one, or somewhere below it."""


def open_folder(place: str | os.PathLike[str] | Folder) -> Folder:
    """Return the folder at a path or URL, which need not exist.

    Raises
    ------
    RequestError
        For a URL of a kind that is not known.
    WorkError
        If what reads URLs is not installed.
    """
    if not isinstance(place, str | os.PathLike):
        return place
    text = os.fspath(place)
    if isinstance(place, str) and _URL.match(text):
        if not text.lower().startswith("file://"):
            from twintrack_core.storage.remote import open_remote

            return open_remote(text)
        text = urllib.parse.unquote(urllib.parse.urlsplit(text).path)
    from twintrack_core.storage.local import LocalFolder

    return LocalFolder(str(Path(text)))


def new_folder(place: str | os.PathLike[str] | Folder) -> Folder:
    """Return the folder at a path or URL if nothing is there; see `paths.require_new`."""
    folder = open_folder(place)
    if folder.local is not None:
        require_new(folder.local)
    elif folder.exists():
        if folder.names() is None:
            raise RequestError(f"{folder} cannot be written: https is only read.", "Allowed: s3://, gs:// or a folder.")
        raise RequestError(
            f"{folder} exists already.", "Allowed: a URL below which nothing is.", "Choose another, or remove it."
        )
    return folder


def output_folder(place: str | os.PathLike[str] | Folder, *, resume: bool, source: Folder | None = None) -> Folder:
    """Return the folder of an output: one that is not there, or, to be resumed, one that a run of ours began.

    Parameters
    ----------
    place
        Path or URL.
    resume
        Whether it may be there.
    source
        What it is made from, in which it must not lie.

    Raises
    ------
    RequestError
        If something else is there.
    """
    folder = open_folder(place)
    if not (resume and is_begun(folder)):
        new_folder(folder)
    if source is not None and folder.lies_in(source):
        raise RequestError(f"{folder} lies in the cohort it would be made from.", "Allowed: any path outside it.")
    return folder


def is_begun(folder: Folder) -> bool:
    """Whether a folder is a store, or holds no more than a run leaves that is killed as it begins one."""
    if folder.local is not None and not folder.local.is_dir():
        return False
    there = folder.names() or frozenset()
    return METADATA in there or all(
        name == LOCK or (name.startswith(f"{METADATA}.") and name.endswith(PARTIAL)) for name in there
    )


def copy_files(source: Folder, target: Folder) -> None:
    """Copy all files below a folder: contents, not permissions, and none that is there already.

    The target is made if need be, not what it lies in. A read-only archive must not make an output that cannot be
    resumed.

    Raises
    ------
    StoreError
        If one cannot be read.
    OSError
        If one cannot be written.
    """
    from twintrack_core.storage.pool import pool

    there = frozenset(target.keys() or ())
    try:
        files = again(source.files)
    except OSError as error:
        raise unreadable(f"{source} cannot be listed", error) from error
    keys = [key for key, _ in files if key not in there and not key.endswith(PARTIAL)]
    copy = functools.partial(_copy_file, source, target)
    on_this_machine = source.local is not None and target.local is not None
    if keys and target.local is not None:
        target.local.mkdir(exist_ok=True)
    for _ in map(copy, keys) if on_this_machine else pool().map(copy, keys):
        pass


def _copy_file(source: Folder, target: Folder, key: str) -> None:
    if source.local is None and target.local is None:
        from twintrack_core.storage.remote import RemoteFolder

        if isinstance(source, RemoteFolder) and isinstance(target, RemoteFolder) and source.root == target.root:
            target.copy_from(source, key)
            return
    try:
        data = again(functools.partial(source.read, key))
    except OSError as error:
        raise unreadable(f"{source}/{key} cannot be read", error) from error
    if data is None:
        raise StoreError(f"{source}/{key} was removed while it was copied.")
    target.write(key, data)


def check_name(name: str, where: object) -> str:
    """Return ``name`` if it is that of one file or folder, wherever it came from."""
    if not name or name in (".", "..") or not {"/", "\\", "\0"}.isdisjoint(name):
        raise StoreError(f"{where}: {name!r:.80} cannot be the name of a file or folder.", "Allowed: a single name.")
    return name


def check_key(key: str, where: object) -> str:
    """Return ``key`` if all its parts are names."""
    for part in key.split("/"):
        check_name(part, where)
    return key


def by_parts(entries: Iterable[Entry]) -> list[Entry]:
    """Sort entries by the parts of their keys, so that what lies in a folder stays together."""
    return sorted(entries, key=lambda entry: entry.key.split("/"))
