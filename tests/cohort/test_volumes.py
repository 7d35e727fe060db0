"""Plain probability images: what a case becomes, and what is refused. Raters and the like: see test_nnunet."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from twintrack_core.cohort.case import Geometry
from twintrack_core.cohort.nnunet import NnunetReader
from twintrack_core.cohort.readers import Reader
from twintrack_core.cohort.volumes import VolumesReader
from twintrack_core.errors import GeometryError, ImageError, InvalidScoresError, InvalidVotesError, RequestError

sitk = pytest.importorskip("SimpleITK")

SHAPE = (3, 5, 4)
GEOMETRY = Geometry((4.0, 0.5, 0.6), (-3.0, 7.0, 11.0), (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0))


def save(path: Path, array: npt.NDArray[Any], geometry: Geometry = GEOMETRY) -> None:
    path.parent.mkdir(exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(geometry.spacing_mm[::-1])
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    sitk.WriteImage(image, str(path))


def scores(seed: int, dtype: str = "float32") -> npt.NDArray[Any]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, SHAPE).astype(np.uint8) if dtype == "uint8" else rng.random(SHAPE).astype(dtype)


def reader(root: Path, *names: str, **changes: Any) -> VolumesReader:
    return VolumesReader(tuple(root / name for name in names), **changes)


def test_readers_keep_the_protocol(tmp_path: Path) -> None:
    readers: list[Reader] = [VolumesReader((tmp_path,)), NnunetReader((tmp_path,))]
    assert [pickle.loads(pickle.dumps(source)) for source in readers] == readers


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mha", ".mhd", ".nrrd"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8"])
def test_a_case(tmp_path: Path, suffix: str, dtype: str) -> None:
    mask = (scores(9) > 0.5).astype(np.uint8)
    for index in range(2):
        save(tmp_path / f"p{index}" / f"case.1{suffix}", scores(index, dtype))
    save(tmp_path / "anna" / "case.1.nii", mask)
    source = reader(tmp_path, "p0", "p1", raters=(tmp_path / "anna",))
    assert source.case_names() == ("case.1",)
    case = source.read("case.1")
    expected = np.stack([scores(0, dtype), scores(1, dtype)])
    expected = expected if dtype == "uint8" else expected.astype(np.float16)
    assert case.probability.dtype == expected.dtype
    np.testing.assert_array_equal(case.probability, expected)
    assert case.raters == ("anna",)
    np.testing.assert_array_equal(case.votes, mask)
    np.testing.assert_allclose(case.geometry.direction, GEOMETRY.direction, atol=1e-6)
    assert case.geometry.spacing_mm == pytest.approx(GEOMETRY.spacing_mm)
    assert case.source == {
        "reader": "volumes",
        "members": ["p0", "p1"],
        "labels": None,
        "floor": 0.0,
        "on_invalid": "error",
    }


def test_float64_is_rounded_once(tmp_path: Path) -> None:
    # Just above the midpoint of two float16 values; rounded to float32 first it would be the midpoint, and go down.
    value = 0.5 + 2.0**-12 + 2.0**-40
    save(tmp_path / "p" / "a.mha", np.full(SHAPE, value))
    probability = reader(tmp_path, "p").read("a").probability
    assert probability.shape == SHAPE
    assert (probability == np.float16(0.5 + 2.0**-11)).all()


def test_uint8_beside_float(tmp_path: Path) -> None:
    save(tmp_path / "p0" / "a.nii", scores(0, "uint8"))
    save(tmp_path / "p1" / "a.nii", scores(1))
    probability = reader(tmp_path, "p0", "p1").read("a").probability
    assert probability.dtype == np.float16
    np.testing.assert_array_equal(probability[0], (scores(0, "uint8") / np.float32(255)).astype(np.float16))


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_floor(tmp_path: Path, dtype: str) -> None:
    save(tmp_path / "p" / "a.nii", scores(0, dtype))
    full = reader(tmp_path, "p").read("a").probability
    case = reader(tmp_path, "p", floor=0.3).read("a")
    values = full / 255 if dtype == "uint8" else full.astype(np.float64)
    np.testing.assert_array_equal(case.probability, np.where(values < 0.3, 0, full))
    assert case.source["floor"] == 0.3


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha"])
@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.nan, "is nan"),
        (np.inf, "is inf"),
        (-0.1, "is -0.1"),
        (1.2, "is 1.2"),
        (7.5, r"is 7.5 .*logits\?"),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_invalid_scores(tmp_path: Path, suffix: str, value: float, words: str, dtype: str) -> None:
    array = scores(0, dtype)
    array[1, 2, 3] = value
    save(tmp_path / "p0" / f"a{suffix}", scores(0))
    save(tmp_path / "p1" / f"a{suffix}", array)
    with pytest.raises(InvalidScoresError, match=rf"Case a: .*p1/a{suffix}: 1 of 60 .*{words}") as caught:
        reader(tmp_path, "p0", "p1").read("a")
    assert "(z, y, x) = (1, 2, 3)" in caught.value.what


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_overshoots_can_be_clipped(tmp_path: Path, dtype: str) -> None:
    array = scores(0, dtype)
    array[0, 0] = (-0.1, 1.2, np.inf, -np.inf)
    save(tmp_path / "p" / "a.nii", array)
    case = reader(tmp_path, "p", on_invalid="clip").read("a")
    assert case.probability[0, 0].tolist() == [0, 1, 1, 0]
    np.testing.assert_array_equal(case.probability[1:], array[1:].astype(np.float16))
    array[0, 0, 0] = np.nan
    save(tmp_path / "p" / "a.nii", array)
    with pytest.raises(InvalidScoresError, match="1 of 60"):
        reader(tmp_path, "p", on_invalid="clip").read("a")


def test_label_maps_are_not_probabilities(tmp_path: Path) -> None:
    save(tmp_path / "p" / "a.nii", np.ones(SHAPE, np.int16))
    with pytest.raises(ImageError, match=r"Case a: .*p/a\.nii has voxels of int16"):
        reader(tmp_path, "p").read("a")


def test_a_mask_is_not_taken_for_uint8_probabilities(tmp_path: Path) -> None:
    mask = (scores(0) > 0.5).astype(np.uint8)
    save(tmp_path / "p" / "a.nii", mask)
    save(tmp_path / "q" / "a.nii", scores(0))
    for names in (("p",), ("q", "p")):
        with pytest.raises(InvalidScoresError, match=r"Case a: .*p/a\.nii looks like a mask") as caught:
            reader(tmp_path, *names).read("a")
    assert "0 to 255, meaning k / 255" in str(caught.value.allowed)
    assert "--rater" in str(caught.value.action)
    for allowed in (mask * 0, mask * 2, mask * 255):
        save(tmp_path / "p" / "a.nii", allowed)
        np.testing.assert_array_equal(reader(tmp_path, "p").read("a").probability, allowed)


def test_geometry_and_size_of_members_differ(tmp_path: Path) -> None:
    save(tmp_path / "p0" / "a.nii", scores(0))
    save(tmp_path / "p1" / "a.nii", scores(0), Geometry((4.0, 0.5, 0.7), GEOMETRY.origin, GEOMETRY.direction))
    with pytest.raises(GeometryError, match=r"Case a: spacing .*\(4, 0\.5, 0\.7\) in .*p1"):
        reader(tmp_path, "p0", "p1").read("a")
    save(tmp_path / "p1" / "a.nii", scores(0)[:2])
    with pytest.raises(GeometryError, match=r"Case a: size .*\(2, 5, 4\) in .*p1"):
        reader(tmp_path, "p0", "p1").read("a")


def test_missing_files_and_folders(tmp_path: Path) -> None:
    for case in "ab":
        save(tmp_path / "p0" / f"{case}.nii", scores(0))
    save(tmp_path / "p1" / "b.nii", scores(0))
    for call in (reader(tmp_path, "p0", "p1").case_names, lambda: reader(tmp_path, "p0", "p1").read("a")):
        with pytest.raises(RequestError, match=r"No probabilities for case a in .*p1"):
            call()
    with pytest.raises(RequestError, match="no probability folder"):
        reader(tmp_path, "p9").case_names()
    (tmp_path / "p2").mkdir()
    with pytest.raises(RequestError, match="no cases"):
        reader(tmp_path, "p2").case_names()
    with pytest.raises(RequestError, match="No folder"):
        reader(tmp_path)


def test_raters_are_checked_as_everywhere(tmp_path: Path) -> None:
    save(tmp_path / "p" / "a.nii", scores(0))
    save(tmp_path / "anna" / "a.nii", np.full(SHAPE, 3, np.uint8))
    with pytest.raises(InvalidVotesError, match=r"anna/a\.nii holds 3 \(60 voxels\)"):
        reader(tmp_path, "p", raters=(tmp_path / "anna",)).read("a")
    votes = reader(tmp_path, "p", raters=(tmp_path / "anna",), labels=(3,)).read("a").votes
    assert votes is not None
    assert votes.all()


def test_cases_are_read_from_threads(tmp_path: Path) -> None:
    for index in range(12):
        save(tmp_path / "p" / f"c{index:02d}.nii.gz", scores(index))
    source = reader(tmp_path, "p")
    with ThreadPoolExecutor(4) as pool:
        cases = list(pool.map(source.read, source.case_names()))
    for index, case in enumerate(cases):
        np.testing.assert_array_equal(case.probability, scores(index).astype(np.float16))
