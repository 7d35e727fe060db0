"""The cohort store: what is written is read back, what is damaged or cut off is refused."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import xarray
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from twintrack_core import system
from twintrack_core.cohort.case import Case, Geometry
from twintrack_core.cohort.store import Cohort, fingerprint, open_cohort
from twintrack_core.cohort.writer import CohortWriter, create_array, default_chunks
from twintrack_core.errors import GeometryError, RequestError, StoreError
from twintrack_core.storage import Folder, open_folder

GEOMETRY = Geometry((2.5, 0.7, 0.8), (-10.0, 20.5, 1e3), (0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0))
PARTS = ("votes", "roi", "vessels")


def make_case(
    name: str = "case1",
    shape: tuple[int, ...] = (5, 6, 7),
    dtype: str = "float16",
    parts: tuple[str, ...] = PARTS,
    seed: int = 0,
) -> Case:
    rng = np.random.default_rng(seed)
    scores = rng.random(shape) * (rng.random(shape) > 0.5)
    volume = shape[-3:]
    return Case(
        name,
        (scores * 255).astype(dtype) if dtype == "uint8" else scores.astype(dtype),
        raters=("Ana", "Bob", "Zoë") if "votes" in parts else (),
        votes=rng.integers(0, 8, volume).astype(np.uint8) if "votes" in parts else None,
        roi=rng.random(volume) > 0.5 if "roi" in parts else None,
        vessels=rng.integers(0, 6, volume).astype(np.uint8) if "vessels" in parts else None,
        geometry=GEOMETRY,
        attributes={"site": "Köln", "age": 61, "slices": [1, 2.5, None], "nested": {"a": True}},
        source={"members": ["a", "b"]},
    )


def write(path: Path, *cases: Case, source: Mapping[str, Any] | None = None) -> Path:
    writer = CohortWriter(path, [case.name for case in cases], source=source)
    for case in cases:
        writer.write_case(case)
    writer.finish()
    return path


def assert_equal_cases(one: Case, other: Case) -> None:
    assert (one.name, one.raters, one.geometry) == (other.name, other.raters, other.geometry)
    assert (one.attributes, one.source) == (other.attributes, other.source)
    for name in ("probability", *PARTS):
        ours, theirs = getattr(one, name), getattr(other, name)
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)


def tree(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def edit(path: Path, **changes: Any) -> None:
    """Change the twintrack attributes of a group; a value of None removes the key."""
    metadata = json.loads((path / "zarr.json").read_text())
    attributes = {**metadata["attributes"]["twintrack"], **changes}
    metadata["attributes"]["twintrack"] = {key: value for key, value in attributes.items() if value is not None}
    (path / "zarr.json").write_text(json.dumps(metadata))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of two cases."""
    return write(tmp_path / "cohort.zarr", make_case("case1"), make_case("case2", seed=2))


# Round trips


@pytest.mark.parametrize("dtype", ["float16", "float32", "uint8"])
@pytest.mark.parametrize("shape", [(5, 6, 7), (3, 5, 6, 7), (1, 5, 6, 7), (1, 1, 1)])
def test_a_case_is_read_as_it_was_written(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    case = make_case(shape=shape, dtype=dtype)
    stored = open_cohort(write(tmp_path / "c.zarr", case))["case1"]
    assert stored.shape == shape[-3:]
    assert stored.members == (shape[0] if len(shape) == 4 else 1)
    assert stored.probability.dtype == dtype
    assert_equal_cases(stored.read(), case)


@pytest.mark.parametrize("parts", [c for n in range(4) for c in itertools.combinations(PARTS, n)])
def test_every_part_is_optional(tmp_path: Path, parts: tuple[str, ...]) -> None:
    case = make_case(parts=parts)
    stored = open_cohort(write(tmp_path / "c.zarr", case))["case1"]
    assert set(stored.parts) == set(parts)
    assert_equal_cases(stored.read(), case)


def test_a_case_of_several_chunks_is_read_as_it_was_written(tmp_path: Path) -> None:
    case = make_case(shape=(2, 90, 80, 70))
    stored = open_cohort(write(tmp_path / "c.zarr", case))["case1"]
    assert stored.probability.chunks == (1, 45, 80, 70)
    assert_equal_cases(stored.read(), case)


def test_arrays_in_any_memory_layout_are_written_as_they_are(tmp_path: Path) -> None:
    case = make_case(shape=(7, 6, 5))
    assert case.votes is not None
    turned = replace(case, probability=case.probability.T, votes=case.votes.T[::-1], roi=None, vessels=None)
    assert_equal_cases(open_cohort(write(tmp_path / "c.zarr", turned))["case1"].read(), turned)


def test_a_cohort_lists_its_cases_in_order(tmp_path: Path) -> None:
    names = ["b", "a", "case 10", "Ärzte_1", "x.nii", "p=1,q+2@(z)"]
    source = {"map": "abc", "n": [1, 2]}
    cohort = open_cohort(write(tmp_path / "c.zarr", *(make_case(name) for name in names), source=source))
    assert cohort.names == tuple(names)
    assert [case.name for case in cohort] == names
    assert len(cohort) == 6
    assert cohort.source == source
    assert cohort["a"].folder == open_folder(tmp_path / "c.zarr") / "a"
    assert cohort.path == tmp_path / "c.zarr"


def test_chunks_of_zeros_stay_unwritten(tmp_path: Path) -> None:
    case = make_case(shape=(2, 90, 80, 70))
    case.probability[...] = 0
    case.probability[1, 50:60] = 0.5
    assert case.votes is not None
    case.votes[...] = 0
    stored = open_cohort(write(tmp_path / "c.zarr", case))["case1"]
    assert stored.probability.written().tolist() == [[1, 1, 0, 0]]
    assert stored.parts["votes"].written().tolist() == []
    assert stored.parts["roi"].written().tolist() == [[0, 0, 0], [1, 0, 0]]
    assert not (tmp_path / "c.zarr" / "case1" / "votes" / "c").exists()
    assert_equal_cases(stored.read(), case)


def test_scores_that_are_not_zero_are_written_even_where_they_are_not_scores(tmp_path: Path) -> None:
    case = make_case()
    case.probability[...] = 0
    case.probability[0, 0, 0] = np.nan
    stored = open_cohort(write(tmp_path / "c.zarr", case))["case1"]
    assert len(stored.probability.written()) == 1
    assert_equal_cases(stored.read(), case)


@pytest.mark.parametrize("dtype", ["float16", "float32", "uint8"])
def test_xarray_opens_a_case(tmp_path: Path, dtype: str) -> None:
    case = make_case(shape=(2, 5, 6, 7), dtype=dtype)
    path = write(tmp_path / "c.zarr", case)
    with xarray.open_zarr(path / "case1", consolidated=False, chunks=None) as dataset:
        assert set(dataset) == {"probability", *PARTS}
        assert dataset["probability"].dims == ("member", "z", "y", "x")
        for name in PARTS:
            assert dataset[name].dims == ("z", "y", "x")
        for name in dataset:
            expected = getattr(case, str(name))
            assert (expected == 0).any()  # and they are zeros, not missing values
            assert dataset[name].dtype == expected.dtype
            np.testing.assert_array_equal(dataset[name].values, expected)
        assert dataset.attrs["twintrack"]["spacing_mm"] == [2.5, 0.7, 0.8]


def test_zarr_opens_a_store(store: Path) -> None:
    group = zarr.open_group(store, mode="r")
    assert set(group.group_keys()) == {"case1", "case2"}
    attributes: Any = group.attrs["twintrack"]
    assert attributes == {
        "format": "cohort",
        "version": 1,
        "cases": ["case1", "case2"],
        "source": {},
        "complete": True,
    }
    case: Any = group["case1"].attrs["twintrack"]
    assert set(case) == {"raters", "spacing_mm", "geometry", "attributes", "source", "complete"}
    assert case["geometry"] == {"origin": list(GEOMETRY.origin), "direction": list(GEOMETRY.direction)}


def test_equal_work_gives_equal_bytes(tmp_path: Path) -> None:
    case = make_case(shape=(70, 80, 90))
    write(tmp_path / "main.zarr", case)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(write, tmp_path / "thread.zarr", case).result()
    expected = tree(tmp_path / "main.zarr")
    assert tree(tmp_path / "thread.zarr") == expected
    assert len(expected) == 1 + 1 + 4 + 4 * 2
    for name, content in expected.items():
        assert str(tmp_path).encode() not in content, name


@settings(max_examples=200)
@given(st.lists(st.one_of(st.integers(1, 40), st.integers(1, 2000)), min_size=3, max_size=3))
def test_default_chunks_are_small_and_fit_the_shape(shape: list[int]) -> None:
    chunks = default_chunks(shape)
    voxels = math.prod(chunks)
    assert voxels <= 1 << 18
    assert all(1 <= chunk <= size for chunk, size in zip(chunks, shape, strict=True))
    if math.prod(shape) <= 1 << 18:
        assert chunks == tuple(shape)
    else:
        assert voxels > 1 << 16
    # No smaller chunk would do with as many pieces, so each axis is padded by less than a voxel per piece.
    for chunk, size in zip(chunks, shape, strict=True):
        pieces = -(-size // chunk)
        assert chunk == -(-size // pieces)
    # Near-cubic: an axis is only cut where the chunk is longest.
    cut = [chunk for chunk, size in zip(chunks, shape, strict=True) if chunk < size]
    if cut:
        assert max(chunks) <= 2 * min(cut) + 1


# Stores that are refused


def refused(path: Path, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        [case.read() for case in open_cohort(path)]


def test_what_is_no_store_is_a_wrong_request(tmp_path: Path) -> None:
    refused(tmp_path / "none", RequestError, "does not exist")
    refused(tmp_path, RequestError, "not a Zarr v3 store")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", RequestError, "not a Zarr v3 store")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": "statistics"}, "format 'statistics'"),
        ({"format": None}, "format None"),
        ({"version": 2}, "version 2"),
        ({"version": "1"}, "version '1'"),
        ({"version": True}, "version True"),
        ({"version": 1.0}, "version 1.0"),
        ({"version": {"a": 1}}, "version {'a': 1}"),
        ({"format": "x" * 5000}, r"format 'x{39}\.\n"),
        ({"format": ["cohort"]}, "format"),
        ({"cases": [{"a": 1}]}, "cannot be the name"),
        ({"cases": ["x" * 5000]}, "'x{79} cannot be the name"),
        ({"skipped": {"b": {}}}, "skipped cases"),
        ({"complete": False}, "incomplete"),
        ({"complete": None}, "incomplete"),
        ({"complete": "true"}, "incomplete"),
        ({"complete": 1}, "incomplete"),
        ({"cases": None}, "list of cases"),
        ({"cases": []}, "list of cases"),
        ({"cases": "case1"}, "list of cases"),
        ({"cases": {"case1": 1}}, "list of cases"),
        ({"cases": ["case1", "case1"]}, "list of cases"),
        ({"cases": ["case1", 7]}, "7 cannot be the name"),
        ({"cases": [["case1"]]}, "cannot be the name"),
        ({"cases": ["../case1"]}, "'../case1' cannot be the name"),
        ({"cases": ["/etc"]}, "'/etc' cannot be the name"),
        ({"cases": [".."]}, "cannot be the name"),
        ({"cases": ["case1/votes"]}, "cannot be the name"),
        ({"cases": ["case1\\..\\x"]}, "cannot be the name"),
        ({"cases": ["case1\0"]}, "cannot be the name"),
        ({"cases": ["case1\n"]}, "cannot be the name"),
        ({"cases": ["x" * 201]}, "cannot be the name"),
        ({"cases": ["é" * 150]}, "cannot be the name"),
        ({"cases": ["zarr.json"]}, "cannot be the name"),
        ({"cases": [""]}, "cannot be the name"),
        ({"cases": ["case3"]}, "case case3 is missing"),
        ({"source": ["map"]}, "source"),
    ],
)
def test_a_root_that_makes_no_sense_is_refused(store: Path, changes: dict[str, Any], words: str) -> None:
    edit(store, **changes)
    refused(store, RequestError if "format" in changes else StoreError, words)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_json_lacks_are_refused(store: Path, number: float) -> None:
    edit(store / "case1", spacing_mm=[1, 1, number])
    refused(store, StoreError, "no number of JSON")


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"attributes": 1}', '{"attributes": {"twintrack": []}}', '{"attributes": {}}']
)
@pytest.mark.parametrize("place", [".", "case1"])
def test_metadata_without_sense_are_refused(store: Path, place: str, content: str) -> None:
    (store / place / "zarr.json").write_text(content)
    refused(store, StoreError, "cannot be read|no twintrack attributes")


@pytest.mark.parametrize("place", [".", "case1", "case1/probability"])
def test_oversized_metadata_are_refused(store: Path, place: str) -> None:
    os.truncate(store / place / "zarr.json", (64 << 20) + 1)
    refused(store, StoreError, "more than 16777216 bytes")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"complete": False}, "case case1 is incomplete"),
        ({"complete": None}, "case case1 is incomplete"),
        ({"raters": [f"r{n}" for n in range(9)]}, "at most 8"),
        ({"raters": ["Ana", "Ana"]}, "different names"),
        ({"raters": ["Ana", ""]}, "different names"),
        ({"raters": ["Ana", 1]}, "different names"),
        ({"raters": [["Ana"]]}, "different names"),
        ({"raters": "Ana"}, "raters are 'Ana'"),
        ({"raters": {"Ana": 1}}, "raters are"),
        ({"raters": []}, "0 raters and votes"),
        ({"raters": None}, "0 raters and votes"),
        ({"spacing_mm": [1, 1]}, "three finite lengths"),
        ({"spacing_mm": [1, 1, 1, 1]}, "three finite lengths"),
        ({"spacing_mm": [1, 1, 0]}, "three finite lengths"),
        ({"spacing_mm": [1, 1, -1]}, "three finite lengths"),
        ({"spacing_mm": [1, 1, "wide"]}, "geometry cannot be read"),
        ({"spacing_mm": [1, 1, [1]]}, "geometry cannot be read"),
        ({"spacing_mm": 1}, "geometry cannot be read"),
        ({"spacing_mm": None}, "spacing_mm"),
        ({"geometry": None}, "geometry"),
        ({"geometry": [0, 0, 0]}, "geometry cannot be read"),
        ({"geometry": {"origin": [0, 0, 0]}}, "direction"),
        ({"geometry": {"origin": [0, 0], "direction": [1] * 9}}, "three finite coordinates"),
        ({"geometry": {"origin": [0, 0, 0], "direction": [1] * 8}}, "nine finite"),
        ({"spacing_mm": ["1", "1", "1"]}, "are no numbers"),
        ({"spacing_mm": [True, 1, 1]}, "are no numbers"),
        ({"spacing_mm": [1] * 100_000}, "three finite lengths"),
        ({"geometry": {"origin": "000", "direction": [1] * 9}}, "are no numbers"),
        ({"attributes": []}, r"its attributes is \[\]"),
        ({"source": "file"}, "its source is 'file'"),
    ],
)
def test_a_case_that_makes_no_sense_is_refused(store: Path, changes: dict[str, Any], words: str) -> None:
    edit(store / "case1", **changes)
    refused(store, StoreError, words)
    with pytest.raises(StoreError, match="case case1"):
        open_cohort(store)["case1"]
    open_cohort(store)["case2"].read()


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        ("probability", {"dtype": "bool"}, "probability is bool"),
        ("probability", {"shape": (6, 7)}, "shape"),
        ("probability", {"shape": (1, 1, 5, 6, 7)}, "no sizes of 1 to 4 axes"),
        ("probability", {"shape": (5, 6, 8)}, "votes is uint8 of shape"),
        ("votes", {"shape": (5, 6, 8)}, "votes is uint8 of shape"),
        ("votes", {"shape": (1, 5, 6, 7)}, "votes is uint8 of shape"),
        ("votes", {"dtype": "bool"}, "votes is bool"),
        ("votes", {"fill_value": 1}, "fill value 1"),
        ("roi", {"dtype": "uint8"}, "roi is uint8"),
        ("roi", {"fill_value": True}, "fill value 1"),
        ("vessels", {"dtype": "float32"}, "vessels is float32"),
        ("vessels", {"fill_value": 5}, "fill value 5"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(store: Path, name: str, array: dict[str, Any], words: str) -> None:
    dtype = {"probability": "float16", "roi": "bool"}.get(name, "uint8")
    options = {"shape": (5, 6, 7), "dtype": dtype, **array}
    zarr.create_array(store=str(store / "case1" / name), overwrite=True, **options)
    refused(store, StoreError, words)


def test_probability_may_be_filled_with_anything(store: Path) -> None:
    path = store / "case1" / "probability"
    zarr.create_array(store=str(path), shape=(5, 6, 7), dtype="float32", fill_value=0.5, overwrite=True)
    np.testing.assert_array_equal(open_cohort(store)["case1"].read().probability, np.full((5, 6, 7), np.float32(0.5)))


def test_missing_pieces_are_refused(store: Path) -> None:
    (store / "case1" / "roi" / "zarr.json").unlink()
    refused(store, StoreError, "roi/zarr.json is missing")
    (store / "case1" / "probability" / "zarr.json").unlink()
    refused(store, StoreError, "probability/zarr.json is missing")
    (store / "case1" / "zarr.json").unlink()
    refused(store, StoreError, "case case1 is missing")


def test_a_damaged_chunk_is_refused(store: Path) -> None:
    chunk = store / "case1" / "votes" / "c" / "0" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    refused(store, StoreError, "votes/c/0/0/0: the chunk is damaged")


# Choosing cases


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["case1"], ["case1"]),
        (["case*"], ["case2", "case1"]),
        (["*1", "case1"], ["case1"]),
        (["case1", "case2"], ["case2", "case1"]),
        (["[co]*"], ["case2", "case1", "other"]),
        (["case?", "other"], ["case2", "case1", "other"]),
        ([], ["case2", "case1", "other"]),
    ],
)
def test_cases_are_chosen_by_pattern_in_the_stores_order(tmp_path: Path, patterns: list[str], names: list[str]) -> None:
    path = write(tmp_path / "c.zarr", make_case("case2"), make_case("case1"), make_case("other"), source={"a": 1})
    chosen = open_cohort(path).select(patterns)
    assert chosen == Cohort(open_folder(path), tuple(names), {"a": 1})
    if "other" not in names:
        with pytest.raises(RequestError, match="has no case 'other'"):
            chosen["other"]


@pytest.mark.parametrize("patterns", [["case3"], ["CASE1"], ["case1", "x*"], [""], ["case"]])
def test_patterns_without_a_case_are_wrong_requests(store: Path, patterns: list[str]) -> None:
    with pytest.raises(RequestError, match=r"has no case .*\nAllowed: case1, case2\."):
        open_cohort(store).select(patterns)


@pytest.mark.parametrize("name", ["case3", "../cohort.zarr/case1", "", "case*"])
def test_a_case_that_is_not_there_is_a_wrong_request(store: Path, name: str) -> None:
    with pytest.raises(RequestError, match=r"has no case .*\nAllowed: case1, case2\."):
        open_cohort(store)[name]


# Writing


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"votes": np.zeros((5, 6, 8), np.uint8)}, GeometryError, "votes has shape"),
        ({"roi": np.zeros((6, 7), bool)}, GeometryError, "roi has shape"),
        ({"vessels": np.zeros((1, 5, 6, 7), np.uint8)}, GeometryError, "vessels has shape"),
        ({"probability": np.zeros((6, 7), np.float16)}, GeometryError, "probability has shape"),
        ({"probability": np.zeros((1, 1, 5, 6, 7), np.float16)}, GeometryError, "probability has shape"),
        ({"probability": np.zeros((0, 5, 6, 7), np.float16)}, GeometryError, "probability has shape"),
        ({"probability": np.zeros((5, 6, 7))}, RequestError, "probability is float64"),
        ({"probability": np.zeros((5, 6, 7), ">f2")}, RequestError, "probability is >f2"),
        ({"probability": np.zeros((5, 6, 7), bool)}, RequestError, "probability is bool"),
        ({"votes": np.zeros((5, 6, 7), np.int64)}, RequestError, "votes is int64"),
        ({"roi": np.zeros((5, 6, 7), np.uint8)}, RequestError, "roi is uint8"),
        ({"vessels": np.zeros((5, 6, 7), bool)}, RequestError, "vessels is bool"),
        ({"votes": None}, RequestError, "with no votes"),
        ({"raters": ()}, RequestError, "1 to 8"),
        ({"raters": tuple("abcdefghi")}, RequestError, "1 to 8"),
        ({"raters": ("Ana", "Ana", "Bob")}, RequestError, "different names"),
        ({"raters": ("Ana", "")}, RequestError, "different names"),
        ({"attributes": {"age": float("nan")}}, RequestError, "attributes cannot be written"),
        ({"attributes": {"age": {61}}}, RequestError, "attributes cannot be written"),
        ({"source": {"path": Path()}}, RequestError, "attributes cannot be written"),
        ({"name": "case2"}, RequestError, "does not expect a case 'case2'"),
    ],
)
def test_a_case_that_cannot_be_stored_is_refused(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    writer = CohortWriter(tmp_path / "c.zarr", ["case1"])
    with pytest.raises(error, match=words):
        writer.write_case(replace(make_case(), **changes))
    assert not writer.has_case("case1")
    refused(tmp_path / "c.zarr", StoreError, "incomplete")


@pytest.mark.parametrize(
    ("names", "error", "words"),
    [
        ([], RequestError, "0 cases are no cohort"),
        (["a", "a"], RequestError, "uniquely"),
        (["../a"], StoreError, "cannot be the name"),
        ([""], StoreError, "cannot be the name"),
    ],
)
def test_names_that_cannot_be_stored_are_refused(
    tmp_path: Path, names: list[str], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        CohortWriter(tmp_path / "c.zarr", names)
    assert not (tmp_path / "c.zarr").exists()


def test_a_source_that_json_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="attributes cannot be written"):
        CohortWriter(tmp_path / "c.zarr", ["a"], source={"map": object()})
    assert not (tmp_path / "c.zarr").exists()


def test_numbers_of_numpy_are_as_good(tmp_path: Path) -> None:
    spacing: Any = tuple(np.array([2.5, 0.75, 0.5], dtype=np.float32))
    case = replace(make_case(), geometry=Geometry(spacing))
    stored = open_cohort(write(tmp_path / "c.zarr", case))["case1"]
    assert stored.geometry == Geometry((2.5, 0.75, 0.5))


@pytest.mark.parametrize("resume", [False, True])
def test_an_existing_path_is_a_wrong_request(tmp_path: Path, resume: bool) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("mine")
    (tmp_path / "folder" / "zarr.json.7.partial").write_text("mine")
    before = tree(tmp_path)
    for name in ("file", "folder"):
        with pytest.raises(RequestError, match="exists already"):
            CohortWriter(tmp_path / name, ["a"], resume=resume)
    assert tree(tmp_path) == before


def test_a_finished_store_is_not_written_over(store: Path) -> None:
    before = tree(store)
    with pytest.raises(RequestError, match="exists already"):
        CohortWriter(store, ["case1", "case2"])
    assert tree(store) == before


def test_a_store_is_incomplete_until_it_is_finished(tmp_path: Path) -> None:
    path = tmp_path / "c.zarr"
    writer = CohortWriter(path, ["case1", "case2"])
    refused(path, StoreError, "incomplete")
    assert not writer.finished
    writer.write_case(make_case("case1"))
    assert writer.has_case("case1")
    assert not writer.has_case("case2")
    refused(path, StoreError, "incomplete")
    with pytest.raises(StoreError, match="1 cases are not complete: case2"):
        writer.finish()
    begin(writer, make_case("case2"))
    assert not writer.has_case("case2")
    with pytest.raises(StoreError, match="case2"):
        writer.finish()
    refused(path, StoreError, "incomplete")
    writer.write_case(make_case("case2", seed=2))
    writer.finish()
    assert CohortWriter(path, ["case1", "case2"], resume=True).finished
    assert tree(path) == tree(write(tmp_path / "d.zarr", make_case("case1"), make_case("case2", seed=2)))


# Resuming


def begin(writer: CohortWriter, case: Case) -> Folder:
    """Begin a case as `CohortWriter.write_case` does."""
    described = {"attributes": case.attributes, "source": case.source}
    return writer.begin_case(case.name, raters=case.raters, geometry=case.geometry, **described)


def test_a_run_resumes_where_it_was_cut_off(tmp_path: Path, store: Path) -> None:
    path = tmp_path / "c.zarr"
    first = CohortWriter(path, ["case1", "case2"])
    first.write_case(make_case("case1"))
    begin(first, make_case("case2"))
    (path / "case2" / "roi" / "c").mkdir(parents=True)
    (path / "case2" / "roi" / "c" / "0.7.partial").write_bytes(b"half")
    second = CohortWriter(path, ["case1", "case2"], resume=True)
    assert not second.finished
    assert [name for name in second.names if second.has_case(name)] == ["case1"]
    second.write_case(make_case("case2", seed=2))
    second.finish()
    assert tree(path) == tree(store)
    third = CohortWriter(path, ["case1", "case2"], resume=True)
    assert third.finished
    assert tree(path) == tree(store)


@pytest.mark.parametrize(
    "leftovers", [None, [], ["zarr.json.77.partial"], ["zarr.json.77.partial", "zarr.json.8.partial"]]
)
def test_resuming_starts_what_was_not_begun(tmp_path: Path, store: Path, leftovers: list[str] | None) -> None:
    path = tmp_path / "c.zarr"
    if leftovers is not None:
        path.mkdir()
        for name in leftovers:
            (path / name).write_bytes(b'{"attri')
    writer = CohortWriter(path, ["case1", "case2"], resume=True)
    writer.write_case(make_case("case1"))
    writer.write_case(make_case("case2", seed=2))
    writer.finish()
    assert tree(path) == tree(store)


def test_resuming_removes_what_a_killed_finish_left(tmp_path: Path, store: Path) -> None:
    expected = tree(store)
    edit(store, complete=False)
    (store / "zarr.json.77.partial").write_bytes(b'{"attri')
    CohortWriter(store, ["case1", "case2"], resume=True).finish()
    assert tree(store) == expected


def test_a_source_of_tuples_resumes(tmp_path: Path) -> None:
    source = {"members": ("a", "b"), "n": 1}
    CohortWriter(tmp_path / "c.zarr", ["a"], source=source)
    CohortWriter(tmp_path / "c.zarr", ["a"], source=source, resume=True)


@pytest.mark.parametrize(
    ("names", "source", "words"),
    [
        (["case1"], {"map": "a"}, "its cases is"),
        (["case2", "case1"], {"map": "a"}, "its cases is"),
        (["case1", "case2", "case3"], {"map": "a"}, "its cases is"),
        (["case1", "case2"], {"map": "b"}, "its source map is 'a', not 'b'"),
        (["case1", "case2"], {}, "its source map is 'a', not None"),
    ],
)
def test_another_run_cannot_be_resumed(tmp_path: Path, names: list[str], source: dict[str, Any], words: str) -> None:
    CohortWriter(tmp_path / "c.zarr", ["case1", "case2"], source={"map": "a"})
    before = tree(tmp_path)
    with pytest.raises(RequestError, match=words):
        CohortWriter(tmp_path / "c.zarr", names, source=source, resume=True)
    assert tree(tmp_path) == before


def test_another_format_cannot_be_resumed(tmp_path: Path) -> None:
    CohortWriter(tmp_path / "c.zarr", ["case1"])
    edit(tmp_path / "c.zarr", format="statistics")
    with pytest.raises(RequestError, match="statistics"):
        CohortWriter(tmp_path / "c.zarr", ["case1"], resume=True)


def test_beginning_a_case_again_changes_nothing(tmp_path: Path) -> None:
    writer = CohortWriter(tmp_path / "c.zarr", ["case1"])
    writer.write_case(make_case())
    before = tree(tmp_path)
    again = CohortWriter(tmp_path / "c.zarr", ["case1"], resume=True)
    folder = begin(again, make_case())
    array = create_array(folder / "votes", (5, 6, 7), np.uint8)
    assert len(array.written()) == 1
    assert tree(tmp_path) == before
    with pytest.raises(RequestError, match="case1 was begun by another run: its raters is"):
        again.begin_case("case1", raters=[], geometry=GEOMETRY, attributes={}, source={})
    with pytest.raises(RequestError, match="its attributes age is 61, not 62"):
        begin(again, replace(make_case(), attributes={**make_case().attributes, "age": 62}))
    with pytest.raises(RequestError, match="votes was begun by another run, as another array"):
        create_array(folder / "votes", (5, 6, 8), np.uint8)
    assert tree(tmp_path) == before


def test_a_run_is_told_from_another_until_it_is_finished(tmp_path: Path, store: Path) -> None:
    path = tmp_path / "c.zarr"
    run = {"roi": "full", "kernel": {"name": "numba"}, "cases": ("a", "b")}
    CohortWriter(path, ["case1", "case2"], run=run).write_case(make_case("case1"))
    before = tree(path)
    for other, words in (
        ({**run, "roi": "mask"}, "its roi is 'full', not 'mask'"),
        ({**run, "kernel": {"name": "cython"}}, "its kernel name is 'numba', not 'cython'"),
        ({**run, "floor": 0.1}, r"its floor is None, not 0\.1"),
        ({"roi": "full", "kernel": {"name": "numba"}}, r"its cases is \['a', 'b'\], not None"),
    ):
        with pytest.raises(RequestError, match="c.zarr was begun by another run: " + words):
            CohortWriter(path, ["case1", "case2"], resume=True, run=other)
    assert tree(path) == before
    writer = CohortWriter(path, ["case1", "case2"], resume=True, run=run)
    writer.write_case(make_case("case2", seed=2))
    writer.finish()
    assert tree(path) == tree(store)
    assert CohortWriter(path, ["case1", "case2"], resume=True, run=run).finished


@pytest.mark.parametrize("resume", [False, True])
def test_a_locked_folder_is_written_by_who_has_the_lock(tmp_path: Path, store: Path, resume: bool) -> None:
    path = tmp_path / "c.zarr"
    with open_folder(path).lock():
        writer = CohortWriter(path, ["case1", "case2"], resume=resume)
        writer.write_case(make_case("case1"))
        writer.write_case(make_case("case2", seed=2))
        writer.finish()
    assert tree(path) == tree(store)


@pytest.mark.parametrize("place", ["case1", "case1/votes", "case1/votes/c", "case1/votes/c/0", "case1/votes/c/0/0/0"])
def test_links_in_a_store_are_refused(tmp_path: Path, store: Path, place: str) -> None:
    store = store.rename(tmp_path / "found.zarr")  # what was no link is not looked at again
    (store / place).rename(tmp_path / "elsewhere")
    (store / place).symlink_to(tmp_path / "elsewhere")
    refused(store, StoreError, f"found.zarr/{place} is a symbolic link.\nAllowed in a store: files and folders")
    if place.startswith("case1/"):
        with pytest.raises(StoreError, match="is a symbolic link"):
            fingerprint(open_cohort(store))


def test_a_case_larger_than_memory_is_not_read(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = open_cohort(store)["case1"]
    votes = case.parts["votes"]
    monkeypatch.setattr(system, "available_memory", lambda: votes.n_bytes)
    assert votes.read_all().nbytes == votes.n_bytes
    with pytest.raises(StoreError, match=r"case1 takes .* GiB; .* GiB of memory are available\.\nAllowed: "):
        case.read()
    with pytest.raises(StoreError, match="case1/probability takes"):
        case.probability.read_all()


def test_the_store_itself_may_be_a_link(tmp_path: Path, store: Path) -> None:
    (tmp_path / "link").symlink_to(store)
    cohort = open_cohort(tmp_path / "link")
    assert fingerprint(cohort) == fingerprint(open_cohort(store))
    assert_equal_cases(cohort["case1"].read(), open_cohort(store)["case1"].read())


def test_a_fifo_is_refused_and_not_waited_for(store: Path) -> None:
    chunk = store / "case1" / "votes" / "c" / "0" / "0" / "0"
    chunk.unlink()
    os.mkfifo(chunk)
    refused(store, StoreError, "votes/c/0/0/0: the chunk cannot be read: it is neither a file nor a folder")
    with pytest.raises(StoreError, match="cannot be listed: it is neither"):
        open_cohort(store)["case1"].parts["votes"].written()
    (store / "zarr.json").unlink()
    os.mkfifo(store / "zarr.json")
    refused(store, StoreError, "zarr.json cannot be read: it is neither a file nor a folder")


@pytest.mark.parametrize(
    ("text", "words"), [('"a": 1, "a": 2', "the field 'a' occurs twice"), ('"a": ' + "1" * 1001, "1001 digits")]
)
def test_json_that_says_two_things_or_too_much_is_refused(store: Path, text: str, words: str) -> None:
    content = (store / "case1" / "zarr.json").read_text()
    (store / "case1" / "zarr.json").write_text(content.replace("{", "{" + text + ", ", 1))
    refused(store, StoreError, words)


def test_created_arrays_have_the_fill_and_the_chunks_asked_for(tmp_path: Path) -> None:
    array = create_array(tmp_path / "a", (5, 6, 7), np.float16, chunks=(2, 3, 4), fill=0.25)
    assert (array.chunks, array.fill, array.dtype) == ((2, 3, 4), 0.25, "float16")
    members = create_array(tmp_path / "b", (3, 5, 6, 7), np.uint8, chunks=(2, 3, 4))
    assert members.chunks == (1, 2, 3, 4)
    marks: npt.NDArray[Any] = create_array(tmp_path / "c", (5, 6, 7), bool, fill=1).read_all()
    assert marks.all()
