"""Readers by name: ours, and those of other distributions, entry points of the group "twintrack.readers"."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from twintrack_core.errors import PluginError, RequestError, TwinTrackError
from twintrack_core.plugins import Registry, say

if TYPE_CHECKING:
    from twintrack_core.cohort.readers import Reader

ReaderFactory: TypeAlias = Callable[..., "Reader"]
"""Makes a reader: ``factory(folder, *, cases=(), **options)``.

``folder`` is a Path, ``cases`` a tuple of shell patterns of the cases to read, all of them if empty. Further
keyword-only parameters are options, which are given as strings; one without a default must be given.
"""

OURS = ("nnunet", "volumes")
"""Readers with commands of their own, which take more than one folder."""

_REPORT = "Report this to those who made it."


def make_reader(name: str, folder: Path, *, cases: tuple[str, ...] = (), options: Mapping[str, str]) -> Reader:
    """Make a reader that another distribution offers.

    Parameters
    ----------
    name
        Name of the reader.
    folder
        Where its files are.
    cases
        Shell patterns of the cases to read; all of them if empty.
    options
        What else the reader takes.

    Raises
    ------
    RequestError
        For a name, an option or a value of one that there is not, an option that is missing, or no folder.
    PluginError
        If the reader cannot be used, or fails to be made.
    """
    factory = READERS.get(name)
    _check_options(name, factory, options)
    if not folder.is_dir():
        raise RequestError(f"{folder} is no folder.", f"Allowed: a folder with what the reader {name!r} reads.")
    who = f"The reader {name!r} of {READERS.source_of(name)}"
    try:
        reader = factory(folder, cases=cases, **options)
    except (TwinTrackError, OSError):
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(f"{who} failed for {folder}: {say(error)}.", None, _REPORT) from error
    missing = [method for method in ("case_names", "read") if not callable(getattr(reader, method, None))]
    if missing:
        raise PluginError(
            f"{who} made what is of type {type(reader).__name__}, without {' and '.join(missing)}.",
            "Allowed: what has case_names and read.",
            _REPORT,
        )
    return reader


def _check_options(name: str, factory: ReaderFactory, options: Mapping[str, str]) -> None:
    parameters = inspect.signature(factory).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    taken = {
        parameter.name: parameter.default is parameter.empty
        for parameter in parameters
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name != "cases"
    }
    allowed = f"Allowed: {', '.join(taken) or 'none'}."
    for option in options:
        if option not in taken:
            raise RequestError(f"The reader {name!r} takes no option {option!r}.", allowed)
    for option, required in taken.items():
        if required and option not in options:
            raise RequestError(f"The reader {name!r} needs the option {option!r}.", allowed)


def _load_ours(name: str) -> ReaderFactory:
    if name == "nnunet":
        from twintrack_core.cohort.nnunet import NnunetReader

        return NnunetReader
    from twintrack_core.cohort.volumes import VolumesReader

    return VolumesReader


def _check(_: str, factory: Any) -> str | None:
    if not callable(factory):
        return f"it is of type {type(factory).__name__}"
    try:
        inspect.signature(factory).bind_partial(Path(), cases=())
    except (TypeError, ValueError) as error:
        return f"it does not take a folder and cases ({error})"
    return None


READERS: Registry[ReaderFactory] = Registry(
    "reader", OURS, _load_ours, _check, "a function (folder, *, cases=(), ...) that returns a reader"
)
