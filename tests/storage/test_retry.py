"""What is tried again, how often and after what wait; and what is said when it did not help."""

from __future__ import annotations

import errno
import os
import time

import pytest

from twintrack_core.storage import retry
from twintrack_core.storage.retry import again, unreadable


class Damaged(Exception):  # noqa: N818 - as the errors of chunks, it is one for its caller alone
    """Some bytes are not what they should be."""


def error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class Work:
    """Fails as it is told to, then gives 7."""

    def __init__(self, *faults: Exception) -> None:
        self.left = list(faults)

    def __call__(self) -> int:
        if self.left:
            raise self.left.pop(0)
        return 7


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waits, none of which takes time."""
    made: list[float] = []
    monkeypatch.setattr(retry, "WAITS", (0.05, 0.2))
    monkeypatch.setattr(time, "sleep", made.append)
    return made


@pytest.mark.parametrize(
    ("faults", "local", "expected"),
    [
        ([], False, []),
        ([Damaged()], True, [0]),
        ([Damaged()], False, [0.05]),
        ([Damaged(), Damaged()], False, [0.05, 0.2]),
        ([error(errno.EIO)], True, [0.05]),
        ([error(errno.EIO), Damaged(), error(errno.ESTALE)], True, [0.05, 0, 0.2]),
        ([error(errno.EIO), Damaged()], False, [0.05, 0.2]),
    ],
)
def test_what_passes(waits: list[float], faults: list[Exception], local: bool, expected: list[float]) -> None:
    assert again(Work(*faults), (Damaged,), local=local) == 7
    assert waits == expected


@pytest.mark.parametrize(
    ("faults", "local", "calls"),
    [
        ([Damaged()] * 5, True, 2),
        ([Damaged()] * 5, False, 3),
        ([error(errno.EIO)] * 5, True, 3),
        ([error(errno.EACCES)] * 5, False, 1),
        ([ValueError()] * 5, False, 1),
    ],
)
def test_what_stays(waits: list[float], faults: list[Exception], local: bool, calls: int) -> None:
    work = Work(*faults)
    with pytest.raises(type(faults[0])):
        again(work, (Damaged,), local=local)
    assert len(faults) - len(work.left) == calls
    assert len(waits) == calls - 1


@pytest.mark.parametrize(
    ("number", "action"),
    [
        (errno.EFBIG, "Make the store anew"),
        (errno.EACCES, "who may read"),
        (errno.EIO, "Check the disk or the network"),
    ],
)
def test_every_error_says_what_to_do(number: int, action: str) -> None:
    found = unreadable("a/c/0 cannot be read", error(number))
    assert found.what == f"a/c/0 cannot be read: {os.strerror(number)}."
    assert action in str(found.action)
