"""Locks: two runs exclude each other, and a lock dies with its owner, however that dies."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from twintrack_core.errors import RequestError, WorkError
from twintrack_core.storage import open_folder

OWNER = """
import os, sys, time
from twintrack_core.storage import open_folder
with open_folder(sys.argv[1]).lock():
    if sys.argv[2] == "fork":
        theirs, ours = os.pipe()
        if os.fork() == 0:
            os.write(ours, b"x")
            time.sleep(100)  # a child that outlives the owner
        os.read(theirs, 1)
    print(os.getpid(), flush=True)
    time.sleep(100)
"""


@contextmanager
def owner(place: object, how: str = "alone") -> Iterator[subprocess.Popen[str]]:
    """Run a process that has the lock until it is killed."""
    command = [sys.executable, "-c", OWNER, str(place), how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline()
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def test_a_lock_leaves_nothing(tmp_path: Path) -> None:
    folder = open_folder(tmp_path / "new")
    with folder.lock():
        assert folder.names() == frozenset({".lock"})
    assert not folder.exists()
    folder.write("a", b"")
    with folder.lock(), pytest.raises(RequestError, match=r"Another run is writing .*new"), folder.lock():
        pass
    assert folder.names() == frozenset({"a"})
    with folder.lock():
        pass


def test_another_process_is_kept_out_until_its_owner_is_dead(tmp_path: Path) -> None:
    folder = open_folder(tmp_path / "s")
    with owner(tmp_path / "s") as process:
        with pytest.raises(RequestError, match=r"Another run is writing .*\nAllowed: .*\nWait for it"), folder.lock():
            pass
        process.kill()
        process.wait()
        assert folder.names() == frozenset({".lock"})
        with folder.lock():
            pass
    assert folder.names() == frozenset()


def test_a_child_does_not_inherit_the_lock(tmp_path: Path) -> None:
    with owner(tmp_path / "s", "fork") as process:
        process.kill()
        process.wait()
        with open_folder(tmp_path / "s").lock():
            pass


def test_a_lock_of_a_file_that_was_removed_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = open_folder(tmp_path / "s")
    real = fcntl.flock
    opened: list[int] = []

    def flock(descriptor: int, operation: int) -> None:
        if not opened:  # the last owner is quicker
            (tmp_path / "s" / ".lock").unlink()
        opened.append(descriptor)
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with folder.lock():
        assert len(opened) == 2
        assert (tmp_path / "s" / ".lock").exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(WorkError, match=f"cannot be locked: {os.strerror(number)}"), open_folder(tmp_path).lock():
        pass
