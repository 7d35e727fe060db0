"""Reading ahead and writing behind, where each file takes a request: several at a time, in bounded memory."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future

from twintrack_core.storage.folder import Folder
from twintrack_core.storage.pool import pool
from twintrack_core.storage.retry import again

REQUESTS = 32
"""Requests in flight, of a task."""

BYTES = 64 << 20
"""Bytes in flight or waiting to be taken, of a task; one piece may be more."""

_GAP = 64 << 10  # reading over so much takes less time than another request
_RUN = 4 << 20


class _Fetch:
    """Pieces of a file that come with one request."""

    def __init__(self, folder: Folder, key: str, limit: int) -> None:
        self.folder, self.key, self.limit = folder, key, limit
        self.start: int | None = None  # None for the whole file
        self.stop = 0
        self.size = limit
        self.pieces: dict[Hashable, tuple[int, int]] = {}
        self.left: dict[Hashable, int] = {}
        self.future: Future[bytes | None] | None = None
        self.taken = False

    def load(self) -> bytes | None:
        if self.start is None:
            return again(functools.partial(self.folder.read, self.key, limit=self.limit))
        return again(functools.partial(self.folder.read_range, self.key, self.start, self.stop - self.start))


class Ahead:
    """What a task will read: fetched in the order it was expected in, taken in any. Used by one thread."""

    def __init__(self) -> None:
        self._queue: deque[_Fetch] = deque()
        self._started: list[_Fetch] = []
        self._of: dict[Hashable, _Fetch] = {}
        self._runs: dict[tuple[Folder, str], _Fetch] = {}
        self._absent: set[Hashable] = set()
        self._known: dict[object, object] = {}

    def known(self, of: object, find: Callable[[], object]) -> object:
        """Return what was found out of something, found out once until all is forgotten."""
        if of not in self._known:
            self._known[of] = find()
        return self._known[of]

    def expect_nothing(self, name: Hashable) -> None:
        """Note that there is no such piece."""
        self._absent.add(name)

    def expect(self, name: Hashable, folder: Folder, key: str, limit: int, size: int | None = None) -> None:
        """Expect a whole file, of ``size`` bytes and at most ``limit``."""
        if not self._again(name):
            fetch = _Fetch(folder, key, limit)
            fetch.size = limit if size is None else size
            self._add(name, fetch, (0, 0))

    def expect_range(self, name: Hashable, folder: Folder, key: str, offset: int, length: int) -> None:
        """Expect some bytes of a file; what lies close to what was expected last comes with it."""
        if self._again(name):
            return
        fetch = self._runs.get((folder, key))
        if (
            fetch is None
            or fetch.future is not None
            or not 0 <= offset - fetch.stop <= _GAP
            or fetch.start is None
            or offset + length - fetch.start > _RUN
        ):
            fetch = self._runs[folder, key] = _Fetch(folder, key, 0)
            fetch.start = offset
        fetch.stop = offset + length
        fetch.size = fetch.stop - (fetch.start or 0)
        self._add(name, fetch, (offset, length))

    def _again(self, name: Hashable) -> bool:
        """Count a piece that is expected already."""
        fetch = self._of.get(name)
        if fetch is not None:
            fetch.left[name] += 1
        return fetch is not None

    def _add(self, name: Hashable, fetch: _Fetch, piece: tuple[int, int]) -> None:
        if not fetch.pieces:
            self._queue.append(fetch)
        fetch.pieces[name] = piece
        fetch.left[name] = 1
        self._of[name] = fetch

    def take(self, name: Hashable) -> tuple[bool, bytes | None]:
        """Whether a piece was expected; and its bytes, None if there is no such piece.

        Raises
        ------
        OSError
            What fetching it failed with; it is not expected any more.
        """
        if name in self._absent:
            return True, None
        fetch = self._of.get(name)
        if fetch is None:
            return False, None
        if fetch.future is None:
            self._start(fetch)
        self._fill()
        assert fetch.future is not None  # noqa: S101 - it was started
        try:
            data = fetch.future.result()
        except BaseException:
            self._drop(fetch)
            raise
        if data is not None and fetch.start is not None:
            offset, length = fetch.pieces[name]
            data = data[offset - fetch.start :][:length]
        fetch.taken = True
        fetch.left[name] -= 1
        if not any(n > 0 for n in fetch.left.values()):
            self._drop(fetch)
            self._fill()
        return True, data

    def distrust(self, name: Hashable) -> None:
        """Let go of a piece that was damaged when it was taken, and of what came with it: none is expected any more."""
        fetch = self._of.get(name)
        if fetch is not None:
            self._drop(fetch)

    def _start(self, fetch: _Fetch) -> None:
        fetch.future = pool().submit(fetch.load)
        self._started.append(fetch)

    def _drop(self, fetch: _Fetch) -> None:
        self._started.remove(fetch)
        for name in fetch.pieces:
            self._of.pop(name, None)

    def _fill(self) -> None:
        """Start what there is room for; what was taken and is expected again goes first where there is none."""
        while self._queue:
            fetch = self._queue[0]
            if fetch.future is not None:  # taken before its turn
                self._queue.popleft()
                continue
            held = sum(one.size for one in self._started)
            if sum(not one.future.done() for one in self._started if one.future) >= REQUESTS:
                return
            if self._started and held + fetch.size > BYTES:
                idle = next((one for one in self._started if one.taken and one.future and one.future.done()), None)
                if idle is None:
                    return
                self._drop(idle)
                continue
            self._queue.popleft()
            self._start(fetch)

    def forget(self) -> None:
        """Expect nothing any more."""
        for fetch in self._started:
            if fetch.future is not None:
                fetch.future.cancel()
        self._queue.clear()
        self._started.clear()
        self._of.clear()
        self._runs.clear()
        self._absent.clear()
        self._known.clear()


class Behind:
    """Files that are being written while a task goes on. Used by one thread."""

    def __init__(self) -> None:
        self._open: deque[tuple[Future[None], int]] = deque()
        self._n_bytes = 0

    def write(self, folder: Folder, key: str, data: bytes) -> None:
        """Write a file soon; wait for others first where too many are on their way, and raise what they raise."""
        while self._open and (len(self._open) >= REQUESTS or self._n_bytes + len(data) > BYTES):
            self._wait()
        self._open.append((pool().submit(folder.write, key, data), len(data)))
        self._n_bytes += len(data)

    def finish(self) -> None:
        """Wait until all are written; raise the first error when none is on its way."""
        first: Exception | None = None
        while self._open:
            try:
                self._wait()
            except Exception as error:  # noqa: BLE001 - it is raised below
                first = first or error
        if first is not None:
            raise first

    def _wait(self) -> None:
        future, size = self._open.popleft()
        self._n_bytes -= size
        future.result()
