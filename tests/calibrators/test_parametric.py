from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit
from sklearn.linear_model import LogisticRegression

from twintrack_core.calibrators import BinnedTarget, Calibrator, Knots
from twintrack_core.calibrators.beta import beta
from twintrack_core.calibrators.platt import platt
from twintrack_core.calibrators.smooth import TOLERANCE, to_knots
from twintrack_core.calibrators.temperature import temperature
from twintrack_core.codes import CODE_ONE, CODE_VALUES
from twintrack_core.errors import FitError
from twintrack_core.testing.calibrators import check_calibrator

Array = npt.NDArray[np.float64]
ALL: tuple[Calibrator, ...] = (platt, temperature, beta)


def clipped(score: Array) -> Array:
    return np.clip(score, 2.0**-25, 1 - 2.0**-12)


def log_odds(score: Array) -> Array:
    return np.asarray(np.log(clipped(score)) - np.log1p(-clipped(score)))


def beta_columns(score: Array) -> Array:
    return np.stack([np.log(clipped(score)), -np.log1p(-clipped(score))])


def binned(code: Any, weight: Any, mean: Any) -> BinnedTarget:
    score = CODE_VALUES[np.asarray(code)]
    weight = np.broadcast_to(np.asarray(weight), score.shape).astype(np.float64)
    return BinnedTarget(score, weight, np.broadcast_to(np.asarray(mean, np.float64), score.shape).copy())


def cohort(seed: int = 0, background: int = 10_000_000, n: int = 900) -> BinnedTarget:
    """Many voxels of score 0, and a target that rises with the score, not as any calibrator assumes."""
    rng = np.random.default_rng(seed)
    code = np.unique(np.append(rng.integers(0, CODE_ONE + 1, n), [0, CODE_ONE]))
    weight = np.where(code == 0, background, rng.integers(1, 5000, len(code)))
    score = CODE_VALUES[code]
    mean = np.clip(0.15 + 0.6 * score**1.5 + rng.normal(0, 0.03, len(code)), 0, 1)
    return binned(code, weight, np.where(code == 0, 1e-4, mean))


BACKGROUNDS = ["most", "few", "nearly all"]
DENSE = cohort(3, n=50_000)  # so many scores that they are first fitted in groups


def truth(function: Callable[[Array], Array], weight: int = 1) -> BinnedTarget:
    """A target whose mean is exactly a function of the score."""
    code = np.arange(0, CODE_ONE + 1, 40)
    return binned(code, weight, function(CODE_VALUES[code]))


def at_codes(knots: Knots) -> Array:
    return np.asarray(np.interp(CODE_VALUES, knots.score, knots.value))


def regression(columns: Array, target: BinnedTarget) -> tuple[Array, float]:
    """What scikit-learn's unpenalised logistic regression finds on one row marked and one not for each score."""
    weight = target.weight / target.weight.sum()
    rows = np.concatenate([columns.T, columns.T])
    marks = np.repeat([1, 0], len(weight))
    weights = np.concatenate([weight * target.mean, weight * (1 - target.mean)])
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-13, max_iter=1000)
    model.fit(rows, marks, sample_weight=weights)
    return model.coef_[0], float(model.intercept_[0])


@pytest.mark.parametrize("calibrator", ALL)
def test_conformance(calibrator: Calibrator) -> None:
    check_calibrator(calibrator)


@pytest.mark.parametrize("target", [cohort(0), cohort(1, 1000), cohort(2, 1 << 32), DENSE], ids=[*BACKGROUNDS, "dense"])
def test_platt_is_logistic_regression(target: BinnedTarget) -> None:
    (a,), b = regression(log_odds(target.score)[np.newaxis], target)
    knots = platt(target)
    np.testing.assert_allclose([knots.parameters["a"], knots.parameters["b"]], [a, b], rtol=0, atol=1e-6)
    np.testing.assert_allclose(at_codes(knots), expit(a * log_odds(CODE_VALUES) + b), rtol=0, atol=1e-6 + TOLERANCE)
    assert knots.parameters["dropped"] == []


@pytest.mark.parametrize("target", [cohort(0), cohort(1, 1000), DENSE], ids=[*BACKGROUNDS[:2], "dense"])
def test_beta_is_logistic_regression(target: BinnedTarget) -> None:
    (a, b), c = regression(beta_columns(target.score), target)
    assert min(a, b) > 0
    knots = beta(target)
    np.testing.assert_allclose([knots.parameters[name] for name in "abc"], [a, b, c], rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        at_codes(knots), expit([a, b] @ beta_columns(CODE_VALUES) + c), rtol=0, atol=1e-6 + TOLERANCE
    )
    assert knots.parameters["dropped"] == []


@pytest.mark.parametrize(("bent", "kept"), [((-0.2, 0.9, 0.1), 1), ((0.9, -0.2, 0.1), 0)])
def test_beta_drops_a_term_that_would_be_negative(bent: tuple[float, float, float], kept: int) -> None:
    target = truth(lambda score: expit(np.array(bent[:2]) @ beta_columns(score) + bent[2]))
    (slope,), c = regression(beta_columns(target.score)[kept : kept + 1], target)
    parameters = beta(target).parameters
    names = "ab"
    assert parameters["dropped"] == [names[1 - kept]]
    assert parameters[names[1 - kept]] == 0
    np.testing.assert_allclose([parameters[names[kept]], parameters["c"]], [slope, c], rtol=0, atol=1e-6)


def test_beta_is_the_authors() -> None:
    betacal = pytest.importorskip("betacal")
    target = cohort(1, 1000)
    weights = np.concatenate([target.weight * target.mean, target.weight * (1 - target.mean)])
    model = betacal.BetaCalibration(parameters="abm")
    model.fit(np.tile(clipped(target.score), 2), np.repeat([1, 0], len(target.score)), weights)
    # Its solver stops at gradients of 1e-4; the test above has the parameters to 1e-6.
    np.testing.assert_allclose(at_codes(beta(target)), model.predict(clipped(CODE_VALUES)), rtol=0, atol=1e-4)


@pytest.mark.parametrize("target", [cohort(0), cohort(1, 1000), DENSE], ids=[*BACKGROUNDS[:2], "dense"])
def test_temperature_is_the_minimum_of_one_variable(target: BinnedTarget) -> None:
    x, weight = log_odds(target.score), target.weight / target.weight.sum()

    def loss(t: float) -> float:
        return -float((weight * (target.mean * log_expit(x / t) + (1 - target.mean) * log_expit(-x / t))).sum())

    def slope(t: float) -> float:  # the minimum of the loss itself is known to half the digits only
        return abs(float((weight * (target.mean - expit(x / t)) * x).sum()))

    rough = float(minimize_scalar(loss, bounds=(0.05, 50), method="bounded", options={"xatol": 1e-9}).x)
    fine = minimize_scalar(slope, bounds=(rough - 1e-3, rough + 1e-3), method="bounded", options={"xatol": 1e-12}).x
    knots = temperature(target)
    np.testing.assert_allclose(knots.parameters["temperature"], fine, rtol=0, atol=1e-6)
    np.testing.assert_allclose(at_codes(knots), expit(log_odds(CODE_VALUES) / fine), rtol=0, atol=1e-6 + TOLERANCE)


@given(st.floats(0.05, 3), st.floats(-4, 4), st.sampled_from([1, 1 << 55]))
@settings(deadline=None, max_examples=25)
def test_platt_recovers_its_own(a: float, b: float, weight: int) -> None:
    knots = platt(truth(lambda score: expit(a * log_odds(score) + b), weight))
    np.testing.assert_allclose([knots.parameters["a"], knots.parameters["b"]], [a, b], rtol=0, atol=1e-8)
    np.testing.assert_allclose(at_codes(knots), expit(a * log_odds(CODE_VALUES) + b), rtol=0, atol=1e-8 + TOLERANCE)


@given(st.floats(0.2, 20), st.sampled_from([1, 1 << 55]))
@settings(deadline=None, max_examples=25)
def test_temperature_recovers_its_own(t: float, weight: int) -> None:
    knots = temperature(truth(lambda score: expit(log_odds(score) / t), weight))
    np.testing.assert_allclose(knots.parameters["temperature"], t, rtol=1e-8)
    np.testing.assert_allclose(at_codes(knots), expit(log_odds(CODE_VALUES) / t), rtol=0, atol=1e-8 + TOLERANCE)


@given(st.floats(0.05, 2), st.floats(0.05, 2), st.floats(-4, 4), st.sampled_from([1, 1 << 55]))
@settings(deadline=None, max_examples=25)
def test_beta_recovers_its_own(a: float, b: float, c: float, weight: int) -> None:
    knots = beta(truth(lambda score: expit([a, b] @ beta_columns(score) + c), weight))
    np.testing.assert_allclose([knots.parameters[name] for name in "abc"], [a, b, c], rtol=0, atol=1e-8)
    np.testing.assert_allclose(
        at_codes(knots), expit([a, b] @ beta_columns(CODE_VALUES) + c), rtol=0, atol=1e-8 + TOLERANCE
    )


TARGETS = st.dictionaries(
    st.integers(0, CODE_ONE), st.tuples(st.integers(1, 1 << 55), st.floats(0.01, 0.99)), min_size=4, max_size=40
)


@pytest.mark.parametrize("calibrator", ALL)
@given(TARGETS)
@settings(deadline=None, max_examples=40)
def test_maps_never_fall(calibrator: Calibrator, cells: dict[int, tuple[int, float]]) -> None:
    code = sorted(cells)
    target = binned(code, [cells[c][0] for c in code], [cells[c][1] for c in code])
    if calibrator is temperature:
        assume((target.weight / target.weight.sum() * (target.mean - 0.5) * log_odds(target.score)).sum() > 1e-12)
    knots = calibrator(target)
    assert (np.diff(knots.value) >= 0).all()
    assert ((knots.value >= 0) & (knots.value <= 1)).all()


@pytest.mark.parametrize("calibrator", ALL)
@given(st.integers(0, 1000), st.integers(2, 1 << 41))
@settings(deadline=None, max_examples=10)
def test_only_the_share_of_a_weight_counts(calibrator: Calibrator, seed: int, factor: int) -> None:
    target = cohort(seed, 100_000)
    before = at_codes(calibrator(target))
    scaled = BinnedTarget(target.score, target.weight * factor, target.mean)
    np.testing.assert_allclose(at_codes(calibrator(scaled)), before, rtol=0, atol=1e-8 + 2 * TOLERANCE)
    part = target.weight / 4
    split = BinnedTarget(
        np.repeat(target.score, 2), np.stack([part, target.weight - part], 1).ravel(), np.repeat(target.mean, 2)
    )
    np.testing.assert_allclose(at_codes(calibrator(split)), before, rtol=0, atol=1e-8 + 2 * TOLERANCE)


@pytest.mark.parametrize("calibrator", ALL)
def test_weights_may_add_up_to_more_than_integers_hold(calibrator: Calibrator) -> None:
    target = cohort(0, 1)
    small = BinnedTarget(target.score, np.full(len(target.score), 3.0), target.mean)
    large = BinnedTarget(target.score, np.full(len(target.score), 3.0 * 2**56), target.mean)
    np.testing.assert_array_equal(at_codes(calibrator(large)), at_codes(calibrator(small)))


def assert_refused(calibrator: Calibrator, target: BinnedTarget, words: str) -> None:
    with pytest.raises(FitError, match=words) as raised:
        calibrator(target)
    assert str(raised.value).count("\n") == 2
    assert "isotonic" in str(raised.value)


CODES = [100, 5000, 9000, 14500]


@pytest.mark.parametrize("calibrator", [platt, beta])
def test_what_has_no_maximum_is_refused(calibrator: Calibrator) -> None:
    assert_refused(calibrator, binned([9000], 5, 0.3), "1 different score,")
    assert_refused(calibrator, binned(CODES, 5, 0), "All targets are 0, so")
    assert_refused(calibrator, binned(CODES, 5, 1), "All targets are 1, so")
    assert_refused(calibrator, binned(CODES, 5, [0, 0, 1, 1]), "All targets are 0 below the score")
    assert_refused(calibrator, binned(CODES, 5, [0, 0.5, 1, 1]), "All targets are 0 below the score")
    assert_refused(calibrator, binned(CODES, 5, [0, 0, 1 - 1e-16, 1]), "All targets are 0 below the score")


def test_beta_needs_three_scores() -> None:
    assert_refused(beta, binned(CODES[1:3], 5, [0.3, 0.4]), "2 different scores")
    assert platt(binned(CODES[1:3], 5, [0.3, 0.4])).parameters["a"] > 0


def test_temperatures_that_are_not_there_are_refused() -> None:
    assert_refused(temperature, binned([100, 5000], 5, 0.0), "any lower temperature")
    assert_refused(temperature, binned([100, 5000, 15000], 5, [0, 0, 1]), "any lower temperature")
    assert_refused(temperature, binned([100, 5000, 15000], 5, [1, 1, 0]), "any higher temperature")
    assert_refused(temperature, binned([14336], 5, 0.7), "any higher temperature")  # 0.5 whatever the temperature


@pytest.mark.parametrize("calibrator", [platt, beta])
def test_a_falling_target_gives_a_constant(calibrator: Calibrator) -> None:
    target = binned(CODES, [1, 2, 3, 4], [1, 0.8, 0.5, 0])
    knots = calibrator(target)
    assert knots.parameters["dropped"] == (["a"] if calibrator is platt else ["a", "b"])
    mean = float((target.weight * target.mean).sum() / target.weight.sum())
    np.testing.assert_allclose(knots.value, mean, rtol=1e-12)
    assert len(knots.score) == 2


@given(st.floats(0.05, 3), st.floats(-5, 5))
@settings(deadline=None, max_examples=25)
def test_knots_keep_the_function(a: float, b: float) -> None:
    def function(score: Array) -> Array:
        return np.asarray(expit(a * log_odds(score) + b))

    knots = to_knots(function, {"a": a})
    assert knots.parameters == {"a": a}
    assert (knots.score[0], knots.score[-1]) == (0, 1)
    np.testing.assert_allclose(at_codes(knots), function(CODE_VALUES), rtol=0, atol=TOLERANCE * (1 + 1e-6))
    kept = np.searchsorted(CODE_VALUES, knots.score)
    np.testing.assert_array_equal(knots.value, function(CODE_VALUES)[kept])


def test_no_knot_is_needless() -> None:
    bent = to_knots(lambda score: np.where(score < 0.25, score, 0.25 + (score - 0.25) / 2), {})
    assert bent.score.tolist() == [0, 0.25, 1]
    smooth = to_knots(lambda score: expit(0.5 * log_odds(score)), {})
    every = expit(0.5 * log_odds(CODE_VALUES))
    for first, last in pairwise(np.searchsorted(CODE_VALUES, smooth.score[::5])):  # without the four in between
        chord = np.interp(CODE_VALUES[first : last + 1], CODE_VALUES[[first, last]], every[[first, last]])
        assert np.abs(chord - every[first : last + 1]).max() > TOLERANCE


def test_targets_that_lead_far_are_followed() -> None:
    """Weights so different that the logits of a few scores end up at a thousand and more."""
    code = [0, 1, 11222, 11465, 11487, 12388, 13198, 13694, 14386, 14653]
    weight = [4164859814449919, 12412, 8907, 123331278157, 46041547397088, 20918, 156120, 2, 37, 287882]
    target = binned(code, weight, [0, 0.9, 1, 0, 0.3, 0, 0.4, 0, 0.6, 0.7])
    parameters = platt(target).parameters
    x, share = log_odds(target.score), target.weight / target.weight.sum()
    residual = share * (target.mean - expit(parameters["a"] * x + parameters["b"]))
    assert np.abs([residual.sum(), (residual * x).sum()]).max() < 1e-12


@pytest.mark.parametrize("n_mixed", [2, 12, 40])
def test_scores_whose_groups_are_separated_are_fitted(n_mixed: int) -> None:
    """Zeros below and ones above but for a few scores in between, which become one or two groups."""
    mean = np.where(np.arange(CODE_ONE + 1) < 9000, 0.0, 1.0)
    mean[9000 - n_mixed // 2 : 9000 + n_mixed // 2] = 0.5
    target = binned(np.arange(CODE_ONE + 1), 1, mean)
    parameters = platt(target).parameters
    x = log_odds(target.score)
    residual = (target.mean - expit(parameters["a"] * x + parameters["b"])) / len(x)
    assert np.abs([residual.sum(), (residual * x).sum()]).max() < 1e-12


@given(st.integers(0, 1000))
@settings(deadline=None, max_examples=20)
def test_nothing_pulls_at_a_maximum(seed: int) -> None:
    target = cohort(seed)
    share, columns = target.weight / target.weight.sum(), beta_columns(target.score)
    parameters = beta(target).parameters
    residual = share * (target.mean - expit([parameters["a"], parameters["b"]] @ columns + parameters["c"]))
    for name, pull in zip("abc", [*(columns @ residual), residual.sum()], strict=True):
        assert pull < 1e-12
        assert pull > -1e-12 or name in parameters["dropped"]
