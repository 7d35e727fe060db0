"""A small cohort as nnU-Net would leave it, what the commands make of it, and a way to run them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from twintrack_core.cli import main
from twintrack_core.cohort.case import Geometry
from twintrack_core.cohort.images import write_volume

CASES = ("a", "b", "c")
MEMBERS = ("m0", "m1")
RATERS = ("r0", "r1")
SHAPE = (8, 12, 10)
OBLIQUE = Geometry((3.0, 0.7, 0.8), (10.0, -20.0, 30.5), (0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0))


class Outcome(NamedTuple):
    """What a command left behind on the terminal."""

    code: int
    out: str
    err: str  # without notes
    notes: str = ""

    @classmethod
    def of(cls, code: int, out: str, err: str) -> Outcome:
        lines = err.splitlines(keepends=True)
        notes = [line for line in lines if line.startswith("twintrack: note: ")]
        return cls(code, out, "".join(line for line in lines if line not in notes), "".join(notes))


class Example(NamedTuple):
    """Paths of a cohort on its way; nobody may write to them."""

    inputs: Path
    cohort: Path
    statistics: Path
    map: Path
    calibrated: Path


@pytest.fixture
def twintrack(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run the command line in this process, and catch what it prints, that of C++ libraries too."""

    def run(*arguments: object) -> Outcome:
        capfd.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        return Outcome.of(code, *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def twintrack_process() -> Callable[..., Outcome]:
    """Run the command line in a process of its own, after some Python ``before``."""

    def run(*arguments: object, before: str = "") -> Outcome:
        program = f"import sys\nfrom twintrack_core.cli import main\n{before}\nsys.exit(main())"
        command = [sys.executable, "-W", "error", "-c", program, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        return Outcome.of(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def import_arguments() -> Callable[..., list[str]]:
    """Arguments that import the example's folders, or a copy of them."""

    def arguments(inputs: Path, store: Path, *, members: bool = True, raters: bool = True) -> list[str]:
        words = ["import", "nnunet", str(store)]
        for name in MEMBERS if members else ():
            words += ["--member", str(inputs / name)]
        for name in RATERS if raters else ():
            words += ["--rater", str(inputs / name)]
        return words

    return arguments


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory, import_arguments: Callable[..., list[str]]) -> Example:
    """Folders of two members, two raters and a region, and the stores and the map that the commands make of them."""
    pytest.importorskip("SimpleITK")
    root = tmp_path_factory.mktemp("example")
    example = Example(
        root / "inputs", root / "cohort.zarr", root / "statistics.zarr", root / "map.json", root / "calibrated.zarr"
    )
    _make_inputs(example.inputs)
    for arguments in (
        [*import_arguments(example.inputs, example.cohort), "--roi", str(example.inputs / "roi")],
        ["accumulate", str(example.cohort), "-o", str(example.statistics)],
        ["fit", str(example.statistics), "-o", str(example.map)],
        ["apply", str(example.cohort), str(example.map), "-o", str(example.calibrated)],
    ):
        assert main(arguments) == 0
    return example


def tree(root: Path, without: Path | None = None) -> dict[str, bytes]:
    """Return the content of every file below a folder, but not below another, and not of locks that are left."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file() and path.name != ".lock")
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in files
        if without is None or not path.is_relative_to(without)
    }


def check_message(err: str, *words: str) -> None:
    """Check that ``err`` is one error as the command line should print it, with some words in it."""
    lines = err.splitlines()
    assert 1 <= len(lines) <= 3, err
    assert lines[0].startswith("twintrack: "), err
    assert "Traceback" not in err
    assert "a bug in twintrack" not in err
    for word in words:
        assert word in err


@pytest.fixture(scope="session", name="tree")
def _tree() -> Callable[..., dict[str, bytes]]:
    return tree


@pytest.fixture(scope="session", name="check_message")
def _check_message() -> Callable[..., None]:
    return check_message


@pytest.fixture
def refused(twintrack: Callable[..., Outcome], example: Example, tmp_path: Path) -> Callable[..., None]:
    """Run a command that must fail, and check its message, its exit code, what it leaves, and all other files."""

    def check(*arguments: object, code: int, words: tuple[str, ...] = (), output: Path | None = None) -> None:
        roots = (tmp_path, example.inputs.parent)
        before = [tree(root, without=output) for root in roots]
        outcome = twintrack(*arguments)
        check_message(outcome.err, *words)
        assert outcome.code == code
        assert outcome.out == "" or arguments[0] == "info"
        assert [tree(root, without=output) for root in roots] == before
        if output is not None and output.exists():
            outcome = twintrack("info", output)
            check_message(outcome.err, str(output), "is incomplete: writing it was cut off")
            assert outcome.code == 1

    return check


@pytest.fixture
def store_refused(refused: Callable[..., None], example: Example, tmp_path: Path) -> Callable[..., None]:
    """Run every command that reads a store, or those named; each must refuse it."""

    def check(store: Path, *commands: str, code: int, words: tuple[str, ...]) -> None:
        output, folder = tmp_path / "output", tmp_path / "folder"
        requests: dict[str, list[object]] = {
            "info": [store],
            "accumulate": [store, "-o", output],
            "fit": [store, "-o", output],
            "evaluate": [store],
            "apply": [store, example.map, "-o", output],
            # Of the one case that may be damaged, since cases before it may be exported.
            "export": [store, folder] + (["--cases", "b"] if commands else []),
        }
        for command in commands or requests:
            refused(command, *requests[command], code=code, words=words, output=None if command == "export" else output)
            if output.exists():
                shutil.rmtree(output)
            assert not list(tmp_path.glob("folder/*"))

    return check


@pytest.fixture
def folders(example: Example, tmp_path: Path) -> Path:
    """A copy of the example's folders that a test may spoil."""
    return Path(shutil.copytree(example.inputs, tmp_path / "inputs"))


@pytest.fixture
def store(example: Example, tmp_path: Path) -> Path:
    """A copy of the example's cohort that a test may spoil."""
    return Path(shutil.copytree(example.cohort, tmp_path / "cohort.zarr"))


def _make_inputs(root: Path) -> None:
    rng = np.random.default_rng(3)
    for folder in (*MEMBERS, *RATERS, "roi"):
        (root / folder).mkdir(parents=True)
    for case in CASES:
        lesion = np.zeros(SHAPE)
        lesion[1:4, 2:6, 1:5] = 1  # in a corner, so that no flip leaves it in place
        for member in MEMBERS:
            logit = 6 * lesion - 3 + rng.normal(0, 0.8, SHAPE)
            foreground = (1 / (1 + np.exp(-logit))).astype(np.float32)
            foreground[5:] = 0  # a background that is exactly zero
            probabilities = np.stack([1 - foreground, foreground])
            np.savez_compressed(root / member / f"{case}.npz", probabilities=probabilities)
            segmentation = probabilities.argmax(axis=0).astype(np.uint8)
            write_volume(root / member / f"{case}.nii.gz", segmentation, OBLIQUE)
        for rater in RATERS:
            marks = ((lesion > 0) & (rng.random(SHAPE) < 0.8)).astype(np.uint8)
            write_volume(root / rater / f"{case}.nii.gz", marks, OBLIQUE)
        region = np.zeros(SHAPE, np.uint8)
        region[:6, :9] = 1
        write_volume(root / "roi" / f"{case}.nii.gz", region, OBLIQUE)
    (root / "attributes.csv").write_text("case,site,age\na,A,61\nb,B,70\nc,A,55\n", encoding="utf-8")
