"""The bounds against refits, exact ones from the definition and SciPy's, and against the package venn-abers."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression

import twintrack_core as tt
from twintrack_core.calibrators import BinnedTarget, Knots, fit
from twintrack_core.histogram import JointHistogram
from twintrack_core.testing import CalibratorConformance
from twintrack_venn_abers.calibrator import venn_abers

Floats: TypeAlias = npt.NDArray[np.float64]
Cell: TypeAlias = tuple[int, float, float]  # score code, weight, mean target

N_CODES = 15361
CODE_VALUES = np.arange(N_CODES, dtype=np.uint16).view(np.float16).astype(np.float64)


class TestKit(CalibratorConformance):
    calibrator = staticmethod(venn_abers)


def fitted(cells: list[Cell]) -> Knots:
    code, weight, mean = (np.array(column) for column in zip(*cells, strict=True))
    return venn_abers(BinnedTarget(CODE_VALUES[code], weight.astype(np.float64), mean.astype(np.float64)))


def tables(knots: Knots) -> tuple[Floats, Floats, Floats]:
    """Value, lower and upper bound of every code, as a map has them."""
    calibration = tt.CalibrationMap(knots.score, knots.value, lower=knots.lower, upper=knots.upper)
    return calibration.table, calibration.bound("lower").table, calibration.bound("upper").table


def exactly(cells: list[Cell], code: int, added: int) -> Fraction:
    """The isotonic regression of some cells and a voxel, at its code, by its max-min formula in exact arithmetic."""
    sums: dict[int, tuple[Fraction, Fraction]] = {code: (Fraction(1), Fraction(added))}
    for c, weight, mean in cells:
        w, t = sums.get(c, (Fraction(0), Fraction(0)))
        sums[c] = w + Fraction(weight), t + Fraction(weight) * Fraction(mean)
    order = sorted(sums)
    at = order.index(code)

    def average(start: int, end: int) -> Fraction:
        inside = [sums[c] for c in order[start : end + 1]]
        return sum((t for _, t in inside), Fraction(0)) / sum((w for w, _ in inside), Fraction(0))

    return max(min(average(i, j) for j in range(at, len(order))) for i in range(at + 1))


codes = st.one_of(st.integers(0, N_CODES - 1), st.sampled_from([0, 1, 2, 8000, 8001, N_CODES - 2, N_CODES - 1]))
weights = st.one_of(st.integers(1, 5).map(float), st.integers(1, 1 << 50).map(float), st.floats(1e-3, 1e3))
means = st.one_of(st.sampled_from([0.0, 0.2, 0.4, 1.0]), st.floats(0, 1))


@given(st.lists(st.tuples(codes, weights, means), min_size=1, max_size=7, unique_by=lambda cell: cell[0]))
@settings(deadline=None)
def test_bounds_are_the_definition(cells: list[Cell]) -> None:
    cells = sorted(cells)
    value, lower, upper = tables(fitted(cells))
    near = {code + step for code, *_ in cells for step in (-1, 0, 1)} | {0, 5000, N_CODES - 1}
    for code in sorted(near & set(range(N_CODES))):
        p0, p1 = exactly(cells, code, 0), exactly(cells, code, 1)
        np.testing.assert_allclose(lower[code], float(p0), rtol=0, atol=1e-12)
        np.testing.assert_allclose(upper[code], float(p1), rtol=0, atol=1e-12)
        np.testing.assert_allclose(value[code], float(p1 / (1 - p0 + p1)), rtol=0, atol=1e-12)


def refit(target: BinnedTarget, code: int, added: float) -> float:
    """The isotonic regression of a target and a voxel, at its code, by SciPy."""
    score, weight, mean = target.score, target.weight, target.mean
    place = int(np.searchsorted(score, CODE_VALUES[code]))
    if place < len(score) and score[place] == CODE_VALUES[code]:
        weight, mean = weight.copy(), mean.copy()
        mean[place] = (weight[place] * mean[place] + added) / (weight[place] + 1)
        weight[place] += 1
    else:
        weight, mean = np.insert(weight, place, 1.0), np.insert(mean, place, added)
    return float(isotonic_regression(mean, weights=weight).x[place])


def sloped(seed: int, n: int, heaviest: int) -> BinnedTarget:
    """A target that rises, with noise, at n scores."""
    rng = np.random.default_rng(seed)
    code = np.sort(rng.choice(N_CODES, n, replace=False))
    weight = rng.integers(1, heaviest + 1, n).astype(np.float64)
    mean = np.clip(code / N_CODES + rng.normal(0, 0.2, n), 0, 1)
    return BinnedTarget(CODE_VALUES[code], weight, mean)


def test_every_code_is_refitted() -> None:
    target = sloped(0, 60, 3)
    value, lower, upper = tables(venn_abers(target))
    p0, p1 = (np.array([refit(target, code, added) for code in range(N_CODES)]) for added in (0.0, 1.0))
    np.testing.assert_allclose(lower, p0, rtol=0, atol=1e-12)
    np.testing.assert_allclose(upper, p1, rtol=0, atol=1e-12)
    np.testing.assert_allclose(value, p1 / (1 - p0 + p1), rtol=0, atol=1e-12)
    assert len(np.unique(p0)) > 10  # not a flat function, which would show nothing


@given(st.integers(0, 2**32), st.integers(1, 400), st.sampled_from([1, 3, 1000]))
@settings(deadline=None, max_examples=30)
def test_refits_of_longer_targets(seed: int, n: int, heaviest: int) -> None:
    target = sloped(seed, n, heaviest)
    _, lower, upper = tables(venn_abers(target))
    for code in np.random.default_rng(seed).integers(0, N_CODES, 40).tolist():
        np.testing.assert_allclose(lower[code], refit(target, code, 0.0), rtol=0, atol=1e-12)
        np.testing.assert_allclose(upper[code], refit(target, code, 1.0), rtol=0, atol=1e-12)


RANK = np.arange(N_CODES) / N_CODES
SHAPES = {
    "rising": RANK,
    "a plateau": 0.5 + 1e-9 * RANK,
    "falling": 1 - RANK,
    "at random": np.random.default_rng(0).random(N_CODES),
}


@pytest.mark.parametrize("mean", SHAPES.values(), ids=SHAPES.keys())
def test_every_score_occurs(mean: Floats) -> None:
    target = BinnedTarget(CODE_VALUES, np.ones(N_CODES), mean)
    value, lower, upper = tables(venn_abers(target))
    for code in (0, 1, 77, 5000, 9001, 15000, N_CODES - 1):
        np.testing.assert_allclose(lower[code], refit(target, code, 0.0), rtol=0, atol=1e-12)
        np.testing.assert_allclose(upper[code], refit(target, code, 1.0), rtol=0, atol=1e-12)
    assert ((lower <= value) & (value <= upper)).all()


def test_knots_are_the_ends_of_what_stands_still() -> None:
    knots = fitted([(100, 3.0, 0.5)])
    np.testing.assert_array_equal(knots.score, CODE_VALUES[[0, 99, 100, 101, N_CODES - 1]])
    assert knots.lower is not None
    assert knots.upper is not None
    assert knots.lower.tolist() == [0.0, 0.0, 0.375, 0.375, 0.375]  # 1.5 of 4
    assert knots.upper.tolist() == [0.625, 0.625, 0.625, 1.0, 1.0]  # 2.5 of 4
    np.testing.assert_allclose(knots.value, [0.625 / 1.625, 0.625 / 1.625, 0.5, 1 / 1.625, 1 / 1.625], rtol=1e-15)


def test_rounding_makes_no_knots() -> None:
    knots = fitted([(code, 3.0, 0.1 * (1 + code % 7)) for code in range(1000)])
    assert knots.lower is not None
    pooled = (knots.score > CODE_VALUES[300]) & (knots.score < CODE_VALUES[700])
    assert np.ptp(knots.lower[pooled]) < 1e-2
    assert (np.diff(np.unique(knots.lower)) > 1e-7).all()


def test_weights_may_be_whole_numbers() -> None:
    score, mean = CODE_VALUES[[5, 9000]], np.array([0.25, 0.75])
    whole: Any = BinnedTarget(score, np.array([3, 1 << 40]), mean)
    expected = fitted([(5, 3.0, 0.25), (9000, 2.0**40, 0.75)])
    np.testing.assert_array_equal(tables(venn_abers(whole)), tables(expected))


def test_a_map_keeps_the_band() -> None:
    histogram = JointHistogram.from_cells([1] * 4, [5, 5, 9000, 9000], [0, 1, 0, 1], [3, 1, 1, 3], ["ann"])
    calibration = fit(histogram, "venn_abers")
    assert calibration.calibrator == "venn_abers"
    assert calibration.bound("lower")(CODE_VALUES[5]) == 0.2  # 1 of 5
    assert calibration.bound("upper")(CODE_VALUES[9000]) == 0.8  # 4 of 5
    assert calibration(CODE_VALUES[5]) == pytest.approx(0.4 / (1 - 0.2 + 0.4))  # p1 is 2 of 5
    assert tt.CalibrationMap.from_json(calibration.to_json()) == calibration


@given(st.lists(st.tuples(codes, st.integers(0, 1), st.integers(1, 3)), min_size=2, max_size=60))
@settings(deadline=None, max_examples=200)
@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")  # of its own
def test_the_package_venn_abers_says_the_same(voxels: list[tuple[int, int, int]]) -> None:
    peer = pytest.importorskip("venn_abers", reason="it comes with the extra peers")
    code, mark, count = (np.array(column) for column in zip(*voxels, strict=True))
    code, mark = np.repeat(code, count), np.repeat(mark, count)
    model = peer.VennAbers()
    model.fit(np.stack([1 - CODE_VALUES[code], CODE_VALUES[code]], axis=1), mark.astype(np.float64))
    asked = np.unique(np.append(code, [0, 3000, 14000, N_CODES - 1]))
    value, bounds = model.predict_proba(np.stack([1 - CODE_VALUES[asked], CODE_VALUES[asked]], axis=1))
    histogram = JointHistogram.from_cells(np.ones_like(code), code, mark, np.ones_like(code), ["ann"])
    ours = tables(venn_abers(BinnedTarget.from_histogram(histogram, "mhr")))
    for one, two in zip(ours, (value[:, 1], bounds[:, 0], bounds[:, 1]), strict=True):
        np.testing.assert_allclose(one[asked], two, rtol=0, atol=1e-12)
