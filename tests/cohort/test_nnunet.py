"""nnU-Net folders: what a case becomes, and every way in which files can be wrong."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twintrack_core.cohort.case import Geometry
from twintrack_core.cohort.images import write_volume
from twintrack_core.cohort.nnunet import NnunetReader
from twintrack_core.cohort.npz import open_probabilities
from twintrack_core.errors import (
    GeometryError,
    ImageError,
    InvalidScoresError,
    RequestError,
    StoreError,
)

pytest.importorskip("SimpleITK")

SHAPE = (4, 6, 5)
GEOMETRY = Geometry((3.0, 0.8, 0.9), (10.0, -20.0, 30.5), (0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0))

Floats = npt.NDArray[Any]


def softmax(seed: int, classes: int = 2, dtype: str = "float32") -> Floats:
    """Probabilities (class, z, y, x) of a lesion in a corner, so that no flip leaves it in place."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(classes, *SHAPE))
    logits[0] += 4
    logits[1:, :2, :3, :2] += 9
    exp = np.exp(logits - logits.max(axis=0))
    return np.asarray((exp / exp.sum(axis=0)).astype(dtype))


def save_member(folder: Path, case: str, probabilities: Floats, segmentation: Floats | None = None) -> None:
    folder.mkdir(exist_ok=True)
    np.savez_compressed(folder / f"{case}.npz", probabilities=probabilities)
    if segmentation is None:
        segmentation = probabilities.argmax(axis=0)
    save_mask(folder, case, segmentation)


def save_mask(folder: Path, case: str, mask: Floats, geometry: Geometry = GEOMETRY, suffix: str = ".nii.gz") -> None:
    folder.mkdir(exist_ok=True)
    write_volume(
        folder / f"{case}{suffix}", mask.astype(mask.dtype if mask.dtype == np.float32 else np.uint8), geometry
    )


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Two members and two raters with the cases a and b."""
    rng = np.random.default_rng(7)
    for seed, case in enumerate("ab"):
        for member in range(2):
            save_member(tmp_path / f"m{member}", case, softmax(10 * seed + member))
        for rater in range(2):
            save_mask(tmp_path / f"r{rater}", case, rng.integers(0, 2, SHAPE))
    return tmp_path


def reader(root: Path, **changes: Any) -> NnunetReader:
    members = changes.pop("members", ("m0", "m1"))
    raters = changes.pop("raters", ("r0", "r1"))
    return NnunetReader(tuple(root / m for m in members), raters=tuple(root / r for r in raters), **changes)


def load(path: Path) -> Floats:
    return np.asarray(np.load(path)["probabilities"])


def mask_of(path: Path) -> Floats:
    import SimpleITK

    return np.asarray(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))))


def test_a_case(folders: Path) -> None:
    source = pickle.loads(pickle.dumps(reader(folders)))
    assert source.case_names() == ("a", "b")
    case = source.read("b")
    assert case.name == "b"
    expected = np.stack([load(folders / m / "b.npz")[1] for m in ("m0", "m1")]).astype(np.float16)
    assert case.probability.dtype == np.float16
    np.testing.assert_array_equal(case.probability, expected)
    assert case.raters == ("r0", "r1")
    assert case.votes is not None
    np.testing.assert_array_equal(case.votes & 1, mask_of(folders / "r0" / "b.nii.gz"))
    np.testing.assert_array_equal(case.votes >> 1, mask_of(folders / "r1" / "b.nii.gz"))
    np.testing.assert_allclose(case.geometry.spacing_mm, GEOMETRY.spacing_mm, atol=1e-6)
    np.testing.assert_allclose(case.geometry.origin, GEOMETRY.origin, atol=1e-5)
    np.testing.assert_allclose(case.geometry.direction, GEOMETRY.direction, atol=1e-6)
    assert case.roi is None
    assert case.vessels is None
    assert dict(case.attributes) == {}
    assert case.source == {
        "reader": "nnunet",
        "members": ["m0", "m1"],
        "classes": [1],
        "labels": None,
        "regions": False,
        "check_argmax": True,
        "floor": 0.0,
        "on_invalid": "error",
    }


def test_one_member_without_raters(folders: Path) -> None:
    case = reader(folders, members=("m1",), raters=()).read("a")
    assert case.probability.shape == SHAPE
    assert case.raters == ()
    assert case.votes is None


@pytest.mark.parametrize("dtype", ["<f2", ">f2", "<f4", ">f4", "<f8", ">f8"])
@pytest.mark.parametrize("fortran", [False, True])
def test_float_types_and_orders(folders: Path, dtype: str, fortran: bool) -> None:
    values = softmax(3, 3).astype(dtype)
    save_member(folders / "m0", "a", np.asfortranarray(values) if fortran else values)
    assert open_probabilities(folders / "m0" / "a.npz").fortran == fortran
    case = reader(folders, members=("m0",), classes=(2,)).read("a")
    np.testing.assert_array_equal(case.probability, values[2].astype(np.float32).astype(np.float16))


def test_many_blocks(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = reader(folders, floor=0.01).read("a")
    monkeypatch.setattr("twintrack_core.cohort.scores.BLOCK", 7)
    np.testing.assert_array_equal(reader(folders, floor=0.01).read("a").probability, whole.probability)
    bad = softmax(0)
    bad[1, 3, 5, 4] = 1.2
    bad[1, 3, 5, 3] = np.nan
    save_member(folders / "m0", "a", bad)
    with pytest.raises(InvalidScoresError, match=r"2 of 240 scores .* is nan at \(class, z, y, x\) = \(1, 3, 5, 3\)"):
        reader(folders).read("a")


@pytest.mark.parametrize("suffix", [".nii", ".mha", ".nrrd"])
def test_other_segmentation_formats(folders: Path, suffix: str) -> None:
    for folder in ("m0", "m1", "r0"):
        mask = mask_of(folders / folder / "a.nii.gz")
        (folders / folder / "a.nii.gz").unlink()
        save_mask(folders / folder, "a", mask, suffix=suffix)
    assert reader(folders).case_names() == ("a", "b")
    assert reader(folders).read("a").raters == ("r0", "r1")


def test_classes_are_summed_and_clipped(folders: Path) -> None:
    values = softmax(5, 4, "float16")
    values[:, 0, 0, 0] = np.array([0, 0.5, 0.25, 0.2505], np.float16)  # sums to a bit more than 1
    save_member(folders / "m0", "a", values)
    case = reader(folders, members=("m0",), classes=(3, 1, 2)).read("a")
    total = values[1].astype(np.float32) + values[2].astype(np.float32) + values[3].astype(np.float32)
    assert total.max() > 1
    np.testing.assert_array_equal(case.probability, np.minimum(total, 1).astype(np.float16))
    assert case.source["classes"] == [3, 1, 2]


def test_sum_of_classes_beyond_rounding_is_refused(folders: Path) -> None:
    values = softmax(5, 3)
    values[:, 1, 2, 1] = (0.0, 0.5, 0.503)
    save_member(folders / "m0", "a", values)
    source = reader(folders, members=("m0",), classes=(1, 2))
    with pytest.raises(InvalidScoresError, match=r"Case a: .*a\.npz: classes \[1, 2\] sum to 1.003 .* \(1, 2, 1\)"):
        source.read("a")
    clipped = reader(folders, members=("m0",), classes=(1, 2), on_invalid="clip").read("a")
    assert clipped.probability[1, 2, 1] == 1


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 0.999), st.integers(0, 2**32 - 1))
def test_floor(floor: float, seed: int) -> None:
    from twintrack_core.cohort.scores import to_float16

    scores = np.random.default_rng(seed).random(200, np.float32)
    stored = to_float16(scores, floor)
    rounded = scores.astype(np.float16)
    expected = [0.0 if float(value) < floor else float(value) for value in rounded]
    assert stored.astype(float).tolist() == expected


def test_floor_is_recorded(folders: Path) -> None:
    case = reader(folders, floor=1e-2).read("a")
    full = reader(folders).read("a").probability
    assert (full[case.probability == 0] < 1e-2).all()
    assert (case.probability[case.probability > 0] >= 1e-2).all()
    assert case.source["floor"] == 1e-2


def test_negative_zero_is_stored_as_zero(folders: Path) -> None:
    values = softmax(1)
    values[:, 0, 5, 4] = (1.0, -1e-9)
    save_member(folders / "m0", "a", values)
    case = reader(folders, members=("m0",)).read("a")
    assert case.probability.view(np.uint16).max() <= 0x3C00


# Scores that are not probabilities


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.nan, "is nan"),
        (np.inf, "is inf"),
        (-np.inf, "is -inf"),
        (-0.1, "is -0.1"),
        (1.2, "is 1.2"),
    ],
)
def test_invalid_scores(folders: Path, value: float, words: str) -> None:
    values = softmax(0)
    values[0, 2, 3, 4] = value
    save_member(folders / "m1", "a", values)
    expected = rf"Case a: .*m1/a\.npz: 1 of 240 scores are not probabilities; the first {words} at .*\(0, 2, 3, 4\)\."
    with pytest.raises(InvalidScoresError, match=expected) as caught:
        reader(folders).read("a")
    assert "logits" not in str(caught.value)


@pytest.mark.parametrize("value", [-1e300, 1e300])
def test_values_beyond_float32(folders: Path, value: float) -> None:
    values = softmax(0).astype(np.float64)
    values[0, 0, 0, 0] = value
    save_member(folders / "m0", "a", values)
    with pytest.raises(InvalidScoresError, match=r"1e\+300"):
        reader(folders).read("a")


def test_logits(folders: Path) -> None:
    save_member(folders / "m0", "a", np.random.default_rng(0).normal(0, 5, (2, *SHAPE)).astype(np.float32))
    with pytest.raises(InvalidScoresError, match=r"scores are not probabilities.*logits\?") as caught:
        reader(folders).read("a")
    assert "softmax" in str(caught.value.action)


def test_overshoots_can_be_clipped(folders: Path) -> None:
    values = softmax(0)
    values[:, 0, 0, 0] = (1.004, -0.004)
    values[:, 0, 0, 1] = (-0.004, 1.004)
    save_member(folders / "m0", "a", values)
    with pytest.raises(InvalidScoresError, match="4 of 240") as caught:
        reader(folders).read("a")
    assert 'in Python, choose on_invalid="clip"' in str(caught.value.action)
    case = reader(folders, members=("m0",), on_invalid="clip").read("a")
    assert case.probability[0, 0, :2].tolist() == [0, 1]
    assert case.source["on_invalid"] == "clip"


def test_nan_is_never_clipped(folders: Path) -> None:
    values = softmax(0)
    values[1, 0, 0, 0] = np.nan
    save_member(folders / "m0", "a", values)
    with pytest.raises(InvalidScoresError, match="nan"):
        reader(folders, on_invalid="clip").read("a")


def test_classes_that_do_not_sum_to_one(folders: Path) -> None:
    values = softmax(0)
    values[0, 3, 1, 2] += 0.02 if values[0, 3, 1, 2] < 0.9 else -0.02
    save_member(folders / "m0", "a", values)
    with pytest.raises(InvalidScoresError, match=r"classes of 1 of 120 voxels do not sum to 1.*\(3, 1, 2\)") as caught:
        reader(folders).read("a")
    assert "--regions" in str(caught.value.action)


# Regions


def sigmoid(seed: int) -> Floats:
    """Two channels, the second within the first."""
    whole = softmax(seed)[1]
    return np.stack([whole, whole * np.float32(0.7)])


def test_regions(folders: Path) -> None:
    values = sigmoid(0)
    save_member(folders / "m0", "a", values, (values > 0.5).sum(axis=0))
    for region in (0, 1):
        case = reader(folders, members=("m0",), regions=True, classes=(region,)).read("a")
        np.testing.assert_array_equal(case.probability, values[region].astype(np.float16))
    with pytest.raises(InvalidScoresError, match="sum to 1"):
        reader(folders, members=("m0",)).read("a")


def test_flipped_regions_are_refused(folders: Path) -> None:
    values = sigmoid(0)
    save_member(folders / "m0", "a", values[:, :, ::-1], (values > 0.5).sum(axis=0))
    with pytest.raises(ImageError, match="arg-max"):
        reader(folders, members=("m0",), regions=True, classes=(0,)).read("a")


def test_no_region_is_chosen_silently(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="No region is chosen") as caught:
        NnunetReader((tmp_path,), regions=True)
    assert "regions count from 0" in str(caught.value.allowed)
    assert "--class" in str(caught.value.action)


def test_regions_are_not_summed(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="overlap"):
        NnunetReader((tmp_path,), classes=(1, 2), regions=True)


# Arg-max


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_flipped_axes(folders: Path, axis: int) -> None:
    values = softmax(0, 3)
    save_member(folders / "m1", "a", np.flip(values, axis + 1), values.argmax(axis=0))
    save_member(folders / "m0", "a", values)
    words = r"Case a: the arg-max of .*m1/a\.npz agrees with .*m1/a\.nii\.gz in \d\d\.\d+ % of all"
    with pytest.raises(ImageError, match=words) as caught:
        reader(folders, classes=(1,)).read("a")
    assert "flipped" in str(caught.value.action)
    assert "--no-check-argmax" in str(caught.value.action)
    unchecked = reader(folders, classes=(1,), check_argmax=False).read("a")
    assert unchecked.source["check_argmax"] is False


def big_member(folder: Path, wrong: int, lesion: int = 1000) -> None:
    """20,000 voxels of which the first ``lesion`` are foreground; ``wrong`` of those are not in the segmentation."""
    foreground = np.zeros(20_000, np.float32)
    foreground[:lesion] = 0.9
    segmentation = foreground > 0.5
    segmentation[:wrong] = False
    values = np.stack([1 - foreground, foreground]).reshape(2, 20, 20, 50)
    save_member(folder, "a", values, segmentation.reshape(20, 20, 50))


def test_one_voxel_in_a_thousand_may_differ(tmp_path: Path) -> None:
    source = NnunetReader((tmp_path / "m",))
    big_member(tmp_path / "m", 20)
    assert source.read("a").probability.shape == (20, 20, 50)
    big_member(tmp_path / "m", 21)
    with pytest.raises(ImageError, match=r"in 99\.895 % of all voxels and 97\.900 % of the foreground"):
        source.read("a")


def test_a_small_lesion_elsewhere_is_noticed(tmp_path: Path) -> None:
    big_member(tmp_path / "m", 5, lesion=10)
    with pytest.raises(ImageError, match=r"in 99\.975 % of all voxels and 50\.000 % of the foreground"):
        NnunetReader((tmp_path / "m",)).read("a")


def test_classes_equal_up_to_rounding_agree_with_either(folders: Path) -> None:
    values = np.full((2, *SHAPE), 0.5, np.float16)
    values[1, ::2] += np.float16(2**-11)
    for segmentation in (np.zeros(SHAPE), np.ones(SHAPE)):
        save_member(folders / "m0", "a", values, segmentation)
        np.testing.assert_array_equal(reader(folders, members=("m0",)).read("a").probability, values[1])
    values[1] += np.float16(2**-9)  # beyond rounding: now only class 1 is the largest
    save_member(folders / "m0", "a", values, np.zeros(SHAPE))
    with pytest.raises(ImageError, match="arg-max"):
        reader(folders, members=("m0",)).read("a")


def test_nothing_segmented(folders: Path) -> None:
    values = np.stack([np.full(SHAPE, 0.9, np.float32), np.full(SHAPE, 0.1, np.float32)])
    save_member(folders / "m0", "a", values)
    assert reader(folders, members=("m0",)).read("a").probability.max() == np.float16(0.1)


# Files


def test_missing_probabilities(folders: Path) -> None:
    (folders / "m1" / "a.npz").unlink()
    with pytest.raises(RequestError, match=r"No probabilities for case a in .*m1\.") as caught:
        reader(folders).case_names()
    assert caught.value.exit_code == 2
    with pytest.raises(RequestError, match=r"no file .*m1/a\.npz"):
        reader(folders).read("a")


def test_missing_segmentation(folders: Path) -> None:
    (folders / "m1" / "a.nii.gz").unlink()
    for call in (reader(folders).case_names, lambda: reader(folders).read("a")):
        with pytest.raises(RequestError, match=r"No segmentation for case a in .*m1\."):
            call()


def test_two_segmentations(folders: Path) -> None:
    save_mask(folders / "m1", "a", np.zeros(SHAPE), suffix=".mha")
    for call in (reader(folders).case_names, lambda: reader(folders).read("a")):
        with pytest.raises(RequestError, match=r"Case a has several images in .*m1: a\.\w+"):
            call()


def test_missing_folder_and_empty_folder(folders: Path) -> None:
    with pytest.raises(RequestError, match=r"no member folder .*nowhere"):
        reader(folders, members=("m0", "nowhere")).case_names()
    with pytest.raises(RequestError, match=r"no rater folder .*nowhere"):
        reader(folders, raters=("nowhere",)).case_names()
    (folders / "empty").mkdir()
    with pytest.raises(RequestError, match=r"no cases in .*empty"):
        reader(folders, members=("empty",)).case_names()


def test_a_folder_given_twice(folders: Path) -> None:
    with pytest.raises(RequestError, match="given twice"):
        reader(folders, members=("m0", "m1/../m0")).case_names()


def test_cases_that_are_not_in_all_members_are_counted(folders: Path) -> None:
    for index in range(7):
        save_member(folders / "m0", f"c{index}", softmax(index))
    with pytest.raises(RequestError, match=r"7 cases c0, c1, c2, c3, c4 and 2 more in .*m1"):
        reader(folders).case_names()


def test_other_files_are_ignored(folders: Path) -> None:
    (folders / "m0" / "a.pkl").write_bytes(b"never opened")
    (folders / "m0" / "plans.json").write_text("{}")
    (folders / "m0" / "._a.npz").write_bytes(b"left by another system")
    (folders / "r0" / "extra.nii.gz").write_bytes(b"")
    assert reader(folders).case_names() == ("a", "b")
    reader(folders).read("a")


def test_names_that_cannot_be_cases(folders: Path) -> None:
    with pytest.raises(StoreError, match=r"'\.\./x' cannot be the name of a case"):
        reader(folders).read("../x")
    for member in range(2):
        save_member(folders / f"m{member}", "-x", softmax(0))
    with pytest.raises(StoreError, match="'-x'"):
        reader(folders, raters=()).case_names()


# Shapes, classes, geometry


def test_shape_of_the_probabilities_differs(folders: Path) -> None:
    save_member(folders / "m0", "a", softmax(0).transpose(0, 3, 2, 1), np.zeros(SHAPE))
    with pytest.raises(GeometryError, match=r"m0/a\.npz has shape \(2, 5, 6, 4\), but .* has \(4, 6, 5\)"):
        reader(folders).read("a")


def test_shape_of_a_member_differs(folders: Path) -> None:
    save_member(folders / "m1", "a", softmax(0)[:, 1:])
    with pytest.raises(GeometryError, match=r"Case a: size .*\(3, 6, 5\).*m1/.*\(4, 6, 5\).*m0/"):
        reader(folders).read("a")


@pytest.mark.parametrize("folder", ["m1", "r0", "r1"])
def test_geometry_differs(folders: Path, folder: str) -> None:
    mask = mask_of(folders / folder / "a.nii.gz")
    moved = Geometry(GEOMETRY.spacing_mm, (10.0, -20.0, 31.0), GEOMETRY.direction)
    save_mask(folders / folder, "a", mask, moved)
    with pytest.raises(GeometryError, match=rf"Case a: origin .*\(10, -20, 31\) in .*{folder}/a.*\(10, -20, 30\.5\)"):
        reader(folders).read("a")


def test_one_of_several_classes_is_not_chosen_silently(folders: Path) -> None:
    save_member(folders / "m0", "a", softmax(0, 3))
    with pytest.raises(RequestError, match="has 3 classes, and none was chosen") as caught:
        reader(folders, members=("m0",)).read("a")
    assert "--class" in str(caught.value.action)


def test_classes_differ_between_members(folders: Path) -> None:
    save_member(folders / "m1", "a", softmax(0, 3))
    with pytest.raises(ImageError, match=r"m1/a\.npz has 3 classes, but .*m0/a\.npz has 2"):
        reader(folders).read("a")


def test_class_that_is_not_there(folders: Path) -> None:
    with pytest.raises(RequestError, match=r"has 2 classes and no class 2") as caught:
        reader(folders, classes=(2,)).read("a")
    assert caught.value.allowed == "Allowed: classes 1 to 1."


@pytest.mark.parametrize("classes", [(), (0,), (1, 1), (-1,), (0, 1)])
def test_classes_that_make_no_foreground(tmp_path: Path, classes: tuple[int, ...]) -> None:
    with pytest.raises(RequestError, match="do not make a foreground"):
        NnunetReader((tmp_path,), classes=classes)


@pytest.mark.parametrize(
    "changes",
    [
        {"floor": -0.1},
        {"floor": 1.0},
        {"floor": float("nan")},
        {"on_invalid": "exclude"},
        {"missing_rater": "ignore"},
        {"labels": ()},
        {"labels": (0, 1)},
    ],
)
def test_settings_without_a_meaning(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        NnunetReader((tmp_path,), **changes)
    with pytest.raises(RequestError):
        NnunetReader(())


# Real data

DATA = os.environ.get("TWINTRACK_TEST_DATA")


@pytest.mark.skipif(not DATA, reason="TWINTRACK_TEST_DATA does not name the folder with the shared data")
@pytest.mark.parametrize(("part", "first", "last"), [("calibration", 13, 22), ("test", 23, 35)])
def test_cells(part: str, first: int, last: int) -> None:
    root = Path(str(DATA)) / "cells" / part
    source = reader(
        root,
        members=tuple(f"member{i}" for i in range(3)),
        raters=tuple(f"rater{i}" for i in range(1, 6)),
    )
    assert source.case_names() == tuple(f"B{i}" for i in range(first, last + 1))
    for name in source.case_names():
        case = source.read(name)
        assert case.probability.shape == (3, 1, 405, 512)
        assert case.raters == ("rater1", "rater2", "rater3", "rater4", "rater5")
        for index in range(3):
            np.testing.assert_array_equal(case.probability[index], load(root / f"member{index}" / f"{name}.npz")[1])
        assert case.votes is not None
        for bit in range(5):
            marked = case.votes >> np.uint8(bit) & np.uint8(1)
            np.testing.assert_array_equal(marked, mask_of(root / f"rater{bit + 1}" / f"{name}.nii.gz"))
