"""Choosing cases by patterns, and names in messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from twintrack_core.cli._shared import case_patterns
from twintrack_core.errors import RequestError
from twintrack_core.names import matching, shown, some


def test_a_name_is_itself_before_it_is_a_pattern() -> None:
    names = ["b[1]", "b1", "a"]
    assert matching(names, ["b[1]"], "it") == ("b[1]", "b1")
    assert matching(names, ["a", "b1", "a"], "it") == ("b1", "a")
    assert matching(names, [], "it") == tuple(names)


def test_many_names_are_not_compared_with_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"case_{number:06d}" for number in range(100_000)]
    monkeypatch.setattr("fnmatch.fnmatchcase", lambda *_: pytest.fail("a name was taken for a pattern"))
    assert matching(names, names[::-1], "it") == tuple(names)


def test_many_wildcards_are_refused() -> None:
    names = [f"case_{number:06d}" for number in range(1001)]
    assert matching(names, [f"*{name}" for name in names[1:]], "it") == tuple(names[1:])
    with pytest.raises(RequestError, match="1001 patterns with wildcards are too many"):
        matching(names, [f"*{name}" for name in names], "it")


def test_messages_stay_short() -> None:
    with pytest.raises(RequestError, match=r"has no case 'x{79}\.") as caught:
        matching(["n" * 5000, "a\nb"], ["x" * 5000], "it")
    assert len(str(caught.value)) < 400
    assert str(caught.value).count("\n") == 1
    assert shown("a\x1b") == r"'a\x1b'"
    assert (some([]), some("abc"), some(range(9))) == ("none", "a, b, c", "0, 1, 2, 3, 4, 5, 6, 7 and 1 more")


def test_a_list_of_cases_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "cases.txt"
    path.write_text("a\n\n b \n")
    assert case_patterns([str(path), "c*"]) == ["a", "b", "c*"]
    path.write_text("a\n" + "b" * 1001)
    with pytest.raises(RequestError, match="line 2 has more than 1000 characters"):
        case_patterns([str(path)])
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(RequestError, match="has more than 16777216 bytes"):
        case_patterns([str(path)])
