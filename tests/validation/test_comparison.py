from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cohorts import case, cohort

import twintrack_core as tt
from twintrack_core.calibrators import Recipe, fit
from twintrack_core.errors import RequestError
from twintrack_core.histogram import CaseStatistics, CohortStatistics, JointHistogram
from twintrack_core.metrics import evaluate
from twintrack_core.validation import Bootstrap, Estimate, split_cases

STATISTICS = cohort(9, spread=0.1)


def one_by_one(statistics: CohortStatistics, calibrator: str, target: str, metric: str, **options: Any) -> list[float]:
    """Held-out values by fitting and evaluating fold by fold, in the order of the folds."""
    found = []
    for split in split_cases(statistics, **options):
        calibration = fit(statistics.select(split.fit), calibrator, target=target)
        rows = evaluate(statistics.select(split.test), calibration, [metric]).rows
        found += [row.value for row in rows if row.region == "roi" and row.variant == "calibrated"]
    return found  # type: ignore[return-value]


def same(one: Estimate | None, other: Estimate) -> None:
    """Equal but for rounding, which depends on how many columns are summed at once."""
    assert one is not None
    assert (one.mean, one.low, one.high) == pytest.approx((other.mean, other.low, other.high), rel=1e-12)
    assert one.defined == other.defined


@pytest.mark.parametrize("folds", [3, "leave-one-out"])
def test_every_case_is_scored_on_maps_of_others(folds: Any) -> None:
    comparison = tt.compare(STATISTICS, ["isotonic", "platt"], targets=["mhr", "majority"], folds=folds, bootstrap=50)
    assert {each.label for each in comparison.candidates} == {
        "raw", "isotonic to mhr", "platt to mhr", "isotonic to majority", "platt to majority",
    }  # fmt: skip
    for calibrator in ("isotonic", "platt"):
        for target in ("mhr", "majority"):
            label = f"{calibrator} to {target}"
            expected = one_by_one(STATISTICS, calibrator, target, "brier_mhr", folds=folds)
            np.testing.assert_allclose(comparison.values[label], expected, rtol=0, atol=1e-12)
            ece = one_by_one(STATISTICS, calibrator, target, "ece_mhr", folds=folds)
            assert comparison[label]["ece_mhr"].value.mean == pytest.approx(np.mean(ece), abs=1e-12)


def test_intervals_and_differences_are_those_of_the_values() -> None:
    comparison = tt.compare(STATISTICS, ["isotonic", "beta"], folds=3, bootstrap=300, seed=2)
    raw = np.array(comparison.values["raw"])
    best = np.array(comparison.values[comparison.candidates[0].label])
    bootstrap = Bootstrap(300, seed=2)
    for each in comparison.candidates:
        own = np.array(comparison.values[each.label])
        same(each["brier_mhr"].value, bootstrap.estimates(own[:, np.newaxis])[0])
        low, high = bootstrap.of_means(own[:, np.newaxis], "percentile")
        percentile = each["brier_mhr"].percentile
        assert (percentile.low, percentile.high) == pytest.approx((low[0], high[0]), rel=1e-12)
        if each.recipe is None:
            assert each["brier_mhr"].to_raw is None
        else:
            same(each["brier_mhr"].to_raw, bootstrap.estimates((own - raw)[:, np.newaxis])[0])
        if each is not comparison.candidates[0]:
            same(each.to_best, bootstrap.estimates((own - best)[:, np.newaxis])[0])
    means = [each["brier_mhr"].value.mean for each in comparison.candidates]
    assert means == sorted(means)  # type: ignore[type-var]


def test_the_recommendation_is_the_first_that_is_better_than_raw_by_more_than_chance() -> None:
    comparison = tt.compare(STATISTICS, ["isotonic", "platt", "temperature"], folds=3)
    assert comparison.best == comparison.candidates[0].recipe is not None
    assert comparison.recommendation.startswith(f"Take {comparison.candidates[0].label}: its brier_mhr on 9 held-out")
    # Scores that are calibrated: nothing is better by more than chance.
    code = np.arange(2000, 15000, 500)
    score = code.astype(np.uint16).view(np.float16).astype(float)
    rng = np.random.default_rng(0)

    def calibrated() -> JointHistogram:
        marked = rng.binomial(4000, score)
        cells = np.ones(2 * len(code), dtype=int), np.tile(code, 2), np.repeat([0, 1], len(code))
        return JointHistogram.from_cells(*cells, np.concatenate([4000 - marked, marked]), ["ann"])

    fine = CohortStatistics({f"c{i}": CaseStatistics(calibrated()) for i in range(8)})
    kept = tt.compare(fine, ["histogram_binning", "isotonic"], folds=4)
    assert kept.best is None
    assert kept.recommendation.startswith("Keep the raw scores")


def test_refitting_is_the_cross_validation_of_cases_drawn() -> None:
    statistics = cohort(6)
    comparison = tt.compare(statistics, ["isotonic"], folds=3, bootstrap=50, refit=50, metrics=["brier_mhr"], seed=1)
    splits = split_cases(statistics, 3, seed=1)
    drawn, raw = [], []
    for times in Bootstrap(50, seed=1).times(6):
        number = dict(zip(statistics.names, times.tolist(), strict=True))
        total = total_raw = weight = 0.0
        for split in splits:
            copies = {f"{name}-{copy}": statistics[name] for name in split.fit for copy in range(number[name])}
            if copies:
                calibration = fit(CohortStatistics(copies, statistics.roi))
                rows = evaluate(statistics.select(split.test), calibration, ["brier_mhr"]).rows
                for row in rows:
                    if row.region == "roi" and row.value is not None:
                        if row.variant == "raw":
                            total_raw += row.value * number[row.case]
                        else:
                            total += row.value * number[row.case]
                            weight += number[row.case]
        drawn.append(total / weight)
        raw.append(total_raw / weight)
    found = comparison["isotonic to mhr"]
    mean = found["brier_mhr"].value.mean
    assert mean is not None
    assert found.refitted is not None
    assert found.refitted.to_raw is not None
    assert found.refitted.incomplete == 0
    low, high = Bootstrap(50).around(mean, np.array(drawn), 6)
    assert (found.refitted.value.low, found.refitted.value.high) == pytest.approx((max(low, 0), high), abs=1e-12)
    gap = np.array(drawn) - np.array(raw)
    to_raw = found["brier_mhr"].to_raw
    assert to_raw is not None
    assert to_raw.mean is not None
    low, high = Bootstrap(50).around(to_raw.mean, gap, 6)
    assert (found.refitted.to_raw.low, found.refitted.to_raw.high) == pytest.approx((low, high), abs=1e-12)
    assert comparison["raw"].refitted is not None
    assert comparison["raw"].refitted.to_raw is None


def test_an_advantage_that_refitting_leaves_open_is_no_recommendation() -> None:
    # Raters so unlike from case to case that a map of other cases may as well harm.
    statistics = cohort(6, spread=0.9, seed=1)
    fixed = tt.compare(statistics, ["isotonic"], folds=3, metrics=["brier_mhr"])
    refitted = tt.compare(statistics, ["isotonic"], folds=3, metrics=["brier_mhr"], refit=60)
    again = refitted["isotonic to mhr"].refitted
    assert again is not None
    found = again.to_raw
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert fixed.best is not None
    assert found.low < 0 < found.high
    assert refitted.best is None
    assert "maps refitted) may be chance" in refitted.recommendation


def test_groups_are_scored_apart_on_maps_of_the_others() -> None:
    comparison = tt.compare(STATISTICS, ["isotonic"], folds="leave-one-out", group_by="site", bootstrap=50)
    assert [split.name for split in comparison.splits] == ["A", "B"]
    for site in "AB":
        inside = [name for name, each in STATISTICS.items() if each.attributes["site"] == site]
        calibration = fit(STATISTICS.without(*inside))
        summary = evaluate(STATISTICS.select(inside), calibration, ["brier_mhr"]).summary
        mean, raw = (
            next(row.mean for row in summary if row.region == "roi" and row.variant == variant)
            for variant in ("calibrated", "raw")
        )
        assert mean is not None
        assert raw is not None
        value, to_raw = comparison["isotonic to mhr"].groups[site]
        assert value.mean == pytest.approx(mean, abs=1e-12)
        assert to_raw.mean == pytest.approx(mean - raw, abs=1e-12)


def test_groups_are_drawn_whole_so_that_copies_of_a_patient_tell_nothing_new() -> None:
    def of_patients(copies: int) -> CohortStatistics:
        return CohortStatistics(
            {
                f"{name}-{copy}": replace(each, attributes={"patient": name})
                for name, each in cohort(6).items()
                for copy in range(copies)
            },
            "raters+20",
        )

    one, four = (
        tt.compare(
            of_patients(copies),
            ["isotonic"],
            folds=3,
            group_by="patient",
            metrics=["brier_mhr"],
            bootstrap=200,
            refit=50,
        )
        for copies in (1, 4)
    )
    for label in ("raw", "isotonic to mhr"):
        same(four[label]["brier_mhr"].value, replace(one[label]["brier_mhr"].value, defined=24))
    again, single = four["isotonic to mhr"].refitted, one["isotonic to mhr"].refitted
    assert again is not None
    assert single is not None
    assert again.to_raw is not None
    assert single.to_raw is not None
    assert (again.to_raw.low, again.to_raw.high) == pytest.approx((single.to_raw.low, single.to_raw.high), rel=1e-9)


def test_refitting_stays_paired_where_a_fold_of_a_draw_has_no_map() -> None:
    # Calibrated cases differ much among themselves and little from what a map makes of them; unmarked ones alone
    # determine no map.
    unmarked = JointHistogram.from_cells([1, 1], [500, 9000], [0, 0], [50, 50], ["ann"])
    cases = {f"u{i}": CaseStatistics(unmarked) for i in range(4)}
    cases |= {f"c{i}": CaseStatistics(case(i).keep_raters(["ann"])) for i in range(3)}
    comparison = tt.compare(
        CohortStatistics(cases), ["platt"], targets=["mhr"], folds="leave-one-out", bootstrap=50, refit=200,
        metrics=["brier_mhr"], shrinkage=1e6,
    )  # fmt: skip
    found = comparison["platt to mhr"]
    assert found.refitted is not None
    assert found.refitted.to_raw is not None
    assert found.refitted.to_raw.low is not None
    assert found.refitted.to_raw.high is not None
    # Shrunk to the identity, a map changes next to nothing in any draw.
    assert found.refitted.to_raw.high - found.refitted.to_raw.low < 1e-4
    plain = tt.compare(
        CohortStatistics(cases), ["platt"], folds="leave-one-out", bootstrap=50, refit=200, metrics=["brier_mhr"]
    )["platt to mhr"].refitted
    assert plain is not None
    assert 20 < plain.incomplete < 200
    assert (plain.value.low, plain.to_raw and plain.to_raw.low) == (None, None)  # too few cases to draw from


def test_the_sentence_names_those_that_may_be_as_good() -> None:
    comparison = tt.compare(STATISTICS, ["isotonic", "centered_isotonic", "temperature", "platt", "beta"], folds=3)
    assert comparison.best is not None
    alike = [
        each.label
        for each in comparison.candidates[1:]
        if each.recipe and each.to_best and each.to_best.low is not None and each.to_best.low <= 0
    ]
    assert 0 < len(alike) < 4
    assert comparison.recommendation.endswith(f"; {', '.join(alike)} may be as good.")
    alone = tt.compare(STATISTICS, ["isotonic"], folds=3)
    assert alone.recommendation.endswith(").")


def test_what_a_fold_does_not_determine_is_named_and_not_ranked() -> None:
    unmarked = JointHistogram.from_cells([1, 1], [500, 9000], [0, 0], [50, 50], ["ann"])
    few = CohortStatistics(
        {
            "a": CaseStatistics(unmarked),
            "b": CaseStatistics(unmarked),
            "c": CaseStatistics(case(1).keep_raters(["ann"])),
        }
    )
    comparison = tt.compare(few, ["platt", "isotonic"], folds="leave-one-out", bootstrap=50)
    last = comparison.candidates[-1]
    assert last.label == "platt to mhr"
    assert last.failed == "c: All targets are 0, so the likelihood has no finite maximum."
    assert set(comparison.values) == {"raw", "isotonic to mhr"}
    assert "platt" not in comparison.recommendation


def test_the_same_again_and_as_json() -> None:
    found = tt.compare(STATISTICS, ["isotonic"], folds=3, bootstrap=60, refit=50)
    assert found == tt.compare(STATISTICS, ["isotonic"], folds=3, bootstrap=60, refit=50)
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert document["candidates"][0]["label"] == found.candidates[0].label
    assert document["best"] == {
        "calibrator": "isotonic", "target": "mhr", "weighting": "voxels", "min_cases": 0.0, "shrinkage": 0.0,
    }  # fmt: skip


def test_the_identity_is_the_raw_scores() -> None:
    comparison = tt.compare(STATISTICS, ["identity", "isotonic", "isotonic"], folds=3, bootstrap=50)
    assert [each.label for each in comparison.candidates] == ["isotonic to mhr", "raw"]
    alone = tt.compare(STATISTICS, ["identity"], folds=3, bootstrap=50)
    assert [each.label for each in alone.candidates] == ["raw"]
    assert alone.best is None


def test_guards_reach_the_maps() -> None:
    comparison = tt.compare(STATISTICS, ["isotonic"], folds=3, bootstrap=50, shrinkage=1e9)
    np.testing.assert_allclose(comparison.values["isotonic to mhr"], comparison.values["raw"], atol=1e-6)
    assert comparison.candidates[0].recipe in (None, Recipe(shrinkage=1e9))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"calibrators": "isotonic"}, "one text"),
        ({"calibrators": []}, "nothing to compare"),
        ({"calibrators": ["magic"]}, "magic"),
        ({"targets": ["truth"]}, "truth"),
        ({"metrics": ["hausdorff"]}, "hausdorff"),
        ({"metrics": ["surface_dice"]}, "'surface_dice' is no single metric"),
        ({"targets": ["rater:zoe"]}, "There is no rater 'zoe'"),
        ({"rank_by": "ece_mhr"}, "ranked by 'ece_mhr'"),
        ({"folds": 10}, "Folds: 10"),
        ({"bootstrap": 10}, "10 bootstrap draws"),
        ({"refit": 10}, "refit is 10"),
        ({"level": 2}, "level is 2"),
    ],
)
def test_requests_that_make_no_sense(options: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError) as caught:
        tt.compare(STATISTICS, **options)
    assert says in str(caught.value)
    with pytest.raises(RequestError, match="JointHistogram"):
        tt.compare(case(0))  # type: ignore[arg-type]
