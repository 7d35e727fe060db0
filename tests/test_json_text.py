"""JSON that nobody vouches for."""

from __future__ import annotations

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twintrack_core.json_text import MAX_DEPTH, MAX_DIGITS, parse_object

LIMIT = 1 << 20

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=20)


@given(st.dictionaries(TEXTS, VALUES))
def test_what_json_writes_is_read(document: dict[str, object]) -> None:
    for text in (json.dumps(document), json.dumps(document, ensure_ascii=False, indent=1)):
        assert parse_object(text, LIMIT) == document
        assert parse_object(text.encode(), LIMIT) == document


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it is not JSON: Expecting value"),
        (b"{", "it is not JSON"),
        (b"{} {}", "it is not JSON"),
        (b"\xff{}", "not text in UTF-8"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b"[]", "a JSON list, not a JSON object"),
        (b"null", "a JSON NoneType"),
        (b'{"a": 1, "a": 1}', "'a' occurs twice"),
        (b'{"b": {"a": 1, "\\u0061": 2}}', "'a' occurs twice"),
        (b'{"a": NaN}', "it holds NaN"),
        (b'{"a": [-Infinity]}', "it holds -Infinity"),
        (b'{"a": 1e999}', "the number 1e999 is too large"),
        (b'{"a": -' + b"9" * 400 + b".0}", "the number -9{39} is too large"),
        (b'{"a": ' + b"9" * (MAX_DIGITS + 1) + b"}", "a number of 33 digits"),
        (b'{"a": ' + b"9" * 500_000 + b"}", "a number of 500000 digits"),
        (b'{"\\ud800": 1}', r"the text '\\ud800' is not Unicode"),
        (b'{"a": ["\\udc00x"]}', "is not Unicode"),
        (b'{"a": ' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}", "nested deeper than 64"),
        (b'{"a": ' + b"[" * 400_000, "nested deeper than 64"),
        (b'{"a":' * 100_000, "nested deeper than 64"),
        (b" " * (LIMIT + 1), "larger than 1048576 bytes"),
    ],
)
def test_anything_else_is_refused_at_once(data: bytes, words: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=words) as caught:
            parse_object(data, LIMIT)
        assert tracemalloc.get_traced_memory()[1] < 40 * LIMIT
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


def test_as_deep_as_is_allowed() -> None:
    text = '{"a": ' + "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1) + "}"
    assert repr(parse_object(text, LIMIT)["a"]) == "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)


def test_pairs_of_surrogates_are_text() -> None:
    assert parse_object(b'{"\\ud83d\\ude00": 9007199254740993}', LIMIT) == {"😀": 9007199254740993}
