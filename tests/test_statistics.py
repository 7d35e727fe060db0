from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from twintrack_core import system
from twintrack_core.codes import N_CODES
from twintrack_core.errors import RequestError, StoreError, WorkError
from twintrack_core.histogram import CaseStatistics, CohortStatistics, JointHistogram
from twintrack_core.storage.local import LocalFolder


def histogram(seed: int, raters: tuple[str, ...] = ("ann", "bob"), n: int = 40) -> JointHistogram:
    rng = np.random.default_rng(seed)
    columns = (rng.integers(0, high, n) for high in (2, N_CODES, 1 << len(raters), 2**40))
    region, code, pattern, count = columns
    return JointHistogram.from_cells(region, code, pattern, count, raters)


def case(seed: int, raters: tuple[str, ...] = ("ann", "bob")) -> CaseStatistics:
    return CaseStatistics(histogram(seed, raters), (2.5, 0.5, 1.0 + seed), {"site": f"Ü{seed}", "age": 3})


CASES = {f"case{seed}": case(seed) for seed in range(4)}
BIG = (1 << 15, 1 << 16, 1 << 16)
MIXED = CohortStatistics(
    {
        "b": replace(case(1, ("ann", "bob", "cy")), shape=BIG, marks=((0, 3), (7, 7), (20, 59))),
        "a": case(2, ("bob", "ann")),
        "unrated": case(3, ()),
        "empty": CaseStatistics(histogram(4, ("ann",), n=0)),
    },
    roi="raters+20",
)


@given(st.permutations(list(CASES)), st.integers(0, 4))
def test_cases_merge_in_any_order_and_come_apart_again(order: list[str], split: int) -> None:
    everything = CohortStatistics(CASES)
    one = CohortStatistics({name: CASES[name] for name in order[:split]})
    two = CohortStatistics({name: CASES[name] for name in order[split:]})
    assert one + two == two.merge(one) == everything
    assert (one + two).names == tuple(sorted(CASES))
    assert (one + two).digest() == everything.digest()
    assert everything - one == two == everything.without(*one)
    assert everything.select(order[:split]) == one


def test_more_voxels_than_can_be_pooled_are_refused() -> None:
    many = CaseStatistics(JointHistogram.from_cells([1], [3], [0], [2**60], ["ann"]))
    assert len(CohortStatistics(dict.fromkeys("abc", many))) == 3
    with pytest.raises(RequestError, match=r"The 4 cases have 4.61e\+18 voxels"):
        CohortStatistics(dict.fromkeys("abcd", many))


def test_it_is_a_mapping_of_names() -> None:
    assert len(MIXED) == 4
    assert list(MIXED) == ["a", "b", "empty", "unrated"]
    assert "a" in MIXED
    assert "c" not in MIXED
    assert [name for name, _ in MIXED.items()] == list(MIXED.names)
    assert MIXED["b"].voxel_mm3 == 2.5 * 0.5 * 2
    assert MIXED.raters == ("ann", "bob", "cy")
    assert repr(MIXED) == "<CohortStatistics: 4 cases, region of interest 'raters+20', raters ann, bob, cy>"
    with pytest.raises(RequestError, match=r"no case 'c'\.\nAllowed: a, b, empty, unrated"):
        _ = MIXED["c"]
    with pytest.raises(TypeError, match="unhashable"):
        hash(MIXED)


def test_equality_sees_everything() -> None:
    base = CohortStatistics(CASES)
    first = CASES["case0"]
    assert base == CohortStatistics(dict(reversed(CASES.items())))
    assert base != CohortStatistics(CASES, roi="mask")
    assert base != base.without("case0")
    assert base != base.without("case0") + CohortStatistics({"other": first})
    assert base != CohortStatistics({**CASES, "case0": CaseStatistics(first.histogram, first.spacing_mm)})
    assert base != CohortStatistics({**CASES, "case0": CaseStatistics(first.histogram, (1, 1, 1), first.attributes)})
    assert base.__eq__(3) is NotImplemented


def test_merging_refuses_what_does_not_belong_together() -> None:
    base = CohortStatistics(CASES)
    with pytest.raises(RequestError, match="case 'case1', 1 cases in all"):
        base.merge(CohortStatistics({"case1": case(9)}))
    with pytest.raises(RequestError, match="'full' and 'mask'"):
        _ = base + CohortStatistics({"z": case(9)}, roi="mask")
    with pytest.raises(RequestError, match="'full' and 'mask'"):
        _ = base - CohortStatistics({}, roi="mask")
    with pytest.raises(RequestError, match="not the same"):
        _ = base - CohortStatistics({"case1": case(9)})
    with pytest.raises(RequestError, match="no case 'z'"):
        _ = base - CohortStatistics({"z": case(9)})
    with pytest.raises(RequestError, match="no case 'z'"):
        base.without("z")
    with pytest.raises(TypeError):
        _ = base + 1  # type: ignore[operator]
    with pytest.raises(TypeError):
        _ = base - 1  # type: ignore[operator]


def test_pooling_adds_histograms_of_one_panel() -> None:
    one, two = histogram(1), histogram(2).reorder_raters(("bob", "ann"))
    pooled = CohortStatistics({"x": CaseStatistics(two), "a": CaseStatistics(one)}).pooled()
    assert pooled == one + two
    with pytest.raises(RequestError, match="a bob, ann, b ann, bob, cy"):
        MIXED.pooled()
    with pytest.raises(RequestError, match="without cases"):
        CohortStatistics({}).pooled()


@pytest.mark.parametrize("spacing", [(1, 1), (1, 1, 0), (1, 1, np.nan), (1, -1, 1), (1, 1, np.inf)])
def test_spacing_must_be_lengths(spacing: Any) -> None:
    with pytest.raises(RequestError, match="Spacing"):
        CaseStatistics(histogram(0), spacing)


@pytest.mark.parametrize("attributes", [{"x": np.nan}, {"x": {1, 2}}, {"x": object()}])
def test_attributes_must_be_json(attributes: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="attributes"):
        CaseStatistics(histogram(0), (1, 1, 1), attributes)


def test_names_must_be_names() -> None:
    for name in ("", "../x", "a/b"):
        with pytest.raises(StoreError, match="cannot be the name of a case"):
            CohortStatistics({name: case(0)})
    with pytest.raises(RequestError, match="region of interest is ''"):
        CohortStatistics({}, roi="")


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "statistics",
    [
        MIXED,
        CohortStatistics(CASES),
        CohortStatistics({}),
        CohortStatistics({"none": CaseStatistics(histogram(0, (), n=0))}),
        CohortStatistics({"large": CaseStatistics(histogram(0, tuple("abcdefgh"), n=150_000))}),
    ],
    ids=["mixed", "one panel", "no cases", "no cells", "several chunks"],
)
def test_what_is_saved_is_loaded(tmp_path: Path, statistics: CohortStatistics) -> None:
    statistics.save(tmp_path / "a.zarr")
    assert CohortStatistics.load(str(tmp_path / "a.zarr")) == statistics
    CohortStatistics(dict(reversed(list(statistics.items()))), statistics.roi).save(str(tmp_path / "b.zarr"))
    assert files(tmp_path / "a.zarr") == files(tmp_path / "b.zarr")


def test_a_store_needs_nothing_of_ours(tmp_path: Path) -> None:
    MIXED.save(tmp_path / "s.zarr")
    group = zarr.open_group(str(tmp_path / "s.zarr"), mode="r")
    offset: Any = group["offset"]
    attributes: Any = group.attrs["twintrack"]
    assert (attributes["format"], attributes["version"], attributes["complete"]) == ("statistics", 1, True)
    assert attributes["roi"] == "raters+20"
    for index, (name, stored) in enumerate(MIXED.items()):
        entry = attributes["cases"][index]
        cells = slice(int(offset[index]), int(offset[index + 1]))
        for column in ("region", "code", "pattern", "count"):
            array: Any = group[column]
            np.testing.assert_array_equal(array[cells], getattr(stored.histogram, column))
        assert entry == {
            "name": name,
            "raters": list(stored.histogram.raters),
            "spacing_mm": list(stored.spacing_mm),
            "voxels": {"whole": stored.histogram.n_voxels, "roi": stored.histogram.n_inside},
            "attributes": stored.attributes,
            "shape": stored.shape and list(stored.shape),
            "marks": stored.marks and [list(pair) for pair in stored.marks],
        }


def test_saving_overwrites_nothing(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="exists already"):
        MIXED.save(tmp_path)
    with pytest.raises(RequestError, match="does not exist"):
        MIXED.save(tmp_path / "nowhere" / "s.zarr")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_an_incomplete_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = LocalFolder.write

    def fail(self: LocalFolder, key: str, data: bytes) -> None:
        if key.startswith("count"):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, key, data)

    monkeypatch.setattr(LocalFolder, "write", fail)
    with pytest.raises(WorkError, match="No space left"):
        MIXED.save(tmp_path / "s.zarr")
    with pytest.raises(StoreError, match="cut off"):
        CohortStatistics.load(tmp_path / "s.zarr")


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("intact") / "s.zarr"
    MIXED.save(path)
    return path


Edit = Callable[[dict[str, Any]], Any]


def _entry(**changes: Any) -> Edit:
    return lambda attributes: attributes["cases"][0].update(changes)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda a: a.update(format="cohort"), "holds the format 'cohort'"),
        (lambda a: a.update(version=2), "version 2"),
        (lambda a: a.update(version=True), "version True"),
        (lambda a: a.update(complete=False), "cut off"),
        (lambda a: a.update(complete=1), "cut off"),
        (lambda a: a.pop("complete"), "cut off"),
        (lambda a: a.update(roi=None), "roi is not a rule"),
        (lambda a: a.update(cases={}), "cases are not a list"),
        (lambda a: a["cases"].pop(), "offset is int64"),
        (lambda a: a["cases"].append(a["cases"][0]), "offset is int64"),
        (lambda a: a["cases"].__setitem__(0, "x"), "a case is described as 'x'"),
        (_entry(name=3), "a case is described as"),
        (_entry(name=""), "a case is described as"),
        (_entry(name="b"), "two cases 'b'"),
        (_entry(raters="ab"), "must be lists"),
        (_entry(raters=["a", "a"]), "raters are named"),
        (_entry(raters=["a"]), "pattern"),
        (_entry(raters=list("abcdefghi")), "9 raters"),
        (_entry(spacing_mm=[1, 1]), "Spacing"),
        (_entry(spacing_mm=[1, 1, -1]), "Spacing"),
        (_entry(spacing_mm=[1, 1, "1"]), "must be lists"),
        (_entry(spacing_mm=[1, 1, 10**400]), "too large"),
        (_entry(shape=7), "shape"),
        (_entry(shape=[1, 2]), "shape"),
        (_entry(shape=[4, 4, 4]), "does not hold"),
        (_entry(shape=[1, 2, "3"]), "shape"),
        (_entry(shape=[1, 2, 0]), "shape"),
        (_entry(shape=[1 << 20] * 3, marks=[1, 2, 3]), "marks"),
        (_entry(shape=[1 << 20] * 3, marks=[[0, 1], [0, 1]]), "marks"),
        (_entry(shape=[1 << 20] * 3, marks=[[0, 1], [0, 1], [2]]), "marks"),
        (_entry(shape=[1 << 20] * 3, marks=[[0, 1], [0, 1], [2, 1]]), "marks"),
        (_entry(shape=[1 << 20] * 3, marks=[[0, 1], [0, 1 << 20], [2, 3]]), "marks"),
        (_entry(shape=[1 << 20] * 3, marks=[[0, 1], [-1, 3], [2, 3]]), "marks"),
        (_entry(marks=[[0, 1], [0, 1], [2, 3]]), "marks"),
        (_entry(attributes=[]), "an object"),
        (_entry(voxels={"whole": 1, "roi": 1}), "do not hold"),
        (_entry(voxels=None), "do not hold"),
    ],
)
def test_edited_attributes_are_refused(intact: Path, tmp_path: Path, edit: Edit, message: str) -> None:
    path = shutil.copytree(intact, tmp_path / "s.zarr")
    metadata = json.loads((path / "zarr.json").read_text())
    edit(metadata["attributes"]["twintrack"])
    (path / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(StoreError, match=message):
        CohortStatistics.load(path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"attributes": 3}', '{"attributes": {"twintrack": []}}', "[" * 10**5]
)
def test_metadata_that_are_none_are_refused(intact: Path, tmp_path: Path, text: str) -> None:
    path = shutil.copytree(intact, tmp_path / "s.zarr")
    (path / "zarr.json").write_text(text)
    with pytest.raises(StoreError, match="damaged"):
        CohortStatistics.load(path)


def _set(array: str, place: int, value: int) -> Callable[[Path], Any]:
    def change(path: Path) -> None:
        opened: Any = zarr.open_array(str(path / array), mode="r+")
        opened[place] = value

    return change


def _truncate(path: Path) -> None:
    chunk = path / "count" / "c" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-5])


def _flip(path: Path) -> None:
    chunk = path / "count" / "c" / "0"
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 1
    chunk.write_bytes(bytes(data))


def _replace(array: str, dtype: str, shape: tuple[int, ...], chunks: tuple[int, ...]) -> Callable[[Path], Any]:
    def change(path: Path) -> None:
        shutil.rmtree(path / array)
        zarr.create_array(str(path / array), shape=shape, chunks=chunks, dtype=dtype)

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_set("region", 3, 2), "not sorted|region 2"),
        (_set("code", 39, 65535), "code 65535"),
        (_set("code", 0, 60000), "not sorted"),
        (_set("pattern", 39, 4), "pattern 4"),
        (_set("count", 0, 0), "empty"),
        (_set("count", 0, -5), "empty"),
        (_set("count", 0, 2**63 - 1), "more than"),
        (_set("count", 0, 1), "do not hold"),
        (_set("offset", 0, 1), "ascend"),
        (_set("offset", 1, 10**6), "ascend"),
        (_set("offset", -1, 2**62), "too large"),
        (_truncate, "count cannot be read"),
        (_flip, "count cannot be read"),
        (lambda path: (path / "count" / "c" / "0").unlink(), "lacks its chunk c/0"),
        (lambda path: shutil.rmtree(path / "count"), "count cannot be read"),
        (lambda path: (path / "count" / "zarr.json").write_text("{}"), "count cannot be read"),
        (_replace("count", "float64", (120,), (120,)), "count is float64"),
        (_replace("count", "int64", (10**13,), (10**5,)), "shape"),
        (_replace("count", "int64", (120,), (10**12,)), "chunks of more than"),
    ],
)
def test_damaged_arrays_are_refused(intact: Path, tmp_path: Path, damage: Callable[[Path], Any], message: str) -> None:
    path = shutil.copytree(intact, tmp_path / "s.zarr")
    damage(path)
    with pytest.raises(StoreError, match=message):
        CohortStatistics.load(path)


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in ("nowhere", "file", "."):
        with pytest.raises(RequestError):
            CohortStatistics.load(tmp_path / name)


def test_statistics_larger_than_memory_are_refused(intact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "available_memory", lambda: 64)
    with pytest.raises(StoreError, match=r"takes 0\.0 GiB; 0\.0 GiB of memory are available"):
        CohortStatistics.load(intact)
