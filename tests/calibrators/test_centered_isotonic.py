from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from twintrack_core.calibrators.centered_isotonic import centered_isotonic
from twintrack_core.calibrators.knots import Knots
from twintrack_core.codes import CODE_ONE, CODE_VALUES, N_CODES
from twintrack_core.maps import CalibrationMap
from twintrack_core.targets import BinnedTarget
from twintrack_core.testing.calibrators import CalibratorConformance

Floats = npt.NDArray[np.float64]
Cells = dict[int, tuple[int, int]]
"""Voxels and marks at each code."""

codes = st.one_of(st.integers(0, CODE_ONE), st.integers(0, 40), st.sampled_from([0, 1, CODE_ONE - 1, CODE_ONE]))


def tables(most: int = 12) -> st.SearchStrategy[Cells]:
    counts = st.integers(1, most).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n)))
    return st.dictionaries(codes, counts, min_size=1, max_size=40)


def binned(cells: Cells, times: int = 1) -> BinnedTarget:
    code = np.array(sorted(cells))
    voxels, marks = np.array([cells[c] for c in code.tolist()], dtype=np.int64).T
    return BinnedTarget(CODE_VALUES[code], voxels * float(times), marks / voxels)


def table(knots: Knots) -> Floats:
    return CalibrationMap(knots.score, knots.value, parameters=knots.parameters).table


def by_definition(cells: Cells) -> Floats:
    """Oron and Flournoy's algorithm, in fractions: pool the first pair that does not increase strictly, until none is
    left, and with its values its scores; a pair of zeros or of ones is none. The ends are constant."""
    points = [(Fraction(float(CODE_VALUES[c])), Fraction(cells[c][1], cells[c][0]), cells[c][0]) for c in sorted(cells)]

    def violates(i: int) -> bool:
        one, two = points[i][1], points[i + 1][1]
        return one > two or (one == two and one not in (0, 1))

    while wrong := [i for i in range(len(points) - 1) if violates(i)]:
        (x, y, n), (u, v, m) = points[wrong[0] : wrong[0] + 2]
        points[wrong[0] : wrong[0] + 2] = [((x * n + u * m) / (n + m), (y * n + v * m) / (n + m), n + m)]
    return np.interp(CODE_VALUES, [float(x) for x, _, _ in points], [float(y) for _, y, _ in points])


class TestCenteredIsotonic(CalibratorConformance):
    calibrator = staticmethod(centered_isotonic)


@given(tables())
def test_it_is_the_definition_at_every_code(cells: Cells) -> None:
    np.testing.assert_allclose(table(centered_isotonic(binned(cells))), by_definition(cells), rtol=0, atol=1e-10)


@given(tables())
def test_plateaus_are_those_of_isotonic_regression(cells: Cells) -> None:
    """Scikit-learn's plateaus, each at the mean score of its voxels."""
    target = binned(cells)
    fitted = IsotonicRegression().fit_transform(target.score, target.mean, sample_weight=target.weight).round(10)
    knots = centered_isotonic(target)
    assert knots.parameters["plateaus"] == len(np.unique(fitted))
    for value in np.unique(fitted):
        inside = fitted == value
        score = target.score[inside]
        center = np.average(score, weights=target.weight[inside])
        points = [score[0], score[-1]] if value in (0, 1) else [center]
        at = np.abs(knots.value - value) < 1e-9
        np.testing.assert_allclose(knots.score[at], np.unique(points), rtol=0, atol=1e-12)


@given(tables(), st.sampled_from([1, 3, 1000, 1 << 45]))
def test_it_increases_strictly_inside_0_and_1(cells: Cells, times: int) -> None:
    knots = centered_isotonic(binned(cells, times))
    flat = np.diff(knots.value) == 0
    assert (np.diff(knots.value) >= 0).all()
    assert np.isin(knots.value[:-1][flat], [0, 1]).all()
    assert knots.value[0] >= 0
    assert knots.value[-1] <= 1
    np.testing.assert_allclose(table(knots), table(centered_isotonic(binned(cells))), rtol=0, atol=1e-10)


def test_a_plateau_becomes_one_point() -> None:
    score = np.array([0.125, 0.25, 0.5, 0.75])
    target = BinnedTarget(score, np.array([1.0, 3.0, 1.0, 2.0]), np.array([0.1, 0.5, 0.3, 0.9]))
    knots = centered_isotonic(target)
    np.testing.assert_allclose(knots.score, [0.125, (3 * 0.25 + 0.5) / 4, 0.75], rtol=0, atol=1e-15)
    np.testing.assert_allclose(knots.value, [0.1, 0.45, 0.9], rtol=0, atol=1e-15)
    assert knots.parameters == {"plateaus": 3}


def test_plateaus_of_0_and_1_stay() -> None:
    score = CODE_VALUES[[0, 10, 5000, 9000, CODE_ONE - 1, CODE_ONE]]
    target = BinnedTarget(score, np.array([99.0, 1, 1, 1, 1, 1]), np.array([0, 0, 0.2, 0.7, 1, 1]))
    knots = centered_isotonic(target)
    assert knots.score.tolist() == score.tolist()
    assert knots.value.tolist() == target.mean.tolist()


def test_other_plateaus_at_the_ends_are_constant_beyond_their_points() -> None:
    score = np.array([0.25, 0.5, 0.625, 0.75])
    target = BinnedTarget(score, np.ones(4), np.array([0.3, 0.1, 0.9, 0.7]))
    knots = centered_isotonic(target)
    np.testing.assert_allclose(knots.score, [0.375, 0.6875], rtol=0, atol=1e-15)
    np.testing.assert_allclose(knots.value, [0.2, 0.8], rtol=0, atol=1e-15)


@given(st.lists(codes, min_size=2, max_size=40, unique=True), st.integers(0, 1 << 32), st.integers(1, 1 << 57))
def test_what_rises_strictly_is_left_as_it_is(code: list[int], seed: int, most: int) -> None:
    rng = np.random.default_rng(seed)
    mean = np.cumsum(rng.uniform(0.001, 1 / len(code), len(code))).clip(0, 1)
    target = BinnedTarget(CODE_VALUES[sorted(code)], rng.integers(1, most + 1, len(code)).astype(np.float64), mean)
    knots = centered_isotonic(target)
    assert knots.score.tolist() == target.score.tolist()
    assert knots.value.tolist() == target.mean.tolist()


@pytest.mark.parametrize("score", [CODE_VALUES[:1], CODE_VALUES[:2], CODE_VALUES[::300], CODE_VALUES])
@pytest.mark.parametrize("value", [0.0, 0.1, 0.4, 1.0])
def test_one_plateau_gives_a_constant_and_a_note(score: Floats, value: float) -> None:
    weight = np.random.default_rng(0).integers(1, 1 << 40, len(score)).astype(np.float64)
    knots = centered_isotonic(BinnedTarget(score, weight, np.full(len(score), value)))
    np.testing.assert_allclose(table(knots), value, rtol=0, atol=1e-12)
    assert len(set(table(knots))) == 1
    assert knots.parameters["plateaus"] == 1
    assert "constant" in knots.parameters["note"]


def test_a_falling_target_gives_its_mean() -> None:
    target = BinnedTarget(CODE_VALUES, np.ones(N_CODES), 1 - CODE_VALUES)
    knots = centered_isotonic(target)
    assert knots.score.tolist() == [pytest.approx(CODE_VALUES.mean(), abs=1e-12)]
    np.testing.assert_allclose(table(knots), 1 - CODE_VALUES.mean(), rtol=0, atol=1e-12)
    assert "note" in knots.parameters


def test_background_of_score_0_stays_at_0() -> None:
    """It holds 99 % of the voxels, and nobody marked it."""
    code = np.arange(1000, N_CODES, 100)
    score = np.append(0.0, CODE_VALUES[code])
    weight = np.append(99.0 * len(code), np.ones(len(code)))
    knots = centered_isotonic(BinnedTarget(score, weight, score**2))
    assert knots.value.tolist() == (score**2).tolist()
    noisy = np.clip(score**2 + np.where(np.arange(len(score)) % 2, 0.02, -0.02) * (score > 0), 0, 1)
    values = table(centered_isotonic(BinnedTarget(score, weight, noisy)))
    assert values[0] == 0
    rising = np.diff(values) > 0
    assert rising[np.argmax(rising) : -200].all()
