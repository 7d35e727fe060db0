from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import BSpline
from scipy.optimize import LinearConstraint, minimize
from scipy.special import expit, log_expit

from twintrack_core.calibrators import BinnedTarget, Knots
from twintrack_core.calibrators.smooth import TOLERANCE
from twintrack_core.calibrators.spline import spline
from twintrack_core.codes import CODE_ONE, CODE_VALUES
from twintrack_core.errors import FitError
from twintrack_core.testing.calibrators import check_calibrator

Array = npt.NDArray[np.float64]


def log_odds(score: Array) -> Array:
    clipped = np.clip(score, 2.0**-25, 1 - 2.0**-12)
    return np.asarray(np.log(clipped) - np.log1p(-clipped))


def cohort(seed: int, background: int = 1_000_000, n: int = 900) -> BinnedTarget:
    """Many voxels of score 0, and a target that rises with the score, in bends."""
    rng = np.random.default_rng(seed)
    code = np.unique(np.append(rng.integers(0, CODE_ONE + 1, n), [0, CODE_ONE]))
    weight = np.where(code == 0, background, rng.integers(1, 5000, len(code))).astype(np.float64)
    score = CODE_VALUES[code]
    mean = np.clip(0.1 + 0.7 * score + 0.1 * np.sin(9 * score) + rng.normal(0, 0.03, len(code)), 0, 1)
    return BinnedTarget(score, weight, np.where(code == 0, 1e-4, mean))


def truth(mean: Array) -> BinnedTarget:
    return BinnedTarget(CODE_VALUES.copy(), np.ones(len(CODE_VALUES)), mean)


def at_codes(knots: Knots) -> Array:
    return np.asarray(np.interp(CODE_VALUES, knots.score, knots.value))


def test_conformance() -> None:
    check_calibrator(spline)


def problem(fitted: Knots, target: BinnedTarget) -> Callable[[Array], tuple[float, Array]]:
    """What the spline minimises and its gradient, as functions of the B-spline coefficients."""
    knots = np.array(fitted.parameters["knots"])
    basis = BSpline.design_matrix(log_odds(target.score), knots, 3).toarray()
    weight = target.weight / target.weight.sum()
    p = np.clip(target.score, 2.0**-25, 1 - 2.0**-12)
    penalty = 1e-4 * (weight * p * (1 - p)).sum()
    bends = np.diff(np.eye(basis.shape[1]), n=2, axis=0) / (knots[1] - knots[0])

    def loss(coefficients: Array) -> tuple[float, Array]:
        logits = basis @ coefficients
        likelihood = (weight * (target.mean * log_expit(logits) + (1 - target.mean) * log_expit(-logits))).sum()
        slope = basis.T @ (weight * (expit(logits) - target.mean)) + penalty * bends.T @ (bends @ coefficients)
        return float(-likelihood + penalty / 2 * ((bends @ coefficients) ** 2).sum()), slope

    return loss


@pytest.mark.parametrize("dips", [False, True])
def test_spline_is_the_minimum_that_another_optimiser_finds(dips: bool) -> None:
    target = cohort(3)
    if dips:  # in the middle, where the best that does not fall is flat
        dip = (target.score > 0.3) & (target.score < 0.6)
        target = BinnedTarget(target.score, target.weight, np.where(dip, 0.9 - target.mean, target.mean))
    fitted = spline(target)
    knots, found = np.array(fitted.parameters["knots"]), np.array(fitted.parameters["coefficients"])
    expected = expit(BSpline(knots, found, 3)(log_odds(CODE_VALUES)))
    np.testing.assert_allclose(at_codes(fitted), expected, rtol=0, atol=1e-12 + TOLERANCE)
    assert (np.diff(found) >= 0).all()
    assert (np.diff(found) == 0).any() or not dips
    loss = problem(fitted, target)
    other = minimize(
        loss,
        np.linspace(-6, 6, len(found)),
        jac=True,
        method="SLSQP",
        constraints=[LinearConstraint(np.diff(np.eye(len(found)), axis=0), lb=0)],
        options={"ftol": 1e-16, "maxiter": 5000},
    )
    assert loss(found)[0] <= other.fun + 1e-14
    p = expit(BSpline(knots, other.x, 3)(log_odds(CODE_VALUES)))
    np.testing.assert_allclose(at_codes(fitted), p, rtol=0, atol=1e-6)


@pytest.mark.parametrize("n", [900, 50_000])
@given(seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=20)
def test_the_spline_meets_the_conditions_of_a_minimum(n: int, seed: int) -> None:
    """Karush-Kuhn-Tucker: no slope where a coefficient step is free, none downwards where it is 0."""
    target = cohort(seed, n=n)
    fitted = spline(target)
    coefficients = np.array(fitted.parameters["coefficients"])
    gradient = problem(fitted, target)(coefficients)[1]
    by_step = np.cumsum(gradient[::-1])[::-1]  # a step lifts all coefficients after it
    assert abs(by_step[0]) < 1e-12
    free = np.diff(coefficients) > 0
    assert np.abs(by_step[1:][free]).max() < 1e-12
    assert (by_step[1:] > -1e-12).all()


@given(st.floats(0.1, 3), st.floats(-4, 4))
@settings(deadline=None, max_examples=10)
def test_spline_recovers_platts_function(a: float, b: float) -> None:
    expected = expit(a * log_odds(CODE_VALUES) + b)
    np.testing.assert_allclose(at_codes(spline(truth(expected))), expected, rtol=0, atol=1e-8 + TOLERANCE)


@pytest.mark.parametrize(
    "function",
    [
        lambda p: 0.02 + 0.9 * p**1.5,
        lambda p: 0.05 + 0.9 * p / (0.4 + p) + 0.02 * p,
        lambda p: 0.5 + 0.45 * np.sin(np.pi * (p - 0.5)),
    ],
)
def test_spline_nearly_follows_a_smooth_truth(function: object) -> None:
    assert callable(function)
    expected = function(CODE_VALUES)
    used = CODE_VALUES > 1e-4
    target = BinnedTarget(CODE_VALUES[used], np.full(int(used.sum()), 1000.0), expected[used])
    assert np.abs(at_codes(spline(target)) - expected)[used].max() < 0.01


@given(
    st.dictionaries(
        st.integers(0, CODE_ONE), st.tuples(st.integers(1, 1 << 55), st.floats(0.01, 0.99)), min_size=2, max_size=40
    )
)
@settings(deadline=None, max_examples=40)
def test_maps_never_fall(cells: dict[int, tuple[int, float]]) -> None:
    code = sorted(cells)
    weight, mean = np.array([cells[c] for c in code]).T
    knots = spline(BinnedTarget(CODE_VALUES[code], weight, mean))
    assert (np.diff(knots.value) >= 0).all()
    assert ((knots.value >= 0) & (knots.value <= 1)).all()


@given(st.integers(0, 1000), st.integers(2, 1 << 40))
@settings(deadline=None, max_examples=10)
def test_only_the_share_of_a_weight_counts(seed: int, factor: int) -> None:
    target = cohort(seed)
    before = at_codes(spline(target))
    scaled = BinnedTarget(target.score, target.weight * factor, target.mean)
    np.testing.assert_allclose(at_codes(spline(scaled)), before, rtol=0, atol=1e-8 + 2 * TOLERANCE)
    part = target.weight / 4
    split = BinnedTarget(
        np.repeat(target.score, 2), np.stack([part, target.weight - part], 1).ravel(), np.repeat(target.mean, 2)
    )
    np.testing.assert_allclose(at_codes(spline(split)), before, rtol=0, atol=1e-8 + 2 * TOLERANCE)


def test_background_does_not_change_the_rest() -> None:
    few, many = (at_codes(spline(cohort(0, n))) for n in (1_000_000, 1_000_000_000))
    np.testing.assert_allclose(few[8192:], many[8192:], rtol=0, atol=0.002)


@pytest.mark.parametrize(
    ("mean", "words"),
    [
        ([0, 0, 0, 0], "All targets are 0, so"),
        ([1, 1, 1, 1], "All targets are 1, so"),
        ([0, 0, 1, 1], "All targets are 0 below the score"),
        ([0, 0.5, 1, 1], "All targets are 0 below the score"),
    ],
)
def test_what_has_no_maximum_is_refused(mean: list[float], words: str) -> None:
    score = CODE_VALUES[[100, 5000, 9000, 14500]]
    with pytest.raises(FitError, match=words) as raised:
        spline(BinnedTarget(score, np.ones(4), np.array(mean, dtype=np.float64)))
    assert "isotonic" in str(raised.value)
    with pytest.raises(FitError, match="1 different score,"):
        spline(BinnedTarget(score[:1], np.ones(1), np.array([0.3])))


def test_exact_zeros_below_and_ones_above_do_not_matter() -> None:
    """Only the penalty makes the maximum finite, where flat pieces could lie between steep ones."""
    score = CODE_VALUES[np.arange(0, CODE_ONE + 1, 64)]
    mean = np.where(score < 0.01, 0.0, np.where(score > 0.9, 1.0, 0.3 + 0.4 * (np.arange(len(score)) % 2)))
    value = at_codes(spline(BinnedTarget(score, np.full(len(score), 2.0**50), mean)))
    assert value[0] < 0.01
    assert value[-1] > 0.9
    assert 0.4 < value[np.searchsorted(CODE_VALUES, 0.3)] < 0.6
