"""Folders with one file per case: which cases there are, and which file belongs to one."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from twintrack_core.cohort.images import READ_SUFFIXES, image_suffix
from twintrack_core.errors import RequestError
from twintrack_core.names import check_case_name, shown


def folder_name(folder: Path) -> str:
    """Return the last part of a folder's path, also for ``.`` and paths with ``..``; links are kept as they are.

    Raises
    ------
    RequestError
        If it is not Unicode, so that no file of ours could hold it.
    """
    name = os.path.basename(os.path.abspath(folder))  # noqa: PTH100, PTH119 - Path.resolve would follow links
    try:
        name.encode()
    except UnicodeEncodeError as error:  # the file system's bytes are no UTF-8
        raise RequestError(
            f"The name of the folder {name!r} is not Unicode.", "Allowed: names in UTF-8.", "Rename the folder."
        ) from error
    return name


def check_folders(folders: Sequence[Path], what: str) -> None:
    """Refuse a folder that is not there or is given twice."""
    seen = set()
    for folder in folders:
        if not folder.is_dir():
            raise RequestError(f"There is no {what} folder {folder}.")
        if folder.resolve() in seen:
            raise RequestError(f"The {what} folder {folder} is given twice.", "Allowed: each folder once.")
        seen.add(folder.resolve())


def cases_with_suffix(folder: Path, suffix: str) -> list[str]:
    """Names of the cases that have a file with this ending in ``folder``, sorted; hidden files are not cases."""
    return sorted(name.removesuffix(suffix) for name in _file_names(folder) if name.endswith(suffix))


def cases_with_image(folder: Path) -> list[str]:
    """Names of the cases that have an image in ``folder``, sorted; a RequestError if one has several."""
    found: dict[str, str] = {}
    for name in sorted(_file_names(folder)):
        suffix = image_suffix(name)
        if suffix is not None:
            case = name.removesuffix(suffix)
            if case in found:
                raise _several(case, folder, [found[case], name])
            found[case] = name
    return sorted(found)


def find_image(folder: Path, case: str) -> Path | None:
    """Return the one image of a case in ``folder``, None if there is none.

    Raises
    ------
    RequestError
        If there are several, in different formats.
    """
    found = [path for suffix in READ_SUFFIXES if (path := folder / f"{case}{suffix}").is_file()]
    if len(found) > 1:
        raise _several(case, folder, [path.name for path in found])
    return found[0] if found else None


def get_image(folder: Path, case: str, what: str) -> Path:
    """Return the one image of a case in ``folder``; a RequestError if there is none."""
    path = find_image(folder, case)
    if path is None:
        raise missing([case], folder, what, f"{case}{READ_SUFFIXES[0]}")
    return path


def common_cases(cases: Sequence[tuple[Path, Sequence[str]]], suffix: str) -> tuple[str, ...]:
    """Return the cases that all members have.

    Parameters
    ----------
    cases
        Each member's folder with the names of its cases.
    suffix
        How the files' names end, for messages.

    Raises
    ------
    RequestError
        If there are no cases, or a member lacks some.
    StoreError
        If a name cannot be the name of a case.
    """
    everything = sorted({name for _, names in cases for name in names})
    if not everything:
        raise RequestError(f"There are no cases in {cases[0][0]}.", f"Allowed: one file CASE{suffix} per case.")
    for folder, names in cases:
        check_complete(everything, names, folder, "probabilities", f"CASE{suffix}")
        for name in names:
            check_case_name(name, str(folder))
    return tuple(everything)


def check_complete(
    cases: Iterable[str], present: Collection[str], folder: Path, what: str, pattern: str, action: str | None = None
) -> None:
    """Refuse a folder that lacks the files of some ``cases``."""
    known = set(present)
    absent = [case for case in cases if case not in known]
    if absent:
        raise missing(absent, folder, what, pattern, action)


def missing(cases: Sequence[str], folder: Path, what: str, pattern: str, action: str | None = None) -> RequestError:
    """Return the error for cases without a file in ``folder``."""
    noun = "case" if len(cases) == 1 else f"{len(cases)} cases"
    return RequestError(
        f"No {what} for {noun} {listed(cases)} in {folder}.", f"Allowed: a file {pattern} for every case.", action
    )


def listed(names: Iterable[object], limit: int = 5) -> str:
    """Join names for a message, the first few of them, each on one line and not all of a long one."""
    texts = [shown(name) for name in names]
    rest = len(texts) - limit
    return ", ".join(texts[:limit]) + (f" and {rest} more" if rest > 0 else "")


def _several(case: str, folder: Path, names: Sequence[str]) -> RequestError:
    return RequestError(
        f"Case {case} has several images in {folder}: {listed(names)}.",
        "Allowed: one image per case and folder.",
        "Move the others away.",
    )


def _file_names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if not path.name.startswith(".") and path.is_file()]
