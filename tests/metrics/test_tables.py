"""Cells under a map share what is condensed once: the same as those of histograms that are relabelled, cell by cell."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twintrack_core import metrics
from twintrack_core.codes import CODE_ONE, CODE_VALUES, N_CODES
from twintrack_core.errors import FitError, RequestError
from twintrack_core.histogram import CaseStatistics, JointHistogram, RegionName
from twintrack_core.metrics import Metric, Result, ScoredCells, Undefined
from twintrack_core.targets import target_values

Codes = npt.NDArray[np.uint16]

NAMES = ("ann", "bob", "cy", "dee", "eli", "fay", "gus", "hal")
REGIONS: tuple[RegionName, ...] = ("whole", "roi")
IDENTITY = np.arange(N_CODES, dtype=np.uint16)


@st.composite
def case_of(draw: st.DrawFn, raters: tuple[str, ...]) -> CaseStatistics:
    code = st.one_of(st.sampled_from([0, 1, 14335, 14336, 14337, CODE_ONE - 1, CODE_ONE]), st.integers(0, CODE_ONE))
    cell = st.tuples(
        st.integers(0, 1), code, st.integers(0, (1 << len(raters)) - 1), st.sampled_from([1, 3, 1000, 2**53 + 1])
    )
    region, codes, pattern, count = np.array(draw(st.lists(cell, min_size=1, max_size=30)), dtype=np.int64).T
    return CaseStatistics(JointHistogram.from_cells(region, codes, pattern, count, raters))


panels = st.permutations(NAMES).flatmap(lambda names: st.integers(1, 8).map(lambda n: tuple(names[:n])))
one_case = panels.flatmap(case_of).map(lambda case: [case])
alike = panels.flatmap(
    lambda names: st.lists(st.permutations(names).map(tuple).flatmap(case_of), min_size=2, max_size=3)
)
mixed_cases = st.lists(panels.flatmap(case_of), min_size=2, max_size=4)
some_cases = st.one_of(one_case, alike, mixed_cases)
non_decreasing = st.one_of(
    st.sampled_from([IDENTITY, np.zeros_like(IDENTITY), np.full_like(IDENTITY, CODE_ONE), IDENTITY // 2 + 3000]),
    st.lists(st.integers(0, CODE_ONE), min_size=1, max_size=6).map(
        lambda steps: np.sort(np.resize(np.array(steps, dtype=np.uint16), N_CODES))
    ),
)


def slow_labels(cells: ScoredCells, consensus: str) -> list[tuple[float, int, int]]:
    """Score, marked and unmarked voxels of each score, in Python's integers."""
    marked: Counter[int] = Counter()
    unmarked: Counter[int] = Counter()
    for case in cells.cases:
        histogram = case.histogram
        if consensus.startswith("rater:") and consensus[6:] not in histogram.raters:
            continue
        nothing = consensus == "staple" and len(cells.cases) > 1 and not histogram.pattern.any()
        values = np.zeros(256) if nothing else target_values(histogram, consensus)
        for region, code, pattern, count in zip(*(column.tolist() for column in histogram.cells), strict=True):
            if region or cells.region == "whole":
                (marked if values[pattern] >= 0.5 else unmarked)[code] += count
    return [(float(CODE_VALUES[code]), marked[code], unmarked[code]) for code in sorted(marked | unmarked)]


def slow_cells(cells: ScoredCells) -> list[tuple[float, float, int]]:
    """Score, mean human response and voxels of each cell, in the order of `ScoredCells.count`."""
    found: Counter[tuple[int, int, int]] = Counter()
    for case in cells.cases:
        histogram = case.histogram
        for region, code, pattern, count in zip(*(column.tolist() for column in histogram.cells), strict=True):
            if region or cells.region == "whole":
                found[len(histogram.raters), code, pattern.bit_count()] += count
    return [(float(CODE_VALUES[code]), marks / n, count) for (n, code, marks), count in sorted(found.items())]


def slow_panels(cells: ScoredCells) -> dict[tuple[str, ...], Counter[frozenset[str]]]:
    found: dict[tuple[str, ...], Counter[frozenset[str]]] = {}
    for case in cells.cases:
        raters = case.histogram.raters
        panel = found.setdefault(tuple(sorted(raters)), Counter())
        for region, _, pattern, count in zip(*(column.tolist() for column in case.histogram.cells), strict=True):
            if region or cells.region == "whole":
                panel[frozenset(rater for bit, rater in enumerate(raters) if pattern >> bit & 1)] += count
    return found


def columns(*arrays: npt.NDArray[Any]) -> list[tuple[Any, ...]]:
    return list(zip(*(array.tolist() for array in arrays), strict=True))


def check(cells: ScoredCells) -> None:
    expected = slow_cells(cells)
    assert columns(cells.score, cells.mhr, cells.count) == expected
    assert cells.n_voxels == sum(count for *_, count in expected)
    assert cells.count.dtype == np.int64
    at_score: dict[float, list[tuple[float, int]]] = {}
    for score, mhr, count in expected:
        at_score.setdefault(score, []).append((mhr, count))
    voxels = {score: sum(count for _, count in found) for score, found in sorted(at_score.items())}
    assert columns(cells.scores.score, cells.scores.count) == list(voxels.items())
    means = [sum(mhr * count for mhr, count in at_score[score]) / n for score, n in voxels.items()]
    assert cells.scores.mean.tolist() == pytest.approx(means, rel=1e-14)
    for consensus in ("majority", *(f"rater:{rater}" for rater in cells.raters)):
        labelled = cells.labelled(consensus)
        assert columns(labelled.score, labelled.marked, labelled.unmarked) == slow_labels(cells, consensus)
    found = {
        panel.raters: Counter(
            {
                frozenset(rater for bit, rater in enumerate(panel.raters) if pattern >> bit & 1): count
                for pattern, count in enumerate(panel.count.tolist())
            }
        )
        for panel in cells.panels
    }
    assert found == slow_panels(cells)


def measured(name: str, cells: ScoredCells) -> Result:
    (metric,) = metrics.resolve([name])
    assert isinstance(metric, Metric)
    return metric(cells)


@settings(max_examples=100)
@given(some_cases, non_decreasing, st.sampled_from(REGIONS))
def test_every_grouping_is_that_of_the_cells_one_by_one(
    cases: list[CaseStatistics], codes: Codes, region: RegionName
) -> None:
    raw = ScoredCells.of(cases, region)
    check(raw)
    check(raw.relabel(codes))
    check(ScoredCells.of([case.relabel(codes) for case in cases], region))


@settings(max_examples=60)
@given(some_cases, non_decreasing, non_decreasing, st.sampled_from(REGIONS))
def test_cells_under_a_map_are_those_of_relabelled_histograms(
    cases: list[CaseStatistics], codes: Codes, then: Codes, region: RegionName
) -> None:
    raw = ScoredCells.of(cases, region, "full")
    one, both = raw.relabel(codes), raw.relabel(codes).relabel(then)
    for found, map_ in ((one, codes), (both, then[codes])):
        expected = ScoredCells.of([case.relabel(map_) for case in cases], region, "full")
        assert found.cases == expected.cases
        assert (found.region, found.roi) == (region, "full")
        assert (found.raters, found.n_raters) == (expected.raters, expected.n_raters)
        assert replace(found, region="whole").n_voxels == ScoredCells.of(cases).n_voxels
        names = [m.name for m in metrics.resolve(None) if not m.name.startswith("staple")]
        named = [f"{name}:{expected.raters[0]}" for name in ("ece_rater", "brier_rater", "log_loss_without")]
        for name in (*names, *named, "ncc:variance"):
            assert measured(name, found) == measured(name, expected), name


@pytest.mark.parametrize("region", REGIONS)
def test_staple_under_a_map(region: RegionName) -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(500) < 0.3
    marks = truth[:, np.newaxis] ^ (rng.random((500, 4)) < 0.1)
    pattern = marks @ (1 << np.arange(4))
    inside, code, count = rng.integers(0, 2, 500), rng.integers(0, N_CODES, 500), rng.integers(1, 9, 500)
    case = CaseStatistics(JointHistogram.from_cells(inside, code, pattern, count, NAMES[:4]))
    nobody = CaseStatistics(JointHistogram.from_cells([1], [9000], [0], [7], NAMES[:3]))
    codes = (IDENTITY // 3 + 9000).astype(np.uint16)
    for cases in ([case], [case, nobody]):
        raw = ScoredCells.of(cases, region)
        for cells in (raw, raw.relabel(codes)):
            labelled = cells.labelled("staple")
            assert columns(labelled.score, labelled.marked, labelled.unmarked) == slow_labels(cells, "staple")
        relabelled = ScoredCells.of([one.relabel(codes) for one in cases], region)
        for name in ("staple_sensitivity", "staple_specificity:bob", "auroc:staple"):
            assert measured(name, raw.relabel(codes)) == measured(name, relabelled)
    with pytest.raises(FitError, match="no rater marked"):
        ScoredCells.of([nobody]).relabel(codes).labelled("staple")


def test_without_raters_or_voxels() -> None:
    outside = CaseStatistics(JointHistogram.from_cells([0], [9000], [1], [5], ["ann", "bob"]))
    for cases, why in (([], "there are no raters"), ([outside], "there are no voxels")):
        cells = ScoredCells.of(cases, "roi").relabel(IDENTITY)
        assert len(cells.scores.score) == len(cells.count) == len(cells.labelled("majority").score) == 0
        assert measured("tdsc", cells) == Undefined(why)


def test_codes_that_decrease_are_refused() -> None:
    case = CaseStatistics(JointHistogram.from_cells([1, 1], [3, 9], [1, 0], [4, 5], ["ann"]))
    with pytest.raises(RequestError, match="decrease"):
        ScoredCells.of([case]).relabel(IDENTITY[::-1])


def test_what_maps_do_not_change_is_computed_once() -> None:
    case = CaseStatistics(JointHistogram.from_cells([1, 1], [3, 9], [1, 0], [4, 5], ["ann"]))
    raw = ScoredCells.of([case])
    seen: list[ScoredCells] = []

    def compute(cells: ScoredCells) -> int:
        seen.append(cells)
        return len(seen)

    for cells in (raw.relabel(IDENTITY), raw, raw.relabel(IDENTITY // 2)):
        assert cells.of_marks("key", compute) == 1
    assert seen == [raw]
