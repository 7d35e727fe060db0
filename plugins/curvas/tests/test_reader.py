from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from twintrack_core.cohort import Geometry, Reader, write_volume
from twintrack_core.errors import (
    GeometryError,
    ImageError,
    InvalidScoresError,
    InvalidVotesError,
    RequestError,
    StoreError,
    TwinTrackError,
)
from twintrack_curvas.reader import CurvasReader

pytest.importorskip("SimpleITK", reason="it reads and writes the images")

SHAPE = (3, 5, 4)
GEOMETRY = Geometry((4.0, 0.5, 0.6), (-3.0, 7.0, 11.0), (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0))


def save(path: Path, array: npt.NDArray[Any], geometry: Geometry = GEOMETRY) -> None:
    path.parent.mkdir(exist_ok=True)
    write_volume(path, array, geometry)


def scores(seed: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).random(SHAPE, np.float32)


def mask(seed: int) -> npt.NDArray[np.uint8]:
    return (scores(100 + seed) > 0.5).astype(np.uint8)


def case(root: Path, name: str, raters: int = 5) -> Path:
    folder = root / name
    folder.mkdir()
    save(folder / "image.nii.gz", scores(9) * 100)
    for rater in range(1, raters + 1):
        save(folder / f"annotation_{rater}.nii.gz", mask(rater))
    save(folder / "prediction.nii.gz", scores(1))
    save(folder / "vessels.nii.gz", (scores(2) * 5.99).astype(np.uint8))
    return folder


def test_a_case(tmp_path: Path) -> None:
    for name in ("UKCHLL002", "UKCHLL001"):
        case(tmp_path, name)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "notes.txt").write_text("no case")
    reader: Reader = CurvasReader(tmp_path)
    assert pickle.loads(pickle.dumps(reader)) == reader
    assert reader.case_names() == ("UKCHLL001", "UKCHLL002")
    found = reader.read("UKCHLL001")
    np.testing.assert_array_equal(found.probability, scores(1).astype(np.float16))
    assert found.raters == tuple(f"annotation_{rater}" for rater in range(1, 6))
    assert found.votes is not None
    for bit in range(5):
        np.testing.assert_array_equal(found.votes >> np.uint8(bit) & 1, mask(bit + 1))
    np.testing.assert_array_equal(found.vessels, (scores(2) * 5.99).astype(np.uint8))
    np.testing.assert_allclose(found.geometry.spacing_mm, GEOMETRY.spacing_mm, atol=1e-6)
    assert found.source == {"reader": "curvas", "members": ["prediction.nii.gz"], "labels": None}
    assert CurvasReader(tmp_path, cases=("*2",)).case_names() == ("UKCHLL002",)


def test_members_and_their_names(tmp_path: Path) -> None:
    folder = case(tmp_path, "a")
    save(folder / "prediction_2.nii.gz", scores(3))
    found = CurvasReader(tmp_path).read("a")
    np.testing.assert_array_equal(found.probability, np.stack([scores(1), scores(3)]).astype(np.float16))
    save(folder / "mine.nii.gz", scores(4))
    found = CurvasReader(tmp_path, prediction="mine*").read("a")
    np.testing.assert_array_equal(found.probability, scores(4).astype(np.float16))


def test_raters_in_natural_order(tmp_path: Path) -> None:
    folder = case(tmp_path, "a", raters=2)
    (folder / "annotation_2.nii.gz").rename(folder / "annotation_10.nii.gz")
    save(folder / "annotation_3.nii.gz", mask(3))
    assert CurvasReader(tmp_path).read("a").raters == ("annotation_1", "annotation_3", "annotation_10")


def test_without_image_vessels_and_annotations(tmp_path: Path) -> None:
    save(tmp_path / "a" / "prediction.nii.gz", scores(1))
    reader = CurvasReader(tmp_path)
    assert reader.case_names() == ("a",)
    found = reader.read("a")
    assert (found.raters, found.votes, found.vessels) == ((), None, None)


def test_labels(tmp_path: Path) -> None:
    folder = case(tmp_path, "a", raters=1)
    save(folder / "annotation_1.nii.gz", mask(1) * np.uint8(2))
    with pytest.raises(InvalidVotesError, match=r"Case a: .*annotation_1"):
        CurvasReader(tmp_path).read("a")
    found = CurvasReader(tmp_path, label="2,3").read("a")
    np.testing.assert_array_equal(found.votes, mask(1))
    assert found.source["labels"] == [2, 3]
    for wrong in ("x", "0", "1,", "1;2", "1,0"):
        with pytest.raises(RequestError, match="label is"):
            CurvasReader(tmp_path, label=wrong)


def test_geometry_is_the_image_s(tmp_path: Path) -> None:
    other = Geometry((4.0, 0.5, 0.7), GEOMETRY.origin, GEOMETRY.direction)
    for name in ("prediction.nii.gz", "annotation_2.nii.gz", "vessels.nii.gz"):
        root = tmp_path / name
        root.mkdir()
        save(case(root, "a") / name, mask(0) if name != "prediction.nii.gz" else scores(0), other)
        with pytest.raises(GeometryError, match=rf"Case a: spacing .*{name}, but .*image\.nii\.gz"):
            CurvasReader(root).read("a")
        (root / "a" / "image.nii.gz").unlink()
        with pytest.raises(GeometryError, match=r"Case a: spacing .*but .*prediction\.nii\.gz"):
            CurvasReader(root).read("a")


def test_files_that_make_no_sense(tmp_path: Path) -> None:
    folder = case(tmp_path, "a")
    wrong: list[tuple[str, npt.NDArray[Any], type[TwinTrackError]]] = [
        ("prediction.nii.gz", scores(1) * 9 - 4, InvalidScoresError),
        ("prediction.nii.gz", mask(1), InvalidScoresError),
        ("annotation_5.nii.gz", np.full(SHAPE, 3, np.uint8), InvalidVotesError),
        ("vessels.nii.gz", np.full(SHAPE, 6, np.uint8), ImageError),
    ]
    for name, array, error in wrong:
        good = (folder / name).read_bytes()
        save(folder / name, array)
        with pytest.raises(error, match=rf"Case a: .*{name}"):
            CurvasReader(tmp_path).read("a")
        (folder / name).write_bytes(good)
    (folder / "prediction.nii.gz").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"prediction\.nii\.gz"):
        CurvasReader(tmp_path).read("a")


def test_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="There is no folder"):
        CurvasReader(tmp_path / "none").case_names()
    with pytest.raises(RequestError, match="There are no cases"):
        CurvasReader(tmp_path).case_names()
    folder = case(tmp_path, "a")
    reader = CurvasReader(tmp_path)
    with pytest.raises(RequestError, match="has no case 'b"):
        CurvasReader(tmp_path, cases=("b*",)).case_names()
    with pytest.raises(RequestError, match=r"There is no folder .* of case b"):
        reader.read("b")
    with pytest.raises(StoreError):
        reader.read("../a")
    (tmp_path / "readme").mkdir()
    with pytest.raises(RequestError, match=r"The folder .*readme is no case: it holds no annotation and no prediction"):
        reader.case_names()
    assert CurvasReader(tmp_path, cases=("a",)).case_names() == ("a",)
    (tmp_path / "readme").rmdir()
    (folder / "prediction.nii.gz").unlink()
    for call in (reader.case_names, lambda: reader.read("a")):
        with pytest.raises(RequestError, match="Case a has no prediction in"):
            call()


def test_a_vessel_map_that_was_named_and_is_nowhere(tmp_path: Path) -> None:
    case(tmp_path, "a")
    assert CurvasReader(tmp_path).case_names() == ("a",)
    with pytest.raises(RequestError, match=r"No case in .* has a vessel map portal\.nii\.gz"):
        CurvasReader(tmp_path, vessels="portal.nii.gz").case_names()


def test_raters_that_only_some_cases_have(tmp_path: Path) -> None:
    case(tmp_path, "a")
    (case(tmp_path, "b") / "annotation_4.nii.gz").unlink()
    with pytest.raises(RequestError, match=r"Case b has no annotation_4\.nii\.gz"):
        CurvasReader(tmp_path).case_names()
    reader = CurvasReader(tmp_path, missing_rater="allow")
    assert reader.case_names() == ("a", "b")
    assert len(reader.read("b").raters) == 4
    save(tmp_path / "a" / "annotation_9.nii.gz", mask(9))
    for number in (6, 7, 8):
        save(tmp_path / "a" / f"annotation_{number}.nii.gz", mask(number))
    with pytest.raises(RequestError, match="Case a has 9 annotations"):
        reader.case_names()


@pytest.mark.parametrize(
    "options",
    [{"prediction": ""}, {"prediction": "../*"}, {"vessels": "/etc/vessels.nii.gz"}, {"missing_rater": "maybe"}],
)
def test_options_that_are_none(tmp_path: Path, options: dict[str, str]) -> None:
    with pytest.raises(RequestError):
        CurvasReader(tmp_path, **options)  # type: ignore[arg-type]
