from __future__ import annotations

from typing import Any

import pytest
from cohorts import cohort
from hypothesis import given
from hypothesis import strategies as st

from twintrack_core.errors import RequestError
from twintrack_core.histogram import CaseStatistics, CohortStatistics, JointHistogram
from twintrack_core.validation import split_cases


def tiny(sites: list[str], raters: tuple[str, ...] = ("ann",)) -> CohortStatistics:
    histogram = JointHistogram.from_cells([1], [0], [0], [1], raters)
    return CohortStatistics(
        {f"c{i:02d}": CaseStatistics(histogram, attributes={"site": site}) for i, site in enumerate(sites)}
    )


@given(st.lists(st.sampled_from("ABCDE"), min_size=2, max_size=30), st.integers(2, 8), st.integers(0, 5))
def test_folds_score_every_case_once_and_never_fit_to_it(sites: list[str], folds: int, seed: int) -> None:
    statistics = tiny(sites)
    if folds <= len(sites):
        splits = split_cases(statistics, folds, seed=seed)
        assert sorted(case for split in splits for case in split.test) == list(statistics.names)
        sizes = [len(split.test) for split in splits]
        assert len(splits) == folds
        assert max(sizes) - min(sizes) <= 1
        for split in splits:
            assert sorted(split.fit + split.test) == list(statistics.names)
        assert splits == split_cases(statistics, folds, seed=seed)


@given(st.lists(st.sampled_from("ABCDE"), min_size=2, max_size=30), st.integers(2, 5))
def test_groups_stay_together(sites: list[str], folds: int) -> None:
    statistics = tiny(sites)
    if folds > len(set(sites)):
        return
    for split in split_cases(statistics, folds, group_by="site"):
        inside = {statistics[case].attributes["site"] for case in split.test}
        assert not inside & {statistics[case].attributes["site"] for case in split.fit}
    by_site = split_cases(statistics, "leave-one-out", group_by="site")
    assert [split.name for split in by_site] == sorted(set(sites))


def test_leave_one_out_and_another_seed() -> None:
    statistics = cohort(12)
    splits = split_cases(statistics, "leave-one-out")
    assert [split.test for split in splits] == [(name,) for name in statistics.names]
    assert {split_cases(statistics, 3, seed=seed) for seed in range(5)} != {split_cases(statistics, 3)}


def test_given_folds() -> None:
    statistics = tiny(list("AAAA"))
    (split,) = split_cases(statistics, {"held out": ["c03", "c01"]})
    assert (split.name, split.fit, split.test) == ("held out", ("c00", "c02"), ("c01", "c03"))


def test_given_folds_that_keep_groups_together() -> None:
    splits = split_cases(tiny(list("AABB")), {"a": ["c00", "c01"]}, group_by="site")
    assert [(split.name, split.test) for split in splits] == [("a", ("c00", "c01"))]


def test_cases_without_raters_are_left_out() -> None:
    rated, unrated = tiny(list("AAA")), tiny(list("AAAA"), raters=())
    both = rated.merge(CohortStatistics({"z": unrated["c03"]}))
    assert {name for split in split_cases(both, 3) for name in split.fit + split.test} == set(rated.names)


@pytest.mark.parametrize(
    ("folds", "group_by", "says"),
    [
        (1, None, "Folds: 1, cases with raters: 4"),
        (5, None, "Folds: 5, cases with raters: 4"),
        (True, None, "Folds: True"),
        ("leave-two-out", None, "'leave-two-out'"),
        (3, "site", "Folds: 3, values of 'site' among cases with raters: 2"),
        (2, "scanner", "no 'scanner'; its attributes with a value are site"),
        ({}, None, "No fold"),
        ({"a": []}, None, "'a' is []"),
        ({"a": "c00"}, None, "'a' is 'c00'"),
        ({"a": ["nobody"]}, None, "'nobody'"),
        ({"a": ["c00"], "b": ["c00"]}, None, "Case c00 is in the folds 'a' and 'b'"),
        ({"a": ["c00", "c01", "c02", "c03"]}, None, "nothing to fit to"),
        ({"a": ["c00"]}, "site", "'a' scores some cases of site 'A', and is fitted to others"),
    ],
)
def test_what_makes_no_folds(folds: Any, group_by: str | None, says: str) -> None:
    with pytest.raises(RequestError) as caught:
        split_cases(tiny(list("AABB")), folds, group_by=group_by)
    assert says in str(caught.value)


def test_an_attribute_without_a_value_makes_no_group() -> None:
    histogram = JointHistogram.from_cells([1], [0], [0], [1], ["ann"])
    values = {"a": "x", "b": None, "c": "y"}
    cases = {name: CaseStatistics(histogram, attributes={"site": site}) for name, site in values.items()}
    with pytest.raises(RequestError, match="Case b has no 'site'"):
        split_cases(CohortStatistics(cases), 2, group_by="site")


def test_one_case_makes_no_folds() -> None:
    with pytest.raises(RequestError, match="Cases with raters: 1"):
        split_cases(tiny(["A"]), 2)
