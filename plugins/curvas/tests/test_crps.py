from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.integrate import quad
from scipy.stats import norm

from twintrack_core.histogram import CaseStatistics, JointHistogram
from twintrack_core.metrics import Metric, ScoredCells, Undefined
from twintrack_curvas.crps import CRPS_EMPIRICAL, CRPS_EXACT, CRPS_OFFICIAL

SHAPE = (3, 4, 5)
SPACING = (2.5, 0.75, 0.5)
MM3 = 2.5 * 0.75 * 0.5


def of_volumes(predicted: int, raters: list[int], spacing_mm: tuple[float, float, float] = (1, 1, 1)) -> ScoredCells:
    """Cells where as many voxels have a score of 1, and as many are marked by each rater; they do not overlap."""
    code = [15360, *[0] * len(raters)]
    pattern = [0, *(1 << rater for rater in range(len(raters)))]
    names = [f"r{rater}" for rater in range(len(raters))]
    histogram = JointHistogram.from_cells([0] * len(code), code, pattern, [predicted, *raters], names)
    return ScoredCells.of([CaseStatistics(histogram, spacing_mm)])


def slow_official(volume: float, raters: list[float]) -> float:
    mu, sigma = float(np.mean(raters)), float(np.std(raters))
    points = np.linspace(norm.ppf(0.01, mu, sigma), norm.ppf(0.99, mu, sigma), 100)
    table = norm.cdf(points, mu, sigma)

    def squared(x: float) -> float:
        step = 0.5 if x == volume else float(x > volume)
        return float((np.interp(x, points, table, left=0, right=1) - step) ** 2)

    low, high = mu - 3 * sigma, mu + 3 * sigma
    breaks = sorted({low, high, min(max(volume, low), high), *points.tolist()})
    pieces = [quad(squared, a, b, epsabs=1e-14)[0] for a, b in itertools.pairwise(breaks)]
    return math.fsum(pieces)


def slow_exact(volume: float, raters: list[float]) -> float:
    mu, sigma = float(np.mean(raters)), float(np.std(raters))
    left = quad(lambda x: norm.cdf(x, mu, sigma) ** 2, min(mu, volume) - 12 * sigma, volume, points=[mu], limit=200)
    right = quad(lambda x: norm.sf(x, mu, sigma) ** 2, volume, max(mu, volume) + 12 * sigma, points=[mu], limit=200)
    return float(left[0] + right[0])


volumes = st.lists(st.integers(1, 5000), min_size=2, max_size=8)


@given(predicted=st.integers(1, 6000), raters=volumes)
def test_official_is_the_integral(predicted: int, raters: list[int]) -> None:
    result = CRPS_OFFICIAL(of_volumes(predicted, raters, SPACING))
    if len(set(raters)) == 1:
        assert isinstance(result, Undefined)
    else:
        expected = slow_official(predicted * MM3, [n * MM3 for n in raters])
        assert result == pytest.approx(expected, rel=1e-9)


@given(predicted=st.integers(1, 6000), raters=volumes)
def test_exact_is_the_integral_of_its_definition(predicted: int, raters: list[int]) -> None:
    result = CRPS_EXACT(of_volumes(predicted, raters, SPACING))
    if len(set(raters)) == 1:
        assert result == pytest.approx(abs(predicted - raters[0]) * MM3, rel=1e-12)
    elif abs(predicted - np.mean(raters)) < 30 * np.std(raters):  # beyond, quad misses the slope
        expected = slow_exact(predicted * MM3, [n * MM3 for n in raters])
        assert result == pytest.approx(expected, rel=1e-6)


@given(predicted=st.integers(1, 6000), raters=volumes)
def test_empirical_by_pairs_and_by_its_integral(predicted: int, raters: list[int]) -> None:
    result = CRPS_EMPIRICAL(of_volumes(predicted, raters, SPACING))
    pairs = [abs(a - b) for a in raters for b in raters]
    expected = sum(abs(predicted - n) for n in raters) / len(raters) - sum(pairs) / len(pairs) / 2
    assert result == pytest.approx(expected * MM3, rel=1e-12, abs=1e-9)
    breaks = sorted({predicted, *raters})
    integral = 0.0
    for a, b in itertools.pairwise(breaks):
        share = sum(n <= a for n in raters) / len(raters)
        integral += (b - a) * (share - (a >= predicted)) ** 2
    assert result == pytest.approx(integral * MM3, rel=1e-9, abs=1e-9)


@given(p=hnp.arrays(np.float16, SHAPE, elements=st.floats(0, 1, width=16)), raters=hnp.arrays(bool, (3, *SHAPE)))
def test_volumes_voxel_by_voxel(
    cells_of: Callable[..., ScoredCells], p: npt.NDArray[Any], raters: npt.NDArray[Any]
) -> None:
    cells = cells_of(p, raters, spacing_mm=SPACING)
    predicted = math.fsum(p.reshape(-1).tolist()) * MM3
    marked = [int(rater.sum()) * MM3 for rater in raters]
    pairs = np.mean([abs(a - b) for a in marked for b in marked])
    expected = float(np.mean([abs(predicted - n) for n in marked]) - pairs / 2)
    assert CRPS_EMPIRICAL(cells) == pytest.approx(expected, abs=1e-9)
    if not np.ptp(marked):
        assert CRPS_EXACT(cells) == pytest.approx(abs(predicted - marked[0]), abs=1e-9)
    else:
        assert CRPS_OFFICIAL(cells) == pytest.approx(slow_official(predicted, marked), rel=1e-8)


def test_saturation_of_official() -> None:
    sigma = 100.0  # of 900 and 1100
    found = [CRPS_OFFICIAL(of_volumes(predicted, [900, 1100])) for predicted in (1300, 2000, 10**6)]
    assert found[1] == found[2]
    assert found[2] == pytest.approx(2.44 * sigma, abs=0.01 * sigma)
    exact = CRPS_EXACT(of_volumes(10**6, [900, 1100]))
    assert isinstance(exact, float)
    assert exact > 0.99e6
    # Below the raters' volumes there is as much to lose as above.
    assert CRPS_OFFICIAL(of_volumes(1, [900, 1100])) == pytest.approx(found[2], rel=1e-12)


def test_sigma_of_0() -> None:
    cells = of_volumes(70, [50, 50, 50], (0.1, 0.3, 0.7))  # 50 times that is no round number
    result = CRPS_OFFICIAL(cells)
    assert isinstance(result, Undefined)
    assert result.why == "all raters marked the same volume, and the official formula divides by their spread"
    for metric in (CRPS_EXACT, CRPS_EMPIRICAL):
        assert metric(cells) == pytest.approx(20 * 0.1 * 0.3 * 0.7, rel=1e-12)
    assert isinstance(CRPS_OFFICIAL(of_volumes(70, [50])), Undefined)


def test_volume_on_a_node_of_the_table_and_on_the_mean() -> None:
    for predicted in (1000, 900, 700, 1300):
        assert CRPS_OFFICIAL(of_volumes(predicted, [900, 1100])) == pytest.approx(
            slow_official(predicted, [900, 1100]), rel=1e-9
        )


@pytest.mark.parametrize("large", [2**24 + 1, 2**32 + 1, 2**40 + 1])
def test_large_counts_are_exact(large: int) -> None:
    assert CRPS_EMPIRICAL(of_volumes(large, [large, large + 2])) == 0.5
    assert CRPS_EXACT(of_volumes(large, [large + 3, large + 3])) == 3


@pytest.mark.parametrize("metric", [CRPS_OFFICIAL, CRPS_EXACT, CRPS_EMPIRICAL])
def test_in_mm3_of_one_case(metric: Metric) -> None:
    assert (metric.unit, metric.regions, metric.pooled) == ("mm3", ("whole",), False)
    one, two = metric(of_volumes(70, [40, 60])), metric(of_volumes(70, [40, 60], (1, 2, 4)))
    assert isinstance(one, float)
    assert two == pytest.approx(8 * one, rel=1e-12)
