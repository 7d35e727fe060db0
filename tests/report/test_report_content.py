"""What a report says: honest about which cases a map has seen, and of the numbers of the validation functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from twintrack_core.calibrators import fit
from twintrack_core.calibrators.recipe import Recipe
from twintrack_core.errors import RequestError
from twintrack_core.histogram import CaseStatistics, CohortStatistics, JointHistogram
from twintrack_core.maps import CalibrationMap
from twintrack_core.metrics import ScoredCells, evaluate, reliability_of, resolve
from twintrack_core.metrics.evaluation import case_values
from twintrack_core.report.document import Cell, Document, Figure, Group, Notes, Table, Text
from twintrack_core.report.numbers import interval, number, numbers, percent, stacked
from twintrack_core.report.report import document, html_report
from twintrack_core.report.sections.drift import chance_of
from twintrack_core.report.sections.learning import enough_words
from twintrack_core.report.subject import look_at
from twintrack_core.validation import (
    Bootstrap,
    Comparison,
    compare,
    drift,
    learning_curve,
    leave_one_rater_out,
    map_band,
    reliability_band,
    split_cases,
)
from twintrack_core.validation.cross_fit import Fitter

Cohort = Callable[..., CohortStatistics]

BOOTSTRAP = Bootstrap(50)


def told(
    calibration: CalibrationMap,
    statistics: CohortStatistics,
    fitted: CohortStatistics | None = None,
    comparison: Comparison | None = None,
) -> Document:
    return document(calibration, statistics, fitted, comparison, BOOTSTRAP, "")


@pytest.fixture(scope="module")
def usual(calibration: CalibrationMap, held_out: CohortStatistics, fitted: CohortStatistics) -> Document:
    """Held-out cases, the fitted ones being known."""
    return told(calibration, held_out, fitted)


@pytest.fixture(scope="module")
def bare(calibration: CalibrationMap, held_out: CohortStatistics) -> Document:
    """Held-out cases alone."""
    return told(calibration, held_out)


def tables(found: Document, section: str) -> list[Table]:
    return [block for block in found[section].of_kind("table") if isinstance(block, Table)]


def figure(found: Document, name: str) -> Figure:
    section = name.partition("-")[0]
    (block,) = (each for each in found[section].of_kind("figure") if isinstance(each, Figure) and each.name == name)
    return block


def lines(table: Table) -> dict[str, tuple[str, ...]]:
    """Return the cells of rows by the first, with what stands below a cell after it."""
    found = {}
    for row in table.rows:
        if not isinstance(row, Group):
            first, *others = (cell if isinstance(cell, Cell) else Cell(cell) for cell in row)
            found[first.text] = tuple(f"{cell.text} {cell.detail}".strip() for cell in others)
    return found


def notes(found: Document) -> str:
    return " ".join(
        note for block in found["summary"].of_kind("notes") if isinstance(block, Notes) for note in block.notes
    )


def texts(found: Document, section: str) -> str:
    return " ".join(block.text for block in found[section].of_kind("text") if isinstance(block, Text))


def facts(found: Document) -> str:
    return repr(found["summary"].of_kind("facts"))


def test_held_out_cases_are_scored_on_the_map(
    calibration: CalibrationMap, held_out: CohortStatistics, usual: Document
) -> None:
    found = usual
    assert "Held out: none of the 12 rated cases" in facts(found)
    assert "sample" not in notes(found)
    for region, table in zip(("roi", "whole"), tables(found, "metrics"), strict=True):
        said = lines(table)
        assert set(said) >= {metric.name for metric in resolve(None) if metric.unit == "1"}
        values = case_values(held_out, [None, calibration], ["brier_mhr", "tdsc"], region)  # type: ignore[arg-type]
        for k, name in enumerate(("brier_mhr", "tdsc")):
            raw, calibrated = values[:, :, k].mean(axis=1).tolist()
            (difference,) = BOOTSTRAP.estimates((values[1] - values[0])[:, [k]])
            expected = " ".join(stacked(difference, signed=True))
            assert said[name][:3] == (*numbers([raw, calibrated]), expected)
            assert said[name][4] == "12"
        assert said["brier_mhr"][3] == "better"
        assert said["fleiss_kappa"][1] == "–"


def test_the_main_result_is_a_sentence_with_its_interval(
    calibration: CalibrationMap, held_out: CohortStatistics, bare: Document
) -> None:
    values = case_values(held_out, [None, calibration], ["brier_mhr"], "roi")[:, :, 0]
    (difference,) = BOOTSTRAP.estimates((values[1] - values[0])[:, np.newaxis])
    raw, calibrated = numbers(values.mean(axis=1).tolist())
    mean, low, high = numbers([difference.mean, difference.low, difference.high], signed=True)
    n_better = int((values[1] < values[0]).sum())
    said = texts(bare, "summary")
    assert "calibration lowers the mean squared difference" in said
    assert f"from {raw} to {calibrated}: a difference of {mean} (95\u00a0% interval {low} to {high}), paired" in said
    assert f"lower in {n_better} of 12 cases" in said


def test_a_difference_that_may_be_chance_is_called_so(cohort: Cohort, held_out: CohortStatistics) -> None:
    true = fit(cohort(["x", "y"], power=1.0), "platt")
    said = texts(told(true, cohort([f"t{k}" for k in range(12)], power=1.0)), "summary")
    assert "may be chance: its interval includes 0" in said
    flat = CalibrationMap(np.array([0.0]), np.array([0.9]))
    assert "calibration raises" in texts(told(flat, held_out), "summary")


def test_cases_that_the_map_was_fitted_to_are_cross_fitted(
    calibration: CalibrationMap, fitted: CohortStatistics
) -> None:
    found = told(calibration, fitted)
    assert "Cross-fitted: the map was fitted to these very 10 cases" in notes(found)
    assert "drift" not in found
    fitter, expected = Fitter(fitted), []
    for split in split_cases(fitted, 5):
        fold = fitter.fit(Recipe(), fitter.times(split.fit))
        expected.append(case_values(fitted, [fold], ["brier_mhr"], "roi", split.test)[0, :, 0])
    said = lines(tables(found, "metrics")[0])["brier_mhr"][1]
    assert said == numbers([0.0, float(np.concatenate(expected).mean())])[1] or float(said) == pytest.approx(
        np.concatenate(expected).mean(), rel=5e-3
    )
    in_sample = case_values(fitted, [calibration], ["brier_mhr"], "roi").mean()
    assert float(said) > in_sample


def test_guards_of_the_map_are_those_of_the_folds(fitted: CohortStatistics) -> None:
    guarded = fit(fitted, "platt", weighting="cases", min_cases=2.5, shrinkage=3)
    subject = look_at(guarded, fitted, None, BOOTSTRAP)
    assert subject.recipe == Recipe("platt", "mhr", "cases", 2.5, 3)
    assert subject.reading == "cross-fitted"


def test_some_cases_seen_and_others_not(
    calibration: CalibrationMap, held_out: CohortStatistics, fitted: CohortStatistics
) -> None:
    both = held_out.merge(fitted.select(["fit00", "fit07"]))
    subject = look_at(calibration, both, fitted, BOOTSTRAP)
    assert subject.seen == ("fit00", "fit07")
    assert subject.maps["new00"] is calibration
    assert subject.maps["fit00"] is not calibration
    found = told(calibration, both, fitted)
    assert "the map was fitted to 2 of the 14 cases" in notes(found)
    assert "The other cases are scored on the map itself" in notes(found)
    assert "fit00" not in repr(tables(found, "drift"))


def test_what_cannot_be_cross_fitted_is_called_in_sample(
    calibration: CalibrationMap, fitted: CohortStatistics, cohort: Cohort
) -> None:
    unknown = replace(calibration, calibrator="elsewhere")
    edited = replace(calibration, value=calibration.value * 0.5)
    one = cohort(["only"])
    for made, statistics, why in (
        (calibration, fitted.without("fit03"), "the statistics that the map was fitted to were not given"),
        (unknown, fitted, "elsewhere"),
        (edited, fitted, "does not give this map again"),
        (fit(one), one, "one case alone leaves nothing to fit to"),
    ):
        found = told(made, statistics)
        assert "In-sample: the map was fitted to" in notes(found)
        assert why in notes(found)
        assert texts(found, "summary").startswith("In-sample, and therefore flattering: ")
    assert "One case makes no interval" in texts(told(fit(one), one), "summary")


def test_a_map_that_names_no_case_is_not_called_held_out(cohort: Cohort, held_out: CohortStatistics) -> None:
    one = cohort(["only"])
    unnamed = fit(one["only"].histogram)
    assert "In-sample: the map was fitted to the very case" in notes(told(unnamed, one))
    assert "Not known to be held out" in notes(told(unnamed, held_out))


def test_fitted_statistics_must_be_those_of_the_map(
    calibration: CalibrationMap, held_out: CohortStatistics, fitted: CohortStatistics
) -> None:
    with pytest.raises(RequestError, match="was not fitted to the statistics given") as caught:
        html_report(calibration, held_out, fitted=fitted.without("fit00"), bootstrap=50)
    assert "10 cases" in str(caught.value)
    with pytest.raises(RequestError, match="49 bootstrap draws"):
        html_report(calibration, held_out, bootstrap=49)
    with pytest.raises(RequestError, match="no case to report on"):
        html_report(calibration, CohortStatistics({}), bootstrap=50)


def test_few_cases_are_warned_of(calibration: CalibrationMap, held_out: CohortStatistics, bare: Document) -> None:
    assert "Few cases" not in notes(bare)
    assert "intervals from 9 cases" in notes(told(calibration, held_out.select(held_out.names[:9])))


def test_another_target_and_region_are_warned_of(cohort: Cohort, held_out: CohortStatistics) -> None:
    other = fit(cohort(["x", "y", "z"], roi="full"), target="majority")
    said = notes(told(other, held_out))
    assert "Another target: the map was fitted to the majority of the raters" in said
    assert "Another region: the map was fitted to the whole volume (full)" in said


def test_the_map_has_the_band_of_refitted_maps(fitted: CohortStatistics, usual: Document, bare: Document) -> None:
    band = map_band(fitted, Recipe(), BOOTSTRAP)
    said = lines(figure(usual, "map").table)
    assert len(said) == 21
    for k in range(0, 101, 5):
        ends = [number(float(column[k])) for column in (band.value, band.low, band.high)]
        assert said[number(float(band.score[k]))] == tuple(ends)
    without = figure(bare, "map")
    assert "There is no band" in without.caption
    assert {len(cells) for cells in lines(without.table).values()} == {1}


def test_bounds_of_the_map_itself_are_told_from_the_band(
    calibration: CalibrationMap, held_out: CohortStatistics
) -> None:
    bounded = replace(calibration, lower=calibration.value * 0.9, upper=np.minimum(calibration.value * 1.1, 1))
    found = figure(told(bounded, held_out), "map")
    assert "own bounds" in found.caption
    assert "own lower bound" in found.table.head
    assert "own bounds" in html_report(bounded, held_out, bootstrap=50)


def test_reliability_has_the_bins_and_the_band(
    calibration: CalibrationMap, held_out: CohortStatistics, bare: Document
) -> None:
    found = bare
    scored = held_out.relabel(calibration.codes)
    for region in ("roi", "whole"):
        rows = figure(found, f"reliability-{region}").table.rows
        groups = [k for k, row in enumerate(rows) if isinstance(row, Group)]
        assert groups == [0, 16]
        for start, statistics in zip(groups, (held_out, scored), strict=True):
            cases = [case for _, case in statistics.items()]
            bins = reliability_of(ScoredCells.of(cases, region))
            low, high = reliability_band(cases, region, BOOTSTRAP)
            for k in range(15):
                row = rows[start + 1 + k]
                assert not isinstance(row, Group)
                mean, first, last = numbers([float(bins.mean_mhr[k]), float(low[k]), float(high[k])])
                ends = "–" if np.isnan(low[k]) else f"{first} to {last}"
                assert row[1:] == (number(float(bins.mean_score[k])), mean, ends, f"{round(bins.voxels[k]):,}")


def test_only_one_region_where_everything_is_inside(cohort: Cohort, calibration: CalibrationMap) -> None:
    found = told(calibration, cohort(["p", "q", "r"], roi="full"))
    assert len(found["reliability"].of_kind("figure")) == len(found["metrics"].of_kind("table")) == 1
    assert "In the whole volume" in texts(found, "summary")


def test_every_case_is_in_the_plot_by_its_gain(
    calibration: CalibrationMap, held_out: CohortStatistics, bare: Document
) -> None:
    said = lines(figure(bare, "cases").table)
    values = case_values(held_out, [None, calibration], ["brier_mhr"], "roi")[:, :, 0]
    order = np.argsort(values[1] - values[0], kind="stable")
    assert list(said) == [held_out.names[k] for k in order]
    for k in order:
        assert said[held_out.names[k]][:2] == tuple(numbers(values[:, k].tolist()))


def test_many_cases_are_a_histogram_of_differences(cohort: Cohort, calibration: CalibrationMap) -> None:
    many = cohort([f"m{k:02d}" for k in range(61)])
    found = figure(told(calibration, many), "cases")
    drawing = found.drawing
    assert type(drawing).__name__ == "DifferencesFigure"
    assert drawing.cases.sum() == 61  # type: ignore[attr-defined]
    assert np.isclose(drawing.edges, 0).any()  # type: ignore[attr-defined]
    assert len(found.table.rows) == 61
    assert "left of the line at 0" in found.caption


def test_the_learning_curve_is_that_of_the_fitted_cases(
    fitted: CohortStatistics, usual: Document, bare: Document
) -> None:
    curve = learning_curve(fitted, Recipe())
    found = usual
    said = lines(figure(found, "learning").table)
    for size, *values in zip(curve.size, curve.mean, curve.low, curve.high, strict=True):
        mean, low, high = numbers([float(value) for value in values])
        assert said[str(size)][:2] == (mean, f"{low} to {high}")
    assert said["raw scores"][0] == number(curve.raw)
    assert enough_words(curve) in texts(found, "learning")
    assert "There is no learning curve" in texts(bare, "learning")


def test_words_for_enough(fitted: CohortStatistics) -> None:
    curve = replace(learning_curve(fitted, Recipe(), repeats=5), enough=3)
    assert "From 3 cases on" in enough_words(curve)
    assert "More cases still help" in enough_words(replace(curve, enough=int(curve.size[-1])))
    assert "No number of cases" in enough_words(replace(curve, enough=None))
    assert "At no size" in enough_words(replace(curve, raw=0.0))
    assert "is better than that of the raw scores with" not in enough_words(replace(curve, raw=1.0))


def test_raters_agreement_and_leaving_one_out(
    held_out: CohortStatistics, fitted: CohortStatistics, usual: Document
) -> None:
    together, own, traits, left_out = tables(usual, "raters")
    summary = {
        row.metric: row.mean
        for row in evaluate(held_out, None, ["pairwise_dice", "staple_sensitivity:ben"]).summary
        if row.region == "roi"
    }
    assert lines(together)["pairwise_dice"][0].startswith(number(summary["pairwise_dice"]))
    assert lines(own)["ben"][0].startswith(number(summary["staple_sensitivity:ben"]))
    expected = leave_one_rater_out(fitted, Recipe(), split_cases(fitted, 5), BOOTSTRAP)
    assert list(lines(left_out)) == ["ann", "ben", "cy"]
    for each in expected:
        assert lines(traits)[each.rater][:2] == (interval(each.bias, signed=True), interval(each.agreement))
        said = lines(left_out)[each.rater]
        assert said[:2] == tuple(numbers([each.raw.mean, each.calibrated.mean]))
        assert said[2] == interval(each.difference, signed=True)
    to_one = fit(fitted, target="rater:ann")
    assert "cannot be left out" in texts(told(to_one, held_out, fitted), "raters")


def test_drift_is_that_of_the_validation(
    calibration: CalibrationMap,
    held_out: CohortStatistics,
    fitted: CohortStatistics,
    cohort: Cohort,
    usual: Document,
    bare: Document,
) -> None:
    found = usual
    expected = drift(fitted, held_out)
    said = lines(tables(found, "drift")[0])
    assert {name: cells[0] for name, cells in said.items()} == {
        name: number(distance) for name, distance in expected.distance.items()
    }
    bins = lines(figure(found, "drift").table)
    assert bins["0.00 to 0.02"] == (
        percent(float(expected.fitted[0])),
        percent(float(expected.new[0])),
        number(float(expected.support[0])),
    )
    assert "Drift" not in notes(found)
    far = cohort([f"far{k}" for k in range(10)], power=0.05)
    found = told(calibration, far, fitted)
    assert "10 cases of 10 look unlike all cases" in notes(found)
    assert "a probability of" in texts(found, "drift")
    assert all(
        isinstance(row[0], Cell) and row[0].detail == "stands out"
        for row in tables(found, "drift")[0].rows
        if not isinstance(row, Group)
    )
    assert "drift" not in bare


def test_the_chance_of_standing_out() -> None:
    assert chance_of(0, 5, 10) == 1
    assert chance_of(1, 1, 9) == pytest.approx(1 / 10)
    assert chance_of(2, 2, 2) == pytest.approx(1 / 6)  # of six pairs, the two furthest are new


def test_cases_without_raters(
    calibration: CalibrationMap, held_out: CohortStatistics, fitted: CohortStatistics
) -> None:
    unrated = CohortStatistics(
        {name: CaseStatistics(case.histogram.drop_raters(case.histogram.raters)) for name, case in held_out.items()},
        held_out.roi,
    )
    found = told(calibration, unrated, fitted)
    assert [section.name for section in found.sections] == [
        "summary", "map", "unrated", "learning", "raters", "drift", "provenance",
    ]  # fmt: skip
    assert "None of the cases looked at has raters" in texts(found, "summary")
    assert "<figure" in html_report(calibration, unrated, fitted=fitted, bootstrap=50)
    mixed = CohortStatistics({**dict(unrated.items()), "rated": held_out["new00"]}, held_out.roi)
    assert "12 cases without raters take part in nothing but drift" in notes(told(calibration, mixed, fitted))
    assert {"summary", "map", "unrated", "provenance"} <= {s.name for s in told(calibration, unrated).sections}


def test_a_comparison_is_told_with_both_kinds_of_interval(
    fitted: CohortStatistics, calibration: CalibrationMap
) -> None:
    grouped = CohortStatistics(
        {name: replace(case, attributes={"site": "abcdef"[k % 6]}) for k, (name, case) in enumerate(fitted.items())},
        fitted.roi,
    )
    comparison = compare(
        grouped, ["isotonic", "platt"], folds=2, group_by="site", bootstrap=50, refit=50, metrics=["brier_mhr"]
    )
    found = told(calibration, grouped, None, comparison)
    ranking, refitted, groups = tables(found, "comparison")
    assert "test cases resampled, maps fixed" in ranking.title
    assert "maps refitted in every draw" in refitted.title
    best = comparison.candidates[0]
    assert list(lines(ranking)) == [f"{k}. {each.label}" for k, each in enumerate(comparison.candidates, start=1)]
    said = lines(ranking)[f"1. {best.label}"]
    assert said[0] == " ".join(stacked(best["brier_mhr"].value))
    assert best.refitted is not None
    assert lines(refitted)[best.label][0] == " ".join(stacked(best.refitted.value))
    assert [row.title for row in groups.rows if isinstance(row, Group)] == [f"site: {site}" for site in "abcdef"]
    assert comparison.recommendation.partition(":")[0] in texts(found, "summary")
    # Folds of the comparison are those of the page: one number for one thing.
    isotonic = comparison["isotonic to mhr"]["brier_mhr"].value
    said = lines(tables(found, "metrics")[0])["brier_mhr"]
    assert said[1] in interval(isotonic)
    to_raw = comparison["isotonic to mhr"]["brier_mhr"].to_raw
    assert to_raw is not None
    assert said[2] == " ".join(stacked(to_raw, signed=True))


def test_failed_candidates_are_not_ranked(calibration: CalibrationMap, fitted: CohortStatistics) -> None:
    comparison = compare(fitted, ["isotonic"], folds=2, bootstrap=50, metrics=["brier_mhr"], min_cases=6)
    ranking, failed = tables(told(calibration, fitted, None, comparison), "comparison")
    assert list(lines(ranking)) == ["1. raw"]
    assert "fewer than 6" in lines(failed)["isotonic to mhr"][0]


def test_a_case_without_voxels_inside_is_left_out_and_all_of_them_are_said(
    calibration: CalibrationMap, held_out: CohortStatistics, cohort: Cohort
) -> None:
    empty = {}
    for name, case in cohort(["e1", "e2"]).items():
        histogram = case.histogram
        outside = JointHistogram(
            histogram.raters, np.zeros_like(histogram.region), histogram.code, histogram.pattern, histogram.count
        )
        empty[name] = replace(case, histogram=outside)
    nowhere = CohortStatistics(empty, held_out.roi)
    found = told(calibration, nowhere)
    assert "undefined" in texts(found, "summary")
    assert "No case has voxels there" in texts(found, "cases")
    assert "<figure" in html_report(calibration, nowhere, bootstrap=50)
    some = told(calibration, held_out.merge(nowhere))
    assert "2 cases without voxels there are left out" in figure(some, "cases").caption
    assert len(figure(some, "cases").table.rows) == 12
