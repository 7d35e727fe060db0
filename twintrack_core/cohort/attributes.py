"""The caller's facts about cases, from a CSV file."""

from __future__ import annotations

import csv
import math
import re
import stat
from collections.abc import Iterable
from pathlib import Path

from twintrack_core.cohort.folders import listed
from twintrack_core.errors import RequestError

Attribute = str | int | float | None
"""Value of an attribute; None where the file has an empty field."""

_MAX_BYTES = 1 << 26  # 200 columns of a million cases
_MAX_COLUMNS = 1000
_MAX_FIELD = 10_000
_INTEGER = re.compile(r"[+-]?(0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")


def read_attributes(path: Path, cases: Iterable[str]) -> dict[str, dict[str, Attribute]]:
    """Read the rows of some cases.

    Parameters
    ----------
    path
        Comma-separated UTF-8 text. The first line names the columns; one of them is ``case``.
    cases
        Names of the cases wanted. Other rows are left out.

    Returns
    -------
    dict
        For each case its other columns. What looks like a number is one, unless it has leading zeros, as identifiers
        have.

    Raises
    ------
    RequestError
        If the file cannot be read as such a table, or a case has no row or several.
    """
    wanted = list(cases)
    known = set(wanted)
    found: dict[str, dict[str, Attribute]] = {}
    try:
        _check_file(path)
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            columns = _columns(next(reader, []), path)
            key = columns.index("case")
            for row in filter(None, reader):  # empty lines are skipped
                where = f"{path}, line {reader.line_num}"
                if len(row) != len(columns):
                    raise RequestError(
                        f"{where} has {len(row)} fields.", f"Allowed: {len(columns)}, one for each column."
                    )
                case = row[key].strip()
                if case in found:
                    raise RequestError(f"{where}: case {case} has a second row.", "Allowed: one row per case.")
                if case in known:
                    found[case] = _attributes(columns, row, where)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise RequestError(
            f"Cannot read the attributes in {path}: {reason}.", "Allowed: a CSV file in UTF-8."
        ) from error
    absent = [case for case in wanted if case not in found]
    if absent:
        raise RequestError(f"{path} has no row for {listed(absent)}.", "Allowed: one row for every case.")
    return found


def _check_file(path: Path) -> None:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_BYTES:
        raise RequestError(
            f"Cannot read the attributes in {path}: it has {status.st_size} bytes, or is no file.",
            f"Allowed: a CSV file of at most {_MAX_BYTES} bytes.",
        )


def _columns(row: list[str], path: Path) -> list[str]:
    """Names of the columns, from the first line."""
    columns = [name.strip() for name in row]
    if "case" not in columns or len(set(columns)) < len(columns) or len(columns) > _MAX_COLUMNS:
        raise RequestError(
            f"{path} has the columns {listed(columns)}.",
            f'Allowed: at most {_MAX_COLUMNS} different columns, one of them "case", with commas.',
        )
    return columns


def _attributes(columns: list[str], row: list[str], where: str) -> dict[str, Attribute]:
    """Values of a row, but for its case."""
    for name, text in zip(columns, row, strict=True):
        if len(text) > _MAX_FIELD or "\0" in text or "\0" in name:
            raise RequestError(
                f"{where}: the field {name!r:.80} is {text!r:.40}, of {len(text)} characters.",
                f"Allowed: text of at most {_MAX_FIELD} characters, without NUL.",
            )
    return {name: _parse(text) for name, text in zip(columns, row, strict=True) if name != "case"}


def _parse(text: str) -> Attribute:
    text = text.strip()
    if not text:
        return None
    if _INTEGER.fullmatch(text):
        return int(text)
    leading_zero = re.match(r"[+-]?0[0-9]", text)
    if _FLOAT.fullmatch(text) and not leading_zero and math.isfinite(number := float(text)):
        return number
    return text
