"""Agreement of the raters: statsmodels, krippendorff, SimpleITK, closed forms."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from twintrack_core import metrics
from twintrack_core.histogram import CaseStatistics, JointHistogram
from twintrack_core.metrics import Metric, Result, ScoredCells, Undefined
from twintrack_core.metrics.agreement import fleiss_kappa, krippendorff_alpha, pairwise_dice
from twintrack_core.targets import staple, target_values

NAMES = ("ann", "bob", "cy", "di", "eve")


def masks(seed: int = 0, n_raters: int = 5) -> npt.NDArray[np.bool_]:
    """Raters who draw a ball of about the same size, and slip now and then."""
    rng = np.random.default_rng(seed)
    distance = np.linalg.norm(np.indices((12, 14, 16)) - np.array([6, 7, 8]).reshape(3, 1, 1, 1), axis=0)
    found = np.stack([distance < radius for radius in rng.normal(4, 0.4, n_raters)])
    return np.asarray(found ^ (rng.random(found.shape) < 0.01), dtype=bool)


def scored(*volumes: npt.NDArray[np.bool_], names: list[tuple[str, ...]] | None = None) -> ScoredCells:
    cases = []
    for place, volume in enumerate(volumes):
        raters = names[place] if names else NAMES[: len(volume)]
        score = np.zeros(volume.shape[1:], dtype=np.float16)
        cases.append(CaseStatistics(JointHistogram.from_arrays(score, volume, rater_names=raters)))
    return ScoredCells.of(cases)


def measured(name: str, cells: ScoredCells) -> Result:
    (metric,) = metrics.resolve([name])
    assert isinstance(metric, Metric)
    return metric(cells)


@pytest.mark.parametrize("n_raters", [2, 3, 5])
def test_kappa_is_that_of_statsmodels(n_raters: int) -> None:
    inter_rater = pytest.importorskip("statsmodels.stats.inter_rater")
    marks = masks(n_raters=n_raters)
    table, _ = inter_rater.aggregate_raters(marks.reshape(n_raters, -1).T.astype(int))
    assert fleiss_kappa(scored(marks)) == pytest.approx(inter_rater.fleiss_kappa(table, method="fleiss"), rel=1e-12)


def test_alpha_is_that_of_krippendorff_with_raters_missing() -> None:
    krippendorff = pytest.importorskip("krippendorff")
    one, two, three = masks(0, 3), masks(1, 2), masks(2, 1)
    names = [("ann", "bob", "cy"), ("di", "bob"), ("eve",)]
    values = np.full((5, 3 * one[0].size), np.nan)
    for place, (volume, raters) in enumerate(zip((one, two, three), names, strict=True)):
        for mask, rater in zip(volume, raters, strict=True):
            values[NAMES.index(rater), place * mask.size : (place + 1) * mask.size] = mask.ravel()
    expected = krippendorff.alpha(reliability_data=values, level_of_measurement="nominal")
    assert krippendorff_alpha(scored(one, two, three, names=names)) == pytest.approx(expected, rel=1e-12)


def test_cases_of_different_panels_have_an_alpha_but_no_kappa() -> None:
    cells = scored(masks(0, 3), masks(1, 2))
    assert fleiss_kappa(cells) == Undefined("the cases have different numbers of raters: take krippendorff_alpha")
    alike = scored(masks(0, 2), masks(1, 2), names=[("ann", "bob"), ("cy", "di")])
    assert fleiss_kappa(alike) == pytest.approx(krippendorff_alpha(alike), rel=1e-3)


@pytest.mark.parametrize("times", [1, 2**24 + 1, 2**32 + 1, 2**58])
def test_closed_forms(times: int) -> None:
    """Two raters and four voxels: both mark one, one marks another, and nobody marks two."""
    histogram = JointHistogram.from_cells([1] * 3, [0] * 3, [0, 1, 3], np.array([2, 1, 1]) * times, ["a", "b"])
    cells = ScoredCells.of([CaseStatistics(histogram)])
    assert fleiss_kappa(cells) == pytest.approx(1 - 0.25 / (2 * 3 / 8 * 5 / 8))
    n = 8 * times
    assert krippendorff_alpha(cells) == pytest.approx(1 - 0.25 / (2 * 3 / 8 * 5 / 8) * (n - 1) / n)
    assert pairwise_dice(cells) == pytest.approx(2 / 3)


def test_chance_is_told_from_agreement_where_almost_nothing_is_marked() -> None:
    """1 minus the chance of agreement is 1e-16: as a difference from 1 it would be rounding."""
    histogram = JointHistogram.from_cells([1] * 3, [0] * 3, [0, 1, 3], [2**56, 1, 3], ["a", "b"])
    assert fleiss_kappa(ScoredCells.of([CaseStatistics(histogram)])) == pytest.approx(1 - 1 / 7, rel=1e-12)


def test_pairs_that_marked_nothing_are_left_out() -> None:
    marks = masks(0, 3)
    marks[2] = False
    both = 2 * (marks[0] & marks[1]).sum() / (marks[0].sum() + marks[1].sum())
    assert pairwise_dice(scored(marks)) == pytest.approx(both / 3)  # 0 with the one who marked nothing
    marks[1] = False
    assert pairwise_dice(scored(marks)) == 0
    marks[0] = False
    assert pairwise_dice(scored(marks)) == Undefined("no rater of a pair marked a voxel")


def test_rates_are_those_of_simpleitks_staple() -> None:
    sitk = pytest.importorskip("SimpleITK")
    marks = masks()
    staple = sitk.STAPLEImageFilter()
    staple.SetForegroundValue(1)
    staple.Execute([sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in marks])
    cells = scored(marks)
    for kind, theirs in (("sensitivity", staple.GetSensitivity()), ("specificity", staple.GetSpecificity())):
        ours = [measured(f"staple_{kind}:{name}", cells) for name in NAMES]
        assert ours == pytest.approx(list(theirs), abs=2e-3)
        assert measured(f"staple_{kind}", cells) == pytest.approx(np.mean(theirs), abs=2e-3)


def test_within_a_region_the_truth_is_still_that_of_the_whole_volume() -> None:
    marks = masks()
    roi = np.zeros(marks.shape[1:], dtype=bool)
    roi[4:9, 4:11, 4:13] = True
    score = np.zeros(roi.shape, dtype=np.float16)
    case = CaseStatistics(JointHistogram.from_arrays(score, marks, rater_names=NAMES, roi=roi))

    pattern = (marks * (1 << np.arange(5))[:, None, None, None]).sum(axis=0)
    truth = target_values(case.histogram, "staple")[pattern]
    for name, mask in zip(NAMES, marks, strict=True):
        expected = truth[roi & mask].sum() / truth[roi].sum()
        assert measured(f"staple_sensitivity:{name}", ScoredCells.of([case], "roi")) == pytest.approx(expected)
        expected = (1 - truth)[roi & ~mask].sum() / (1 - truth)[roi].sum()
        assert measured(f"staple_specificity:{name}", ScoredCells.of([case], "roi")) == pytest.approx(expected)


def test_staple_is_estimated_once_for_the_same_marks() -> None:
    counts = np.array([900, 30, 20, 50])
    found = staple(counts, 2)
    assert staple(counts.copy(), 2) is found
    assert staple(counts + 1, 2) is not found
    for values in (found.probability, found.sensitivity, found.specificity):
        assert not values.flags.writeable
