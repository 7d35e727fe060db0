"""twintrack plugins, and twintrack import of what a plugin reads."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

import twintrack_core as tt
from twintrack_core import plugins
from twintrack_core.calibrators.registry import CALIBRATORS
from twintrack_core.cli import plugins_command
from twintrack_core.cohort.registry import READERS
from twintrack_core.errors import PluginError
from twintrack_core.kernels.registry import KERNELS
from twintrack_core.metrics.registry import METRICS

Run = Callable[..., Any]

MODULE = """
from twintrack_core.calibrators import Knots
from twintrack_core.metrics import Metric
from twintrack_core.simulate import Simulation

print("Welcome!")

def good(target):
    return Knots([0.0, 1.0], [0.5, 0.5])

def wrong(target):
    return Knots(target.score, target.mean)

def leaving(target):
    raise SystemExit(0)

bad_range = Metric(name="bad_range", function=lambda cells: 0.5, unit="1", better="zero", range=None, description="D",
                   source="here")
roi = Metric(name="roi", function=lambda cells: 0.5, unit="1", better="zero", range=(0, 1), description="D",
             source="here", roi=5)

def opens(folder, *, cases=()):
    return Opens()

class Opens:
    def case_names(self):
        return ("a",)

    def read(self, name):
        return open("/no/such/file")

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
    (folder / "tt_broken.py").write_text("raise ZeroDivisionError('no')")
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
    assert outcome.err.startswith("Welcome!\ntwintrack: 2 of 3 plugins cannot be relied on.")
    good = twintrack("plugins", "validate", "good", "calibrator:good", "--json")
    assert good.code == 0
    assert [plugin["problem"] for plugin in json.loads(good.out)["plugins"]] == [None]
    wrong = twintrack("plugins", "validate", "calibrator:wrong", "--json")
    assert wrong.code == 1
    assert json.loads(wrong.out)["plugins"][0]["problem"]


def test_validate_goes_on_after_any_failure(install: Run, twintrack: Run) -> None:
    install(
        "[twintrack.calibrators]\nbroken = tt_broken\ngood = tt_cli:good\nleaving = tt_cli:leaving\n"
        "[twintrack.metrics]\nbad_range = tt_cli:bad_range\nroi = tt_cli:roi\n"
        "[twintrack.readers]\nmade = tt_cli:made\n"
    )
    outcome = twintrack("plugins", "validate", "--json")
    assert outcome.code == 1
    problems = {plugin["name"]: plugin["problem"] for plugin in json.loads(outcome.out)["plugins"]}
    assert problems == {
        "broken": "ZeroDivisionError('no')",  # and not who it is once more
        "good": None,
        "leaving": "SystemExit(0)",
        "bad_range": "bad_range: range is None, not a tuple of a smaller and a larger number",
        "roi": problems["roi"],
        "made": None,
    }
    assert problems["roi"].startswith("roi: ")


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
    assert (outcome.code, outcome.err, outcome.out) == (0, "Welcome!\n", f"2 cases with 1 raters in {store}\n")
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


def test_import_of_what_cannot_be_read(install: Run, twintrack: Run, check_message: Run, tmp_path: Path) -> None:
    install("[twintrack.readers]\nmade = tt_cli:made\nopens = tt_cli:opens\n")
    outcome = twintrack("import", "made", tmp_path / "cohort.zarr", tmp_path / "nowhere", "--option", "seed=1")
    assert outcome.code == 2
    check_message(outcome.err.replace("Welcome!\n", ""), f"{tmp_path / 'nowhere'} is no folder")
    outcome = twintrack("import", "opens", tmp_path / "cohort.zarr", tmp_path)
    assert outcome.code == 1
    check_message(outcome.err, "Case a cannot be read: No such file or directory (/no/such/file).")
    assert "Make room" not in outcome.err


def test_import_by_a_reader_that_cannot_be_used(
    install: Run, twintrack: Run, check_message: Run, tmp_path: Path
) -> None:
    install("[twintrack.readers]\nlost = tt_lost\nbroken = tt_broken\nnnunet = tt_cli:made\n")
    for name, words in (
        ("lost", "'lost' of tt-cli 1.0 (tt_lost) cannot be used: ModuleNotFoundError"),
        ("broken", "'broken' of tt-cli 1.0 (tt_broken) cannot be used: ZeroDivisionError('no')"),
    ):
        outcome = twintrack("import", name, tmp_path / "cohort.zarr", tmp_path)
        assert outcome.code == 1
        check_message(outcome.err, words)
    outcome = twintrack("import", "nnunet", tmp_path / "cohort.zarr")
    assert outcome.code == 2
    check_message(outcome.err, "--member")
    assert not outcome.notes


def test_a_plugin_that_is_left_out_is_a_note(install: Run, twintrack: Run, check_message: Run, tmp_path: Path) -> None:
    install(CALIBRATION)
    assert twintrack("simulate", tmp_path / "cohort.zarr", "--cases", 1, "--shape", 8, 8, 8).code == 0
    show = warnings.showwarning
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        outcome = twintrack("fit", tmp_path / "cohort.zarr", "-o", tmp_path / "map.json", "--calibrator", "isotonik")
    assert outcome.code == 2
    check_message(outcome.err, "There is no calibrator 'isotonik'", "Did you mean 'isotonic'?")
    assert outcome.notes == (
        "twintrack: note: twintrack.calibrators: 'lost' of tt-cli 1.0 is not used: there is no module 'tt_lost'.\n"
    )
    assert warnings.showwarning is show


def test_other_warnings_are_shown_as_they_are(twintrack: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins_command, "run", lambda _: warnings.warn("other", UserWarning, stacklevel=1))
    with pytest.warns(UserWarning, match="other"):
        outcome = twintrack("plugins", "list")
    assert not outcome.notes


def test_an_error_of_the_parser_is_reported_as_one(
    twintrack: Run, check_message: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise PluginError("The parser cannot be made.")

    monkeypatch.setattr(plugins_command, "add_arguments", fail)
    outcome = twintrack("plugins", "list")
    assert outcome.code == 1
    check_message(outcome.err, "The parser cannot be made.")
    with pytest.raises(PluginError):
        twintrack("plugins", "list", "--debug")


def test_help_looks_for_no_plugin(twintrack_process: Run) -> None:
    before = "import atexit; atexit.register(lambda: print(sorted({'importlib.metadata', 'numpy'} & set(sys.modules))))"
    outcome = twintrack_process("--help", before=before)
    assert outcome.out.endswith("[]\n") or outcome.out.endswith("['numpy']\n")
    assert "plugins" in outcome.out
