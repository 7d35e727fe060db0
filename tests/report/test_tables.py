"""Evaluations as text: what a reader sees, and that nothing undefined passes for a number."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from twintrack_core.histogram import CaseStatistics, CohortStatistics, JointHistogram
from twintrack_core.metrics import Evaluation, Row, SummaryRow, evaluate
from twintrack_core.report.tables import case_tables, rows_as_csv, summary_table


def cohort(roi: str = "raters+20") -> CohortStatistics:
    rng = np.random.default_rng(0)
    scores = rng.random((3, 4, 5, 6)).astype(np.float32)
    marks = rng.random((3, 2, 4, 5, 6)) < scores[:, np.newaxis]
    marks[2] = False
    inside = rng.random((4, 5, 6)) < 0.5
    histograms = [JointHistogram.from_arrays(p, m, roi=inside) for p, m in zip(scores, marks, strict=True)]
    return CohortStatistics({name: CaseStatistics(h) for name, h in zip("abc", histograms, strict=True)}, roi)


def lines_of(text: str, start: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(start)]


def test_the_number_of_defined_cases_stands_beside_the_mean() -> None:
    evaluation = evaluate(cohort(), metrics=["volume_error", "tdsc"])
    text = case_tables(evaluation, roi="raters+20")
    assert [line.split() for line in lines_of(text, "defined")] == [["defined", *(["2", "of", "3"] * 2)]]
    assert "c: no rater marked a voxel" in text
    (line,) = lines_of(text.split("\n\n")[0], "c")
    assert line.split() == ["c", "-", "-"]
    (summary,) = lines_of(summary_table(evaluation, roi="raters+20"), "volume_error")
    assert summary.count(" of 2") == 2
    (summary,) = lines_of(summary_table(evaluation, roi="raters+20"), "tdsc")
    assert " of " not in summary
    mean = np.mean([row.value for row in evaluation.rows if row.metric == "tdsc" and row.region == "whole"])
    assert f"{mean:#.3g}" in summary


def test_notes_and_reasons_are_said() -> None:
    text = case_tables(evaluate(cohort(), metrics=["cross_entropy_mhr"]), roi="raters+20")
    assert "voxels have a score of 0 or 1 that a rater contradicts" not in text
    saturated = JointHistogram.from_arrays(np.array([0.0, 1.0, 0.5]), np.array([[1, 0, 1], [1, 1, 0]]))
    sure = CohortStatistics({"a": CaseStatistics(saturated), "b": CaseStatistics(saturated)})
    text = case_tables(evaluate(sure, metrics=["cross_entropy_mhr"]), roi="full")
    note = "2 of 3 voxels have a score of 0 or 1 that a rater contradicts; it was clipped"
    assert f"  - a, whole, raw: {note}, and so on in 2 values; --json or -o has all of them" in text
    summary = summary_table(evaluate(sure, metrics=["tdsc", "fleiss_kappa", "hausdorff95"]), roi="full")
    assert summary.endswith("\n\n  - hausdorff95: it needs voxels: evaluate the cohort, not its statistics")
    unmarked = case_tables(evaluate(cohort().select("c"), metrics=["volume_error"]), roi="full")
    assert "  - all cases: no rater marked a voxel" in unmarked


def test_the_region_is_shown_where_it_differs_from_the_volume() -> None:
    evaluation = evaluate(cohort("full"), metrics=["tdsc"])
    assert "full" not in summary_table(evaluation, roi="full")
    both = summary_table(evaluate(cohort(), metrics=["tdsc"]), roi="raters+20")
    assert both.splitlines()[0].split("  ")[-1].strip() == "raters+20: raw"


def test_units_and_directions_are_named() -> None:
    text = summary_table(evaluate(cohort(), metrics=["cross_entropy_mhr", "tdsc"]), roi="raters+20")
    (cross_entropy,) = lines_of(text, "cross_entropy_mhr")
    assert cross_entropy.split()[1:3] == ["[nat]", "lower"]
    (tdsc,) = lines_of(text, "tdsc")
    assert tdsc.split()[1] == "higher"


@pytest.mark.parametrize(
    ("metric", "new", "expected"), [("tdsc", (0.6, 0.4), "1 of 2"), ("volume_error", (-0.1, 0.3), "2 of 2")]
)
def test_better_follows_the_metric(metric: str, new: tuple[float, float], expected: str) -> None:
    raw = (0.5, 0.5) if metric == "tdsc" else (0.2, -0.4)
    values = {"raw": raw, "calibrated": new}
    rows = tuple(
        Row(case, metric, variant, "whole", value, None)
        for variant, pair in values.items()
        for case, value in zip("ab", pair, strict=True)
    )
    summary = tuple(
        SummaryRow(metric, variant, "whole", sum(pair) / 2, None, 2, None) for variant, pair in values.items()
    )
    assert f"({expected} better)" in summary_table(Evaluation(rows, summary), roi="full")


def test_csv_has_a_line_for_every_row_and_nothing_for_what_is_undefined() -> None:
    evaluation = evaluate(cohort(), metrics=["volume_error", "cross_entropy_mhr"])
    lines = list(csv.DictReader(io.StringIO(rows_as_csv(evaluation))))
    assert len(lines) == len(evaluation.rows)
    for line, row in zip(lines, evaluation.rows, strict=True):
        assert line["value"] == ("" if row.value is None else repr(row.value))
        assert float(line["value"] or "nan") == pytest.approx(
            row.value if row.value is not None else np.nan, nan_ok=True
        )
        assert line["why"] == (row.why or "")
        assert line["unit"] == ("nat" if row.metric == "cross_entropy_mhr" else "1")
        assert line["better"] == ("lower" if row.metric == "cross_entropy_mhr" else "zero")
