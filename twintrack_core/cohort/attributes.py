"""The caller's facts about cases, from a CSV file."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable
from pathlib import Path

from twintrack_core.cohort.folders import listed
from twintrack_core.errors import RequestError

Attribute = str | int | float | None
"""Value of an attribute; None where the file has an empty field."""

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
    columns, rows = _read_table(path)
    key = columns.index("case")
    wanted = list(cases)
    known = set(wanted)
    found: dict[str, dict[str, Attribute]] = {}
    for line, row in rows:
        case = row[key].strip()
        if case not in known:
            continue
        if case in found:
            raise RequestError(f"{path}, line {line}: case {case} has a second row.", "Allowed: one row per case.")
        found[case] = {
            name: _parse(text) for index, (name, text) in enumerate(zip(columns, row, strict=True)) if index != key
        }
    absent = [case for case in wanted if case not in found]
    if absent:
        raise RequestError(f"{path} has no row for {listed(absent)}.", "Allowed: one row for every case.")
    return found


def _read_table(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Columns, and the rows with their line numbers; empty lines are skipped."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            columns = [name.strip() for name in next(reader, [])]
            rows = [(reader.line_num, row) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise RequestError(
            f"Cannot read the attributes in {path}: {reason}.", "Allowed: a CSV file in UTF-8."
        ) from error
    if "case" not in columns or len(set(columns)) < len(columns):
        raise RequestError(
            f"{path} has the columns {listed(columns)}.", 'Allowed: different columns, one of them "case", with commas.'
        )
    for line, row in rows:
        if len(row) != len(columns):
            raise RequestError(
                f"{path}, line {line} has {len(row)} fields.", f"Allowed: {len(columns)}, one for each column."
            )
    return columns, rows


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
