"""Stores and maps that are damaged, cut off or edited by hand, by command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import zarr

pytest.importorskip("SimpleITK")

Array = npt.NDArray[Any]
Run = Callable[..., Any]
BROKEN = "is incomplete: writing it was cut off"

COMMANDS = ("info", "accumulate", "fit", "evaluate", "apply", "export")
VOXEL_COMMANDS = COMMANDS[1:]
SCORES = {"nan": np.nan, "inf": np.inf, "-0.1": -0.1, "1.2": 1.2}


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def edit_attributes(path: Path, **changes: Any) -> None:
    edit_json(path / "zarr.json", lambda document: document["attributes"]["twintrack"].update(changes))


def handmade(path: Path, scores: Array, fill: float = 0.0) -> Path:
    """Make a cohort of one case with zarr-python alone."""
    described = {"format": "cohort", "version": 1, "cases": ["b"], "complete": True}
    root = zarr.create_group(str(path), attributes={"twintrack": described})
    geometry = {"origin": [0, 0, 0], "direction": [1, 0, 0, 0, 1, 0, 0, 0, 1]}
    case = {"raters": ["r"], "spacing_mm": [1, 1, 1], "geometry": geometry, "complete": True}
    group = root.create_group("b", attributes={"twintrack": case})
    array = group.create_array("probability", shape=scores.shape, chunks=(3, 4, 5), dtype=scores.dtype, fill_value=fill)
    votes = group.create_array("votes", shape=scores.shape, chunks=(3, 4, 5), dtype="uint8", fill_value=0)
    votes[0, 0, 0] = 1
    if fill == 0:
        array[:] = scores
    return path


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("name", SCORES)
def test_scores_in_a_store(store_refused: Run, tmp_path: Path, name: str, dtype: str) -> None:
    scores = np.full((6, 8, 7), 0.5, dtype)
    scores[4, 5, 6] = SCORES[name]
    store = handmade(tmp_path / "handmade.zarr", scores)
    words = ("Case b", "scores are not probabilities", name[:4].replace("-0.1", "-0."), "(4, 5, 6)", "[0, 1]")
    store_refused(store, *VOXEL_COMMANDS, code=1, words=words)


def test_a_fill_value_in_a_store(store_refused: Run, tmp_path: Path) -> None:
    store = handmade(tmp_path / "handmade.zarr", np.zeros((6, 8, 7), "float16"), fill=np.nan)
    words = ("Case b", "not probabilities", "nan")
    store_refused(store, *VOXEL_COMMANDS, code=1, words=words)


def test_marks_of_unknown_raters(store_refused: Run, store: Path) -> None:
    votes: Any = zarr.open_array(str(store / "b" / "votes"))
    votes[1, 2, 3] = 7
    words = ("Case b", "7", "(1, 2, 3)", "0 to 3 for 2 raters")
    store_refused(store, "accumulate", "fit", "evaluate", code=1, words=words)


def test_a_store_that_was_cut_off(store_refused: Run, store: Path) -> None:
    edit_attributes(store / "b", complete=False)
    store_refused(store, *COMMANDS, code=1, words=("case b", BROKEN))
    edit_attributes(store, complete=None)
    store_refused(store, code=1, words=(str(store), BROKEN))


def test_info_of_a_store_that_was_cut_off(twintrack: Run, store: Path) -> None:
    edit_attributes(store, complete=False)
    edit_attributes(store / "b", complete=False)
    outcome = twintrack("info", store, "--json")
    facts = json.loads(outcome.out)
    assert (outcome.code, facts["complete"], facts["cases"], facts["complete_cases"]) == (1, False, 3, 2)
    assert [row["case"] for row in facts["rows"]] == ["a", "c"]


def test_a_case_that_is_missing(store_refused: Run, store: Path) -> None:
    shutil.rmtree(store / "b")
    store_refused(store, *COMMANDS, code=1, words=("case b is missing",))


@pytest.mark.parametrize("kept", [0, 7, 100])
def test_a_truncated_chunk(store_refused: Run, store: Path, kept: int) -> None:
    chunk = store / "b" / "probability" / "c" / "1" / "0" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:kept])
    words = (str(chunk), "damaged", f"{kept} bytes")
    store_refused(store, *VOXEL_COMMANDS, code=1, words=words)


def test_a_truncated_chunk_of_votes(store_refused: Run, store: Path) -> None:
    chunk = store / "b" / "votes" / "c" / "0" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    store_refused(store, "accumulate", "fit", "evaluate", code=1, words=(str(chunk), "damaged"))


CASE_LISTS: dict[str, tuple[Any, str]] = {
    "none": ([], "one or more"),
    "outside": (["a", "../x"], "'../x' cannot be the name of a case"),
    "absolute": (["/etc"], "'/etc' cannot be the name of a case"),
    "zarr.json": (["a", "."], "'.' cannot be the name of a case"),
    "twice": (["a", "a"], "one or more different names"),
    "number": (["a", 7], "7 cannot be the name of a case"),
    "no list": ("abc", "one or more"),
    "null": (None, "one or more"),
}


@pytest.mark.parametrize("what", CASE_LISTS)
def test_a_list_of_cases(store_refused: Run, store: Path, tmp_path: Path, what: str) -> None:
    (tmp_path / "x").mkdir()
    cases, word = CASE_LISTS[what]
    edit_attributes(store, cases=cases)
    store_refused(store, code=1, words=(str(store), word))


METADATA: dict[str, tuple[bytes | dict[str, Any], str]] = {
    "version": ({"version": 2}, "version 2"),
    "no JSON": (b"{", "zarr.json"),
    "no object": (b"[]", "zarr.json"),
    "nesting": (b'{"attributes": ' + b"[" * 100_000, "zarr.json"),
    "bytes": (b"\xff", "zarr.json"),
    "source": ({"source": 3}, "source"),
}


@pytest.mark.parametrize("what", METADATA)
def test_metadata_of_a_store(store_refused: Run, store: Path, what: str) -> None:
    content, word = METADATA[what]
    if isinstance(content, bytes):
        (store / "zarr.json").write_bytes(content)
    else:
        edit_attributes(store, **content)
    store_refused(store, code=1, words=(str(store), word))


CASE_METADATA: dict[str, tuple[dict[str, Any], str]] = {
    "raters": ({"raters": [f"r{number}" for number in range(9)]}, "at most 8"),
    "no raters": ({"raters": []}, "0 raters"),
    "spacing": ({"spacing_mm": [1, 0, 1]}, "(1.0, 0.0, 1.0)"),
    "geometry": ({"geometry": {"origin": [0, 0, 0]}}, "direction"),
    "attributes": ({"attributes": []}, "JSON objects"),
}


@pytest.mark.parametrize("what", CASE_METADATA)
def test_metadata_of_a_case(store_refused: Run, store: Path, what: str) -> None:
    content, word = CASE_METADATA[what]
    edit_attributes(store / "b", **content)
    store_refused(store, *COMMANDS, code=1, words=("case b", word))


def test_numbers_that_json_lacks(twintrack: Run, check_message: Run, store: Path) -> None:
    edit_attributes(store, source={"x": float("nan")})
    outcome = twintrack("info", store, "--json")
    check_message(outcome.err, "NaN", "JSON")
    assert (outcome.code, outcome.out) == (1, "")


def test_statistics(refused: Run, example: Any, tmp_path: Path) -> None:
    statistics = tmp_path / "statistics.zarr"
    shutil.copytree(example.statistics, statistics)
    commands: list[list[object]] = [
        ["info", statistics],
        ["fit", statistics, "-o", tmp_path / "output"],
        ["evaluate", statistics],
        ["merge", statistics, "-o", tmp_path / "output"],
    ]
    chunk = statistics / "count" / "c" / "0"
    content = chunk.read_bytes()
    for damaged in (content[: len(content) // 2], b""):
        chunk.write_bytes(damaged)
        for command in commands:
            refused(*command, code=1, words=(str(statistics), "damaged", "count"), output=tmp_path / "output")
    chunk.write_bytes(content)
    edit_attributes(statistics, complete=False)
    for command in commands:
        refused(*command, code=1, words=(str(statistics), BROKEN), output=tmp_path / "output")
    assert not (tmp_path / "output").exists()


def edit_map(change: Callable[[dict[str, Any]], object]) -> Callable[[str], str]:
    def edited(text: str) -> str:
        document = json.loads(text)
        change(document)
        return json.dumps(document)

    return edited


def set_knot(place: int, axis: int, value: Any) -> Callable[[str], str]:
    return edit_map(lambda document: document["knots"][place].__setitem__(axis, value))


MAPS: dict[str, tuple[Callable[[str], str | bytes], str]] = {
    "falling values": (edit_map(lambda document: document["knots"][-1].__setitem__(1, 0.001)), "non-decreasing"),
    "falling scores": (edit_map(lambda document: document["knots"].reverse()), "strictly increasing"),
    "value of 1.5": (set_knot(-1, 1, 1.5), "1.5"),
    "value of -0.5": (set_knot(0, 1, -0.5), "-0.5"),
    "score of 2": (set_knot(-1, 0, 2), "2.0"),
    "NaN": (set_knot(1, 1, float("nan")), "NaN"),
    "infinity": (set_knot(1, 1, float("inf")), "Infinity"),
    "enormous": (set_knot(1, 1, 10**400), "too large"),
    "text for a number": (set_knot(1, 1, "0.5"), "two numbers"),
    "no knots": (edit_map(lambda document: document["knots"].clear()), "one or more"),
    "version": (edit_map(lambda document: document.update(version=2)), "version is 2"),
    "format": (edit_map(lambda document: document.update(format="cohort")), "calibration-map"),
    "missing field": (edit_map(lambda document: document.pop("target")), "'target' is missing"),
    "unknown field": (edit_map(lambda document: document.update(code="print()")), "'code' is unknown"),
    "nesting": (lambda _: "[" * 200_000, "not JSON"),
    "cut off": (lambda text: text[: len(text) // 2], "not JSON"),
    "no object": (lambda _: "[]", "JSON object"),
    "empty": (lambda _: "", "not JSON"),
    "binary": (lambda _: b"\x80\x04\x95", "UTF-8"),
}


@pytest.mark.parametrize("what", MAPS)
def test_map(refused: Run, example: Any, tmp_path: Path, what: str) -> None:
    edited, word = MAPS[what]
    content = edited(example.map.read_text())
    path = tmp_path / "map.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    output = tmp_path / "output"
    member = ["--member", example.inputs / "m0"]
    for arguments in (
        ["info", path],
        ["apply", example.cohort, path, "-o", output],
        ["evaluate", example.cohort, "--map", path],
        ["calibrate", path, *member, "-o", output],
    ):
        refused(*arguments, code=1, words=(str(path), word), output=output)
    assert not output.exists()
