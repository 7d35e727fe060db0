"""Reading once more what a network or a disk failed to give: the one place that knows for how long, and after what.

What does not pass is said here, too.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import TypeVar

from twintrack_core.errors import StoreError

T = TypeVar("T")

WAITS = (0.05, 0.2)
"""Seconds before what failed is tried again, and once more."""

REMAKE = "Make the store anew from its source, or restore the file."
"""What to do about damage."""

_TRANSIENT = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN})


def again(work: Callable[[], T], damaged: tuple[type[Exception], ...] = (), *, local: bool = False) -> T:
    """Call ``work``, and again after a failure that may pass; the last one is raised.

    Parameters
    ----------
    work
        What reads something, with no harm if it is called more than once.
    damaged
        Errors that mean damage, of which a bad copy in a cache or on the way looks the same.
    local
        Whether it lies on this machine. Damage is looked at once more then, and at once: waiting does not mend it.
    """
    waits = iter(WAITS)
    waits_of_damage = iter((0.0,)) if local else waits
    while True:
        try:
            return work()
        except damaged:
            wait = next(waits_of_damage, None)
            if wait is None:
                raise
        except OSError as error:
            wait = next(waits, None) if is_transient(error) else None
            if wait is None:
                raise
        time.sleep(wait)


def is_transient(error: OSError) -> bool:
    """Whether reading again may help. A `storage.remote.RemoteError` says so itself."""
    return bool(getattr(error, "transient", error.errno in _TRANSIENT))


def unreadable(what: str, error: OSError) -> StoreError:
    """Return the error for what stayed so: ``what`` failed, without a full stop, and what can be done about it."""
    if error.errno == errno.EFBIG:  # as of files that are larger than they can be
        action = REMAKE
    elif error.errno in (errno.EACCES, errno.EPERM):
        action = "Check who may read it."
    else:
        action = "Check the disk or the network, and try again."
    return StoreError(f"{what}: {error.strerror or error}.", None, action)
