"""Runs that are interrupted, killed or out of room: inputs as they were, outputs whole or refused, and resumed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from twintrack_core.cli import main
from twintrack_core.engine import importing
from twintrack_core.errors import WorkError

pytest.importorskip("SimpleITK")

Run = Callable[..., Any]
BROKEN = "is incomplete: writing it was cut off"


def test_interrupted(
    twintrack: Run,
    check_message: Run,
    example: Any,
    tmp_path: Path,
    import_arguments: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importing, "_import_case", interrupt)
    outcome = twintrack(*import_arguments(example.inputs, tmp_path / "output"))
    check_message(outcome.err, "interrupted", "incomplete")
    assert outcome.code == 130
    check_message(twintrack("info", tmp_path / "output").err, BROKEN)


@pytest.mark.parametrize(
    ("error", "raised", "words"),
    [
        (RuntimeError("one\ntwo"), RuntimeError, ("RuntimeError: one", "a bug in twintrack", "--debug")),
        (MemoryError("1 PiB"), MemoryError, ("out of memory: 1 PiB.", "--workers")),
        (PermissionError(13, "Permission denied", "x"), WorkError, ("Permission denied", "--resume")),
    ],
)
def test_other_errors(
    twintrack: Run,
    example: Any,
    tmp_path: Path,
    import_arguments: Run,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    raised: type[Exception],
    words: tuple[str, ...],
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(importing, "_import_case", fail)
    outcome = twintrack(*import_arguments(example.inputs, tmp_path / "output"))
    assert outcome.code == 1
    assert len(outcome.err.splitlines()) <= 3
    assert "Traceback" not in outcome.err
    assert all(word in outcome.err for word in words)
    with pytest.raises(raised):
        main([*import_arguments(example.inputs, tmp_path / "other"), "--debug"])


KILLED = """
import os, signal
rename, left = os.replace, [{survived}]
def replace(source, target):
    if {output!r} in str(target):
        left[0] -= 1
        if left[0] < 0:  # the file is written but not in its place
            os.kill(os.getpid(), signal.SIGKILL)
    rename(source, target)
os.replace = replace
"""


def test_import_killed(
    twintrack_process: Run, refused: Run, store_refused: Run, example: Any, tmp_path: Path, import_arguments: Run
) -> None:
    store = tmp_path / "killed.zarr"
    arguments = import_arguments(example.inputs, store)
    outcome = twintrack_process(*arguments, "--workers", 1, before=KILLED.format(survived=6, output=str(store)))
    assert (outcome.code, outcome.out, outcome.err) == (-9, "", "")
    assert len(list(store.rglob("*"))) > 3
    store_refused(store, code=1, words=(str(store), BROKEN))
    refused(*arguments, code=2, words=("exists already", "remove it"))


@pytest.fixture(scope="session")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort whose cases have several chunks."""
    path = tmp_path_factory.mktemp("larger") / "larger.zarr"
    assert main(["simulate", str(path), "--cases", "2", "--shape", "16", "160", "160", "--members", "2"]) == 0
    return path


@pytest.mark.parametrize("survived", [0, 7])
def test_apply_killed_and_resumed(
    twintrack: Run,
    twintrack_process: Run,
    refused: Run,
    tree: Run,
    example: Any,
    larger: Path,
    tmp_path: Path,
    survived: int,
) -> None:
    whole, output = tmp_path / "whole.zarr", tmp_path / "killed.zarr"
    before = tree(larger)
    assert twintrack("apply", larger, example.map, "-o", whole, "--resume").code == 0  # begins what is not there
    arguments = ["apply", larger, example.map, "-o", output]
    outcome = twintrack_process(*arguments, "--workers", 1, before=KILLED.format(survived=survived, output=str(output)))
    assert (outcome.code, outcome.out, outcome.err) == (-9, "", "")
    assert len(list(output.rglob("*.partial"))) == 1
    # Whatever is there is refused, until it is finished.
    refused("info", output, code=1 if survived else 2, words=(str(output),))
    refused("accumulate", output, "-o", tmp_path / "x", code=1 if survived else 2, words=(str(output),))
    refused(*arguments, code=2, words=("exists already",))
    if survived:
        assert twintrack("fit", example.statistics, "-o", tmp_path / "other.json", "--target", "majority").code == 0
        other = ["apply", larger, tmp_path / "other.json", "-o", output, "--resume"]
        refused(*other, code=2, words=("begun by another run", "same settings"))
        refused("apply", example.cohort, example.map, "-o", output, "--resume", code=2, words=("another run", "cases"))
        refused(*arguments, "--resume", "--cases", "case000", code=2, words=("another run", "cases"))
    assert twintrack(*arguments, "--resume").code == 0
    assert tree(output) == tree(whole)
    assert tree(larger) == before
    # A finished output stays as it is, and only the same run may say it is done.
    assert twintrack(*arguments, "--resume").code == 0
    assert tree(output) == tree(whole)
    refused("apply", example.cohort, example.map, "-o", output, "--resume", code=2, words=("begun by another run",))


FULL_DISK = """
import contextlib, io, json, resource, sys
from twintrack_core.cli import main
warm, jobs = json.loads(sys.argv[1])
assert main(warm) == 0  # the kernels are in Numba's cache now
resource.setrlimit(resource.RLIMIT_FSIZE, (600, resource.RLIM_INFINITY))
outcomes = []
for job in jobs:
    with contextlib.redirect_stderr(io.StringIO()) as err:
        outcomes.append([main(job), err.getvalue()])
print(json.dumps(outcomes))
"""


@pytest.fixture(scope="module")
def full_disk(
    example: Any, larger: Path, tree: Run, tmp_path_factory: pytest.TempPathFactory, import_arguments: Run
) -> dict[str, tuple[Path, int, str]]:
    """What each command leaves, its exit code and its message where no file can grow past 600 bytes."""
    pytest.importorskip("resource")
    root = tmp_path_factory.mktemp("full")
    warm = ["evaluate", example.cohort, "--map", example.map]
    jobs: dict[str, list[object]] = {
        "import": import_arguments(example.inputs, root / "import"),
        "accumulate": ["accumulate", example.cohort, "-o", root / "accumulate"],
        "fit": ["fit", example.cohort, "-o", root / "fit"],
        "apply": ["apply", example.cohort, example.map, "-o", root / "apply"],
        "apply, chunks": ["apply", larger, example.map, "-o", root / "apply, chunks"],
        "export": ["export", larger, root / "export"],
        "calibrate": [
            "calibrate", example.map, "--member", example.inputs / "m0", "-o", root / "calibrate", "--format", "nii",
        ],
    }  # fmt: skip
    text = json.dumps([list(map(str, warm)), [list(map(str, job)) for job in jobs.values()]])
    before = tree(example.inputs.parent), tree(larger)
    command = [sys.executable, "-W", "error", "-c", FULL_DISK, text]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert (tree(example.inputs.parent), tree(larger)) == before
    outcomes = json.loads(done.stdout.splitlines()[-1])
    return {name: (root / name, *outcome) for name, outcome in zip(jobs, outcomes, strict=True)}


@pytest.mark.parametrize("command", ["import", "accumulate", "apply", "apply, chunks"])
def test_a_full_disk_leaves_an_incomplete_store(
    twintrack: Run, check_message: Run, full_disk: dict[str, tuple[Path, int, str]], command: str
) -> None:
    output, code, err = full_disk[command]
    check_message(err, str(output), "File too large")
    assert code == 1
    check_message(twintrack("info", output).err, str(output), BROKEN)


@pytest.mark.parametrize("command", ["fit", "export", "calibrate"])
def test_a_full_disk_leaves_no_file(
    check_message: Run, full_disk: dict[str, tuple[Path, int, str]], command: str
) -> None:
    output, code, err = full_disk[command]
    check_message(err, str(output))
    assert code == 1
    assert not [path for path in (output, *output.rglob("*")) if path.is_file()]


def test_resumed_when_there_is_room(
    twintrack: Run, tree: Run, full_disk: dict[str, tuple[Path, int, str]], example: Any, larger: Path, tmp_path: Path
) -> None:
    output = full_disk["apply, chunks"][0].parent / "resumed"
    shutil.copytree(full_disk["apply, chunks"][0], output)
    for path, *resume in ((output, "--resume"), (tmp_path / "whole",)):
        assert twintrack("apply", larger, example.map, "-o", path, *resume).code == 0
    assert tree(output) == tree(tmp_path / "whole")
