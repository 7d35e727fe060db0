"""The smooth calibration error against point masses smoothed one by one."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import ndtr

from twintrack_core.codes import CODE_ONE, CODE_VALUES, encode
from twintrack_core.histogram import CaseStatistics, JointHistogram
from twintrack_core.metrics import ScoredCells
from twintrack_core.metrics.smooth import fixed_point, smece_mhr, smoothed_error

Values = npt.NDArray[np.float64]


def smooth(points: Values, place: Values, mass: Values, width: float) -> Values:
    """Reflected Gaussians, summed over masses and mirror images."""
    found = np.zeros(len(points))
    n = math.ceil(5 * width) + 1
    for image in range(-n, n + 1):
        for centre in (2 * image + place, 2 * image - place):
            z = (points[:, np.newaxis] - centre) / width
            found += np.exp(-0.5 * z**2) @ mass / (width * math.sqrt(2 * math.pi))
    return found


def antiderivative(points: Values, place: Values, mass: Values, width: float) -> Values:
    found = np.zeros(len(points))
    n = math.ceil(5 * width) + 1
    for image in range(-n, n + 1):
        for centre in (2 * image + place, 2 * image - place):
            found += ndtr((points[:, np.newaxis] - centre) / width) @ mass
    return found


def slow_error(place: Values, mass: Values, width: float) -> float:
    """Integral of the absolute value, exact between zeros that are found on a fine grid around every mass."""
    near = place[:, np.newaxis] + width * np.linspace(-12, 12, 241)
    points = np.unique(np.clip(np.concatenate([near.ravel(), np.linspace(0, 1, 501)]), 0, 1))
    values = smooth(points, place, mass, width)
    points, values = points[values != 0], values[values != 0]  # beyond the reach of every mass nothing can cross
    turns = np.flatnonzero(np.diff(np.sign(values)))
    a, b = values[turns], values[turns + 1]
    zeros = points[turns] + (points[turns + 1] - points[turns]) * a / (a - b)
    ends = np.concatenate([[0.0], zeros, [1.0]])
    return float(np.abs(np.diff(antiderivative(ends, place, mass, width))).sum())


def check_fixed_point(found: float, place: Values, mass: Values, tolerance: float = 1e-4) -> None:
    """The error falls as the width grows, so the fixed point lies between a width below its error and one above."""
    below, above = found * (1 - tolerance), found * (1 + tolerance)
    assert slow_error(place, mass, below) >= below
    assert slow_error(place, mass, above) <= above


def table(codes: Any, weight: Any, mhr: Any) -> tuple[Values, Values]:
    """Places and masses of voxels of some score codes."""
    place = CODE_VALUES[np.asarray(codes)]
    return place, np.asarray(weight) / np.sum(weight) * (np.asarray(mhr) - place)


def random_table(kind: str, seed: int) -> tuple[Values, Values]:
    rng = np.random.default_rng(seed)
    codes = {
        "anywhere": np.unique(np.concatenate([[0, CODE_ONE], rng.integers(0, CODE_ONE, 20)])),
        "near 0": np.arange(40),
        "neighbours": np.unique(np.concatenate([np.arange(14000, 14030), [0, CODE_ONE]])),
        "ends": np.array([0, 1, CODE_ONE - 1, CODE_ONE]),
        "background": np.unique(np.concatenate([[0], rng.integers(12000, CODE_ONE, 30)])),
    }[kind]
    weight = rng.dirichlet(np.ones(len(codes)))
    mhr = rng.random(len(codes))
    if kind == "near 0":
        mhr *= 1e-5
    if kind == "neighbours":  # as much above as below, so that next to nothing is left of most
        mhr = CODE_VALUES[codes] + np.where(np.arange(len(codes)) % 2, 0.4, -0.4) * (codes % CODE_ONE > 0)
        weight = np.full(len(codes), 1 / len(codes))
    if kind == "background":
        weight[0] = 1e4
        mhr[0] = 0
    return table(codes, weight, mhr)


KINDS = ("anywhere", "near 0", "neighbours", "ends", "background")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_the_error_at_a_width_is_that_of_gaussians_summed_one_by_one(kind: str, seed: int) -> None:
    place, mass = random_table(kind, seed)
    high = float(np.abs(mass).sum())
    for width in (1.0, high, high / 5, high / 50, 0.003):
        assert smoothed_error(place, mass, width) == pytest.approx(slow_error(place, mass, width), rel=1e-4), width


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_the_fixed_point_is_that_of_gaussians_summed_one_by_one(kind: str, seed: int) -> None:
    place, mass = random_table(kind, seed)
    check_fixed_point(fixed_point(place, mass), place, mass)


masses = st.lists(
    st.tuples(st.one_of(st.sampled_from([0, 1, CODE_ONE]), st.integers(0, CODE_ONE)), st.floats(-1, 1)),
    min_size=1,
    max_size=12,
    unique_by=lambda pair: pair[0],
).map(lambda pairs: (CODE_VALUES[sorted(c for c, _ in pairs)], np.array([m for _, m in sorted(pairs)]) / len(pairs)))


@settings(max_examples=40)
@given(masses)
def test_fixed_points_of_any_masses(masses: tuple[Values, Values]) -> None:
    place, mass = masses
    if np.abs(mass).sum() > 1e-6:
        check_fixed_point(fixed_point(place, mass), place, mass)


@settings(max_examples=40)
@given(masses)
def test_the_error_falls_with_the_width_between_what_can_cancel_and_what_must_not(
    masses: tuple[Values, Values],
) -> None:
    place, mass = masses
    low, high = abs(float(mass.sum())), float(np.abs(mass).sum())
    errors = [smoothed_error(place, mass, width) for width in (1e-7, 1e-5, 1e-3, 0.01, 0.1, 1.0)]
    assert all(a >= b - 1e-5 * high for a, b in pairwise(errors))
    assert all(low - 1e-5 * high <= error <= high * (1 + 1e-5) for error in errors)
    assert low * (1 - 1e-5) <= fixed_point(place, mass) <= high * (1 + 1e-5)


def test_residuals_of_one_sign_cancel_nowhere() -> None:
    place, mass = table([0, 5, 9000, CODE_ONE], [5, 1, 2, 3], [0.5, 0.2, 0.9, 1])
    assert fixed_point(place, mass) == pytest.approx(mass.sum(), rel=1e-12)
    place, mass = table([9000], [1], [1])  # a single score
    assert fixed_point(place, mass) == pytest.approx(1 - place[0], rel=1e-12)


def test_two_opposite_masses_in_closed_form() -> None:
    """Away from the ends, masses +q and -q at a distance d leave 2 q (2 Phi(d / 2 s) - 1)."""
    place, mass = np.array([0.46875, 0.53125]), np.array([0.025, -0.025])
    for width in (0.01, 0.03, 0.05):
        expected = 2 * 0.025 * (2 * ndtr(0.0625 / 2 / width) - 1)
        assert smoothed_error(place, mass, width) == pytest.approx(expected, rel=1e-5)
    expected = brentq(lambda width: 2 * 0.025 * (2 * ndtr(0.0625 / 2 / width) - 1) - width, 1e-3, 1, xtol=1e-14)
    assert fixed_point(place, mass) == pytest.approx(expected, rel=1e-5)


def test_without_residuals_there_is_no_error() -> None:
    assert fixed_point(*table([0, 9000, CODE_ONE], [1, 2, 3], CODE_VALUES[[0, 9000, CODE_ONE]])) == 0


@pytest.mark.parametrize("size", [1e-2, 1e-4, 1e-6, 1e-8, 1e-10])
def test_the_smallest_errors_are_resolved(size: float) -> None:
    """Narrow kernels tell apart but the scores near 0; there the table looks the same at every scale."""
    rng = np.random.default_rng(0)
    mass = rng.standard_normal(len(CODE_VALUES))
    mass *= size / np.abs(mass).sum()
    found = fixed_point(CODE_VALUES, mass)
    assert smoothed_error(CODE_VALUES, mass, found) == pytest.approx(found, rel=3e-5)
    if size == 1e-10:  # too narrow for any two scores to meet
        assert found == pytest.approx(size, rel=1e-9)


def test_mirrored_scores_have_the_same_error() -> None:
    place, mass = random_table("anywhere", 7)
    assert fixed_point(1 - place[::-1], mass[::-1]) == pytest.approx(fixed_point(place, mass), rel=2e-5)
    assert fixed_point(place, -mass) == pytest.approx(fixed_point(place, mass), rel=1e-9)


def test_the_metric_takes_residuals_of_scores() -> None:
    codes = [0, int(encode(0.25)), int(encode(0.75)), CODE_ONE]
    counts = np.array([[90, 8, 2], [10, 20, 5], [3, 9, 30], [0, 1, 20]])
    code, marks = np.indices(counts.shape).reshape(2, -1)
    for times in (1, 2**50):
        histogram = JointHistogram.from_cells(
            np.ones(12, dtype=int), np.array(codes)[code], (1 << marks) - 1, counts.ravel() * times, ["a", "b"]
        )
        weight = counts.sum(axis=1)
        found = smece_mhr(ScoredCells.of([CaseStatistics(histogram)]))
        check_fixed_point(found, *table(codes, weight, counts @ [0, 0.5, 1] / weight))
