"""twintrack compare: what it prints and writes, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cohorts import cohort

import twintrack_core as tt
from twintrack_core.histogram import CaseStatistics

Run = Callable[..., Any]


@pytest.fixture
def statistics(tmp_path: Path) -> Path:
    path = tmp_path / "statistics.zarr"
    cohort(6).save(path)
    return path


def test_what_it_prints_is_what_python_finds(twintrack: Run, statistics: Path) -> None:
    outcome = twintrack(
        "compare", statistics, "--calibrators", "isotonic,platt", "--targets", "mhr,rater:ann", "--folds", "3",
        "--bootstrap", "50", "--metrics", "tdsc,brier_rater:ann", "--seed", "2",
    )  # fmt: skip
    assert (outcome.code, outcome.err) == (0, "")
    expected = tt.compare(
        tt.CohortStatistics.load(statistics),
        ["isotonic", "platt"],
        targets=["mhr", "rater:ann"],
        folds=3,
        bootstrap=50,
        seed=2,
    )
    head, *lines = outcome.out.splitlines()
    assert (
        " ".join(head.split()) == "held-out mean brier_mhr difference to raw difference to first tdsc brier_rater:ann"
    )
    for line, candidate in zip(lines, expected.candidates, strict=False):
        assert line.startswith(candidate.label)
        assert f"{candidate['tdsc'].value.mean:#.3g} (" in line
    assert outcome.out.endswith(f"{expected.recommendation}\n")
    assert "6 cases in 3 folds, region raters+20" in outcome.out


def test_json_files_and_a_report(twintrack: Run, statistics: Path, tmp_path: Path) -> None:
    arguments = ["compare", statistics, "--calibrators", "isotonic", "--folds", "3", "--bootstrap", "50"]
    printed = twintrack(*arguments, "--json", "-o", tmp_path / "c.json", "-o", tmp_path / "r.html")
    assert (printed.code, printed.err) == (0, "")
    document = json.loads(printed.out)
    assert json.loads((tmp_path / "c.json").read_text()) == document
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert "twintrack compare" in page
    assert "isotonic to mhr" in page


def test_groups_refits_guards_and_given_folds(twintrack: Run, statistics: Path, tmp_path: Path) -> None:
    base = ["compare", statistics, "--calibrators", "isotonic", "--bootstrap", "50"]
    by_site = twintrack(*base, "--folds", "leave-one-out", "--group-by", "site", "--refit", "50")
    assert "2 folds, cases of one site together" in by_site.out
    assert "brier_mhr by site" in by_site.out
    assert "all cases resampled, maps refitted, 50 draws" in by_site.out
    (tmp_path / "folds.json").write_text(json.dumps({"held out": ["case000", "case003"]}))
    given = twintrack(*base, "--folds", tmp_path / "folds.json", "--json", "--shrinkage", "2", "--weighting", "cases")
    document = json.loads(given.out)
    assert document["cases"] == ["case000", "case003"]
    assert document["splits"][0]["name"] == "held out"
    recipe = document["candidates"][0]["recipe"] or document["candidates"][1]["recipe"]
    assert (recipe["shrinkage"], recipe["weighting"]) == (2.0, "cases")


def test_folds_of_nnunet_and_cases_that_no_fold_scores(twintrack: Run, statistics: Path, tmp_path: Path) -> None:
    folds = [{"train": ["case002", "case003"], "val": ["case000", "case001"]}, {"train": [], "val": ["case004"]}]
    (tmp_path / "splits_final.json").write_text(json.dumps(folds))
    base = ["compare", statistics, "--calibrators", "isotonic", "--bootstrap", "50"]
    printed = twintrack(*base, "--folds", tmp_path / "splits_final.json").out
    assert "3 cases in 2 folds (fitted to 3 others too), region raters+20." in printed


def test_cases_without_raters_are_noted(twintrack: Run, tmp_path: Path) -> None:
    rated = cohort(4)
    unrated = {"x": CaseStatistics(rated["case000"].histogram.keep_raters([]))}
    rated.merge(tt.CohortStatistics(unrated, rated.roi)).save(tmp_path / "mixed.zarr")
    outcome = twintrack("compare", tmp_path / "mixed.zarr", "--calibrators", "isotonic", "--folds", "2")
    assert outcome.notes == "twintrack: note: 1 of 5 cases have no raters and are left out.\n"


def test_a_candidate_without_a_map_is_named(twintrack: Run, tmp_path: Path) -> None:
    unmarked = tt.JointHistogram.from_cells([1, 1], [500, 9000], [0, 0], [50, 50], ["ann"])
    cases = {name: CaseStatistics(unmarked) for name in "abc"}
    tt.CohortStatistics(cases).save(tmp_path / "blank.zarr")
    outcome = twintrack("compare", tmp_path / "blank.zarr", "--calibrators", "platt,isotonic", "--folds", "3")
    assert outcome.code == 0
    assert "Not ranked, for a fold has no map:\n  - platt to mhr: fold1: All targets are 0" in outcome.out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--calibrators", "magic"], "There is no calibrator 'magic'"),
        (["--targets", "truth"], "There is no target 'truth'"),
        (["--targets", "rater:zoe"], "There is no rater 'zoe'"),
        (["--metrics", "beauty"], "There is no metric 'beauty'"),
        (["--rank-by", "ece_mhr"], "cannot be ranked by 'ece_mhr'"),
        (["--folds", "7"], "Folds: 7, cases with raters: 6"),
        (["--folds", "9" * 5000], "is neither a number nor a file"),
        (["--metrics", "surface_dice"], "'surface_dice' is no single metric"),
        (["--folds", "nowhere.json"], "--folds nowhere.json is neither a number nor a file"),
        (["--group-by", "scanner"], "has no 'scanner'"),
        (["--bootstrap", "5"], "5 bootstrap draws make no interval"),
        (["--refit", "5"], "refit is 5"),
        (["--min-cases", "-1"], "min_cases is -1"),
        (["--roi", "mask"], "was accumulated with the rule 'raters+20'"),
        (["-o", "report.pdf"], "report.pdf cannot be written"),
    ],
)
def test_what_it_refuses(refused: Run, statistics: Path, options: list[str], says: str) -> None:
    refused("compare", statistics, *options, code=2, words=(says,))


@pytest.mark.parametrize(
    "text", ["{", '{"a": ["case000"], "a": ["case001"]}', "[1, 2]", '{"a": "case000"}', '{"a": [1]}', "[" * 100_000]
)
def test_folds_files_that_are_none(refused: Run, statistics: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "folds.json").write_text(text)
    refused("compare", statistics, "--folds", tmp_path / "folds.json", code=2, words=("folds.json", "Allowed"))


def test_one_case_cannot_be_compared(refused: Run, tmp_path: Path) -> None:
    cohort(1).save(tmp_path / "one.zarr")
    refused("compare", tmp_path / "one.zarr", code=2, words=("Cases with raters: 1",))
