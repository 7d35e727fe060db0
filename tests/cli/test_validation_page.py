"""docs/validation.md shows what its commands and its Python print, on the cells."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from benchmarks import claim
from twintrack_core.cli import main

PAGE = (Path(__file__).parents[2] / "docs" / "validation.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    (twintrack .*)$", PAGE, re.MULTILINE)
OUTPUT = re.compile(r"^    (twintrack [^\n]*)\n\n```text\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PYTHON = re.compile(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def stores(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the cohorts that the README imports, and what the page makes of them."""
    folder = tmp_path_factory.mktemp("validation")
    for name, split in (("cal", "calibration"), ("test", "test")):
        members = [word for i in range(3) for word in ("--member", str(cells / split / f"member{i}"))]
        raters = [word for i in range(1, 6) for word in ("--rater", str(cells / split / f"rater{i}"))]
        assert main(["import", "nnunet", str(folder / f"{name}.zarr"), *members, *raters, "--class", "1"]) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in COMMANDS:
            if not command.startswith("twintrack compare"):
                assert main(shlex.split(command)[1:]) == 0
    return folder


@pytest.mark.parametrize(("command", "printed"), OUTPUT.findall(PAGE))
def test_the_page_shows_what_commands_print(
    stores: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str, printed: str
) -> None:
    monkeypatch.chdir(stores)
    capsys.readouterr()
    assert main(shlex.split(command)[1:]) == 0
    assert capsys.readouterr().out == printed


def test_the_page_shows_what_its_python_prints(
    stores: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(stores)
    names: dict[str, Any] = {}
    for code, printed in PYTHON.findall(PAGE):
        capsys.readouterr()
        exec(code, names)
        assert capsys.readouterr().out == printed


def test_the_page_shows_the_claim_as_it_is_measured(cells: Path) -> None:
    assert claim.of_cells(cells) in PAGE
