"""Import: cases from a reader into a cohort store, several at a time, one in memory per worker."""

from __future__ import annotations

import os
from functools import partial

from twintrack_core.cohort.readers import Reader
from twintrack_core.cohort.store import Cohort, open_cohort
from twintrack_core.cohort.writer import CohortWriter
from twintrack_core.engine.run import Run, compute, task
from twintrack_core.errors import PluginError, TwinTrackError, WorkError
from twintrack_core.paths import reason, require_new


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
        For what the files hold, naming case and file. The store is left incomplete.
    PluginError
        If the reader fails in a way that is none of ours.
    WorkError
        If the store cannot be written, for example on a full disk.
    """
    run = Run(workers, progress)
    require_new(path)
    names = reader.case_names()
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


def _import_case(reader: Reader, name: str, writer: CohortWriter) -> None:
    try:
        case = reader.read(name)
    except (TwinTrackError, OSError, MemoryError):
        raise
    except Exception as error:
        raise PluginError(
            f"Case {name}: {type(reader).__name__} failed to read it: {error!r}.",
            None,
            "Report this to those who made the reader.",
        ) from error
    writer.write_case(case)
