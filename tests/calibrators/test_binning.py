from __future__ import annotations

import warnings
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from twintrack_core.calibrators.equal_mass_binning import equal_mass_binning
from twintrack_core.calibrators.histogram_binning import histogram_binning
from twintrack_core.calibrators.knots import Calibrator, Knots
from twintrack_core.calibrators.platt import platt
from twintrack_core.calibrators.scaling_binning import scaling_binning
from twintrack_core.codes import CODE_ONE, CODE_VALUES, N_CODES
from twintrack_core.errors import FitError
from twintrack_core.histogram import CaseStatistics, CohortStatistics, JointHistogram
from twintrack_core.maps import CalibrationMap
from twintrack_core.metrics.reliability import bins_of
from twintrack_core.targets import BinnedTarget
from twintrack_core.testing.calibrators import CalibratorConformance

Floats = npt.NDArray[np.float64]
Cells = dict[int, tuple[int, int]]
"""Voxels and marks at each code."""

BINNINGS = [histogram_binning, equal_mass_binning, scaling_binning]
TARGET_BINNINGS = [histogram_binning, equal_mass_binning]
every_binning = pytest.mark.parametrize("binning", BINNINGS)
every_target_binning = pytest.mark.parametrize("binning", TARGET_BINNINGS)

codes = st.one_of(
    st.integers(0, CODE_ONE),
    st.sampled_from([0, 1, CODE_ONE - 1, CODE_ONE]),
    st.integers(1, 14).map(lambda k: int(np.searchsorted(CODE_VALUES, k / 15))),
    st.integers(1, 14).map(lambda k: int(np.searchsorted(CODE_VALUES, k / 15)) - 1),
)


def tables(most: int = 40) -> st.SearchStrategy[Cells]:
    """Voxels and marks at codes, few voxels of each."""
    counts = st.integers(1, most).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n)))
    return st.dictionaries(codes, counts, min_size=1, max_size=50)


def binned(cells: Cells, times: int = 1) -> BinnedTarget:
    """The target that cells give, each voxel taken many times."""
    code = np.array(sorted(cells))
    voxels, marks = np.array([cells[c] for c in code.tolist()], dtype=np.int64).T
    return BinnedTarget(CODE_VALUES[code], voxels * float(times), marks / voxels)


def expand(target: BinnedTarget) -> tuple[Floats, Floats]:
    """Score and target of every voxel."""
    voxels = target.weight.astype(np.int64)
    return np.repeat(target.score, voxels), np.repeat(target.mean, voxels)


def table(knots: Knots) -> Floats:
    return CalibrationMap(knots.score, knots.value, parameters=knots.parameters).table


def outputs(knots: Knots, target: BinnedTarget) -> Floats:
    return np.asarray(table(knots)[np.searchsorted(CODE_VALUES, target.score)])


def fitted(binning: Calibrator, target: BinnedTarget) -> Knots:
    """Fit, or give the example up where Platt's function is not determined."""
    try:
        return binning(target)
    except FitError:
        assume(binning is not scaling_binning)
        raise


def mean(target: BinnedTarget, values: Floats) -> float:
    return float((target.weight * values).sum() / target.weight.sum())


def equal_width_bin(score: Floats) -> npt.NDArray[np.intp]:
    return np.minimum(np.digitize(score, np.arange(16) / 15) - 1, 14)


def equal_mass_bin(scores: Floats, asked: Floats) -> list[int]:
    """The bin of each score asked: straight from the rule, voxel by voxel."""
    edges = [-(-len(scores) * j // 15) for j in range(1, 15)]
    lower = np.searchsorted(np.sort(scores), asked).tolist()
    return [sum(edge <= below for edge in edges) for below in lower]


def by_voxels(
    scores: Floats, values: Floats, bin_of_voxel: npt.ArrayLike, bin_of_code: npt.ArrayLike, *, pool: bool = True
) -> Floats:
    """What every code gets: means of bins, in order by scikit-learn, empty bins by the nearest lower one."""
    place = np.asarray(bin_of_voxel)
    filled = np.unique(place)
    means = np.array([values[place == k].mean() for k in filled])
    if pool:
        voxels = [np.count_nonzero(place == k) for k in filled]
        means = IsotonicRegression().fit_transform(filled.astype(np.float64), means, sample_weight=voxels)
    lower = np.searchsorted(filled, np.asarray(bin_of_code), side="right") - 1
    return np.asarray(means[np.maximum(lower, 0)])


class TestHistogramBinning(CalibratorConformance):
    calibrator = staticmethod(histogram_binning)


class TestEqualMassBinning(CalibratorConformance):
    calibrator = staticmethod(equal_mass_binning)


class TestScalingBinning(CalibratorConformance):
    calibrator = staticmethod(scaling_binning)


@given(tables())
def test_histogram_binning_is_the_mean_of_the_voxels_of_a_bin(cells: Cells) -> None:
    target = binned(cells)
    scores, values = expand(target)
    expected = by_voxels(scores, values, equal_width_bin(scores), equal_width_bin(CODE_VALUES))
    np.testing.assert_allclose(table(histogram_binning(target)), expected, rtol=0, atol=1e-12)
    filled = np.count_nonzero(np.histogram(scores, np.arange(16) / 15)[0])
    assert histogram_binning(target).parameters["filled"] == filled


@given(tables())
def test_equal_mass_binning_is_the_mean_of_the_voxels_of_a_bin(cells: Cells) -> None:
    target = binned(cells)
    scores, values = expand(target)
    expected = by_voxels(scores, values, equal_mass_bin(scores, scores), equal_mass_bin(scores, CODE_VALUES))
    np.testing.assert_allclose(table(equal_mass_binning(target)), expected, rtol=0, atol=1e-12)


@given(tables())
def test_scaling_binning_is_the_mean_of_platts_outputs_in_a_bin(cells: Cells) -> None:
    target = binned(cells)
    knots = fitted(scaling_binning, target)
    scaling = platt(target)
    g = np.maximum.accumulate(table(scaling))
    scores, _ = expand(target)
    output = g[np.searchsorted(CODE_VALUES, scores)]
    expected = by_voxels(output, output, equal_mass_bin(output, output), equal_mass_bin(output, g), pool=False)
    np.testing.assert_allclose(table(knots), expected, rtol=0, atol=1e-12)
    assert mean(target, outputs(knots, target)) == pytest.approx(mean(target, outputs(scaling, target)), abs=1e-12)
    assert mean(target, outputs(knots, target)) == pytest.approx(mean(target, target.mean), abs=1e-7)
    assert knots.parameters["scaling"] == scaling.parameters


@every_target_binning
@given(cells=tables())
def test_the_mean_target_is_kept(binning: Calibrator, cells: Cells) -> None:
    target = binned(cells)
    assert mean(target, outputs(binning(target), target)) == pytest.approx(mean(target, target.mean), abs=1e-12)


@every_target_binning
@given(cells=tables(), times=st.sampled_from([2, 3, 1000, 1 << 37]))
def test_only_the_proportions_of_weights_matter(binning: Calibrator, cells: Cells, times: int) -> None:
    once, often = binning(binned(cells)), binning(binned(cells, times))
    np.testing.assert_allclose(table(once), table(often), rtol=0, atol=1e-12)
    assert once.parameters["filled"] == often.parameters["filled"]


@every_binning
@given(cells=tables(), times=st.sampled_from([1, 1 << 37]))
def test_a_map_is_a_step_function_on_0_to_1(binning: Calibrator, cells: Cells, times: int) -> None:
    knots = fitted(binning, binned(cells, times))
    values = table(knots)
    assert (np.diff(values) >= 0).all()
    assert values[0] >= 0
    assert values[-1] <= 1
    assert len(np.unique(values)) <= 15
    assert set(values.tolist()) == set(knots.value.tolist())  # nothing in between
    assert set(knots.score.tolist()) <= set(CODE_VALUES.tolist())


@every_target_binning
@given(cells=tables(), times=st.sampled_from([1, 1 << 37]))
def test_a_step_function_of_the_bins_is_found_again(binning: Calibrator, cells: Cells, times: int) -> None:
    target = binned(cells, times)
    first = binning(target)
    again = binning(BinnedTarget(target.score, target.weight, outputs(first, target)))
    assert table(again).tolist() == table(first).tolist()
    assert again.parameters["pooled"] == 0


@every_target_binning
def test_voxels_of_many_cases_are_those_of_one(binning: Calibrator) -> None:
    """The weight of a score is split over cases, whose tables are summed."""
    rng = np.random.default_rng(3)
    code, pattern, count = rng.integers(0, N_CODES, 300), rng.integers(0, 4, 300), rng.integers(1, 50, 300)
    part = rng.integers(0, count + 1)
    ones = np.ones_like(code)
    halves = [JointHistogram.from_cells(ones, code, pattern, n, ["ann", "bob"]) for n in (part, count - part)]
    whole = JointHistogram.from_cells(ones, code, pattern, count, ["ann", "bob"])
    statistics = CohortStatistics({str(i): CaseStatistics(half) for i, half in enumerate(halves)})
    split = binning(BinnedTarget.from_statistics(statistics, "mhr"))
    assert table(split).tolist() == table(binning(BinnedTarget.from_histogram(whole, "mhr"))).tolist()


@given(
    st.dictionaries(codes, st.integers(1, 1 << 44), min_size=1, max_size=31),
    st.integers(0, 1 << 32),
)
def test_large_counts_are_binned_exactly(voxels: dict[int, int], seed: int) -> None:
    """Up to 2^53 / 15 voxels: bins of equal mass by integers, values by fractions."""
    code = sorted(voxels)
    means = np.sort(np.random.default_rng(seed).random(len(code)))
    target = BinnedTarget(CODE_VALUES[code], np.array([voxels[c] for c in code], dtype=np.float64), means)
    total = sum(voxels.values())
    lower, bins = 0, dict[int, list[tuple[int, float]]]()
    place = []
    for c, value in zip(code, means.tolist(), strict=True):
        place.append(sum(-(-total * j // 15) <= lower for j in range(1, 15)))
        bins.setdefault(place[-1], []).append((voxels[c], value))
        lower += voxels[c]
    expected = {
        k: float(sum(n * Fraction(value) for n, value in members) / sum(n for n, _ in members))
        for k, members in bins.items()
    }
    got = outputs(equal_mass_binning(target), target)
    np.testing.assert_allclose(got, [expected[k] for k in place], rtol=1e-12, atol=0)


@every_binning
def test_background_of_score_0_takes_its_share(binning: Calibrator) -> None:
    """With 99 % of the voxels at 0, which nobody marked, 0 stays apart or shares its bin of equal width."""
    code = np.arange(1000, N_CODES, 100)
    score = np.append(0.0, CODE_VALUES[code])
    weight = np.append(99.0 * len(code), np.ones(len(code)))
    target = BinnedTarget(score, weight, score**2)
    knots = binning(target)
    values = table(knots)
    if binning is histogram_binning:
        assert knots.parameters == {"bins": 15, "filled": 15, "pooled": 0}
        lowest = score < 1 / 15
        assert values[0] == pytest.approx(np.average(score[lowest] ** 2, weights=weight[lowest]), abs=1e-12)
    else:
        assert knots.parameters["filled"] == 2
        assert len(set(values[1:])) == 1
        assert values[0] < values[1]
    if binning is equal_mass_binning:
        assert values[0] == 0
        assert values[1] == pytest.approx((score[1:] ** 2).mean(), abs=1e-12)


@every_target_binning
@pytest.mark.parametrize("score", [0.0, CODE_VALUES[1], 0.2, 0.5, 1.0])
@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_one_score_gives_a_constant(binning: Calibrator, score: float, value: float) -> None:
    score = float(np.float16(score))
    target = BinnedTarget(np.array([score]), np.array([7.0]), np.array([value]))
    knots = binning(target)
    assert knots.parameters["filled"] == 1
    assert (table(knots) == value).all()


def test_one_score_does_not_determine_a_scaling() -> None:
    with pytest.raises(FitError):
        scaling_binning(BinnedTarget(np.array([0.5]), np.array([7.0]), np.array([0.3])))


@every_target_binning
def test_a_falling_target_is_pooled_to_its_mean(binning: Calibrator) -> None:
    target = BinnedTarget(CODE_VALUES, np.ones(N_CODES), 1 - CODE_VALUES)
    knots = binning(target)
    assert knots.parameters == {"bins": 15, "filled": 15, "pooled": 15}
    np.testing.assert_allclose(table(knots), mean(target, target.mean), rtol=0, atol=1e-12)


@every_target_binning
def test_equal_bins_are_not_said_to_be_pooled(binning: Calibrator) -> None:
    target = BinnedTarget(CODE_VALUES, np.arange(1.0, N_CODES + 1), np.full(N_CODES, 0.4))
    knots = binning(target)
    assert knots.parameters == {"bins": 15, "filled": 15, "pooled": 0}
    assert knots.value.tolist() == [0.4]


def test_only_bins_out_of_order_are_pooled() -> None:
    score = np.array([0.03125, 0.125, 0.1875, 0.75])  # the bins 0, 1, 2 and 11
    target = BinnedTarget(score, np.array([1.0, 3.0, 1.0, 2.0]), np.array([0.1, 0.5, 0.3, 0.9]))
    knots = histogram_binning(target)
    assert knots.parameters == {"bins": 15, "filled": 4, "pooled": 2}
    np.testing.assert_allclose(outputs(knots, target), [0.1, 0.45, 0.45, 0.9], rtol=0, atol=1e-15)
    values = table(knots)
    edges = np.searchsorted(CODE_VALUES, [1 / 15, 11 / 15])
    for edge, below, above in zip(edges, [0.1, 0.45], [0.45, 0.9], strict=True):
        assert values[edge - 1] == pytest.approx(below)  # empty bins have the value of the next lower
        assert values[edge] == pytest.approx(above)
    assert knots.score.tolist() == sorted(CODE_VALUES[[*(edges - 1), *edges]].tolist())


def test_equal_mass_never_splits_a_code() -> None:
    """Fifteen voxels, most of one score: it has one value, and the bins it fills besides stay empty."""
    target = BinnedTarget(CODE_VALUES[[5, 6, 7]], np.array([2.0, 11.0, 2.0]), np.array([0.1, 0.2, 0.3]))
    knots = equal_mass_binning(target)
    assert knots.parameters == {"bins": 15, "filled": 3, "pooled": 0}
    assert knots.score.tolist() == CODE_VALUES[[5, 6, 7]].tolist()
    assert knots.value.tolist() == [0.1, 0.2, 0.3]


@pytest.mark.parametrize("seed", range(5))
def test_equal_mass_bins_are_those_of_the_adaptive_calibration_error(seed: int) -> None:
    """A map of as many voxels a bin leaves no adaptive error where the bins stay the same."""
    rng = np.random.default_rng(seed)
    code = np.sort(rng.choice(N_CODES, 2000, replace=False))
    target = BinnedTarget(CODE_VALUES[code], rng.integers(1, 30, len(code)).astype(np.float64), CODE_VALUES[code] ** 2)
    scores, _ = expand(target)
    place = np.array(equal_mass_bin(scores, target.score))
    values = outputs(equal_mass_binning(target), target)
    assert [len(set(values[place == k])) for k in range(15)] == [1] * 15
    assert len(set(values)) == 15


def test_scaling_binning_bins_equal_outputs_together() -> None:
    """A target that does not rise makes Platt's function constant: all outputs are one, and so is the map."""
    target = BinnedTarget(CODE_VALUES, np.ones(N_CODES), 1 - CODE_VALUES)
    knots = scaling_binning(target)
    assert knots.parameters["filled"] == 1
    np.testing.assert_allclose(table(knots), mean(target, target.mean), rtol=0, atol=1e-7)


def test_histogram_binning_is_netcals() -> None:
    """Whose labels are 0 or 1, whose bins need not be in order, and whose empty bins are filled otherwise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it imports is not ours to mend
        binning: Any = pytest.importorskip("netcal.binning")
    rng = np.random.default_rng(0)
    scores = rng.random(50_000).astype(np.float16).astype(np.float64)
    marks = (rng.random(len(scores)) < scores**2).astype(np.int64)
    score, place, weight = np.unique(scores, return_inverse=True, return_counts=True)
    target = BinnedTarget(score, weight.astype(np.float64), np.bincount(place, weights=marks) / weight)
    assert histogram_binning(target).parameters == {"bins": 15, "filled": 15, "pooled": 0}
    peer = binning.HistogramBinning(bins=15)
    peer.fit(scores, marks)
    np.testing.assert_allclose(table(histogram_binning(target)), peer.transform(CODE_VALUES), rtol=0, atol=1e-12)


def test_edges_are_those_of_the_calibration_errors() -> None:
    expected = np.flatnonzero(np.diff(bins_of(CODE_VALUES)))
    target = BinnedTarget(CODE_VALUES, np.ones(N_CODES), CODE_VALUES)
    assert np.flatnonzero(np.diff(table(histogram_binning(target)))).tolist() == expected.tolist()
    assert np.flatnonzero(np.diff(equal_width_bin(CODE_VALUES))).tolist() == expected.tolist()
