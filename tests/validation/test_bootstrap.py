from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from twintrack_core.errors import RequestError
from twintrack_core.validation import Bootstrap


def expanded_level(n: int, level: float = 0.95) -> float:
    """The level of an interval of SciPy that ends where one that is expanded for n cases does."""
    reach = np.sqrt(n / (n - 1)) * stats.t.ppf((1 + level) / 2, n - 1)
    return float(2 * stats.norm.cdf(reach) - 1)


@pytest.mark.parametrize("n", [8, 20, 60])
@pytest.mark.parametrize(("ours", "scipys"), [("percentile", "percentile"), ("bca", "BCa")])
def test_intervals_are_scipys_at_the_expanded_level(n: int, ours: Any, scipys: str) -> None:
    values = np.random.default_rng(n).exponential(size=n)
    low, high = Bootstrap(60_000).of_means(values[:, np.newaxis], ours)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=60_000, method=scipys, confidence_level=expanded_level(n), rng=1
    ).confidence_interval
    width = theirs.high - theirs.low
    # Two samples of draws: the ends lie far out where there are few cases.
    student = stats.t.interval(0.95, n - 1, loc=values.mean(), scale=stats.sem(values))
    assert abs(low[0] - min(theirs.low, student[0])) < 0.03 * width
    assert abs(high[0] - max(theirs.high, student[1])) < 0.05 * width


def test_undefined_values_are_left_out() -> None:
    rng = np.random.default_rng(0)
    values = rng.random((20, 3))
    values[5:, 1] = np.nan
    values[1:, 2] = np.nan
    low, high = Bootstrap(2000).of_means(values)
    assert np.isnan([low[2], high[2]]).all()
    some = values[:5, 1]
    student = stats.t.interval(0.95, 4, loc=some.mean(), scale=stats.sem(some))
    assert low[1] <= student[0] + 1e-12
    assert high[1] >= student[1] - 1e-12
    first, second, third = Bootstrap(2000).estimates(values)
    assert (second.mean, second.defined) == (some.mean(), 5)
    assert (third.mean, third.low, third.high, third.defined) == (values[0, 2], None, None, 1)
    assert first.low is not None
    assert first.low < values[:, 0].mean()


def test_equal_values_leave_no_interval_but_a_point() -> None:
    for value in (0.0, 0.1, 1e9):
        low, high = Bootstrap().of_means(np.full((7, 1), value))
        np.testing.assert_allclose([low[0], high[0]], value, rtol=1e-14)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30), st.sampled_from(["bca", "percentile"]))
def test_no_interval_is_shorter_than_students_nor_leaves_the_values_further_than_that(
    values: list[float], method: Any
) -> None:
    column = np.array(values)[:, np.newaxis]
    low, high = Bootstrap(200).of_means(column, method)
    spread = float(np.std(values, ddof=1) / np.sqrt(len(values)))
    start, end = np.mean(values) + spread * np.array(stats.t.interval(0.95, len(values) - 1))
    slack = 1e-9 * max(1.0, np.abs(column).max())
    assert min(column.min(), start) - slack <= low[0] <= start + slack
    assert end - slack <= high[0] <= max(column.max(), end) + slack


def test_ends_stay_within_what_there_can_be() -> None:
    values = np.array([[0.01, -0.9], [0.02, 0.8], [0.4, 0.1]])
    free = Bootstrap().estimates(values)
    bound = Bootstrap().estimates(values, ranges=[(0.0, 1.0), (-np.inf, np.inf)])
    assert free[0].low is not None
    assert free[0].low < 0 == bound[0].low
    assert bound[1] == free[1]


def test_groups_are_drawn_whole() -> None:
    rng = np.random.default_rng(0)
    of_group = rng.gamma(2, size=(12, 2))
    # Copies of a case, all in one group, tell no more than the case alone.
    copied = np.repeat(of_group, 3, axis=0)
    groups = np.repeat(np.arange(12), 3)
    for method in ("bca", "percentile"):
        alone = Bootstrap(500).of_means(of_group, method)
        together = Bootstrap(500).of_means(copied, method, groups)
        np.testing.assert_allclose(together, alone, rtol=1e-12)
    times = Bootstrap(100).times(36, groups)
    assert (times.reshape(100, 12, 3) == times.reshape(100, 12, 3)[:, :, :1]).all()
    assert (times.sum(axis=1) == 36).all()


def test_groups_of_different_sizes_are_those_of_a_loop() -> None:
    rng = np.random.default_rng(1)
    groups = np.array([0, 0, 0, 1, 2, 2, 3, 3, 3, 3])
    values = rng.random((10, 1))
    values[4] = np.nan
    values[8] = np.nan
    bootstrap = Bootstrap(400)
    number = np.random.default_rng(0).multinomial(4, np.full(4, 0.25), size=400)
    drawn = []
    for times in number:
        chosen = np.concatenate([np.repeat(values[groups == g, 0], n) for g, n in enumerate(times)])
        drawn.append(np.nanmean(chosen))
    reach = np.sqrt(4 / 3) * stats.t.ppf(0.975, 3)
    first, last = np.quantile(drawn, [stats.norm.cdf(-reach), stats.norm.cdf(reach)])
    low, high = bootstrap.of_means(values, "percentile", groups)
    defined = ~np.isnan(values[:, 0])
    mean = values[defined, 0].mean()
    residual = [(values[defined & (groups == g), 0] - mean).sum() for g in range(4)]
    spread = reach * np.sqrt(np.square(residual).sum()) / defined.sum()
    np.testing.assert_allclose([low[0], high[0]], [min(first, mean - spread), max(last, mean + spread)], rtol=1e-12)


@given(st.floats(0.1, 100), st.floats(-50, 50))
def test_intervals_move_and_scale_with_the_values(scale: float, shift: float) -> None:
    values = np.random.default_rng(3).gamma(2, size=(12, 1))
    for method in ("bca", "percentile"):
        low, high = Bootstrap(300).of_means(values, method)
        moved = Bootstrap(300).of_means(scale * values + shift, method)
        np.testing.assert_allclose([m[0] for m in moved], [scale * low[0] + shift, scale * high[0] + shift], rtol=1e-6)


def test_draws_are_of_whole_cases_and_repeat() -> None:
    times = Bootstrap(100, seed=4).times(7)
    assert times.shape == (100, 7)
    assert (times.sum(axis=1) == 7).all()
    np.testing.assert_array_equal(times, Bootstrap(100, seed=4).times(7))
    assert (times != Bootstrap(100, seed=5).times(7)).any()


def test_percentiles_of_draws() -> None:
    drawn = np.column_stack([np.arange(1000.0), np.full(1000, np.nan), np.where(np.arange(1000) < 500, np.nan, 1.0)])
    centre = np.array([499.5, 0.5, 1.0])
    low, high = Bootstrap(1000).of_draws(drawn, centre, 1000)
    # Uniform draws are so spread that Student's interval is the longer one.
    reach = np.sqrt(1000 / 999) * stats.t.ppf(0.975, 999) * drawn[:, 0].std(ddof=1)
    np.testing.assert_allclose([low[0], high[0]], [499.5 - reach, 499.5 + reach])
    assert np.isnan([low[1], high[1]]).all()
    assert (low[2], high[2]) == (1.0, 1.0)
    skew = np.random.default_rng(0).exponential(size=(1000, 1)) ** 3
    low, high = Bootstrap(1000).of_draws(skew, np.array([6.0]), 50)
    outer = np.sqrt(50 / 49) * stats.t.ppf(0.975, 49)
    expected = np.quantile(skew, [stats.norm.cdf(-outer), stats.norm.cdf(outer)])
    assert low[0] == pytest.approx(min(expected[0], 6 - outer * skew.std(ddof=1)))
    assert high[0] == pytest.approx(max(expected[1], 6 + outer * skew.std(ddof=1)))
    assert np.isnan(Bootstrap(1000).of_draws(drawn, centre, 1)[0]).all()


def test_the_standard_interval_is_students() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=9)
    drawn = values[rng.integers(0, 9, (200_000, 9))].mean(axis=1)
    low, high = Bootstrap(50).around(values.mean(), drawn, 9)
    theirs = stats.t.interval(0.95, 8, loc=values.mean(), scale=stats.sem(values))
    np.testing.assert_allclose([low, high], theirs, atol=0.01)
    assert np.isnan(Bootstrap(50).around(0.0, drawn, 1)).all()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"draws": 49}, "49 bootstrap draws"),
        ({"draws": 99.5}, "99.5"),
        ({"level": 1.0}, "1.0"),
        ({"level": 95}, "95"),
        ({"seed": -1}, "-1"),
    ],
)
def test_what_makes_no_bootstrap(options: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        Bootstrap(**options)
    with pytest.raises(RequestError, match="no interval 'normal'"):
        Bootstrap().of_means(np.zeros((3, 1)), "normal")  # type: ignore[arg-type]
