"""Scores against single raters, and against all but one: scikit-learn, tables of fewer raters, notes."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss

from twintrack_core import metrics
from twintrack_core.codes import CODE_ONE, CODE_VALUES
from twintrack_core.histogram import CaseStatistics, JointHistogram, RegionName
from twintrack_core.metrics import Metric, Noted, Result, ScoredCells
from twintrack_core.metrics.calibration import ece_mhr
from twintrack_core.metrics.proper import brier_mhr, cross_entropy_mhr

NAMES = ("ann", "bob", "cy", "di")


def volume(seed: int = 0, n_raters: int = 4) -> JointHistogram:
    rng = np.random.default_rng(seed)
    p = (rng.random((5, 6, 7)) ** 2).astype(np.float16)
    raters = rng.random((n_raters, 5, 6, 7)) < p
    return JointHistogram.from_arrays(p, raters, rater_names=NAMES[:n_raters], roi=rng.random((5, 6, 7)) < 0.6)


def measured(name: str, cells: ScoredCells) -> Result:
    (metric,) = metrics.resolve([name])
    assert isinstance(metric, Metric)
    return metric(cells)


def value(result: Result) -> float:
    found = result.value if isinstance(result, Noted) else result
    assert isinstance(found, float)
    return found


@pytest.mark.parametrize("region", ["whole", "roi"])
def test_brier_and_log_loss_are_scikit_learns(region: RegionName) -> None:
    histogram = volume()
    cells = ScoredCells.of([CaseStatistics(histogram)], region)
    inside = histogram.region >= (region == "roi")
    code, weight = histogram.code[inside], histogram.count[inside]
    brier, loss = [], []
    for bit, name in enumerate(NAMES):
        mark = histogram.pattern[inside] >> bit & 1
        brier.append(brier_score_loss(mark, CODE_VALUES[code], sample_weight=weight))
        clipped = np.clip(CODE_VALUES[code], 2.0**-25, 1 - 2.0**-12)
        loss.append(log_loss(mark, clipped, sample_weight=weight))
        assert measured(f"brier_rater:{name}", cells) == pytest.approx(brier[-1])
        assert measured(f"log_loss_rater:{name}", cells) == pytest.approx(loss[-1])
    assert measured("brier_rater", cells) == pytest.approx(np.mean(brier))
    assert measured("log_loss_rater", cells) == pytest.approx(np.mean(loss))


@pytest.mark.parametrize("region", ["whole", "roi"])
def test_leaving_a_rater_out_is_a_table_without_the_rater(region: RegionName) -> None:
    cases = [CaseStatistics(volume(0)), CaseStatistics(volume(1, 3)), CaseStatistics(volume(2, 2))]
    for some in (cases[:1], cases):
        cells = ScoredCells.of(some, region)
        found: dict[str, list[float]] = {"ece": [], "brier": [], "log_loss": []}
        for name in NAMES:
            rest = [
                CaseStatistics(case.histogram.drop_raters([name])) for case in some if name in case.histogram.raters
            ]
            expected = ScoredCells.of(rest, region)
            for base, figure in (("ece", ece_mhr), ("brier", brier_mhr), ("log_loss", cross_entropy_mhr)):
                found[base].append(value(figure(expected)))
                assert value(measured(f"{base}_without:{name}", cells)) == pytest.approx(found[base][-1])
        for base, figures in found.items():
            assert value(measured(f"{base}_without", cells)) == pytest.approx(np.mean(figures))


def test_losses_say_how_many_scores_they_clipped() -> None:
    """Of ten voxels, two score 0 and ann alone marks one, one scores 1 and nobody marks it; bob marks others."""
    histogram = JointHistogram.from_cells(
        [1, 1, 1, 1], [0, 0, CODE_ONE, 9000], [0, 1, 0, 2], [1, 1, 1, 7], ["ann", "bob"]
    )
    cells = ScoredCells.of([CaseStatistics(histogram)])
    notes = {
        "log_loss_rater:ann": "2 of 10 voxels have a score of 0 or 1 that the rater contradicts; it was clipped",
        "log_loss_rater:bob": "1 of 10 voxels have a score of 0 or 1 that the rater contradicts; it was clipped",
        "log_loss_rater": "3 of 20 decisions of raters contradict a score of 0 or 1; it was clipped",
        "log_loss_without:ann": "1 of 10 voxels have a score of 0 or 1 that a rater contradicts; it was clipped",
        "log_loss_without:bob": "2 of 10 voxels have a score of 0 or 1 that a rater contradicts; it was clipped",
        "log_loss_without": "3 of 20 voxels, counted for every rater left out, have a score of 0 or 1 that a rater "
        "contradicts; it was clipped",
    }
    for name, note in notes.items():
        result = measured(name, cells)
        assert isinstance(result, Noted)
        assert result.note == note


def test_a_metric_of_a_rater_says_whose_and_can_be_pickled() -> None:
    (metric,) = metrics.resolve(["ece_rater:a:b"])  # only the first colon ends the name
    assert metric.name == "ece_rater:a:b"
    assert metric.description.endswith("; the rater is a:b")
    assert "mean over raters" not in metric.description
    assert metric.argument is None or metric.with_argument is not None
    cells = ScoredCells.of([CaseStatistics(volume())])
    (metric,) = metrics.resolve(["ece_rater:bob"])
    assert isinstance(metric, Metric)
    assert pickle.loads(pickle.dumps(metric))(cells) == metric(cells)
