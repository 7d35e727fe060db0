"""Import: cases from a reader into a cohort store, several at a time, one in memory per worker."""

from __future__ import annotations

import os
from functools import partial

from twintrack_core.cohort.case import Case
from twintrack_core.cohort.readers import Reader
from twintrack_core.cohort.registry import READERS
from twintrack_core.cohort.store import Cohort, open_cohort
from twintrack_core.cohort.writer import CohortWriter
from twintrack_core.engine.run import Run, compute, task
from twintrack_core.errors import ImageError, PluginError, TwinTrackError, WorkError
from twintrack_core.paths import reason, require_new
from twintrack_core.plugins import say


def import_cases(
    reader: Reader, path: str | os.PathLike[str], *, workers: int | None = None, progress: bool = False
) -> Cohort:
    """Write every case of a reader to a new cohort store.

    Parameters
    ----------
    reader
        Anything with ``case_names()`` and ``read(name)``: a reader of `cohort`, or a `Simulation`.
    path
        Store to make; it must not exist, its folder must.
    workers
        Threads, all cores by default. Each holds one case.

    Raises
    ------
    RequestError
        If ``path`` exists or its folder does not, or the reader lacks files.
    ImageError, InvalidScoresError, InvalidVotesError
        For what the files hold, or if they cannot be read, naming case and file. The store is left incomplete.
    PluginError
        If the reader fails in a way that is none of ours, or returns no names or no case.
    WorkError
        If the store cannot be written, for example on a full disk.
    """
    run = Run(workers, progress)
    require_new(path)
    names = _names(reader)
    try:
        writer = CohortWriter(path, names)
        compute([task(partial(_import_case, reader, name, writer)) for name in names], run, "importing")
        writer.finish()
    except OSError as error:
        raise WorkError(
            f"{path} cannot be written: {reason(error)}.",
            None,
            "Make room or choose another place, remove the incomplete store and run again.",
        ) from error
    return open_cohort(path)


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
            "Repair what it is read from, remove the incomplete store and run again.",
        ) from error
    except (Exception, SystemExit) as error:
        raise _fault(reader, f"failed to read case {name}: {say(error)}") from error
    if not isinstance(case, Case):
        raise _fault(reader, f"read case {name} as what is of type {type(case).__name__}, not Case")
    if case.name != name:
        raise _fault(reader, f"read case {name} as {case.name!r:.80}")
    writer.write_case(case)


def _fault(reader: Reader, what: str) -> PluginError:
    return PluginError(f"{READERS.maker_of(reader)} {what}.", None, "Report this to those who made it.")
