"""JSON from files that nobody vouches for: bounded, shallow, every field once, numbers that are numbers."""

from __future__ import annotations

import json
import math
from typing import Any

MAX_DEPTH = 64
"""Objects and lists within each other. Deeper ones could not even be printed, in a message for instance."""

MAX_DIGITS = 32
"""Characters of a whole number. Python itself takes time that grows with the square of them."""


def parse_object(data: bytes | str, max_bytes: int) -> dict[str, Any]:
    """Parse the JSON of an object.

    Parameters
    ----------
    data
        The text, in UTF-8 if bytes.
    max_bytes
        Its largest length. Parsing takes up to some twenty times as much memory.

    Raises
    ------
    ValueError
        If it is longer, is not JSON, or not of an object; if a field occurs twice, a number is infinite, NaN or
        longer than `MAX_DIGITS`, a text is none that UTF-8 can hold, or it is nested deeper than `MAX_DEPTH`. Its text
        is a clause to put into a message.
    """
    if len(data) > max_bytes:
        raise ValueError(f"it is larger than {max_bytes} bytes")
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("it is not text in UTF-8") from None
    try:
        document = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_refuse, parse_int=_integer, parse_float=_float
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error!s:.120}") from error
    except RecursionError:
        raise ValueError(f"it is not JSON of ours: it is nested deeper than {MAX_DEPTH}") from None
    if not isinstance(document, dict):
        raise ValueError(f"it is a JSON {type(document).__name__}, not a JSON object")
    _check(document)
    return document


def _check(document: dict[str, Any]) -> None:
    """Refuse what is nested too deep, and texts that no file or terminal could be given."""
    level: list[Any] = [document]
    for _ in range(MAX_DEPTH):
        deeper: list[Any] = []
        for value in level:
            if isinstance(value, str):
                _check_text(value)
            elif isinstance(value, dict):
                for key in value:
                    _check_text(key)
                deeper += [item for item in value.values() if isinstance(item, str | dict | list)]
            else:
                deeper += [item for item in value if isinstance(item, str | dict | list)]
        if not deeper:
            return
        level = deeper
    raise ValueError(f"it is not JSON of ours: it is nested deeper than {MAX_DEPTH}")


def _check_text(text: str) -> None:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:  # half of a surrogate pair, which JSON can spell
            raise ValueError(f"the text {text!r:.40} is not Unicode") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the field {twice!r:.80} occurs twice")
    return document


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number of {len(text)} digits is too large")
    return int(text)


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text:.40} is too large")
    return number


def _refuse(name: str) -> None:
    raise ValueError(f"it holds {name}, which is no number of JSON")
