"""A lock of a remote folder: a lease that its owner renews, and that others take over when it is not renewed.

No clocks are compared between machines. A lease is an object that says who has it and how often it was renewed; who
wants it looks whether it changes, and takes it over if it has not for `LEASE_SECONDS`. All of its changes are on the
condition that nobody else changed it since.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from twintrack_core.errors import WorkError
from twintrack_core.storage.folder import LOCK
from twintrack_core.storage.lock import held

if TYPE_CHECKING:
    from twintrack_core.storage.remote import RemoteFolder

LEASE_SECONDS = 30.0
"""After so long without a renewal a lease is dead."""

RENEW_SECONDS = 5.0

RELEASE_SECONDS = 2.0
"""So long is a renewal waited for when the lease is given back; after a longer one the lease is left to die."""

_leases: dict[tuple[int, RemoteFolder], Lease] = {}


class Lease:
    """A lease that is held, and the thread that renews it."""

    def __init__(self, folder: RemoteFolder) -> None:
        self.folder = folder
        self._owner = secrets.token_hex(16)
        self._count = 0
        self._tag: dict[str, str] = {}
        self._renewed = 0.0
        self._ended = threading.Event()
        self._taken = False
        self._thread = threading.Thread(target=self._renew_on, name="twintrack-lease", daemon=True)

    @property
    def lost(self) -> bool:
        """Whether another may have it by now."""
        return self._taken or _now() - self._renewed > LEASE_SECONDS

    @property
    def renewing(self) -> bool:
        """Whether this is the thread that renews it."""
        return threading.current_thread() is self._thread

    def acquire(self) -> None:
        """Take the lease, or the place of one that is dead; a `RequestError` if it is alive."""
        started = _now()
        if not self._write(mode="create"):
            seen = self._look()
            while seen is not None and _now() - started < LEASE_SECONDS and seen[1] != self._owner:
                time.sleep(min(1.0, RENEW_SECONDS))
                now = self._look()
                if now is not None and now != seen:
                    raise held(self.folder)
                seen = now
            if seen is None:  # its owner is done
                taken = self._write(mode="create")
            elif seen[1] == self._owner:  # written by a request that was sent twice
                self._tag, taken = seen[0], True
            else:
                taken = self._write(mode=seen[0])
            if not taken:
                raise held(self.folder)
        self._thread.start()

    def release(self) -> None:
        """Give the lease back."""
        self._ended.set()
        self._thread.join(RELEASE_SECONDS)
        if not self._thread.is_alive() and not self.lost:  # a network that stalls does so for removing, too
            with contextlib.suppress(OSError):
                self.folder.remove(LOCK)

    def _renew_on(self) -> None:
        while not self._ended.wait(RENEW_SECONDS):
            with contextlib.suppress(OSError):  # the network may come back before the lease is dead
                if not self._write(mode=dict(self._tag)):
                    found = self._look()
                    if found is None or found[1] != self._owner:
                        self._taken = True
                        return
                    self._tag, self._renewed = found[0], _now()

    def _write(self, mode: Any) -> bool:
        before = _now()  # others count from when it was written, which is later
        content = json.dumps({"owner": self._owner, "count": self._count + 1}).encode()
        found = self.folder._put(LOCK, content, mode=mode)  # noqa: SLF001 - the other half of it
        if found is None:
            return False
        self._count += 1
        self._tag = _tag(found)
        self._renewed = before
        return True

    def _look(self) -> tuple[dict[str, str], str] | None:
        """Version and owner of the lease there is."""
        file = self.folder.open(LOCK, head=1 << 10)
        if file is None:
            return None
        try:
            owner = str(json.loads(file.read(1 << 10, 0))["owner"])
        except (ValueError, KeyError, TypeError):
            owner = ""
        return _tag({"e_tag": file.version[0]}), owner


def _now() -> float:
    """Seconds of a clock that goes on while the machine sleeps, where there is one: leases die meanwhile."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


def _tag(found: dict[str, Any]) -> dict[str, str]:
    return {key: found[key] for key in ("e_tag", "version") if found.get(key) is not None}


@contextlib.contextmanager
def leased(folder: RemoteFolder) -> Iterator[Callable[[], None]]:
    """Hold the lease of a folder; see `Folder.lock`."""
    lease = Lease(folder)
    lease.acquire()
    key = (os.getpid(), folder)
    _leases[key] = lease
    try:
        yield functools.partial(require_lease, folder)
    finally:
        del _leases[key]
        lease.release()


def require_lease(folder: RemoteFolder) -> None:
    """Refuse to write below a folder of which this process had the lease and lost it."""
    for (process, place), lease in list(_leases.items()):
        if process == os.getpid() and folder.lies_in(place) and lease.lost and not lease.renewing:
            raise WorkError(
                f"The lock of {place} was lost: it could not be renewed for {LEASE_SECONDS:g} s.",
                None,
                "Run again with --resume where the command has it, once no other run writes there.",
            )
