"""An output that one run at a time writes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from twintrack_core.errors import WorkError
from twintrack_core.paths import reason
from twintrack_core.storage import Folder


@contextlib.contextmanager
def held(output: Folder) -> Iterator[Callable[[], None]]:
    """Keep other runs from an output while this one writes to it.

    It gives a function to call before what is decisive is written: a `WorkError` if the output was taken away.

    Raises
    ------
    RequestError
        If another run writes to it now.
    WorkError
        If it cannot be written to, with what to do then.
    """
    try:
        with output.lock() as require:
            yield require
    except OSError as error:
        raise WorkError(
            f"{output} cannot be written: {reason(error)}.",
            None,
            "Make room or choose another place, then run again with --resume. The output is marked incomplete.",
        ) from error
