"""What metrics see of cases: pooled over cases, regions and panels."""

from __future__ import annotations

import numpy as np
import pytest

from twintrack_core.codes import CODE_VALUES
from twintrack_core.errors import PluginError
from twintrack_core.histogram import CaseStatistics, JointHistogram
from twintrack_core.metrics import CaseVolumes, Metric, Result, ScoredCells, Undefined, resolve


def test_cells_are_pooled_over_cases_and_panels() -> None:
    histogram = JointHistogram.from_cells([0, 1, 1], [3, 3, 4], [5, 6, 7], [2, 2**60, 1], ["a", "b", "c"])
    one = CaseStatistics(histogram)
    two = CaseStatistics(JointHistogram.from_cells([1], [3], [3], [7], ["b", "d", "a"]))
    three = CaseStatistics(JointHistogram.from_cells([1], [3], [1], [9], ["e"]))
    whole = ScoredCells.of([one])
    assert whole.n_raters == 3
    assert whole.count.tolist() == [2**60 + 2, 1]
    assert whole.mhr.tolist() == [2 / 3, 1]
    assert whole.score.tolist() == CODE_VALUES[[3, 4]].tolist()
    assert ScoredCells.of([one], "roi").count.tolist() == [2**60, 1]
    for histograms in ([one, two, three], [three, two, one]):
        pooled = ScoredCells.of(histograms)
        assert pooled.n_raters is None
        assert pooled.mhr.tolist() == [1, 2 / 3, 1]
        assert pooled.count.tolist() == [9, 2**60 + 9, 1]
    assert ScoredCells.of([one, two]).n_raters == 3


def test_no_metric_can_change_what_the_others_are_given() -> None:
    def mutating(cells: ScoredCells) -> float:
        cells.count[:] = 1
        return 0.0

    case = CaseStatistics(JointHistogram.from_cells([1, 1], [3, 9], [1, 0], [4, 5], ["a"]))
    cells = ScoredCells.of([case])
    metric = Metric(
        name="mutating", function=mutating, unit="1", better="neither", range=(0, 1), description="", source=""
    )
    with pytest.raises(PluginError, match=r"'mutating' failed: ValueError.*read-only"):
        metric(cells)
    given = (cells.score, cells.mhr, cells.count, cells.panels[0].count)
    scores, labelled = cells.scores, cells.labelled("rater:a")
    for array in (*given, scores.score, scores.count, scores.mean, labelled.score, labelled.marked, labelled.unmarked):
        assert not array.flags.writeable
    codes = np.zeros((2, 2, 2), np.uint16)
    volumes = CaseVolumes(codes=codes, raters=("a",), votes=np.zeros((2, 2, 2), np.uint8))
    assert volumes.votes is not None
    assert not volumes.codes.flags.writeable
    assert not volumes.votes.flags.writeable
    assert codes.flags.writeable  # the caller's own stays as it is


def test_among_several_cases_one_without_a_mark_has_nothing_marked() -> None:
    def value(name: str, *cases: CaseStatistics) -> Result:
        (metric,) = resolve([name])
        assert isinstance(metric, Metric)
        return metric(ScoredCells.of(cases))

    names = ["a", "b", "c"]
    marked = JointHistogram.from_cells([1] * 4, [9, 12000, 13000, 14000], [0, 3, 6, 7], [900, 20, 30, 50], names)
    empty = JointHistogram.from_cells([1], [10000], [0], [500], names)
    one, none = CaseStatistics(marked), CaseStatistics(empty)
    assert value("auroc:staple", none) == Undefined("STAPLE is undefined where no rater marked a voxel")
    for name in ("staple_sensitivity", "staple_specificity", "staple_sensitivity:b"):
        assert value(name, one, none) == value(name, one)
    assert value("auroc:staple", one, none) == 1
    labelled = ScoredCells.of([one, none]).labelled("staple")
    assert (int(labelled.marked.sum()), int(labelled.unmarked.sum())) == (100, 1400)


def test_scores_marks_and_panels_count_the_same_voxels() -> None:
    one = CaseStatistics(JointHistogram.from_cells([0, 1, 1], [3, 3, 4], [1, 2, 3], [2, 2**55 + 1, 1], ["b", "a"]))
    two = CaseStatistics(JointHistogram.from_cells([1], [3], [1], [7], ["c"]))
    pooled = ScoredCells.of([one, two])
    assert pooled.scores.score.tolist() == CODE_VALUES[[3, 4]].tolist()
    assert pooled.scores.count.tolist() == [2**55 + 10, 1]
    of_b = pooled.labelled("rater:b")
    assert (of_b.marked.tolist(), of_b.unmarked.tolist()) == ([2, 1], [2**55 + 1, 0])
    majority = pooled.labelled("majority")
    assert (majority.marked.tolist(), majority.unmarked.tolist()) == ([7, 1], [2**55 + 3, 0])
    panels = {panel.raters: panel.count.tolist() for panel in pooled.panels}
    assert panels == {("a", "b"): [0, 2**55 + 1, 2, 1], ("c",): [0, 7]}
    assert ScoredCells.of([one], "roi").panels[0].count.tolist() == [0, 2**55 + 1, 0, 1]
