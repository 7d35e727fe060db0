"""Schedulers, checks and what is left out, from the command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("SimpleITK")

Run = Callable[..., Any]


def test_processes_give_the_same_bytes(
    twintrack: Run, tree: Run, example: Any, tmp_path: Path, import_arguments: Run
) -> None:
    pytest.importorskip("distributed")
    for name, how in (("threads", []), ("processes", ["--scheduler", "processes", "--workers", 2])):
        out = tmp_path / name
        out.mkdir()
        for arguments in (
            import_arguments(example.inputs, out / "c"),
            ["accumulate", example.cohort, "-o", out / "s"],
            ["apply", example.cohort, example.map, "-o", out / "a"],
            ["calibrate", example.map, "--member", example.inputs / "m0", "-o", out / "i", "--format", "mha"],
        ):
            outcome = twintrack(*arguments, *how)
            assert (outcome.code, outcome.err) == (0, "")
    assert tree(tmp_path / "threads") == tree(tmp_path / "processes")


@pytest.fixture
def broken(example: Any, tmp_path: Path) -> Path:
    """The cohort, with a damaged chunk in case b and case c cut off."""
    path = tmp_path / "broken.zarr"
    shutil.copytree(example.cohort, path)
    next(place for place in (path / "b/votes/c").rglob("*") if place.is_file()).write_bytes(b"nonsense")
    metadata = json.loads((path / "c/zarr.json").read_text())
    metadata["attributes"]["twintrack"]["complete"] = False
    (path / "c/zarr.json").write_text(json.dumps(metadata))
    return path


def test_a_whole_store_is_checked(twintrack: Run, check_message: Run, example: Any, broken: Path) -> None:
    for path in (example.cohort, example.statistics, example.map, example.calibrated):
        outcome = twintrack("info", path, "--check", "--json")
        assert (outcome.code, outcome.err) == (0, "")
        found = json.loads(outcome.out)
        assert (found["checked"], found["wrong"]) == (True, {})
    outcome = twintrack("info", broken, "--check", "--json")
    assert outcome.code == 1
    check_message(outcome.err, f"{broken}: 2 of 3 cases are wrong", "--on-error skip")
    found = json.loads(outcome.out)
    assert list(found["wrong"]) == ["b", "c"]
    assert "the chunk is damaged" in found["wrong"]["b"]
    assert "cut off" in found["wrong"]["c"]
    assert [row["case"] for row in found["rows"]] == ["a", "b"]


def test_statistics_that_are_not_those_that_were_written(twintrack: Run, example: Any, tmp_path: Path) -> None:
    path = tmp_path / "s"
    shutil.copytree(example.statistics, path)
    metadata = json.loads((path / "zarr.json").read_text())
    metadata["attributes"]["twintrack"]["digest"] = "0" * 64
    (path / "zarr.json").write_text(json.dumps(metadata))
    assert twintrack("info", path).code == 0
    outcome = twintrack("info", path, "--check", "--json")
    assert (outcome.code, set(json.loads(outcome.out)["wrong"])) == (1, {"a", "b", "c"})


def test_what_a_run_takes(twintrack: Run, example: Any) -> None:
    found = json.loads(twintrack("info", example.cohort, "--json", "--workers", 3).out)
    assert found["chunks"] == "9 of 9"  # of two members' scores and the votes of three cases
    assert found["stored_bytes"] > 0
    assert found["memory_bytes"]["3 workers"] > 3 * max(found["worker_bytes"].values())


def test_cases_are_left_out_and_listed(
    twintrack: Run, check_message: Run, example: Any, broken: Path, tmp_path: Path
) -> None:
    arguments = ["accumulate", broken, "-o", tmp_path / "s"]
    check_message(twintrack(*arguments).err, "case c is incomplete")
    outcome = twintrack(*arguments, "--on-error", "skip", "--resume")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.notes.splitlines() == [f"twintrack: note: {name} was left out: StoreError." for name in ("b", "c")]
    assert "whole already" in twintrack(*arguments, "--on-error", "skip", "--resume").notes
    assert twintrack("fit", tmp_path / "s", "-o", tmp_path / "m.json").code == 0
    assert json.loads((tmp_path / "m.json").read_text())["skipped"] == ["b", "c"]
    for path in (tmp_path / "s", tmp_path / "m.json"):
        assert {*json.loads(twintrack("info", path, "--json").out)["skipped"]} == {"b", "c"}
    outcome = twintrack("apply", broken, example.map, "-o", tmp_path / "a", "--on-error", "skip")
    assert (outcome.code, outcome.notes) == (0, "twintrack: note: c was left out: StoreError.\n")
    assert "2 calibrated cases" in outcome.out  # votes are copied as they are
    assert json.loads(twintrack("info", tmp_path / "a", "--json").out)["skipped"] == {"c": "StoreError"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--scheduler", "dask"], ("There is no scheduler 'dask'", "tcp://")),
        (["--scheduler", "tcp://127.0.0.1:1", "--workers", "2"], ("has workers of its own",)),
    ],
)
def test_schedulers_there_are_not(
    refused: Run, example: Any, tmp_path: Path, options: list[str], words: tuple[str, ...]
) -> None:
    refused("accumulate", example.cohort, "-o", tmp_path / "s", *options, code=2, words=words)
    for asked in (["fit", example.statistics, "-o", tmp_path / "m.json"], ["evaluate", example.statistics]):
        refused(*asked, *options, code=2, words=words)
    refused("info", example.statistics, *options, code=2, words=words)
