"""What a run has counted so far: in memory, and in the statistics store it makes, so that it can be resumed.

Until such a store is whole it has, beside a root that says it is incomplete and which run began it, a folder ``parts``
with a file for every task that is done: the statistics of some cases, or the cells of some tiles of a large one. They
go when the store is whole; nothing else reads them.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import os
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from twintrack_core.cohort.store import Cohort, fingerprint
from twintrack_core.engine.output import held
from twintrack_core.errors import StoreError
from twintrack_core.histogram import CaseStatistics, CohortStatistics, JointHistogram, store
from twintrack_core.histogram.cells import Cells, concatenate
from twintrack_core.storage import Folder, output_folder
from twintrack_core.storage.folder import METADATA
from twintrack_core.storage.retry import again, unreadable

_PARTS = "parts"
_COLUMNS = ("region", "code", "pattern", "count")
_MAX_PART_BYTES = 1 << 31
_DAMAGE = (
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    OSError,
    EOFError,
    RuntimeError,
    NotImplementedError,
    zlib.error,
    zipfile.BadZipFile,
)


@dataclass(frozen=True, eq=False)
class Part:
    """Cells of the tiles ``start`` to ``stop`` of a large case."""

    case: str
    start: int
    stop: int
    cells: Cells


Found: TypeAlias = Mapping[str, CaseStatistics] | Part
"""What a task has counted: whole cases, or a part of one."""


class Merging:
    """A sum of many sparse tables as a tree: each is merged with others of its size, and few are held at a time."""

    def __init__(self) -> None:
        self._levels: list[Cells | None] = []

    def add(self, cells: Cells) -> None:
        """Add the cells of one more table."""
        for level, other in enumerate(self._levels):
            if other is None:
                self._levels[level] = cells
                return
            cells = concatenate([other, cells])
            self._levels[level] = None
        self._levels.append(cells)

    def total(self) -> Cells:
        """Cells of all tables together."""
        return concatenate([cells for cells in self._levels if cells is not None])


class Counted:
    """What a run has counted so far.

    Attributes
    ----------
    cases
        Statistics of the cases that are done.
    finished
        All of it, once it is.
    """

    def __init__(self) -> None:
        self.cases: dict[str, CaseStatistics] = {}
        self.finished: CohortStatistics | None = None
        self._spans: dict[str, list[tuple[int, int]]] = {}
        self._merging: dict[str, Merging] = {}

    def add(self, found: Found) -> None:
        """Add what a task has counted."""
        if not isinstance(found, Part):
            self.cases.update(found)
            return
        self._spans.setdefault(found.case, []).append((found.start, found.stop))
        self._merging.setdefault(found.case, Merging()).add(found.cells)

    def has_parts(self, case: str) -> bool:
        """Whether some of a case is counted, but not all."""
        return case in self._spans

    def gaps(self, case: str, n_tiles: int) -> Iterator[tuple[int, int]]:
        """Tiles of a case that are not counted yet, as half-open spans."""
        end = 0
        for start, stop in sorted(self._spans.get(case, ())):
            if start < end or stop > n_tiles:
                raise StoreError(
                    f"Case {case}: the tiles {start} to {stop} of {n_tiles} are counted, and those up to {end} too.",
                    "Allowed: parts that do not overlap.",
                    "Remove the output and run again.",
                )
            if start > end:
                yield end, start
            end = stop
        if end < n_tiles or case not in self._spans:
            yield end, n_tiles

    def merged(self, case: str) -> Cells:
        """Cells of a case of which all parts are counted."""
        return self._merging[case].total()

    def finish(self, roi: str, skipped: Mapping[str, str]) -> None:
        """Put the cases together."""
        self.finished = CohortStatistics(self.cases, roi, skipped=skipped)


class StoredCounts(Counted):
    """What a run has counted so far, kept in the statistics store it makes.

    Parameters
    ----------
    folder
        Of the store.
    run
        What tells this run from others.
    require
        Raises if the store was taken away from this run.

    Raises
    ------
    RequestError
        If another run began the store.
    StoreError
        If what it left is damaged.
    """

    def __init__(self, folder: Folder, run: Mapping[str, Any], require: Callable[[], None]) -> None:
        super().__init__()
        self._require = require
        self._folder = folder
        self._run = run
        self._is_begun = folder.has(METADATA)
        if not self._is_begun:
            return
        self.finished = store.resume(folder, run)
        if self.finished is not None:
            self._remove_parts()  # where a run was killed after it made the store whole
            return
        for entry in folder.files(_PARTS):
            if entry.key.endswith(".npz") and (found := self._load(entry.key)) is not None:
                super().add(found)

    def add(self, found: Found) -> None:
        """Add what a task has counted, and keep it."""
        self._begin()
        self._require()
        self._folder.write(f"{_PARTS}/{uuid.uuid4().hex}.npz", _packed(found, _digest(self._run)))
        super().add(found)

    def finish(self, roi: str, skipped: Mapping[str, str]) -> None:
        """Put the cases together and make the store whole."""
        super().finish(roi, skipped)
        self._begin()
        self._require()
        assert self.finished is not None  # noqa: S101 - for mypy
        store.finish(self.finished, self._folder)
        self._remove_parts()

    def _begin(self) -> None:
        """Make the store as late as can be: a request that turns out to be wrong leaves nothing behind."""
        if not self._is_begun:
            store.begin(self._folder, self._run)
            self._is_begun = True

    def _remove_parts(self) -> None:
        """Remove what is of no use once the store is whole."""
        self._folder.remove(_PARTS)
        self._folder.sweep()

    def _load(self, key: str) -> Found | None:
        """Read a file of parts; None for one that another run left, which was cut off here before."""
        try:
            data = again(partial(self._folder.read, key, limit=_MAX_PART_BYTES))
        except OSError as error:
            raise unreadable(f"{self._folder}/{key}", error) from error
        try:
            return _unpacked(data or b"", self._folder, _digest(self._run))
        except _DAMAGE as error:
            raise StoreError(
                f"{self._folder}/{key} is damaged: {(str(error).splitlines() or ['nonsense'])[0]}.",
                "Allowed: what the run that is resumed left.",
                "Remove this file, and what it held is counted again.",
            ) from error


@contextlib.contextmanager
def counting(
    path: str | os.PathLike[str] | None, cohort: Cohort, settings: Mapping[str, Any], *, resume: bool
) -> Iterator[Counted]:
    """Begin to count the cases of a cohort, or go on where an earlier run was cut off.

    Parameters
    ----------
    path
        Statistics store to make, None to keep what is counted in memory only.
    settings
        What the result depends on besides the cohort.

    Raises
    ------
    RequestError
        If the store exists, and is not to be resumed, or another run began it or writes it.
    WorkError
        If it cannot be written.
    """
    if path is None:
        yield Counted()
        return
    folder = output_folder(path, resume=resume, source=cohort.folder)
    run = {**settings, "cases": list(cohort.names), "input": fingerprint(cohort)}
    with held(folder) as require:
        yield StoredCounts(folder, run, require)


def _digest(run: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()


def _packed(found: Found, run: str) -> bytes:
    """Bytes of a file of ``parts`` of the run of some digest."""
    if isinstance(found, Part):
        header: dict[str, Any] = {"case": found.case, "tiles": [found.start, found.stop]}
        columns, sizes = [found.cells], [len(found.cells[0])]
    else:
        header = {"cases": [store.describe(name, case) for name, case in found.items()]}
        columns = [case.histogram.cells for case in found.values()]
        sizes = [len(cells[0]) for cells in columns]
    arrays: dict[str, Any] = {name: np.concatenate([cells[i] for cells in columns]) for i, name in enumerate(_COLUMNS)}
    text = np.frombuffer(json.dumps({**header, "run": run}).encode(), dtype=np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, header=text, offset=np.cumsum([0, *sizes]), **arrays)
    return buffer.getvalue()


def _unpacked(data: bytes, where: Folder, run: str) -> Found | None:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        header = json.loads(arrays["header"].tobytes())
        if header["run"] != run:
            return None
        offset = arrays["offset"].tolist()
        columns = tuple(arrays[name] for name in _COLUMNS)
    parts = [tuple(column[a:b] for column in columns) for a, b in itertools.pairwise(offset)]
    if "tiles" in header:
        start, stop = header["tiles"]
        region, code, pattern, count = parts[0]
        histogram = JointHistogram.from_cells(region, code, pattern, count, [f"rater{bit}" for bit in range(8)])
        return Part(header["case"], start, stop, histogram.cells)
    return dict(store.read_case(where, entry, cells) for entry, cells in zip(header["cases"], parts, strict=True))
