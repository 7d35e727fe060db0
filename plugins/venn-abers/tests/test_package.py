"""The distribution as a whole: what it imports, and what it offers."""

from __future__ import annotations

import ast
import importlib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

import twintrack_venn_abers
from twintrack_core import calibrators
from twintrack_venn_abers.calibrator import venn_abers

FILES = sorted(Path(twintrack_venn_abers.__file__).parent.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=[path.name for path in FILES])
def test_only_the_public_api_is_imported(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not any(alias.name.split(".")[0] == "twintrack_core" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "twintrack_core":
            assert node.module == "twintrack_core.calibrators"
            assert {alias.name for alias in node.names} <= set(importlib.import_module(node.module).__all__)
            assert node.level == 0


def test_entry_points() -> None:
    try:
        entries = distribution("twintrack-venn-abers").entry_points
    except PackageNotFoundError:
        pytest.skip("twintrack-venn-abers is not installed")
    assert [entry.load() for entry in entries.select(group="twintrack.api", name="v1")] == [twintrack_venn_abers]
    assert {e.name: e.load() for e in entries.select(group="twintrack.calibrators")} == {"venn_abers": venn_abers}
    assert calibrators.get("venn_abers") is venn_abers
