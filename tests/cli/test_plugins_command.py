"""twintrack plugins, and twintrack import of what a plugin reads."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

import twintrack_core as tt
from twintrack_core import plugins
from twintrack_core.calibrators.registry import CALIBRATORS
from twintrack_core.cohort.registry import READERS
from twintrack_core.kernels.registry import KERNELS
from twintrack_core.metrics.registry import METRICS

Run = Callable[..., Any]

MODULE = """
from twintrack_core.calibrators import Knots
from twintrack_core.simulate import Simulation

def good(target):
    return Knots([0.0, 1.0], [0.5, 0.5])

def wrong(target):
    return Knots(target.score, target.mean)

def made(folder, *, cases=(), seed, raters="2"):
    return Simulation(cases=1 + len(cases), shape=(8, 8, 8), raters=int(raters), members=1, seed=int(seed))
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Install a distribution "tt-cli 1.0" with some entry points."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    (folder / "tt_cli.py").write_text(MODULE)
    real = metadata.distributions
    monkeypatch.setattr(metadata, "distributions", lambda: real(path=[str(folder)]))

    def install(entry_points: str) -> None:
        info = folder / "tt_cli-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tt-cli\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(entry_points)
        _forget()

    yield install
    _forget()


def _forget() -> None:
    plugins._scan.cache_clear()
    plugins._warned_of.clear()
    registries: tuple[Any, ...] = (KERNELS, CALIBRATORS, METRICS, READERS)
    for registry in registries:
        registry._loaded.clear()
        registry._failed.clear()
    sys.modules.pop("tt_cli", None)


CALIBRATION = "[twintrack.calibrators]\ngood = tt_cli:good\nwrong = tt_cli:wrong\nlost = tt_lost\n"


def test_list(install: Run, twintrack: Run) -> None:
    install(CALIBRATION)
    outcome = twintrack("plugins", "list")
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert lines[0].split() == ["KIND", "NAME", "FROM", "PROBLEM"]
    assert any(line.split() == ["calibrator", "good", "tt-cli", "1.0"] for line in lines)
    lost = ["calibrator", "lost", "tt-cli", "1.0", "there", "is", "no", "module", "'tt_lost'"]
    assert lost in [line.split() for line in lines]
    assert any(line.startswith("calibrator  isotonic") and "twintrack-core" in line for line in lines)
    document = json.loads(twintrack("plugins", "list", "--json").out)
    assert document["api"] == 1
    assert {"kernel", "calibrator", "metric", "reader"} == {plugin["kind"] for plugin in document["plugins"]}
    assert document["plugins"][[p["name"] for p in document["plugins"]].index("lost")] == {
        "kind": "calibrator",
        "name": "lost",
        "value": "tt_lost",
        "distribution": "tt-cli",
        "version": "1.0",
        "problem": "there is no module 'tt_lost'",
    }
    assert "tt_cli" not in sys.modules


def test_validate(install: Run, twintrack: Run) -> None:
    install(CALIBRATION)
    outcome = twintrack("plugins", "validate")
    assert outcome.code == 1
    lines = outcome.out.splitlines()
    assert lines[0] == "calibrator:good of tt-cli 1.0: ok"
    assert lines[1] == "calibrator:lost of tt-cli 1.0: there is no module 'tt_lost'"
    assert lines[2].startswith("calibrator:wrong of tt-cli 1.0: ")
    assert "increasing" in lines[2] or "after" in lines[2]
    assert len(lines) == 3
    assert outcome.err.startswith("twintrack: 2 of 3 plugins cannot be relied on.")
    good = twintrack("plugins", "validate", "good", "calibrator:good", "--json")
    assert good.code == 0
    assert [plugin["problem"] for plugin in json.loads(good.out)["plugins"]] == [None]
    wrong = twintrack("plugins", "validate", "calibrator:wrong", "--json")
    assert wrong.code == 1
    assert json.loads(wrong.out)["plugins"][0]["problem"]


def test_validate_what_there_is_not(install: Run, twintrack: Run, check_message: Run) -> None:
    install("")
    outcome = twintrack("plugins", "validate")
    assert (outcome.code, outcome.out) == (0, "No plugin of another distribution is installed.\n")
    assert json.loads(twintrack("plugins", "validate", "--json").out) == {"plugins": []}
    outcome = twintrack("plugins", "validate", "isotonic")
    assert outcome.code == 2
    check_message(outcome.err, "No other distribution offers 'isotonic'", "Allowed: none")


def test_import(install: Run, twintrack: Run, check_message: Run, tmp_path: Path) -> None:
    install("[twintrack.readers]\nmade = tt_cli:made\n")
    with_help = twintrack("import", "--help").out
    assert "nnunet" in with_help
    assert "made" in with_help
    assert "tt_cli" not in sys.modules
    store = tmp_path / "cohort.zarr"
    options = ["--option", "seed=3", "--option", "raters=1", "--cases", "x", "--workers", 1]
    outcome = twintrack("import", "made", store, tmp_path, *options)
    assert (outcome.code, outcome.err, outcome.out) == (0, "", f"2 cases in {store}\n")
    assert tt.open_cohort(store)["case000"].raters == ("rater1",)
    other = tmp_path / "other.zarr"
    for given, words in (
        (["--option", "seed=1", "--option", "speed=2"], ("takes no option 'speed'", "Allowed: seed, raters")),
        ([], ("needs the option 'seed'", "Allowed: seed, raters")),
        (["--option", "seed"], ("--option seed is no option", "KEY=VALUE")),
        (["--option", "seed=1", "--option", "seed=2"], ("--option seed=2 is given twice",)),
    ):
        outcome = twintrack("import", "made", other, tmp_path, *given)
        assert outcome.code == 2
        check_message(outcome.err, *words)
    assert not other.exists()


def test_help_looks_for_no_plugin(twintrack_process: Run) -> None:
    before = "import atexit; atexit.register(lambda: print(sorted({'importlib.metadata', 'numpy'} & set(sys.modules))))"
    outcome = twintrack_process("--help", before=before)
    assert outcome.out.endswith("[]\n") or outcome.out.endswith("['numpy']\n")
    assert "plugins" in outcome.out
