"""A lock of a local folder that dies with its owner."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator

from twintrack_core.errors import RequestError, WorkError
from twintrack_core.storage.folder import LOCK

_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
_held: set[int] = set()


def _let_go_in_child() -> None:
    # What a child holds open stays locked after its parent is dead. Closing it takes nothing from the parent.
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)


@contextlib.contextmanager
def file_lock(folder: str) -> Iterator[Callable[[], None]]:
    """Lock a folder, which is made if need be; see `Folder.lock`.

    A process that is killed leaves the file but not the lock on it, which is the system's.
    """
    made, path = _made(folder), f"{folder}/{LOCK}"
    try:
        descriptor = _locked(path, folder)
    except BaseException:
        if made:
            with contextlib.suppress(OSError):
                os.rmdir(folder)  # noqa: PTH106 - only if it is empty
        raise
    _held.add(descriptor)
    owner = os.getpid()

    def require() -> None:
        if not _is_same(path, descriptor):
            raise lost(folder)

    try:
        yield require
    finally:
        if os.getpid() == owner:  # a child that was forked in here does not own the lock
            _held.discard(descriptor)
            with contextlib.suppress(OSError):
                if _is_same(path, descriptor):
                    os.unlink(path)  # noqa: PTH108 - while it is locked, so that nobody has it open for nothing
            os.close(descriptor)
            if made:
                with contextlib.suppress(OSError):
                    os.rmdir(folder)  # noqa: PTH106 - a run that was refused leaves nothing


def _made(folder: str) -> bool:
    try:
        os.mkdir(folder)  # noqa: PTH102
    except FileExistsError:
        return False
    return True


def _locked(path: str, folder: str) -> int:
    """Open and lock a file, until it is the one that the name stands for."""
    try:
        import fcntl
    except ImportError:  # Windows
        raise _no_locks(folder, "this system has no locks that die with their owner") from None
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    while True:
        descriptor = os.open(path, flags, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_same(path, descriptor):
                return descriptor
        except (BlockingIOError, PermissionError):
            os.close(descriptor)
            raise held(folder) from None
        except OSError as error:
            os.close(descriptor)
            if error.errno in _NO_LOCKS:
                raise _no_locks(folder, error.strerror or str(error)) from error
            raise
        os.close(descriptor)  # its last owner removed it between the two calls


def _is_same(path: str, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def held(folder: object) -> RequestError:
    """Make the error of a folder that another run is writing."""
    return RequestError(
        f"Another run is writing {folder}.", "Allowed: one run at a time.", "Wait for it, or choose another output."
    )


def lost(folder: object) -> WorkError:
    """Make the error of a folder that was taken away from the run that was writing it."""
    return WorkError(
        f"{folder} was removed, or is another run's, while this one was writing it.",
        None,
        "See what became of it, and run again.",
    )


def _no_locks(folder: str, why: str) -> WorkError:
    return WorkError(
        f"{folder} cannot be locked: {why}.",
        "Allowed: a file system with locks, so that two runs cannot write the same output.",
        "Choose another place for the output.",
    )
