from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from twintrack_core.codes import CODE_VALUES, N_CODES, encode
from twintrack_core.errors import FitError, RequestError
from twintrack_core.histogram import CaseStatistics, CohortStatistics, JointHistogram
from twintrack_core.targets import BinnedTarget, staple, target_values

Floats = npt.NDArray[np.float64]

NAMES = ("ann", "bob", "cy")


def staple_voxelwise(marks: npt.NDArray[Any]) -> tuple[Floats, Floats, Floats]:
    """STAPLE as Warfield et al. write it, one row a rater and one column a voxel."""
    marked = marks.astype(bool)
    prior = marked.mean()
    sensitivity = np.full(len(marks), 0.99999)
    specificity = np.full(len(marks), 0.99999)
    truth = np.full(marked.shape[1], np.nan)
    for _ in range(500_000):
        a = prior * np.where(marked, sensitivity[:, None], 1 - sensitivity[:, None]).prod(axis=0)
        b = (1 - prior) * np.where(marked, 1 - specificity[:, None], specificity[:, None]).prod(axis=0)
        updated = a / (a + b)
        if np.abs(updated - truth).max() <= 1e-13:
            return updated, sensitivity, specificity
        truth = updated
        sensitivity = (truth * marked).sum(axis=1) / truth.sum()
        specificity = ((1 - truth) * ~marked).sum(axis=1) / (1 - truth).sum()
    raise AssertionError("did not settle")


def voxels(seed: int, n_raters: int, n: int = 3000, noise: float = 0.1) -> npt.NDArray[np.uint8]:
    """Marks (R, n) of raters who err independently, some more than others."""
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < 0.3
    error = noise * rng.uniform(0.5, 1.5, n_raters)
    return (truth ^ (rng.random((n_raters, n)) < error[:, None])).astype(np.uint8)


def pack(marks: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    return np.asarray((marks.astype(np.int64) << np.arange(len(marks))[:, None]).sum(axis=0))


@pytest.mark.parametrize("n_raters", [2, 3, 5, 8])
@pytest.mark.parametrize("seed", [0, 1])
def test_staple_equals_the_em_over_voxels(seed: int, n_raters: int) -> None:
    marks = voxels(seed, n_raters)
    probability, sensitivity, specificity = staple_voxelwise(marks)
    found = staple(np.bincount(pack(marks), minlength=1 << n_raters), n_raters)
    np.testing.assert_allclose(found.probability[pack(marks)], probability, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.sensitivity, sensitivity, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.specificity, specificity, rtol=0, atol=1e-12)
    absent = np.setdiff1d(np.arange(1 << n_raters), pack(marks))
    assert not found.probability[absent].any()


def test_staple_depends_on_proportions_only_and_takes_counts_of_any_size() -> None:
    counts = np.array([900, 20, 30, 100])
    small, large = staple(counts, 2), staple(counts * 2**50, 2)
    np.testing.assert_allclose(small.probability, large.probability, rtol=0, atol=1e-12)


def test_staple_of_raters_who_agree_is_their_segmentation() -> None:
    found = staple(np.array([90, 0, 0, 10]), 2)
    assert found.probability[3] == 1
    assert found.probability[0] < 1e-15
    assert found.sensitivity.tolist() == found.specificity.tolist() == [1, 1]
    assert staple(np.array([0, 0, 0, 10]), 2).probability[3] == 1


@given(st.lists(st.sampled_from([0, 1, 7, 100, 10**6, 10**12]), min_size=8, max_size=8))
@settings(deadline=None)
def test_staple_is_finite_where_it_settles(counts: list[int]) -> None:
    assume(any(counts[1:]))
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("twintrack_core.staple._MAX_ITERATIONS", 1000)
            found = staple(np.array(counts), 3)
    except FitError:  # it did not settle, and said so
        return
    for values in (found.probability, found.sensitivity, found.specificity):
        assert ((values >= 0) & (values <= 1)).all()


def test_staple_needs_a_mark() -> None:
    for counts, n_raters in (([5, 0], 1), ([0, 0, 0, 0], 2), ([5], 0)):
        with pytest.raises(FitError, match="undefined where no rater marked"):
            staple(np.array(counts), n_raters)


def test_staple_that_does_not_settle_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twintrack_core.staple._MAX_ITERATIONS", 100)
    with pytest.raises(FitError, match="did not settle within 100"):
        staple(np.array([10**6, 700, 700, 0]), 2)


@pytest.mark.skipif("TWINTRACK_TEST_DATA" not in os.environ, reason="TWINTRACK_TEST_DATA names no folder of data")
def test_staple_agrees_with_simpleitk_on_real_raters() -> None:
    sitk = pytest.importorskip("SimpleITK")
    folder = Path(os.environ["TWINTRACK_TEST_DATA"]) / "cells" / "calibration"
    for name in ("B13", "B17", "B22"):
        images = [sitk.ReadImage(str(folder / f"rater{rater}" / f"{name}.nii.gz")) for rater in range(1, 6)]
        expected = sitk.GetArrayFromImage(sitk.STAPLE(images, 1.0)).ravel()
        patterns = pack(np.stack([sitk.GetArrayFromImage(image).ravel() for image in images]))
        found = staple(np.bincount(patterns, minlength=32), 5).probability[patterns]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)
        np.testing.assert_array_equal(found >= 0.5, expected >= 0.5)


def make(seed: int, names: tuple[str, ...], n: int = 400) -> tuple[Floats, npt.NDArray[Any], npt.NDArray[np.bool_]]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 9, n) / 8, voxels(seed, len(names), n), rng.random(n) < 0.5


def value_of_voxels(marks: npt.NDArray[Any], names: tuple[str, ...], target: str) -> Floats:
    if target == "mhr":
        return np.asarray(marks.mean(axis=0))
    if target == "majority":
        return np.asarray((2 * marks.sum(axis=0) > len(marks)).astype(float))
    if target == "staple":
        return staple_voxelwise(marks)[0]
    return np.asarray(marks[names.index(target.removeprefix("rater:"))].astype(float))


def bin_voxels(scores: Floats, values: Floats) -> tuple[Floats, npt.NDArray[np.int64], Floats]:
    present, place, weight = np.unique(scores, return_inverse=True, return_counts=True)
    mean = np.array([values[place == index].mean() for index in range(len(present))])
    return present, weight, mean


@pytest.mark.parametrize("target", ["mhr", "majority", "staple", "rater:bob"])
@pytest.mark.parametrize("region", ["roi", "whole"])
def test_binned_targets_are_means_over_voxels(target: str, region: Any) -> None:
    scores, marks, roi = make(0, NAMES)
    histogram = JointHistogram.from_arrays(scores, marks, rater_names=NAMES, roi=roi)
    seen = roi if region == "roi" else np.ones_like(roi)
    score, weight, mean = bin_voxels(scores[seen], value_of_voxels(marks, NAMES, target)[seen])
    binned = BinnedTarget.from_histogram(histogram, target, region)
    np.testing.assert_array_equal(binned.score, score)
    np.testing.assert_array_equal(binned.weight, weight)
    np.testing.assert_allclose(binned.mean, mean, rtol=0, atol=1e-12)


@pytest.mark.parametrize("target", ["mhr", "majority", "staple", "rater:ann"])
def test_a_cohort_pools_the_targets_of_different_panels(target: str) -> None:
    panels = {"a": NAMES, "b": ("ann", "di"), "c": ("cy", "bob", "ann"), "d": ("ann", "b", "c", "d", "e", "f", "g")}
    cases, scores, values = {}, [], []
    for seed, (name, names) in enumerate(panels.items()):
        score, marks, roi = make(seed, names)
        cases[name] = CaseStatistics(JointHistogram.from_arrays(score, marks, rater_names=names, roi=roi))
        scores.append(score[roi])
        values.append(value_of_voxels(marks, names, target)[roi])
    score, weight, mean = bin_voxels(np.concatenate(scores), np.concatenate(values))
    binned = BinnedTarget.from_statistics(CohortStatistics(cases), target)
    np.testing.assert_array_equal(binned.score, score)
    np.testing.assert_array_equal(binned.weight, weight)
    np.testing.assert_allclose(binned.mean, mean, rtol=0, atol=1e-12)
    swapped = CohortStatistics(dict(reversed(cases.items())))
    np.testing.assert_array_equal(BinnedTarget.from_statistics(swapped, target).mean, binned.mean)


@given(st.integers(1, 8))
def test_target_values_by_pattern(n_raters: int) -> None:
    names = tuple(f"r{rater}" for rater in range(n_raters))
    histogram = JointHistogram.from_cells([1], [0], [0], [1], names)
    marks = np.array([pattern.bit_count() for pattern in range(1 << n_raters)])
    np.testing.assert_array_equal(target_values(histogram, "mhr"), marks / n_raters)
    np.testing.assert_array_equal(target_values(histogram, "majority"), marks / n_raters > 0.5)
    last = [pattern >> (n_raters - 1) & 1 for pattern in range(1 << n_raters)]
    np.testing.assert_array_equal(target_values(histogram, f"rater:r{n_raters - 1}"), last)


def test_large_counts_keep_their_means() -> None:
    code = int(encode(0.5))
    binned = BinnedTarget.from_histogram(
        JointHistogram.from_cells([1, 1], [code, code], [0, 1], [2**60, 2**60], ["ann"]), "mhr"
    )
    assert binned.weight.tolist() == [2**61]
    assert binned.mean.tolist() == [0.5]


def test_nothing_inside_gives_an_empty_target() -> None:
    binned = BinnedTarget.from_histogram(JointHistogram.from_cells([0], [3], [1], [1], NAMES), "mhr")
    assert len(binned.score) == len(binned.weight) == len(binned.mean) == 0


def test_scores_are_the_values_of_codes() -> None:
    cells = np.arange(0, N_CODES, 100)
    ones = np.ones_like(cells)
    binned = BinnedTarget.from_histogram(JointHistogram.from_cells(ones, cells, ones, ones, ["ann"]), "mhr")
    np.testing.assert_array_equal(binned.score, CODE_VALUES[::100])
    assert (binned.mean == 1).all()


def test_what_has_no_target_is_refused_and_the_case_named() -> None:
    histogram = JointHistogram.from_cells([1], [0], [0], [1], NAMES)
    with pytest.raises(RequestError, match=r"no target 'median'\.\nAllowed: mhr, majority, staple, rater:NAME"):
        target_values(histogram, "median")
    with pytest.raises(RequestError, match="no rater 'di'"):
        target_values(histogram, "rater:di")
    with pytest.raises(RequestError, match="no region"):
        BinnedTarget.from_histogram(histogram, "mhr", "outside")  # type: ignore[arg-type]
    rated = CaseStatistics(histogram)
    unrated = CaseStatistics(histogram.keep_raters([]))
    with pytest.raises(RequestError, match="Case y: There are no raters"):
        BinnedTarget.from_statistics(CohortStatistics({"x": rated, "y": unrated}), "mhr")
    other = CaseStatistics(histogram.keep_raters(["bob"]))
    with pytest.raises(RequestError, match="Case y: There is no rater 'ann'"):
        BinnedTarget.from_statistics(CohortStatistics({"x": rated, "y": other}), "rater:ann")
    with pytest.raises(FitError, match="Case x: STAPLE is undefined"):
        BinnedTarget.from_statistics(CohortStatistics({"x": rated}), "staple")
