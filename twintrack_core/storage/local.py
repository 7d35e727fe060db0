"""Folders on this machine. Paths are strings here, to spare a `Path` for each of many chunks."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import secrets
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from twintrack_core.errors import StoreError
from twintrack_core.storage.folder import PARTIAL, Entry, Folder, by_parts, check_key, check_name
from twintrack_core.storage.lock import file_lock

# A FIFO would wait for a writer, and a link lead out of the store.
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_NO_FILE = "it is neither a file nor a folder"
_TOKEN = secrets.token_hex(4)  # processes on other machines have the same numbers


class LocalFile:
    """An open file, by its descriptor, which takes half as long as a file object."""

    __slots__ = ("_descriptor", "_path", "size", "version")

    def __init__(self, descriptor: int, path: str, status: os.stat_result) -> None:
        self._descriptor = descriptor
        self._path = path
        self.size = status.st_size
        self.version: tuple[object, ...] = (status.st_ino, status.st_size, status.st_mtime_ns)

    def read(self, length: int, offset: int) -> bytes:
        """Read ``length`` bytes from ``offset`` on; fewer if the file ends before."""
        try:
            data = os.pread(self._descriptor, length, offset)
            while len(data) < length:  # one call returns 2 GiB at most, and less from some network file systems
                more = os.pread(self._descriptor, length - len(data), offset + len(data))
                if not more:
                    break
                data += more
        except OSError as error:
            error.filename = self._path
            raise
        return data

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class LocalFolder:
    """A folder on this machine; see `Folder`.

    Attributes
    ----------
    root
        Path of the store, as the user named it. It may be a link; nothing below it may.
    inside
        Key of the folder below the root.
    path, local
        Path of the folder.
    """

    root: str
    inside: str = ""
    path: str = field(init=False, compare=False, repr=False)
    local: Path = field(init=False, compare=False, repr=False)  # made once, since every chunk asks

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", _joined(self.root, self.inside))
        object.__setattr__(self, "local", Path(self.path))

    def __str__(self) -> str:
        return self.path

    @property
    def name(self) -> str:
        """Last part of its path."""
        return self.local.name

    def __truediv__(self, name: str) -> LocalFolder:
        check_name(name, self)
        return LocalFolder(self.root, f"{self.inside}/{name}" if self.inside else name)

    def exists(self) -> bool:
        """Whether anything is there."""
        return os.path.lexists(self.path)

    def has(self, key: str) -> bool:
        """Whether there is such a file."""
        self._check_links(key)
        try:
            status = os.lstat(self._place(key))
        except (FileNotFoundError, NotADirectoryError):
            return False
        if stat.S_ISLNK(status.st_mode):
            raise _link(self._place(key))
        return stat.S_ISREG(status.st_mode)

    def read(self, key: str, *, limit: int | None = None) -> bytes | None:
        """Read a file; see `Folder.read`."""
        file = self.open(key)
        if file is None:
            return None
        with file:
            if limit is not None and file.size > limit:
                raise OSError(errno.EFBIG, f"it has more than {limit} bytes", self._place(key))
            return file.read(file.size, 0)

    def read_range(self, key: str, offset: int, length: int) -> bytes | None:
        """Read some bytes of a file; see `Folder.read_range`."""
        file = self.open(key)
        if file is None:
            return None
        with file:
            return file.read(length, offset)

    def open(self, key: str, *, head: int = 0, tail: int = 0) -> LocalFile | None:  # noqa: ARG002 - for remote ones
        """Open a file; see `Folder.open`."""
        self._check_links(key)
        path = self._place(key)
        try:
            descriptor = os.open(path, _READ)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise _link(path) from error
            if error.errno == errno.ENXIO:  # a socket
                raise OSError(errno.EINVAL, _NO_FILE, path) from error
            raise
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode):
            return LocalFile(descriptor, path, status)
        os.close(descriptor)
        if stat.S_ISDIR(status.st_mode):
            return None
        raise OSError(errno.EINVAL, _NO_FILE, path)

    def names(self) -> frozenset[str]:
        """Names of what is directly in it."""
        try:
            return frozenset(os.listdir(self.path))  # noqa: PTH208
        except (FileNotFoundError, NotADirectoryError):
            return frozenset()

    def keys(self, below: str = "") -> list[str]:
        """Keys of all files below a folder in it, in any order."""
        return [key for key, _ in self._walk(below)]

    def files(self, below: str = "") -> list[Entry]:
        """All files below a folder in it, sorted by the parts of their keys."""
        return by_parts(Entry(key, entry.stat(follow_symlinks=False).st_size) for key, entry in self._walk(below))

    def _walk(self, below: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
        """Files below a folder, of which most systems tell what they are without being asked about each."""
        if below:
            self._check_links(f"{below}/")
        left = [below]
        while left:
            folder = left.pop()
            prefix = f"{folder}/" if folder else ""
            try:
                entries = os.scandir(self._place(folder) if folder else self.path)
            except (FileNotFoundError, NotADirectoryError):
                if folder != below:  # it was there a moment ago
                    raise
                continue
            with entries:
                for entry in entries:
                    if entry.is_file(follow_symlinks=False):
                        yield prefix + entry.name, entry
                    elif entry.is_dir(follow_symlinks=False):
                        left.append(prefix + entry.name)
                    elif entry.is_symlink():
                        raise _link(entry.path)
                    else:
                        raise OSError(errno.EINVAL, _NO_FILE, entry.path)

    def write(self, key: str, data: bytes) -> None:
        """Write a file under a temporary name and rename it, so that it is whole or absent."""
        self._whole(key, functools.partial(_write, data=data))

    def create(self, key: str, data: bytes) -> bool:
        """Write a file unless there is one; say whether it was written."""
        if self.has(key):
            return False
        self.write(key, data)
        return True

    def _whole(self, key: str, fill: Callable[[str], object]) -> None:
        """Let ``fill`` write a temporary file, and rename it to that of the key."""
        if ".." in key:
            check_key(key, self)
        self._check_links(key, writing=True)
        path = self._place(key)
        temporary = f"{path}.{_TOKEN}-{os.getpid():x}-{threading.get_ident():x}{PARTIAL}"
        try:
            try:
                self._replace(key, path, temporary, fill)
            except FileNotFoundError:  # another run may have swept it away
                self._replace(key, path, temporary, fill)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(temporary).unlink(missing_ok=True)
            raise

    def _replace(self, key: str, path: str, temporary: str, fill: Callable[[str], object]) -> None:
        try:
            fill(temporary)
        except FileNotFoundError:
            self._make_folders(key)
            fill(temporary)
        os.replace(temporary, path)  # noqa: PTH105

    def _make_folders(self, key: str) -> None:
        """Make the folders that a file lies in.

        This one only for a file directly in it: whoever writes the chunks of an array that was removed must not make
        it anew.
        """
        *parts, _ = key.split("/")
        if not parts:
            Path(self.path).mkdir(parents=True, exist_ok=True)
        for number in range(len(parts)):
            with contextlib.suppress(FileExistsError):
                os.mkdir(self._place("/".join(parts[: number + 1])))  # noqa: PTH102

    def remove(self, key: str = "") -> None:
        """Remove a file, or a folder and everything below it."""
        path = self._place(key) if key else self.path
        if key:
            self._check_links(key)
        try:
            os.unlink(path)  # noqa: PTH108
        except FileNotFoundError:
            pass
        except (IsADirectoryError, PermissionError):
            shutil.rmtree(path)

    def sweep(self, *, deep: bool = True) -> None:
        """Remove what writers left that were killed."""
        keys = self.keys() if deep else sorted(self.names())
        for key in keys:
            if key.endswith(PARTIAL):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._place(key))  # noqa: PTH108

    def lock(self) -> contextlib.AbstractContextManager[Callable[[], None]]:
        """Keep other runs from writing here; see `Folder.lock`."""
        return file_lock(self.path)

    def lies_in(self, other: Folder) -> bool:
        """Whether it is the other one, or somewhere below it."""
        return other.local is not None and Path(self.path).resolve().is_relative_to(other.local.resolve())

    def _place(self, key: str) -> str:
        return f"{self.path}/{key}" if self.path not in (".", "/") else _joined(self.path, key)

    def _check_links(self, key: str, *, writing: bool = False) -> None:
        """Refuse a key of which a folder is a link. What opens the file looks at its last part."""
        inner, _, _ = key.rpartition("/")
        folder = f"{self.inside}/{inner}" if self.inside and inner else self.inside or inner
        if folder:
            _check_no_link(self.root, folder, writing)


@functools.lru_cache(maxsize=1 << 12)  # of folders that are none; errors are not kept, and no reader believes a writer
def _check_no_link(root: str, folder: str, writing: bool) -> None:
    parent, _, _ = folder.rpartition("/")
    if parent:
        _check_no_link(root, parent, writing)
    path = _joined(root, folder)
    if os.path.islink(path):  # noqa: PTH114
        raise _link(path)


def _joined(root: str, inside: str) -> str:
    if not inside or root == ".":
        return inside or root
    return f"{root.rstrip('/')}/{inside}"


def _link(path: str) -> StoreError:
    return StoreError(
        f"{path} is a symbolic link.",
        "Allowed in a store: files and folders.",
        "Put what it points to into its place.",
    )


def _write(path: str, data: bytes) -> None:
    with open(path, "wb", buffering=0) as file:  # noqa: PTH123
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]
