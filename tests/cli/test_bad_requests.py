"""Requests that cannot be met as they were put: refused before anything is written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from twintrack_core.cli import main

pytest.importorskip("SimpleITK")

Run = Callable[..., Any]


def test_outputs_that_exist(refused: Run, example: Any, tmp_path: Path, import_arguments: Run) -> None:
    file, folder, link = tmp_path / "file", tmp_path / "folder", tmp_path / "link"
    file.write_text("precious")
    folder.mkdir()
    (folder / "file").write_text("precious")
    link.symlink_to(tmp_path / "nowhere")
    for output in (file, folder, link, example.calibrated, example.statistics, example.map):
        for arguments in (
            import_arguments(example.inputs, output),
            ["import", "volumes", output, "--probability", example.inputs / "r0"],
            ["simulate", output],
            ["accumulate", example.cohort, "-o", output],
            ["fit", example.cohort, "-o", output],
            ["apply", example.cohort, example.map, "-o", output],
            ["merge", example.statistics, "-o", output],
            ["demo", output],
        ):
            refused(*arguments, code=2, words=(f"{output} exists already",))
    refused("apply", example.cohort, example.map, "-o", file, "--resume", code=2, words=("exists already",))
    refused("apply", example.cohort, example.map, "-o", folder, "--resume", code=2, words=("exists already",))


def test_images_that_exist(refused: Run, example: Any, tmp_path: Path) -> None:
    (tmp_path / "b.nii.gz").write_text("precious")
    (tmp_path / "file").write_text("precious")
    members = ["--member", example.inputs / "m0"]
    for command in (["export", example.cohort], ["calibrate", example.map, *members, "-o"]):
        refused(*command, tmp_path, code=2, words=("1 images exist already", str(tmp_path / "b.nii.gz")))
        refused(*command, tmp_path / "file", code=2, words=(f"{tmp_path / 'file'} is no folder",))
        refused(*command, tmp_path / "file" / "x", code=1, words=("cannot be written", "Not a directory"))
    calibrate = ["calibrate", example.map, *members, "-o"]
    refused(*calibrate, example.inputs / "m0", code=2, words=("3 images exist already",))


def test_an_output_in_its_input(refused: Run, example: Any) -> None:
    for place in (example.cohort / "new", example.cohort / "a" / "new"):
        refused("apply", example.cohort, example.map, "-o", place, code=2, words=("in the cohort", "outside"))
    arguments = ["apply", example.cohort, example.map, "-o", example.cohort, "--resume"]
    refused(*arguments, code=2, words=("in the cohort", "outside"))


REQUESTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "no command": ("", ("COMMAND",)),
    "unknown command": ("nonsense", ("'nonsense'", "accumulate")),
    "no argument": ("info", ("required", "twintrack info --help")),
    "unknown option": ("info COHORT --colour", ("--colour",)),
    "workers: text": ("accumulate COHORT -o OUTPUT --workers many", ("--workers", "'many'")),
    "workers: 0": ("accumulate COHORT -o OUTPUT --workers 0", ("0 workers", "1 or more")),
    "workers: 0, import": ("import nnunet OUTPUT --member INPUTS/m0 --workers 0", ("0 workers", "1 or more")),
    "workers: -1, apply": ("apply COHORT MAP -o OUTPUT --workers -1", ("-1 workers", "1 or more")),
    "class: text": ("import nnunet OUTPUT --member INPUTS/m0 --class one", ("--class", "'one'", "1,2")),
    "class: 0": ("import nnunet OUTPUT --member INPUTS/m0 --class 0", ("[0]", "background")),
    "floor": ("import nnunet OUTPUT --member INPUTS/m0 --floor 1.5", ("1.5", "0 to below 1")),
    "floor: nan": ("import nnunet OUTPUT --member INPUTS/m0 --floor nan", ("nan", "0 to below 1")),
    "label: 0": ("import nnunet OUTPUT --member INPUTS/m0 --rater INPUTS/r0 --label 0", ("(0,)", "other than 0")),
    "same member": ("import nnunet OUTPUT --member INPUTS/m0 --member INPUTS/m0", ("INPUTS/m0", "twice")),
    "same rater": (
        "import nnunet OUTPUT --member INPUTS/m0 --rater INPUTS/r0 --rater INPUTS/r0",
        ("r0", "different last names"),
    ),
    "a file for a member": ("import nnunet OUTPUT --member MAP", ("no member folder", "MAP")),
    "format": ("export COHORT OUTPUT --format jpg", ("--format", "'jpg'", "nii.gz")),
    "threshold": ("export COHORT OUTPUT --threshold 2", ("2.0", "0 to 1")),
    "threshold: nan": ("export COHORT OUTPUT --threshold nan", ("nan", "0 to 1")),
    "metric": ("evaluate COHORT --metrics tdsc,dice", ("'dice'", "tdsc", "brier_mhr")),
    "nearly a metric": ("evaluate COHORT --metrics ece_mrh", ("'ece_mrh'", "Did you mean 'ece_mhr'?")),
    "argument of a metric": ("evaluate COHORT --metrics tdsc:0.5", ("'tdsc' takes no argument", "'0.5'")),
    "threshold of a metric": ("evaluate COHORT --metrics surface_dice:much", ("surface_dice", "'much'")),
    "consensus of a metric": ("evaluate COHORT --metrics auroc:few", ("'few'", "majority")),
    "evaluation as a picture": ("evaluate COHORT -o OUTPUT.png", ("OUTPUT.png", ".csv or .json")),
    "no folder for the evaluation": ("evaluate COHORT -o NOWHERE/x.csv", ("NOWHERE/x.csv", "folder that exists")),
    "calibrator": ("fit COHORT -o OUTPUT --calibrator magic", ("'magic'", "isotonic")),
    "target": ("fit COHORT -o OUTPUT --target median", ("'median'", "majority")),
    "rater": ("fit COHORT -o OUTPUT --target rater:r9", ("'r9'", "r0, r1")),
    "rule": ("accumulate COHORT -o OUTPUT --roi lesion", ("'lesion'", "raters+N")),
    "rule without region": ("accumulate UNRATED -o OUTPUT --roi mask", ("has no roi array", "'mask'", "--roi DIR")),
    "rule without raters": ("accumulate UNRATED -o OUTPUT --roi raters+2", ("No case", "has raters", "'raters+2'")),
    "rule of statistics": ("fit STATISTICS -o OUTPUT --roi mask", ("'full'", "'mask'", "--roi full")),
    "rule of statistics, evaluate": ("evaluate STATISTICS --roi raters+20", ("'full'", "'raters+20'")),
    "fit without raters": ("fit UNRATED -o OUTPUT", ("Case", "no raters")),
    "evaluate without raters": ("evaluate UNRATED", ("UNRATED", "no raters", "--rater DIR")),
    **{
        f"cases: {command.split()[0]}": (f"{command} --cases zz*", ("'zz*'", "a, b, c"))
        for command in (
            "accumulate COHORT -o OUTPUT",
            "fit STATISTICS -o OUTPUT",
            "apply COHORT MAP -o OUTPUT",
            "evaluate STATISTICS",
            "export COHORT OUTPUT",
            "calibrate MAP --member INPUTS/m0 -o OUTPUT",
            "import nnunet OUTPUT --member INPUTS/m0",
        )
    },
    "cases outside": ("export COHORT OUTPUT --cases ../x", ("'../x'", "a, b, c")),
    "cases: too long for a path": (f"export COHORT OUTPUT --cases {'x' * 5000}", ("a, b, c",)),
    "cases: empty file": ("export COHORT OUTPUT --cases EMPTY", ("EMPTY", "names no case")),
    "cases: binary file": ("export COHORT OUTPUT --cases BINARY", ("BINARY", "UTF-8")),
    "two maps of one name": ("evaluate COHORT --map MAP --map INPUTS/../map.json", ("same name", "map.json")),
    "merge of the same cases": ("merge STATISTICS STATISTICS -o OUTPUT", ("'a'", "3 cases", "different names")),
    "merge of different rules": ("merge STATISTICS MASKED -o OUTPUT", ("'full'", "'mask'")),
    "nothing to merge": ("merge -o OUTPUT", ("required: STATS",)),
    "no such path": ("info NOWHERE", ("NOWHERE does not exist",)),
    "no such map": ("apply COHORT NOWHERE -o OUTPUT", ("NOWHERE does not exist",)),
    "bound without a band": ("apply COHORT MAP -o OUTPUT --bound lower", ("MAP", "'isotonic' has no band", "a band")),
    "bound without a band, calibrate": (
        "calibrate MAP --member INPUTS/m0 -o OUTPUT --bound upper",
        ("MAP", "no upper bound", "a band"),
    ),
    "bound": ("apply COHORT MAP -o OUTPUT --bound middle", ("--bound", "'middle'", "lower", "upper")),
    "no such store": ("export NOWHERE OUTPUT", ("NOWHERE does not exist",)),
    "info of a folder": ("info INPUTS", ("INPUTS is no store",)),
    "info of a case": ("info COHORT/a", ("COHORT/a is no store",)),
    "a map for a store": ("accumulate MAP -o OUTPUT", ("MAP is not a Zarr v3 store",)),
    "a store for a map": ("apply COHORT COHORT -o OUTPUT", ("COHORT does not exist or is no file",)),
    "a folder for a store": ("apply INPUTS MAP -o OUTPUT", ("INPUTS is not a Zarr v3 store",)),
    "a map for statistics": ("merge MAP -o OUTPUT", ("MAP does not exist or is no folder",)),
    "no folder for the store": ("import nnunet NOWHERE/x --member INPUTS/m0", ("NOWHERE/x", "folder that exists")),
    "no folder for the statistics": ("accumulate COHORT -o NOWHERE/x", ("NOWHERE/x", "folder that exists")),
    "no folder for the map": ("fit COHORT -o NOWHERE/x", ("NOWHERE/x", "folder that exists")),
    "no folder for the output": ("apply COHORT MAP -o NOWHERE/x", ("NOWHERE/x", "folder that exists")),
    "no folder, resumed": ("apply COHORT MAP -o NOWHERE/x --resume", ("NOWHERE/x", "folder that exists")),
    "a file as the folder": ("apply COHORT MAP -o EMPTY/x", ("EMPTY/x", "folder that exists")),
    "simulated cases": ("simulate OUTPUT --cases 0", ("cases is 0", "at least 1")),
    "simulated raters": ("simulate OUTPUT --raters 9", ("raters is 9", "1 to 8")),
    "simulated shape": ("simulate OUTPUT --shape 4 0 4", ("(4, 0, 4)", "at least 1")),
    "short shape": ("simulate OUTPUT --shape 4 4", ("--shape", "3 arguments")),
}


@pytest.fixture(scope="session")
def unrated(example: Any, import_arguments: Run) -> Path:
    """The example without raters and without a region."""
    path = Path(example.inputs.parent / "unrated.zarr")
    assert main(import_arguments(example.inputs, path, raters=False)) == 0
    return path


@pytest.fixture(scope="session")
def masked(example: Any) -> Path:
    """Statistics of one case inside its region."""
    path = Path(example.inputs.parent / "masked.zarr")
    assert main(["accumulate", str(example.cohort), "-o", str(path), "--roi", "mask", "--cases", "a"]) == 0
    return path


@pytest.mark.parametrize("what", REQUESTS)
def test_request(refused: Run, example: Any, unrated: Path, masked: Path, tmp_path: Path, what: str) -> None:
    (tmp_path / "empty.txt").write_text("\n  \n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\0")
    places = {
        "COHORT": example.cohort,
        "STATISTICS": example.statistics,
        "MAP": example.map,
        "INPUTS": example.inputs,
        "UNRATED": unrated,
        "MASKED": masked,
        "OUTPUT": tmp_path / "output",
        "NOWHERE": tmp_path / "nowhere",
        "EMPTY": tmp_path / "empty.txt",
        "BINARY": tmp_path / "binary.txt",
    }

    def placed(text: str) -> str:
        name, slash, rest = text.partition("/")
        return f"{places[name]}{slash}{rest}" if name in places else text

    request, words = REQUESTS[what]
    words = tuple(" ".join(map(placed, word.split(" "))) for word in words)
    refused(*map(placed, request.split()), code=2, words=words)
    assert not (tmp_path / "output").exists()


def test_classes_the_model_lacks(refused: Run, example: Any, tmp_path: Path) -> None:
    output = tmp_path / "output"
    arguments = ["import", "nnunet", output, "--member", example.inputs / "m0", "--class", "1,5"]
    refused(*arguments, code=2, words=("2 classes and no class 5", "1 to 1"), output=output)


def test_permission_denied(
    twintrack: Run,
    check_message: Run,
    refused: Run,
    example: Any,
    folders: Path,
    tmp_path: Path,
    import_arguments: Run,
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    if os.access(closed, os.W_OK):
        pytest.skip("this user may write everywhere")
    for arguments in (
        import_arguments(example.inputs, closed / "x"),
        ["accumulate", example.cohort, "-o", closed / "x"],
        ["fit", example.cohort, "-o", closed / "x"],
        ["apply", example.cohort, example.map, "-o", closed / "x"],
        ["export", example.cohort, closed / "x"],
    ):
        refused(*arguments, code=1, words=(str(closed / "x"), "Permission denied"))
    for file in ("m1/b.npz", "r1/b.nii.gz", "m1/b.nii.gz"):
        (folders / file).chmod(0)
        output = tmp_path / "output"
        outcome = twintrack(*import_arguments(folders, output))
        check_message(outcome.err, file)
        assert outcome.code == 1
        (folders / file).chmod(0o600)
        shutil.rmtree(output)
