"""The whole way on real data: 10 cases to fit, 13 to test, against figures an independent script found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import twintrack_core as tt
from twintrack_core import calibrators
from twintrack_core.cli import main

FOUND = {
    ("ece_mhr", "roi"): (0.0334, 0.0276),
    ("brier_mhr", "roi"): (0.0230, 0.0175),
    ("tdsc", "whole"): (0.700, 0.739),
}


PAGE = Path(__file__).parent.parent.parent / "docs" / "cells.md"
RATERS = [f"rater{number}" for number in range(1, 6)]
ONE_BY_ONE = [f"ece_rater:{name}" for name in RATERS]
ONE_BY_ONE += [f"staple_sensitivity:{name}" for name in ("rater1", "rater2", "rater5")]


@pytest.fixture(scope="module")
def stores(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the 13 cases to test and the map that is fitted to the 10 others."""
    folder = tmp_path_factory.mktemp("cells")
    for split in ("calibration", "test"):
        members = [word for i in range(3) for word in ("--member", str(cells / split / f"member{i}"))]
        raters = [word for name in RATERS for word in ("--rater", str(cells / split / name))]
        assert main(["import", "nnunet", str(folder / f"{split}.zarr"), *members, *raters, "--class", "1"]) == 0
    assert main(["fit", str(folder / "calibration.zarr"), "-o", str(folder / "map.json")]) == 0
    return folder


def test_the_method_on_real_disagreement(
    stores: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(stores)
    capsys.readouterr()
    assert main(["evaluate", "test.zarr", "--map", "map.json", "--roi", "raters+20", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)["summary"]
    means = {(row["metric"], row["region"], row["variant"]): row["mean"] for row in summary}
    for (metric, region), (before, after) in FOUND.items():
        assert means[metric, region, "raw"] == pytest.approx(before, abs=5e-4)
        assert means[metric, region, "calibrated"] == pytest.approx(after, abs=5e-4)


@pytest.mark.parametrize(
    "options",
    [
        ["--roi", "raters+20"],
        ["--metrics", "curvas"],
        ["--metrics", "surface_dice,hausdorff95"],
        ["--roi", "raters+20", "--metrics", ",".join(ONE_BY_ONE)],
    ],
    ids=["all", "challenge", "borders", "raters"],
)
def test_the_page_shows_what_evaluate_prints(
    stores: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    if "curvas" in options:
        pytest.importorskip("twintrack_curvas", reason="twintrack-curvas is not installed")
    monkeypatch.chdir(stores)
    capsys.readouterr()
    assert main(["evaluate", "test.zarr", "--map", "map.json", *options]) == 0
    printed = capsys.readouterr().out
    summary = printed[printed.index("mean over cases") :]
    assert f"```text\n{summary}```\n" in PAGE.read_text(encoding="utf-8")


def test_the_page_of_calibrators_shows_what_they_do(stores: Path) -> None:
    page = (PAGE.parent / "calibrators.md").read_text(encoding="utf-8")
    columns = ["smece_mhr", "brier_mhr", "kl_mhr", "tdsc", "auroc"]
    fitted, held_out = (tt.accumulate(tt.open_cohort(stores / f"{name}.zarr")) for name in ("calibration", "test"))
    names = [name for name in calibrators.names()[:10] if name != "identity"]
    maps = {name: tt.fit(fitted, name) for name in names}
    summary = tt.evaluate(held_out, maps, columns).summary
    means = {(row.variant, row.metric): row.mean for row in summary if row.region == "whole"}
    for variant, title in (("raw", "none"), *((f"calibrated:{name}", f"`{name}`") for name in names)):
        cells = [f"{means[variant, metric]:#.3g}" for metric in columns]
        assert f"| {title} | {' | '.join(cells)} |" in page
