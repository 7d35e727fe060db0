from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cohorts import case, cohort

from twintrack_core.calibrators import Recipe, fit
from twintrack_core.errors import RequestError
from twintrack_core.histogram import CaseStatistics, CohortStatistics, JointHistogram
from twintrack_core.metrics import evaluate
from twintrack_core.validation import Bootstrap, leave_one_rater_out, split_cases


def test_each_rater_is_scored_on_maps_of_the_others_and_of_other_cases() -> None:
    statistics = cohort(6)
    splits = split_cases(statistics, 3)
    found = leave_one_rater_out(statistics, Recipe(), splits, Bootstrap(100))
    assert [each.rater for each in found] == ["ann", "bob", "cy"]
    for each in found:
        raw, calibrated = [], []
        for split in splits:
            others = CohortStatistics(
                {
                    name: replace(statistics[name], histogram=statistics[name].histogram.drop_raters([each.rater]))
                    for name in split.fit
                },
                statistics.roi,
            )
            rows = evaluate(statistics.select(split.test), fit(others), [f"brier_rater:{each.rater}"]).rows
            raw += [row.value for row in rows if row.region == "roi" and row.variant == "raw"]
            calibrated += [row.value for row in rows if row.region == "roi" and row.variant == "calibrated"]
        assert each.raw.mean == pytest.approx(np.mean(raw), abs=1e-12)  # type: ignore[arg-type]
        assert each.calibrated.mean == pytest.approx(np.mean(calibrated), abs=1e-12)  # type: ignore[arg-type]
        assert each.difference.mean == pytest.approx(each.calibrated.mean - each.raw.mean, abs=1e-12)  # type: ignore[operator]
        assert each.raw.defined == 6


def test_bias_and_agreement_are_those_of_the_marks() -> None:
    statistics = cohort(4)
    found = leave_one_rater_out(statistics, Recipe(), split_cases(statistics, 2), Bootstrap(50))
    for own, each in enumerate(found):
        bias, dice = [], []
        for one in [statistics[name] for name in statistics]:
            cells = one.histogram.select("roi")
            marks = np.repeat((cells.pattern[:, np.newaxis] >> np.arange(3)) & 1, cells.count, axis=0).astype(bool)
            others = [marks[:, r] for r in range(3) if r != own]
            mine = marks[:, own]
            bias.append(mine.sum() / np.mean([other.sum() for other in others]) - 1)
            dice.append(np.mean([2 * (mine & other).sum() / (mine.sum() + other.sum()) for other in others]))
        assert each.bias.mean == pytest.approx(np.mean(bias))
        assert each.agreement.mean == pytest.approx(np.mean(dice))
    by_name = {each.rater: each.bias.mean for each in found}
    assert by_name["bob"] == max(by_name.values())  # type: ignore[type-var]


def test_cases_without_the_rater_take_no_part() -> None:
    statistics = cohort(4)
    pair = CaseStatistics(case(50).drop_raters(["bob"]))
    alone = CaseStatistics(case(51).keep_raters(["bob"]))
    more = statistics.merge(CohortStatistics({"pair": pair, "solo": alone}, statistics.roi))
    splits = split_cases(more, 3)
    found = {each.rater: each for each in leave_one_rater_out(more, Recipe(), splits, Bootstrap(50))}
    assert (found["ann"].raw.defined, found["bob"].raw.defined) == (5, 4)


def test_cases_without_a_staple_of_the_others_are_not_fitted_to() -> None:
    marked = cohort(4)
    only_ann = JointHistogram.from_cells([1, 1], [500, 9000], [0, 1], [50, 50], ["ann", "bob", "cy"])
    more = marked.merge(CohortStatistics({"quiet": CaseStatistics(only_ann)}, marked.roi))
    found = leave_one_rater_out(more, Recipe(target="staple"), split_cases(more, 5), Bootstrap(50))
    assert [each.rater for each in found] == ["ann", "bob", "cy"]
    assert [each.raw.defined for each in found] == [5, 5, 5]


def test_what_leaves_nobody_out() -> None:
    statistics = cohort(3)
    splits = split_cases(statistics, 3)
    with pytest.raises(RequestError, match="rater:ann"):
        leave_one_rater_out(statistics, Recipe(target="rater:ann"), splits, Bootstrap())
    single = CohortStatistics({name: CaseStatistics(case(i).keep_raters(["ann"])) for i, name in enumerate("abc")})
    with pytest.raises(RequestError, match="two raters"):
        leave_one_rater_out(single, Recipe(), split_cases(single, 3), Bootstrap())


def test_intervals_of_few_cases_stay_within_what_there_can_be() -> None:
    statistics = cohort(2, spread=1.5)
    for each in leave_one_rater_out(statistics, Recipe(), split_cases(statistics, 2), Bootstrap(50)):
        for found in (each.agreement, each.raw, each.calibrated):
            assert found.low is not None
            assert found.high is not None
            assert 0 <= found.low <= found.high <= 1
