"""What the commands do and print when all is well, and that they agree with each other."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import twintrack_core as tt
from twintrack_core.cli import COMMANDS, demo_command, main
from twintrack_core.metrics import resolve

sitk: Any = pytest.importorskip("SimpleITK")

Run = Callable[..., Any]


def read_image(path: Path) -> Any:
    return sitk.ReadImage(str(path))


def voxels(path: Path) -> Any:
    return sitk.GetArrayFromImage(read_image(path))


def describe(image: Any) -> list[float]:
    return [*image.GetSize(), *image.GetSpacing(), *image.GetOrigin(), *image.GetDirection()]


@pytest.fixture
def done(twintrack: Run) -> Run:
    """Run a command that must succeed, and return what it printed."""

    def check(*arguments: object) -> str:
        outcome = twintrack(*arguments)
        assert (outcome.code, outcome.err) == (0, "")
        return str(outcome.out)

    return check


# --- Import


def test_import(done: Run, example: Any, tmp_path: Path, import_arguments: Run) -> None:
    store = tmp_path / "cohort.zarr"
    arguments = [*import_arguments(example.inputs, store), "--attributes", example.inputs / "attributes.csv"]
    assert done(*arguments, "--cases", "[ab]") == f"2 cases with 2 raters in {store}\n"
    cohort = tt.open_cohort(store)
    assert cohort.names == ("a", "b")
    case = cohort["b"].read()
    assert case.attributes == {"site": "B", "age": 70}
    assert case.raters == ("r0", "r1")
    assert case.votes is not None
    for number, member in enumerate(("m0", "m1")):
        scores = np.load(example.inputs / member / "b.npz")["probabilities"][1]
        np.testing.assert_array_equal(case.probability[number], scores.astype(np.float16))
    for bit, rater in enumerate(("r0", "r1")):
        np.testing.assert_array_equal(case.votes >> bit & 1, voxels(example.inputs / rater / "b.nii.gz"))


def test_import_choices(done: Run, example: Any, folders: Path, tmp_path: Path, import_arguments: Run) -> None:
    (folders / "r1" / "c.nii.gz").unlink()
    store = tmp_path / "cohort.zarr"
    done(*import_arguments(folders, store), "--missing-rater", "allow", "--floor", "0.25", "--label", "1,2")
    cohort = tt.open_cohort(store)
    assert [case.raters for case in cohort] == [("r0", "r1"), ("r0", "r1"), ("r0",)]
    full, floored = (tt.open_cohort(path)["a"].read().probability for path in (example.cohort, store))
    np.testing.assert_array_equal(floored, np.where(full < 0.25, np.float16(0), full))
    assert cohort["a"].source["floor"] == 0.25


def test_import_of_what_was_exported(done: Run, example: Any, tmp_path: Path) -> None:
    done("export", example.cohort, tmp_path / "p")
    raters = [word for rater in ("r0", "r1") for word in ("--rater", example.inputs / rater)]
    parts = [*raters, "--roi", example.inputs / "roi"]
    store = tmp_path / "cohort.zarr"
    assert "3 cases" in done("import", "volumes", store, "--probability", tmp_path / "p", *parts)
    found, expected = (tt.accumulate(tt.open_cohort(path), roi="mask") for path in (store, example.cohort))
    assert found.digest() == expected.digest()


def test_simulate(done: Run, tmp_path: Path) -> None:
    for store in ("one.zarr", "two.zarr"):
        arguments = ["--cases", 2, "--shape", 8, 16, 12, "--raters", 4, "--members", 2, "--seed", 5]
        assert "2 simulated cases" in done("simulate", tmp_path / store, *arguments)
    one, two = (tt.open_cohort(tmp_path / store) for store in ("one.zarr", "two.zarr"))
    assert [case.probability.shape for case in one] == [(2, 8, 16, 12)] * 2
    assert [len(case.raters) for case in one] == [4, 4]
    assert tt.accumulate(one).digest() == tt.accumulate(two).digest()


# --- Info


def test_info(done: Run, example: Any) -> None:
    for path, kind in (
        (example.cohort, "cohort"),
        (example.calibrated, "cohort"),
        (example.statistics, "statistics"),
        (example.map, "calibration-map"),
    ):
        document = json.loads(done("info", path, "--json"))
        assert (document["path"], document["format"]) == (str(path), kind)
        text = done("info", path)
        assert kind in text
        for row in document["rows"]:
            name = row["case"] if "case" in row else f"{row['score']:g}"
            assert f"\n{name} " in text


def test_info_of_a_cohort(done: Run, example: Any) -> None:
    document = json.loads(done("info", example.cohort, "--json"))
    assert document["complete"] is True
    assert (document["cases"], document["voxels"]) == (3, 3 * 960)
    assert [row["case"] for row in document["rows"]] == ["a", "b", "c"]
    row = document["rows"][0]
    assert (row["shape"], row["members"], row["dtype"]) == ([8, 12, 10], 2, "float16")
    assert row["raters"] == ["r0", "r1"]
    assert row["arrays"] == ["probability", "votes", "roi"]
    np.testing.assert_allclose(row["spacing_mm"], [3.0, 0.7, 0.8], atol=1e-6)
    calibrated = json.loads(done("info", example.calibrated, "--json"))
    assert calibrated["source"]["map"] == tt.load_map(example.map).digest()
    assert [row["members"] for row in calibrated["rows"]] == [1, 1, 1]


def test_info_of_statistics_and_a_map(done: Run, example: Any) -> None:
    document = json.loads(done("info", example.statistics, "--json"))
    assert (document["cases"], document["roi"], document["voxels"]) == (3, "full", 3 * 960)
    assert [row["inside"] for row in document["rows"]] == [960] * 3
    document = json.loads(done("info", example.map, "--json"))
    assert (document["calibrator"], document["target"], document["roi"]) == ("isotonic", "mhr", "full")
    assert (document["raters"], document["cases"], document["voxels"]) == (["r0", "r1"], 3, 3 * 960)
    assert document["digest"] == tt.load_map(example.map).digest()
    assert document["band"] is False
    assert set(document["rows"][0]) == {"score", "calibrated"}


def test_info_of_a_map_with_a_band(done: Run, band: Path) -> None:
    document = json.loads(done("info", band, "--json"))
    assert document["band"] is True
    assert document["rows"][3] == {"score": 0.5, "calibrated": 0.5, "lower": 0.375, "upper": 0.75}
    text = done("info", band)
    assert "band           yes" in text
    assert "score  calibrated  lower   upper" in text


def test_info_of_no_statistics(done: Run, tmp_path: Path) -> None:
    tt.CohortStatistics({}).save(tmp_path / "none.zarr")
    assert "cases          0" in done("info", tmp_path / "none.zarr")


# --- Accumulate, fit, merge


def test_accumulate(done: Run, example: Any, tmp_path: Path) -> None:
    output = tmp_path / "s.zarr"
    printed = done("accumulate", example.cohort, "-o", output, "--roi", "mask", "--workers", 1)
    assert printed == f"3 cases, roi mask, in {output}\n"
    statistics = tt.CohortStatistics.load(output)
    assert statistics.roi == "mask"
    inside = voxels(example.inputs / "roi" / "a.nii.gz")
    assert statistics["a"].histogram.n_inside == inside.sum()
    case = tt.open_cohort(example.cohort)["a"].read()
    masks = np.stack([voxels(example.inputs / rater / "a.nii.gz") for rater in ("r0", "r1")])
    expected = tt.JointHistogram.from_arrays(
        case.probability, masks, rater_names=["r0", "r1"], members=True, roi=inside.astype(bool)
    )
    assert statistics["a"].histogram == expected


def test_statistics_and_store_give_the_same(done: Run, example: Any, tmp_path: Path) -> None:
    for name, source in (("store", example.cohort), ("statistics", example.statistics)):
        printed = done("fit", source, "-o", tmp_path / f"{name}.json", "--cases", "b", "--cases", "c")
        assert "1,920 voxels of 2 cases" in printed
        assert done("evaluate", source, "--map", example.map) == done("evaluate", example.cohort, "--map", example.map)
    assert (tmp_path / "store.json").read_bytes() == (tmp_path / "statistics.json").read_bytes()
    assert tt.load_map(tmp_path / "store.json").cases == ("b", "c")


@pytest.mark.parametrize("calibrator", ["isotonic", "identity"])
@pytest.mark.parametrize("target", ["mhr", "majority", "staple", "rater:r1"])
def test_fit(done: Run, example: Any, tmp_path: Path, calibrator: str, target: str) -> None:
    output = tmp_path / "map.json"
    printed = done("fit", example.cohort, "-o", output, "--calibrator", calibrator, "--target", target, "--roi", "mask")
    assert printed.startswith(f"{calibrator} to {target}: ")
    assert printed.endswith(f"(roi mask), in {output}\n")
    statistics = tt.accumulate(tt.open_cohort(example.cohort), roi="mask")
    assert tt.load_map(output) == tt.fit(statistics, calibrator, target=target)


def test_merge(done: Run, example: Any, tmp_path: Path) -> None:
    for name in "abc":
        done("accumulate", example.cohort, "-o", tmp_path / name, "--cases", name)
    parts = [tmp_path / name for name in "cab"]
    assert done("merge", *parts, "-o", tmp_path / "all.zarr") == f"3 cases, roi full, in {tmp_path / 'all.zarr'}\n"
    assert tt.CohortStatistics.load(tmp_path / "all.zarr") == tt.CohortStatistics.load(example.statistics)


# --- Cases


@pytest.mark.parametrize("chosen", ["[bc]", "FILE", "b c"])
def test_cases(done: Run, example: Any, tmp_path: Path, chosen: str) -> None:
    (tmp_path / "cases.txt").write_text("\ufeffb\r\n\n  c \n", encoding="utf-8")  # as editors write it
    patterns = [str(tmp_path / "cases.txt")] if chosen == "FILE" else chosen.split()
    cases = [word for pattern in patterns for word in ("--cases", pattern)]
    expected = ["b", "c"]
    done("accumulate", example.cohort, "-o", tmp_path / "s.zarr", *cases)
    assert list(tt.CohortStatistics.load(tmp_path / "s.zarr")) == expected
    done("apply", example.cohort, example.map, "-o", tmp_path / "c.zarr", *cases)
    assert list(tt.open_cohort(tmp_path / "c.zarr").names) == expected
    for source in (example.cohort, example.statistics):
        rows = json.loads(done("evaluate", source, "--json", *cases))["rows"]
        assert list(dict.fromkeys(row["case"] for row in rows)) == expected
    done("export", example.cohort, tmp_path / "images", *cases)
    done("calibrate", example.map, "--member", example.inputs / "m0", "-o", tmp_path / "calibrated", *cases)
    done("import", "nnunet", tmp_path / "i.zarr", "--member", example.inputs / "m0", *cases)
    assert list(tt.open_cohort(tmp_path / "i.zarr").names) == expected
    for folder in ("images", "calibrated"):
        assert sorted(path.name for path in (tmp_path / folder).iterdir()) == [f"{name}.nii.gz" for name in expected]


# --- Apply, export, calibrate


def test_apply(done: Run, example: Any, tmp_path: Path) -> None:
    output = tmp_path / "c.zarr"
    assert done("apply", example.cohort, example.map, "-o", output) == f"3 calibrated cases in {output}\n"
    calibration = tt.load_map(example.map)
    for raw, case in zip(tt.open_cohort(example.cohort), tt.open_cohort(output), strict=True):
        expected = calibration(raw.read().probability, members=True)
        np.testing.assert_array_equal(case.read().probability, expected)


@pytest.fixture
def band(tmp_path: Path) -> Path:
    """A map with a band."""
    path = tmp_path / "band.json"
    ends = np.array([0.0, 1.0])
    tt.CalibrationMap(ends, ends, lower=0.75 * ends, upper=0.5 + 0.5 * ends).save(path)
    return path


@pytest.mark.parametrize("bound", ["lower", "upper"])
def test_bounds(done: Run, example: Any, band: Path, tmp_path: Path, bound: Any) -> None:
    output = tmp_path / "c.zarr"
    done("apply", example.cohort, band, "-o", output, "--bound", bound)
    document = json.loads(done("info", output, "--json"))
    assert document["source"]["bound"] == bound
    assert document["source"]["map"] == tt.load_map(band).bound(bound).digest()
    for raw, case in zip(tt.open_cohort(example.cohort), tt.open_cohort(output), strict=True):
        score = tt.CalibrationMap(np.array([0.0, 1.0]), np.array([0.0, 1.0]))(raw.read().probability, members=True)
        expected = 0.75 * score if bound == "lower" else 0.5 + 0.5 * score.astype(np.float64)
        np.testing.assert_array_equal(case.read().probability, expected.astype(np.float16))
    members = ["--member", example.inputs / "m0", "--member", example.inputs / "m1"]
    done("calibrate", band, *members, "-o", tmp_path / "images", "--bound", bound)
    for case in tt.open_cohort(output):
        np.testing.assert_array_equal(voxels(tmp_path / "images" / f"{case.name}.nii.gz"), case.read().probability)


@pytest.mark.parametrize("suffix", ["nii.gz", "nii", "mha", "nrrd"])
def test_export(done: Run, example: Any, tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / "new" / "images"
    assert done("export", example.calibrated, folder, "--format", suffix) == f"3 images in {folder}\n"
    assert sorted(path.name for path in folder.iterdir()) == [f"{name}.{suffix}" for name in "abc"]
    for case in tt.open_cohort(example.calibrated):
        image = read_image(folder / f"{case.name}.{suffix}")
        assert image.GetPixelID() == sitk.sitkFloat32
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), case.read().probability)
        came_in = read_image(example.inputs / "m0" / f"{case.name}.nii.gz")
        np.testing.assert_allclose(describe(image), describe(came_in), atol=1e-6)


def test_export_of_masks(done: Run, example: Any, tmp_path: Path) -> None:
    done("export", example.calibrated, tmp_path / "p")
    done("export", example.calibrated, tmp_path / "m", "--threshold", "0.5", "--format", "mha")
    for name in "abc":
        mask = read_image(tmp_path / "m" / f"{name}.mha")
        assert mask.GetPixelID() == sitk.sitkUInt8
        probability = voxels(tmp_path / "p" / f"{name}.nii.gz")
        np.testing.assert_array_equal(sitk.GetArrayFromImage(mask), (probability > 0.5).astype(np.uint8))
        assert 0 < sitk.GetArrayFromImage(mask).mean() < 1


@pytest.mark.parametrize("options", [[], ["--threshold", "0.25"], ["--format", "nrrd"]])
def test_calibrate_is_import_apply_and_export(
    done: Run, example: Any, tmp_path: Path, import_arguments: Run, options: list[str]
) -> None:
    done(*import_arguments(example.inputs, tmp_path / "i.zarr", raters=False))
    done("apply", tmp_path / "i.zarr", example.map, "-o", tmp_path / "c.zarr")
    done("export", tmp_path / "c.zarr", tmp_path / "expected", *options)
    members = ["--member", example.inputs / "m0", "--member", example.inputs / "m1"]
    printed = done("calibrate", example.map, *members, "-o", tmp_path / "found", *options)
    assert printed == f"3 calibrated images in {tmp_path / 'found'}\n"
    expected = sorted(path.name for path in (tmp_path / "expected").iterdir())
    assert sorted(path.name for path in (tmp_path / "found").iterdir()) == expected
    for name in expected:
        found, wanted = (read_image(tmp_path / folder / name) for folder in ("found", "expected"))
        assert found.GetPixelID() == wanted.GetPixelID()
        assert describe(found) == describe(wanted)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(wanted))


# --- Evaluate

ROW = {"case", "metric", "variant", "region", "value", "why"}
SUMMARY = {"metric", "variant", "region", "mean", "pooled", "defined", "why"}


def test_evaluate(done: Run, example: Any) -> None:
    document = json.loads(done("evaluate", example.cohort, "--map", example.map, "--roi", "mask", "--json"))
    assert set(document) == {"rows", "summary"}
    assert all(set(row) == ROW for row in document["rows"])
    assert all(set(row) == SUMMARY for row in document["summary"])
    assert {row["variant"] for row in document["rows"]} == {"raw", "calibrated"}
    assert {row["region"] for row in document["rows"]} == {"whole", "roi"}
    metrics = [metric.name for metric in resolve(None)]
    assert list(dict.fromkeys(row["metric"] for row in document["rows"])) == metrics
    assert len(document["rows"]) == 3 * len(document["summary"]) == 3 * 2 * 2 * len(metrics)
    values = {(row["case"], row["metric"], row["variant"], row["region"]): row["value"] for row in document["rows"]}
    case = tt.open_cohort(example.cohort)["b"].read()
    score = case.probability.astype(np.float32).mean(axis=0).astype(np.float16).astype(np.float64)
    mhr = np.mean([voxels(example.inputs / rater / "b.nii.gz") for rater in ("r0", "r1")], axis=0)
    inside = voxels(example.inputs / "roi" / "b.nii.gz") == 1
    square = (score - mhr) ** 2
    assert values["b", "brier_mhr", "raw", "whole"] == pytest.approx(square.mean(), rel=1e-12)
    assert values["b", "brier_mhr", "raw", "roi"] == pytest.approx(square[inside].mean(), rel=1e-12)
    assert values["b", "brier_mhr", "calibrated", "whole"] < values["b", "brier_mhr", "raw", "whole"]


def test_evaluation_of_the_calibrated_store(done: Run, example: Any) -> None:
    raw = json.loads(done("evaluate", example.cohort, "--map", example.map, "--roi", "mask+2mm", "--json"))
    calibrated = json.loads(done("evaluate", example.calibrated, "--roi", "mask+2mm", "--json"))
    for part in ("rows", "summary"):
        expected = [{**row, "variant": "raw"} for row in raw[part] if row["variant"] == "calibrated"]
        assert calibrated[part] == expected


def test_evaluation_of_several_maps(done: Run, example: Any, tmp_path: Path) -> None:
    done("fit", example.statistics, "-o", tmp_path / "strict.json", "--target", "rater:r1")
    arguments = ["evaluate", example.cohort, "--map", example.map, "--map", tmp_path / "strict.json"]
    rows = json.loads(done(*arguments, "--json"))["rows"]
    assert list(dict.fromkeys(row["variant"] for row in rows)) == ["raw", "calibrated:map", "calibrated:strict"]
    alone = json.loads(done("evaluate", example.cohort, "--map", tmp_path / "strict.json", "--json"))["rows"]
    strict = [row for row in rows if row["variant"] == "calibrated:strict"]
    assert strict == [{**row, "variant": "calibrated:strict"} for row in alone if row["variant"] == "calibrated"]


def test_evaluation_of_some_metrics(done: Run, example: Any) -> None:
    arguments = ["evaluate", example.statistics, "--metrics", "tdsc,brier_mhr", "--metrics", "ece_mhr"]
    rows = json.loads(done(*arguments, "--json"))["rows"]
    assert {row["metric"] for row in rows} == {"tdsc", "brier_mhr", "ece_mhr"}
    text = done(*arguments)
    assert "tdsc" in text
    assert "volume_error" not in text


def test_evaluation_as_text(done: Run, example: Any) -> None:
    names = ["--metrics", "ece_mhr,brier_mhr,tdsc"]
    arguments = ["evaluate", example.cohort, "--map", example.map, "--roi", "mask"]
    document = json.loads(done(*arguments, *names, "--json"))
    text = done(*arguments, *names)
    for row in document["rows"]:
        assert f"{row['value']:#.3g}" in text
    assert "whole volume: raw" in text
    assert "mask: calibrated" in text
    assert "(3 of 3 better)" in text
    assert text.count("\nb ") == 3
    everything = done(*arguments)
    for row in document["summary"]:
        assert f"{row['mean']:#.3g}" in everything
    assert "\nb " not in everything  # cases are shown of the metrics that were asked for by name


def test_evaluation_as_files(done: Run, example: Any, tmp_path: Path) -> None:
    arguments = ["evaluate", example.cohort, "--map", example.map, "--roi", "mask"]
    outputs = ["-o", tmp_path / "rows.csv", "--output", tmp_path / "all.json"]
    document = json.loads(done(*arguments, *outputs, "--json"))
    assert json.loads((tmp_path / "all.json").read_text()) == document
    with (tmp_path / "rows.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(document["rows"])
    for line, row in zip(lines, document["rows"], strict=True):
        assert line["value"] == ("" if row["value"] is None else repr(row["value"]))
        assert line["why"] == (row["why"] or "")
        assert [line[name] for name in ("case", "metric", "variant", "region")] == list(row.values())[:4]
    assert {line["unit"] for line in lines} >= {"1", "nat"}


def test_evaluation_of_metrics_that_need_voxels(done: Run, example: Any) -> None:
    arguments = ["--metrics", "surface_dice:0.5:2,hausdorff95", "--map", example.map, "--json"]
    from_cohort = json.loads(done("evaluate", example.cohort, *arguments))
    from_statistics = json.loads(done("evaluate", example.statistics, *arguments))
    assert {row["region"] for row in from_cohort["rows"]} == {"whole"}
    assert all(row["value"] is not None for row in from_cohort["rows"])
    assert all(row["pooled"] is None for row in from_cohort["summary"])
    assert [{**row, "value": None, "why": ""} for row in from_cohort["rows"]] == [
        {**row, "why": ""} for row in from_statistics["rows"]
    ]
    assert all("evaluate the cohort" in row["why"] for row in from_statistics["rows"])


def test_evaluation_of_an_unmarked_case(done: Run, folders: Path, tmp_path: Path, import_arguments: Run) -> None:
    for rater in ("r0", "r1"):
        image = read_image(folders / rater / "b.nii.gz")
        sitk.WriteImage(image * 0, str(folders / rater / "b.nii.gz"))
    done(*import_arguments(folders, tmp_path / "cohort.zarr"))
    arguments = ["evaluate", tmp_path / "cohort.zarr", "--metrics", "volume_error", "--roi", "raters+2"]
    rows = json.loads(done(*arguments, "--json"))["rows"]
    whys = {(row["region"], row["value"], row["why"]) for row in rows if row["case"] == "b"}
    assert whys == {("whole", None, "no rater marked a voxel"), ("roi", None, "there are no voxels")}
    assert "b: no rater marked a voxel" in done(*arguments)


# --- The whole way, and help


def test_demo(done: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_command, "_SHAPE", (12, 32, 32))
    monkeypatch.setattr(demo_command, "_CASES", 4)
    monkeypatch.setattr(demo_command, "_FIT_CASES", 2)
    monkeypatch.setattr(demo_command, "_FOLDS", 2)
    folder = tmp_path / "demo"
    printed = done("demo", folder)
    for path in folder.iterdir():
        assert str(path) in printed
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "cohort.zarr", "statistics.zarr", "comparison.json", "map.json", "calibrated.zarr", "evaluation.json",
        "evaluation.txt", "report.html",
    }  # fmt: skip
    for name in ("cohort.zarr", "statistics.zarr", "map.json", "calibrated.zarr"):
        done("info", folder / name)
    assert (folder / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    comparison = json.loads((folder / "comparison.json").read_text())
    assert comparison["recommendation"] in printed
    arguments = ["evaluate", folder / "cohort.zarr", "--map", folder / "map.json", "--roi", "raters+20"]
    document = json.loads(done(*arguments, "--cases", "case00[23]", "--json"))
    assert json.loads((folder / "evaluation.json").read_text()) == document


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ([], *([name] for name in COMMANDS), ["import", "nnunet"], ["import", "volumes"]):
        with pytest.raises(SystemExit) as stopped:
            main([*command, "--help"])
        assert stopped.value.code == 0
        assert capsys.readouterr().out.startswith(" ".join(["usage: twintrack", *command]))


LIGHT = """
import twintrack_core
from twintrack_core.cli import COMMANDS
heavy = {"numba", "cupy", "dask", "zarr", "scipy", "SimpleITK", "matplotlib", "tqdm", "numcodecs"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
for name in COMMANDS:
    try:
        main([name, "--help"])
    except SystemExit as stopped:
        assert stopped.code == 0
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""


def test_nothing_heavy_is_loaded(twintrack_process: Run) -> None:
    outcome = twintrack_process("--help", before=LIGHT)
    assert (outcome.code, outcome.err) == (0, "")
    assert [line.split()[1:3] for line in outcome.out.splitlines() if line.startswith("usage: ")] == [
        *(["twintrack", name] for name in COMMANDS),
        ["twintrack", "[-h]"],
    ]


def test_cases_a_map_was_fitted_to_are_noted(twintrack: Run, example: Any) -> None:
    outcome = twintrack("evaluate", example.statistics, "--map", example.map)
    assert outcome.notes.startswith(f"twintrack: note: 3 of 3 cases have names of cases that {example.map} was fitted")
    assert twintrack("evaluate", example.statistics).notes == ""


def test_a_pipe_that_closes_is_no_error(example: Any) -> None:
    command = f"{sys.executable} -c 'import sys; from twintrack_core.cli import main; sys.exit(main())'"
    done = subprocess.run(
        f"{command} info {example.cohort} --json | head -1", shell=True, capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("{", "")


def test_a_real_process(twintrack_process: Run, example: Any) -> None:
    outcome = twintrack_process("evaluate", example.statistics, "--map", example.map, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    assert len(json.loads(outcome.out)["rows"]) == 3 * 2 * 2 * len(resolve(None))
    outcome = twintrack_process("info", example.inputs)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("twintrack: ")
