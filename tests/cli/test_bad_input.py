"""Files that an import or a calibration reads: every way in which they can be wrong, by command line."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from twintrack_core.cohort.case import Geometry
from twintrack_core.cohort.images import read_volume, write_volume

pytest.importorskip("SimpleITK")

Array = npt.NDArray[Any]
Run = Callable[..., Any]
Damage = Callable[[Path], object]

PROBABILITIES = "m1/b.npz"  # what most tests below spoil
MASK = "r1/b.nii.gz"
SCORES = {"nan": np.nan, "inf": np.inf, "-0.1": -0.1, "1.2": 1.2}


def edit_scores(change: Callable[[Array], Array], file: str = PROBABILITIES) -> Damage:
    def damage(folders: Path) -> None:
        values = np.load(folders / file)["probabilities"]
        np.savez_compressed(folders / file, probabilities=change(values.copy()))

    return damage


def set_score(value: float) -> Damage:
    def change(values: Array) -> Array:
        values[1, 2, 3, 4] = value
        return values

    return edit_scores(change)


def edit_image(file: str, change: Callable[[Array], Array] = np.array, **geometry: Any) -> Damage:
    def damage(folders: Path) -> None:
        values, found = read_volume(folders / file)
        described = {"spacing_mm": found.spacing_mm, "origin": found.origin, "direction": found.direction}
        write_volume(folders / file, np.ascontiguousarray(change(values)), Geometry(**{**described, **geometry}))

    return damage


def three_labels(values: Array) -> Array:
    values[0, 0, :5] = (2, 3, 3, 7, 1)
    return values


def delete(file: str) -> Damage:
    return lambda folders: (folders / file).unlink()


def cut_off(file: str) -> Damage:
    def damage(folders: Path) -> None:
        data = (folders / file).read_bytes()
        (folders / file).write_bytes(data[: len(data) // 2])

    return damage


def replace(file: str, data: bytes) -> Damage:
    def damage(folders: Path) -> None:
        (folders / file).write_bytes(data)

    return damage


def other_key(folders: Path) -> None:
    np.savez_compressed(folders / PROBABILITIES, softmax=np.zeros((2, 8, 12, 10), np.float32))


class Trap:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("sprung"),)


def pickled(folders: Path) -> None:
    assert pickle.dumps(Trap())
    np.savez_compressed(folders / PROBABILITIES, probabilities=np.array([Trap()], dtype=object))


def file_for_folder(folders: Path) -> None:
    shutil.rmtree(folders / "r1")
    (folders / "r1").touch()


def folder_for_file(folders: Path) -> None:
    (folders / PROBABILITIES).unlink()
    (folders / PROBABILITIES).mkdir()


def other_member_shape(folders: Path) -> None:
    edit_scores(lambda values: values[:, :-1])(folders)
    edit_image("m1/b.nii.gz", lambda values: values[:-1])(folders)


def third_class(values: Array) -> Array:
    return np.concatenate([values, np.zeros_like(values[:1])])


FILES: dict[str, tuple[Damage, int, tuple[str, ...]]] = {
    "no member file": (delete(PROBABILITIES), 2, ("probabilities", "case b", "m1", "CASE.npz")),
    "no segmentation": (delete("m1/b.nii.gz"), 2, ("segmentation", "case b", "m1")),
    "no rater file": (delete(MASK), 2, ("rater's mask", "case b", "r1", "--missing-rater allow")),
    "no member folder": (lambda folders: shutil.rmtree(folders / "m1"), 2, ("no member folder", "m1")),
    "no rater folder": (lambda folders: shutil.rmtree(folders / "r1"), 2, ("no rater folder", "r1")),
    "a file for a folder": (
        file_for_folder,
        2,
        ("no rater folder", "r1"),
    ),
    "a folder for a file": (
        folder_for_file,
        2,
        ("probabilities", "case b", "m1"),
    ),
    "shape of scores": (
        edit_scores(lambda values: values[..., :-1]),
        1,
        ("Case b", PROBABILITIES, "(2, 8, 12, 9)", "(8, 12, 10)"),
    ),
    "axes of scores": (
        edit_scores(lambda values: values.transpose(0, 3, 2, 1)),
        1,
        ("Case b", PROBABILITIES, "(2, 10, 12, 8)", "(class, z, y, x)"),
    ),
    "shape of a member": (
        other_member_shape,
        1,
        ("Case b", "m1/b", "size (z, y, x) is (7, 12, 10)"),
    ),
    "shape of a mask": (
        edit_image(MASK, lambda values: values[:, :-1]),
        1,
        ("Case b", MASK, "size (z, y, x) is (8, 11, 10)", "(8, 12, 10)"),
    ),
    "spacing": (edit_image(MASK, spacing_mm=(3.0, 0.7, 0.81)), 1, ("Case b", MASK, "spacing", "0.81")),
    "origin": (edit_image(MASK, origin=(10.0, -20.0, 31.5)), 1, ("Case b", MASK, "origin", "31.5")),
    "direction": (
        edit_image(MASK, direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)),
        1,
        ("Case b", MASK, "direction", "resample"),
    ),
    "origin of a member": (edit_image("m1/b.nii.gz", origin=(0.0, 0.0, 0.0)), 1, ("Case b", "m1/b.nii.gz", "origin")),
    "logits": (
        edit_scores(lambda values: np.log(values + np.float32(1e-9))),
        1,
        ("Case b", PROBABILITIES, "logits?", "[0, 1]", "softmax"),
    ),
    **{
        f"score {name}": (
            set_score(value),
            1,
            ("Case b", PROBABILITIES, "1 of 1920", f"is {name} at", "(1, 2, 3, 4)", "[0, 1]"),
        )
        for name, value in SCORES.items()
    },
    "sums": (
        edit_scores(lambda values: values * np.float32(0.7)),
        1,
        ("Case b", PROBABILITIES, "sum to 1", "--regions"),
    ),
    "labels": (
        edit_image(MASK, three_labels),
        1,
        ("Case b", MASK, "2 (1 voxels), 3 (2 voxels), 7 (1 voxels)", "0 and 1", "--label"),
    ),
    "no key": (other_key, 1, (PROBABILITIES, "'probabilities'", "softmax")),
    "cut-off npz": (cut_off(PROBABILITIES), 1, (PROBABILITIES, "cut off")),
    "empty npz": (replace(PROBABILITIES, b""), 1, (PROBABILITIES, "not an .npz file")),
    "pickled objects": (pickled, 1, (PROBABILITIES, "pickled objects")),
    "flipped axes": (
        edit_scores(lambda values: values[:, :, ::-1]),
        1,
        ("Case b", PROBABILITIES, "arg-max", "99.9%", "flipped", "--no-check-argmax"),
    ),
    "class count": (edit_scores(third_class), 1, ("Case b", PROBABILITIES, "3 classes", "2")),
    "cut-off segmentation": (cut_off("m1/b.nii.gz"), 1, ("m1/b.nii.gz",)),
    "cut-off mask": (cut_off(MASK), 1, (MASK,)),
    "no image": (replace(MASK, b"no image"), 1, (MASK, "cannot be read as an image")),
    "two images": (
        lambda folders: write_volume(folders / "r1/b.mha", np.zeros((8, 12, 10), np.uint8), Geometry()),
        2,
        ("Case b", "b.mha", "b.nii.gz"),
    ),
    "region with labels": (edit_image("roi/b.nii.gz", three_labels), 1, ("Case b", "roi/b.nii.gz", "7 (1 voxels)")),
    "no region": (delete("roi/b.nii.gz"), 2, ("region of interest", "case b", "roi")),
    "no row": (replace("attributes.csv", b"case,site\na,A\nc,B\n"), 2, ("attributes.csv", "no row for b")),
    "row of another": (replace("attributes.csv", b"case,site\na,A\n../b,B\nc,B\n"), 2, ("attributes.csv", "row for b")),
    "two rows": (replace("attributes.csv", b"case,site\na,A\nb,B\nb,B\nc,B\n"), 2, ("line 4", "case b")),
    "no case column": (replace("attributes.csv", b"name,site\na,A\n"), 2, ("attributes.csv", "name, site", '"case"')),
    "binary attributes": (replace("attributes.csv", b"\xff\xfe\0"), 2, ("attributes.csv", "UTF-8")),
    "name of a case": (
        lambda folders: [path.rename(path.with_name("b:c" + path.name[1:])) for path in folders.glob("*/b.*")],
        1,
        ("'b:c'", "letters", "Rename"),
    ),
}


@pytest.mark.parametrize("what", FILES)
def test_import(
    refused: Run, folders: Path, tmp_path: Path, import_arguments: Run, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    damage, code, words = FILES[what]
    monkeypatch.chdir(tmp_path)
    damage(folders)
    output = tmp_path / "output.zarr"
    parts = ["--roi", folders / "roi", "--attributes", folders / "attributes.csv"]
    refused(*import_arguments(folders, output), *parts, code=code, words=words, output=output)
    assert not (tmp_path / "sprung").exists()
    assert output.exists() == (code == 1 and what != "name of a case")


def test_import_of_nine_raters(refused: Run, folders: Path, tmp_path: Path, import_arguments: Run) -> None:
    for number in range(2, 9):
        shutil.copytree(folders / "r0", folders / f"r{number}")
    raters = [word for number in range(2, 9) for word in ("--rater", folders / f"r{number}")]
    output = tmp_path / "output.zarr"
    arguments = import_arguments(folders, output)
    refused(*arguments, *raters, code=2, words=("Case a has 9 raters", "at most 8"), output=output)
    assert not output.exists()


def test_import_of_nothing(refused: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    output = tmp_path / "output.zarr"
    for kind, option in (("nnunet", "--member"), ("volumes", "--probability")):
        words = ("no cases", str(tmp_path / "empty"))
        refused("import", kind, output, option, tmp_path / "empty", code=2, words=words, output=output)
    assert not output.exists()


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha"])
@pytest.mark.parametrize("name", SCORES)
def test_import_of_volumes(refused: Run, tmp_path: Path, name: str, suffix: str) -> None:
    values = np.full((4, 5, 6), 0.25, np.float32)
    values[1, 2, 3] = SCORES[name]
    (tmp_path / "p").mkdir()
    write_volume(tmp_path / "p" / f"b{suffix}", values, Geometry())
    words = ("Case b", f"b{suffix}", "1 of 120", f"is {name} at (z, y, x) = (1, 2, 3)")
    output = tmp_path / "output.zarr"
    refused("import", "volumes", output, "--probability", tmp_path / "p", code=1, words=words, output=output)
    assert output.exists()


@pytest.mark.parametrize("what", ["origin of a member", "logits", "score nan", "flipped axes", "class count"])
def test_calibrate(refused: Run, example: Any, folders: Path, tmp_path: Path, what: str) -> None:
    damage, code, words = FILES[what]
    damage(folders)
    members = ["--member", folders / "m0", "--member", folders / "m1"]
    # Only case b is asked for, so nothing can be left of the others.
    refused("calibrate", example.map, *members, "-o", tmp_path / "out", "--cases", "b", code=code, words=words)
    assert not list(tmp_path.glob("out/*"))
