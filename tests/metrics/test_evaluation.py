from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from twintrack_core import metrics
from twintrack_core.calibrators import fit
from twintrack_core.errors import RequestError
from twintrack_core.histogram import CaseStatistics, CohortStatistics, JointHistogram
from twintrack_core.maps import CalibrationMap
from twintrack_core.metrics import Metric, Noted, Result, ScoredCells, Undefined, case_values, evaluate

PANELS = {"b": ("ann", "bob", "cy"), "a": ("bob", "di"), "unmarked": ("ann",)}


def arrays(name: str, *, calibration: CalibrationMap | None = None) -> JointHistogram:
    """The histogram of a small volume, calibrated as a float16 volume if asked."""
    rng = np.random.default_rng(sorted(PANELS).index(name))
    shape = (4, 5, 6)
    scores: npt.NDArray[Any] = rng.random(shape).astype(np.float32)
    raters = rng.random((len(PANELS[name]), *shape)) < scores**2
    if name == "unmarked":
        raters[:] = False
    if calibration is not None:
        scores = calibration(scores, dtype=np.float16)
    return JointHistogram.from_arrays(scores, raters, rater_names=PANELS[name], roi=rng.random(shape) < 0.5)


def cohort(calibration: CalibrationMap | None = None) -> CohortStatistics:
    return CohortStatistics(
        {name: CaseStatistics(arrays(name, calibration=calibration), (3, 1, 1)) for name in PANELS}, roi="mask"
    )


def measured(name: str, cells: ScoredCells) -> Result:
    (metric,) = metrics.resolve([name])
    assert isinstance(metric, Metric)
    return metric(cells)


def test_a_map_is_evaluated_as_the_volume_it_would_write() -> None:
    statistics = cohort()
    calibration = fit(statistics)
    found = evaluate(statistics, calibration)
    raw, written = evaluate(statistics), evaluate(cohort(calibration))

    def values(evaluation: metrics.Evaluation, variant: str) -> tuple[Any, Any]:
        rows = [(r.case, r.metric, r.region, r.value, r.why) for r in evaluation.rows if r.variant == variant]
        summary = [
            (s.metric, s.region, s.mean, s.pooled, s.defined, s.why) for s in evaluation.summary if s.variant == variant
        ]
        return rows, summary

    assert values(found, "raw") == values(raw, "raw")
    assert values(found, "calibrated") == values(written, "raw")
    assert values(found, "calibrated") != values(found, "raw")


def test_rows_and_summary_are_the_metrics_of_the_cells() -> None:
    statistics = cohort()
    evaluation = evaluate(statistics)
    assert len(evaluation.rows) == 3 * 2 * len(metrics.resolve(None))
    for row in evaluation.rows:
        expected = measured(row.metric, ScoredCells.of([statistics[row.case]], row.region))
        if isinstance(expected, Undefined):
            assert (row.value, row.why) == (None, expected.why)
        elif isinstance(expected, Noted):
            assert (row.value, row.why) == (expected.value, expected.note)
        else:
            assert (row.value, row.why) == (expected, None)
    for summary in evaluation.summary:
        values = [
            row.value
            for row in evaluation.rows
            if (row.metric, row.region) == (summary.metric, summary.region) and row.value is not None
        ]
        assert summary.defined == len(values)
        assert summary.mean == (pytest.approx(sum(values) / len(values)) if values else None)
        if summary.metric == "volume_error":
            assert len(values) == 2
        cells = ScoredCells.of([case for _, case in statistics.items()], summary.region)
        pooled = measured(summary.metric, cells)
        if isinstance(pooled, Undefined):
            assert (summary.pooled, summary.why) == (None, pooled.why)
        else:
            assert summary.pooled == (pooled.value if isinstance(pooled, Noted) else pooled)


def test_the_document_has_the_documented_form() -> None:
    statistics = cohort()
    calibration = fit(statistics)
    found = evaluate(statistics, {"one": calibration, "two": fit(statistics, "identity")}, ["tdsc", "ece_mhr", "tdsc"])
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert list(document) == ["rows", "summary"]
    assert all(set(row) == {"case", "metric", "variant", "region", "value", "why"} for row in document["rows"])
    assert all(
        set(row) == {"metric", "variant", "region", "mean", "pooled", "defined", "why"} for row in document["summary"]
    )
    order = [(row["case"], row["variant"], row["region"], row["metric"]) for row in document["rows"]]
    assert order == [
        (case, variant, region, metric)
        for case in ("a", "b", "unmarked")
        for variant in ("raw", "calibrated:one", "calibrated:two")
        for region in ("whole", "roi")
        for metric in ("tdsc", "ece_mhr")
    ]
    assert len(document["summary"]) == 3 * 2 * 2


def test_one_map_of_a_mapping_needs_no_name() -> None:
    statistics = cohort()
    calibration = fit(statistics)
    assert evaluate(statistics, {"map": calibration}) == evaluate(statistics, calibration)
    assert evaluate(statistics, {}) == evaluate(statistics)


def test_cases_without_raters_are_undefined_and_not_pooled() -> None:
    rated = CaseStatistics(arrays("a"))
    unrated = CaseStatistics(arrays("b").keep_raters([]))
    both = evaluate(CohortStatistics({"rated": rated, "unrated": unrated}))
    alone = evaluate(CohortStatistics({"rated": rated}))
    assert both.summary == alone.summary
    assert all((row.value, row.why) == (None, "there are no raters") for row in both.rows if row.case == "unrated")
    nobody = evaluate(CohortStatistics({"unrated": unrated}))
    assert all((s.mean, s.pooled, s.defined) == (None, None, 0) for s in nobody.summary)
    assert all(s.why == "there are no raters" for s in nobody.summary)


def test_an_empty_region_is_undefined() -> None:
    outside = CaseStatistics(JointHistogram.from_cells([0], [9000], [1], [5], ["ann"]))
    evaluation = evaluate(CohortStatistics({"x": outside}))
    for row in evaluation.rows:
        if row.region == "roi":
            assert (row.value, row.why) == (None, "there are no voxels")
        if row.metric == "ece_mhr":
            assert (row.value is None) == (row.region == "roi")


def test_what_cannot_be_evaluated_is_refused() -> None:
    with pytest.raises(RequestError, match=r"no metric 'dice'\.\nAllowed: ece_mhr"):
        evaluate(cohort(), metrics=["dice"])
    with pytest.raises(RequestError, match=r"The metrics are 'tdsc'\.\nAllowed: a list of names"):
        evaluate(cohort(), metrics="tdsc")
    with pytest.raises(RequestError, match="asked for as 3"):
        evaluate(cohort(), metrics=[3])  # type: ignore[list-item]
    for maps in ([fit(cohort())], {"a": 3}):
        with pytest.raises(RequestError, match="Allowed: a CalibrationMap, or a mapping"):
            evaluate(cohort(), maps)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="no case"):
        evaluate(CohortStatistics({}))


@pytest.mark.parametrize("region", ["whole", "roi"])
def test_values_of_cases_are_those_of_evaluate(region: Any) -> None:
    statistics = cohort()
    maps = {"one": fit(statistics), "two": fit(statistics, "platt")}
    names = [metric.name for metric in metrics.resolve(None)]
    rows = {
        (row.variant, row.case, row.metric): row.value
        for row in evaluate(statistics, maps).rows
        if row.region == region
    }
    found = case_values(statistics, [None, *maps.values()], None, region, ["b", "unmarked"])
    assert found.shape == (3, 2, len(names))
    assert found.dtype == np.float64
    for i, variant in enumerate(("raw", "calibrated:one", "calibrated:two")):
        for j, case in enumerate(("b", "unmarked")):
            for k, name in enumerate(names):
                expected = rows[variant, case, name]
                assert np.isnan(found[i, j, k]) if expected is None else found[i, j, k] == expected


def test_values_of_cases_that_there_are_not() -> None:
    """Without voxels, in a region a metric is not taken over, without raters, and of unknown names."""
    statistics = cohort()
    tdsc, of_volumes = metrics.resolve(["tdsc", "surface_dice"])
    assert isinstance(tdsc, Metric)
    with pytest.MonkeyPatch.context() as patch:
        given = replace(tdsc, regions=("whole",)), of_volumes
        patch.setattr("twintrack_core.metrics.evaluation.resolve", lambda _: given)
        assert np.isnan(case_values(statistics, [None], None, "roi")).all()
        assert np.isnan(case_values(statistics, [None], None, "whole")).any(axis=(0, 1)).tolist() == [False, True]
    unrated = CohortStatistics({"x": CaseStatistics(arrays("b").keep_raters([]))})
    assert np.isnan(case_values(unrated, [None, fit(statistics)], None, "whole")).all()
    assert case_values(statistics, [], None, "whole").shape == (0, 3, len(metrics.resolve(None)))
    with pytest.raises(RequestError, match="no case 'c'"):
        case_values(statistics, [None], None, "whole", ["c"])
    with pytest.raises(RequestError, match="no metric 'dice'"):
        case_values(statistics, [None], ["dice"], "whole")
