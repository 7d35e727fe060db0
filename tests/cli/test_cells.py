"""The whole way on real data: 10 cases to fit, 13 to test, against figures an independent script found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from twintrack_core.cli import main

FOUND = {
    ("ece_mhr", "roi"): (0.0334, 0.0276),
    ("brier_mhr", "roi"): (0.0230, 0.0175),
    ("tdsc", "whole"): (0.700, 0.739),
}


def test_the_method_on_real_disagreement(
    cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for split in ("calibration", "test"):
        members = [word for i in range(3) for word in ("--member", str(cells / split / f"member{i}"))]
        raters = [word for i in range(1, 6) for word in ("--rater", str(cells / split / f"rater{i}"))]
        assert main(["import", "nnunet", f"{split}.zarr", *members, *raters, "--class", "1"]) == 0
    assert main(["fit", "calibration.zarr", "-o", "map.json"]) == 0
    capsys.readouterr()
    assert main(["evaluate", "test.zarr", "--map", "map.json", "--roi", "raters+20", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)["summary"]
    means = {(row["metric"], row["region"], row["variant"]): row["mean"] for row in summary}
    for (metric, region), (before, after) in FOUND.items():
        assert means[metric, region, "raw"] == pytest.approx(before, abs=5e-4)
        assert means[metric, region, "calibrated"] == pytest.approx(after, abs=5e-4)
