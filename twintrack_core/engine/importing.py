"""Import: cases from a reader into a cohort store, several at a time, one in memory per worker."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pickle  # to see whether it can be: nothing is ever read with it
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from twintrack_core.cohort.case import Case
from twintrack_core.cohort.readers import Reader
from twintrack_core.cohort.registry import READERS
from twintrack_core.cohort.store import Cohort, open_cohort
from twintrack_core.cohort.writer import CohortWriter
from twintrack_core.engine.output import held
from twintrack_core.engine.run import Crew, OnError, Run, Scheduler, Skipped, Task, crew_of, go_on
from twintrack_core.errors import ImageError, PluginError, TwinTrackError
from twintrack_core.paths import reason
from twintrack_core.plugins import say
from twintrack_core.storage import output_folder


def import_cases(
    reader: Reader,
    path: str | os.PathLike[str],
    *,
    resume: bool = False,
    on_error: OnError = "stop",
    scheduler: Scheduler = "threads",
    workers: int | None = None,
    progress: bool = False,
) -> Cohort:
    """Write every case of a reader to a new cohort store.

    Parameters
    ----------
    reader
        Anything with ``case_names()`` and ``read(name)``: a reader of `cohort`, or a `Simulation`.
    path
        Store to make; it must not exist, unless ``resume``; its folder must.
    resume
        Finish a store that the same reader began, of files that are still as they were; start it where nothing was
        begun.
    on_error
        "stop" at a case that cannot be read, or "skip" it: the store lacks it, and `Cohort.skipped` says so.
    scheduler, workers, progress
        As in `accumulate`. Each worker holds one case.

    Raises
    ------
    RequestError
        If ``path`` exists or its folder does not, or was begun by another run, or the reader lacks files.
    ImageError, InvalidScoresError, InvalidVotesError
        For what the files hold, or if they cannot be read, naming case and file. The store is left incomplete.
    PluginError
        If the reader fails in a way that is none of ours, or returns no names or no case.
    WorkError
        If the store cannot be written, for example on a full disk; for a cluster that cannot be used.
    """
    run = Run(workers, progress, scheduler)
    skipped = Skipped(on_error)
    output = output_folder(path, resume=resume)
    if not run.here:
        _require_picklable(reader)
    names = _names(reader)
    with held(output) as require:
        writer = CohortWriter(output, names, run={"reader": _identity(reader)}, resume=resume)
        if not writer.finished:
            with crew_of(run) as crew:
                _import_cases(reader, writer, skipped, crew, run)
            skipped.check_rest(len(names))
            require()
            writer.finish(skipped.reasons)
    return open_cohort(path)


def _require_picklable(reader: Reader) -> None:
    """Refuse a reader that cannot be taken to other processes."""
    try:
        pickle.dumps(reader)
    except Exception as error:  # pickling runs code of the reader's
        raise _fault(reader, f"cannot be taken to other processes: {say(error)}") from error


def _import_cases(reader: Reader, writer: CohortWriter, skipped: Skipped, crew: Crew, run: Run) -> None:
    def alone(name: str) -> Task[None]:
        return Task(name, partial(_import_case, reader, name, writer), (name,))

    left = [alone(name) for name in writer.names if not writer.has_case(name)]
    for _ in skipped.compute(left, alone, crew, run, "importing"):
        pass


def _identity(reader: Reader) -> str:
    """SHA-256 that tells one input from another: what the reader was told, and names, sizes and times of its files."""
    digest = hashlib.sha256(_class_of(reader).encode())
    for name, value in sorted(_told(reader).items()):
        digest.update(f"\0{name}=".encode() + _said(value))
    return digest.hexdigest()


def _told(reader: object) -> dict[str, object]:
    """Fields of a dataclass, and no more; attributes of anything else."""
    if dataclasses.is_dataclass(reader):
        return {field.name: getattr(reader, field.name) for field in dataclasses.fields(reader)}
    return dict(getattr(reader, "__dict__", {}))


def _said(value: object) -> bytes:
    """Return what tells a value from another in any process, and for paths names, sizes and times of the files."""
    if isinstance(value, Path):
        return "".join((repr(str(value.resolve())), *_files(value.resolve()))).encode()
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return f"{value.dtype} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}".encode()
    if isinstance(value, np.ndarray):
        return _said(value.tolist())
    if isinstance(value, tuple | list):
        return b"[" + b",".join(map(_said, value)) + b"]"
    if isinstance(value, set | frozenset):  # in another order in each process
        return b"{" + b",".join(sorted(map(_said, value))) + b"}"
    if isinstance(value, dict):
        return b"{" + b",".join(_said(key) + b":" + _said(item) for key, item in value.items()) + b"}"
    text = repr(value)
    return (_class_of(value) if " at 0x" in text else text).encode()


def _class_of(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _files(path: Path) -> Iterator[str]:
    """Name, size and time of a file, or of those below a folder."""
    for place in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if place.is_file():
            status = place.stat()
            yield f"\0{place}\0{status.st_size}\0{status.st_mtime_ns}"


def _names(reader: Reader) -> tuple[str, ...]:
    try:
        names: object = reader.case_names()
    except (TwinTrackError, OSError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        raise _fault(reader, f"failed to name the cases: {say(error)}") from error
    if not isinstance(names, tuple | list) or not names or not all(isinstance(name, str) for name in names):
        raise _fault(reader, f"named the cases {names!r:.80}, not a tuple of one name or more")
    return tuple(names)


def _import_case(reader: Reader, name: str, writer: CohortWriter) -> None:
    try:
        case: object = reader.read(name)
    except (TwinTrackError, MemoryError):
        raise
    except OSError as error:  # of the store it would mean something else
        raise ImageError(
            f"Case {name} cannot be read: {reason(error)}.",
            None,
            "Repair what it is read from, then run again with --resume; or leave such cases out with --on-error skip.",
        ) from error
    except (Exception, SystemExit) as error:
        raise _fault(reader, f"failed to read case {name}: {say(error)}") from error
    if not isinstance(case, Case):
        raise _fault(reader, f"read case {name} as what is of type {type(case).__name__}, not Case")
    if case.name != name:
        raise _fault(reader, f"read case {name} as {case.name!r:.80}")
    go_on()
    writer.write_case(case)


def _fault(reader: Reader, what: str) -> PluginError:
    return PluginError(f"{READERS.maker_of(reader)} {what}.", None, "Report this to those who made it.")
