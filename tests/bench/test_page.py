"""docs/performance.md has a place for every table, and only tables are replaced."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import tables
from benchmarks.sections import peak_memory, replaced
from twintrack_core.errors import RequestError

PAGE = Path(tables.__file__).parent.parent / "docs" / "performance.md"


def test_every_section_has_its_place() -> None:
    page = PAGE.read_text(encoding="utf-8")
    names = [*tables.SECTIONS, tables.GOALS, "gpu"]
    assert page.count("<!-- generated: ") == page.count("<!-- end -->") == len(names)
    written = replaced(page, {name: f"the text of {name} \\1" for name in names})
    for name in names:
        assert f"<!-- generated: {name} -->\n\nthe text of {name} \\1\n\n<!-- end -->" in written
    again = replaced(written, dict.fromkeys(names, ""))
    assert replaced(page, dict.fromkeys(names, "")) == again


def test_goals() -> None:
    goals = [
        {"what": what, "case": "", "limit": 3.0, "reached": [2.0, 1.0, 4.0], "at_least": at_least, "how": "once"}
        for what, at_least in (("quick", False), ("many", True))
    ]
    text = tables.goals_table({"job": {"goals": goals}})
    assert text.startswith("1 of 2 figures reach their goal.")
    quick, many = (line for line in text.splitlines() if "once" in line)
    assert [cell.strip() for cell in quick.split("|")[3:6]] == ["at most 3", "2.00 (1.00 to 4.00)", "met"]
    assert [cell.strip() for cell in many.split("|")[3:6]] == ["at least 3", "2.00 (1.00 to 4.00)", "MISSED"]
    assert text.splitlines()[-1].startswith("Not measured here: floors, ")


def test_peak_memory_is_this_process_s_own() -> None:
    ballast = bytearray(200 << 20)
    ballast[::4096] = b"x" * len(ballast[::4096])
    assert peak_memory() > 200
    child = "from benchmarks.sections import peak_memory; print(peak_memory())"
    command = [sys.executable, "-c", child]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=PAGE.parent.parent)
    assert float(done.stdout) < 200


def test_a_page_without_the_place() -> None:
    with pytest.raises(RequestError, match="no place for 'goals'"):
        replaced("text", {"goals": "x"})
