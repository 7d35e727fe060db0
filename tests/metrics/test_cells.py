"""What metrics see of cases: pooled over cases, regions and panels."""

from __future__ import annotations

from twintrack_core.codes import CODE_VALUES
from twintrack_core.histogram import CaseStatistics, JointHistogram
from twintrack_core.metrics import ScoredCells


def test_cells_are_pooled_over_cases_and_panels() -> None:
    histogram = JointHistogram.from_cells([0, 1, 1], [3, 3, 4], [5, 6, 7], [2, 2**60, 1], ["a", "b", "c"])
    one = CaseStatistics(histogram, (2.5, 1.0, 1.0))
    two = CaseStatistics(JointHistogram.from_cells([1], [3], [3], [7], ["b", "d", "a"]))
    three = CaseStatistics(JointHistogram.from_cells([1], [3], [1], [9], ["e"]))
    whole = ScoredCells.of([one])
    assert (whole.n_raters, whole.voxel_mm3) == (3, 2.5)
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
