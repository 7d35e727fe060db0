"""Raters, regions of interest, vessels and attributes beside the probabilities, for every reader of folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from twintrack_core.cohort.case import Geometry
from twintrack_core.cohort.images import write_volume
from twintrack_core.cohort.volumes import VolumesReader
from twintrack_core.errors import GeometryError, ImageError, InvalidVotesError, RequestError

pytest.importorskip("SimpleITK")

SHAPE = (4, 6, 5)


def save(folder: Path, case: str, array: npt.NDArray[Any], suffix: str = ".nii.gz", shift: float = 0.0) -> None:
    folder.mkdir(exist_ok=True)
    array = array if array.dtype == np.float32 else array.astype(np.uint8)
    write_volume(folder / f"{case}{suffix}", array, Geometry((3.0, 0.8, 0.9), (10.0, -20.0, 30.5 + shift)))


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """The cases a and b with two raters."""
    rng = np.random.default_rng(7)
    for case in "ab":
        save(tmp_path / "p", case, rng.random(SHAPE, np.float32))
        for rater in range(2):
            save(tmp_path / f"r{rater}", case, rng.integers(0, 2, SHAPE))
    return tmp_path


def reader(root: Path, raters: tuple[str, ...] = ("r0", "r1"), **changes: Any) -> VolumesReader:
    return VolumesReader((root / "p",), raters=tuple(root / name for name in raters), **changes)


@pytest.mark.parametrize("folder", ["r1", "roi", "vessels"])
def test_geometry_differs(folders: Path, folder: str) -> None:
    save(folders / "roi", "a", np.zeros(SHAPE))
    save(folders / "vessels", "a", np.zeros(SHAPE))
    source = reader(folders, roi=folders / "roi", vessels=folders / "vessels")
    assert source.read("a").raters == ("r0", "r1")
    save(folders / folder, "a", np.zeros(SHAPE), shift=0.5)
    with pytest.raises(GeometryError, match=rf"Case a: origin .*\(10, -20, 31\) in .*{folder}/a"):
        source.read("a")


def test_each_rater_has_a_bit(folders: Path) -> None:
    names = tuple(f"r{i}" for i in range(8))
    masks = np.random.default_rng(3).integers(0, 2, (8, *SHAPE))
    for name, mask in zip(names, masks, strict=True):
        save(folders / name, "a", mask)
    votes = reader(folders, raters=names).read("a").votes
    assert votes is not None
    assert votes.dtype == np.uint8
    np.testing.assert_array_equal(votes, np.packbits(masks.astype(bool), axis=0, bitorder="little")[0])


def test_missing_rater(folders: Path) -> None:
    (folders / "r1" / "a.nii.gz").unlink()
    for call in (reader(folders).case_names, lambda: reader(folders).read("a")):
        with pytest.raises(RequestError, match=r"No rater's mask for case a in .*r1\.") as caught:
            call()
        assert "--missing-rater allow" in str(caught.value.action)
    allowing = reader(folders, missing_rater="allow")
    assert allowing.case_names() == ("a", "b")
    assert allowing.read("a").raters == ("r0",)
    assert allowing.read("b").raters == ("r0", "r1")
    (folders / "r0" / "a.nii.gz").unlink()
    assert allowing.read("a").votes is None


def test_nine_raters(folders: Path) -> None:
    names = tuple(f"r{i}" for i in range(9))
    for name in names:
        for case in "ab":
            save(folders / name, case, np.ones(SHAPE))
    with pytest.raises(RequestError, match=r"Case a has 9 raters\.") as caught:
        reader(folders, raters=names).case_names()
    assert "at most 8" in str(caught.value.allowed)
    (folders / "r8" / "a.nii.gz").unlink()
    (folders / "r2" / "b.nii.gz").unlink()
    spread = reader(folders, raters=names, missing_rater="allow")
    assert spread.case_names() == ("a", "b")
    votes = spread.read("b").votes
    assert votes is not None
    assert (votes == 255).all()


def test_raters_with_one_name(folders: Path) -> None:
    with pytest.raises(RequestError, match="r0, r0"):
        reader(folders, raters=("r0", "other/r0"))


def test_unexpected_labels(folders: Path) -> None:
    mask = np.zeros(SHAPE)
    mask[0, 0, :3] = (2, 3, 7)
    mask[1] = 2
    save(folders / "r1", "a", mask)
    words = r"Case a: .*r1/a\.nii\.gz holds 2 \(31 voxels\), 3 \(1 voxels\), 7 \(1 voxels\)\."
    with pytest.raises(InvalidVotesError, match=words) as caught:
        reader(folders).read("a")
    assert "--label" in str(caught.value.action)
    case = reader(folders, labels=(2, 7)).read("a")
    assert case.votes is not None
    np.testing.assert_array_equal(case.votes >> 1, np.isin(mask, (2, 7)))
    assert case.source["labels"] == [2, 7]


def test_at_most_five_labels_are_listed(folders: Path) -> None:
    save(folders / "r1", "a", np.arange(120).reshape(SHAPE))
    with pytest.raises(InvalidVotesError, match=r"6 \(1 voxels\) and 113 other values"):
        reader(folders).read("a")


@pytest.mark.parametrize("labels", [None, (1,)])
@pytest.mark.parametrize("value", [0.5, np.nan])
def test_masks_that_are_not_whole_numbers(folders: Path, labels: tuple[int, ...] | None, value: float) -> None:
    mask = np.zeros(SHAPE, np.float32)
    mask[0, 0, 0] = value
    save(folders / "r1", "a", mask)
    with pytest.raises(InvalidVotesError, match=rf"r1/a\.nii\.gz holds {value:g} \(1 voxels\)"):
        reader(folders, labels=labels).read("a")


def test_float_masks_of_whole_numbers(folders: Path) -> None:
    save(folders / "r1", "a", np.ones(SHAPE, np.float32))
    votes = reader(folders, raters=("r1",)).read("a").votes
    assert votes is not None
    assert (votes == 1).all()


def test_regions_of_interest_and_vessels(folders: Path) -> None:
    rng = np.random.default_rng(1)
    roi, vessels = rng.integers(0, 2, SHAPE), rng.integers(0, 6, SHAPE)
    for case in "ab":
        save(folders / "roi", case, roi, suffix=".mha")
        save(folders / "vessels", case, vessels)
    source = reader(folders, roi=folders / "roi", vessels=folders / "vessels")
    assert source.case_names() == ("a", "b")
    first = source.read("a")
    assert first.roi is not None
    assert first.vessels is not None
    assert (first.roi.dtype, first.vessels.dtype) == (np.dtype(bool), np.dtype(np.uint8))
    np.testing.assert_array_equal(first.roi, roi)
    np.testing.assert_array_equal(first.vessels, vessels)
    save(folders / "roi", "b", roi * 2)
    (folders / "roi" / "b.mha").unlink()
    with pytest.raises(ImageError, match=r"region of interest .* holds 2 \("):
        source.read("b")
    save(folders / "vessels", "a", vessels + 1)
    with pytest.raises(ImageError, match=r"vessel map .* holds 6 \("):
        source.read("a")
    (folders / "vessels" / "b.nii.gz").unlink()
    with pytest.raises(RequestError, match="No vessel map for case b"):
        source.case_names()
    with pytest.raises(RequestError, match="no region of interest folder"):
        reader(folders, roi=folders / "nowhere").case_names()


def test_attributes(folders: Path) -> None:
    table = folders / "cases.csv"
    table.write_text("\ufeffsite, case ,age,dose,id,note\nNice,a,61,1.5e-3,007,\nPisa,x,1,1,1,1\n\n-,b,-4,.5,1_0,nan\n")
    source = reader(folders, attributes=table)
    assert source.case_names() == ("a", "b")
    assert source.read("a").attributes == {"site": "Nice", "age": 61, "dose": 0.0015, "id": "007", "note": None}
    assert source.read("b").attributes == {"site": "-", "age": -4, "dose": 0.5, "id": "1_0", "note": "nan"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("case,site\na,1\n", "no row for b"),
        ("case,site\na,1\nb,2\na,3\n", "line 4: case a has a second row"),
        ("name,site\na,1\n", "columns name, site"),
        ("case;site\na;1\n", "columns case;site"),
        ("case,site,site\na,1,1\n", "columns case, site, site"),
        ("case,site\na,1,2\n", "line 2 has 3 fields"),
        ('case,site\na,"1\n', "Cannot read the attributes"),
        ("", "columns"),
        ("case,site\na,\udcff\n", "Cannot read the attributes"),
    ],
)
def test_bad_attributes(folders: Path, text: str, words: str) -> None:
    table = folders / "cases.csv"
    table.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(RequestError, match=words):
        reader(folders, attributes=table).case_names()


def test_missing_attributes(folders: Path) -> None:
    with pytest.raises(RequestError, match=r"Cannot read the attributes in .*nowhere\.csv: No such file"):
        reader(folders, attributes=folders / "nowhere.csv").case_names()
