"""Evaluation of cohorts and of statistics by one function."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import twintrack_core as tt
from twintrack_core import metrics
from twintrack_core.cohort.case import Case
from twintrack_core.cohort.store import open_cohort
from twintrack_core.cohort.writer import CohortWriter
from twintrack_core.engine import evaluate as engine
from twintrack_core.engine.volumes import measure
from twintrack_core.errors import InvalidScoresError, RequestError
from twintrack_core.metrics import Metric, Suite
from twintrack_core.metrics.evaluation import variants
from twintrack_core.simulate import Simulation

ASKED = ("surface_dice", "tdsc", "hausdorff95:0.3", "ece_mhr")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> tt.Cohort:
    simulation = Simulation(cases=3, shape=(24, 64, 64), raters=3, members=2, seed=7)
    return tt.import_cases(simulation, tmp_path_factory.mktemp("evaluate") / "c.zarr")


@pytest.fixture(scope="module")
def fitted(cohort: tt.Cohort) -> tt.CalibrationMap:
    return tt.fit(tt.accumulate(cohort))


def without_variant(evaluation: tt.Evaluation, variant: str) -> tuple[list[Any], list[Any]]:
    """Rows and summary of a variant, without its name."""
    rows = [replace(row, variant="") for row in evaluation.rows if row.variant == variant]
    return rows, [replace(row, variant="") for row in evaluation.summary if row.variant == variant]


def test_a_cohort_is_its_statistics_and_its_volumes(cohort: tt.Cohort, fitted: tt.CalibrationMap) -> None:
    found = tt.evaluate(cohort, fitted, iter(ASKED), roi="raters+2", workers=2)
    statistics = tt.accumulate(cohort, roi="raters+2")
    of_volumes = [metric for metric in metrics.resolve(ASKED) if isinstance(metric, metrics.VolumeMetric)]
    measured = measure(cohort, of_volumes, variants(fitted))
    assert found == metrics.evaluate(statistics, fitted, ASKED, measured=measured)
    rows = [row for row in found.rows if row.metric == "surface_dice"]
    assert [(row.case, row.variant, row.region) for row in rows] == [
        (case, variant, "whole") for case in cohort.names for variant in ("raw", "calibrated")
    ]
    for row in rows:
        assert row.value == measured[row.case, row.variant, row.metric]
    for summary in found.summary:
        if summary.metric in ("surface_dice", "hausdorff95:0.3"):
            values = [
                row.value
                for row in found.rows
                if (row.metric, row.variant) == (summary.metric, summary.variant) and row.value is not None
            ]
            assert summary.mean == pytest.approx(np.mean(values))
            assert (summary.pooled, summary.defined, summary.why) == (None, 3, "it is taken case by case")


def test_a_map_is_evaluated_as_the_cohort_that_it_writes(
    cohort: tt.Cohort, fitted: tt.CalibrationMap, tmp_path: Path
) -> None:
    found = tt.evaluate(cohort, {"one": fitted}, ASKED, roi="raters+20")
    written = tt.evaluate(tt.apply(cohort, fitted, tmp_path / "out.zarr"), None, ASKED, roi="raters+20")
    assert without_variant(found, "calibrated") == without_variant(written, "raw")
    assert without_variant(found, "raw") != without_variant(written, "raw")


def test_statistics_have_no_voxels(cohort: tt.Cohort, fitted: tt.CalibrationMap) -> None:
    statistics = tt.accumulate(cohort, roi="mask")
    found = tt.evaluate(statistics, fitted, ASKED)
    assert found == metrics.evaluate(statistics, fitted, ASKED)
    assert {row.why for row in found.rows if row.metric == "surface_dice"} == {
        "it needs voxels: evaluate the cohort, not its statistics"
    }
    assert tt.evaluate(statistics) == metrics.evaluate(statistics)
    assert tt.evaluate(cohort, roi="mask") == metrics.evaluate(statistics)
    assert tt.evaluate(cohort, fitted, roi="mask") == tt.evaluate(statistics, {"x": fitted})


def test_the_rule_is_that_of_the_statistics(cohort: tt.Cohort) -> None:
    statistics = tt.accumulate(cohort, roi="mask+3mm")
    assert tt.evaluate(statistics, roi="mask+3.0mm") == tt.evaluate(statistics)
    with pytest.raises(RequestError, match=r"rule 'mask\+3mm', not 'full'"):
        tt.evaluate(statistics, roi="full")
    with pytest.raises(RequestError, match="no rule"):
        tt.evaluate(statistics, roi="everything")


def test_the_rule_that_a_metric_is_meant_for(cohort: tt.Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    known = metrics.registry.get
    ece = known("ece_mhr")
    assert isinstance(ece, Metric)
    others = {
        "near": replace(ece, name="near", roi="raters+2"),
        "challenge": Suite(name="challenge", metrics=("tdsc", "near"), description="two of them"),
    }
    monkeypatch.setattr(metrics.registry, "get", lambda name: others.get(name) or known(name))
    asked = ["surface_dice", "challenge"]
    assert tt.evaluate(cohort, None, asked) == tt.evaluate(cohort, None, asked, roi="raters+2")
    assert tt.evaluate(cohort, None, asked) != tt.evaluate(cohort, None, asked, roi="full")
    assert tt.evaluate(cohort, None, ["tdsc"]) == tt.evaluate(cohort, None, ["tdsc"], roi="full")


def test_voxels_are_read_again_for_metrics_of_volumes_alone(cohort: tt.Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    def unwanted(*_: Any, **__: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr(engine, "measure", unwanted)
    assert tt.evaluate(cohort, metrics=["tdsc"]).rows
    assert tt.evaluate(cohort).rows
    monkeypatch.setattr(engine, "accumulate", unwanted)
    with pytest.raises(RequestError, match="no metric 'tdcs'"):  # before any voxel is read
        tt.evaluate(cohort, metrics=["tdcs"])
    with pytest.raises(RequestError, match="leave voxels out"):
        tt.evaluate(cohort, metrics=["surface_dice"], on_invalid="exclude")


def test_what_cannot_be_evaluated_is_refused() -> None:
    with pytest.raises(RequestError, match=r"A str cannot be evaluated\.\nAllowed: a Cohort, or CohortStatistics"):
        tt.evaluate("c.zarr")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="no case"):
        tt.evaluate(tt.CohortStatistics({}))


def test_policies_for_invalid_scores(tmp_path: Path) -> None:
    scores = np.zeros((4, 6, 6), dtype=np.float32)
    scores[1:3, 1:4, 1:4] = 0.75
    case = Case(name="c", probability=scores, raters=("ann",), votes=(scores > 0).astype(np.uint8))
    writer = CohortWriter(tmp_path / "c.zarr", ["c"])
    writer.write_case(case)
    writer.finish()
    cohort = open_cohort(tmp_path / "c.zarr")
    assert [row.value for row in tt.evaluate(cohort, metrics=["surface_dice"]).rows] == [1.0]
    zarr.open_array(str(tmp_path / "c.zarr" / "c" / "probability"), mode="r+")[1, 1, 1] = 1.25
    with pytest.raises(InvalidScoresError, match=r"Case c, .* at index \(1, 1, 1\)"):
        tt.evaluate(cohort, metrics=["surface_dice"])
    clipped = tt.evaluate(cohort, metrics=["surface_dice", "tdsc"], on_invalid="clip", kernel="reference")
    assert [row.value for row in clipped.rows if row.metric == "surface_dice"] == [1.0]
    excluded = tt.evaluate(cohort, metrics=["tdsc"], on_invalid="exclude")
    assert excluded == metrics.evaluate(tt.accumulate(cohort, on_invalid="exclude"), metrics=["tdsc"])


def test_a_cohort_without_raters(tmp_path: Path) -> None:
    writer = CohortWriter(tmp_path / "c.zarr", ["c"])
    writer.write_case(Case(name="c", probability=np.full((4, 6, 6), 0.75, dtype=np.float16)))
    writer.finish()
    evaluation = tt.evaluate(open_cohort(tmp_path / "c.zarr"), metrics=["surface_dice", "tdsc"])
    assert {(row.value, row.why) for row in evaluation.rows} == {(None, "there are no raters")}
