from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.optimize import isotonic_regression
from scipy.stats import norm

from twintrack_core.codes import CODE_VALUES, N_CODES, mean_codes
from twintrack_core.cohort.case import Case
from twintrack_core.errors import InvalidScoresError, RequestError
from twintrack_core.simulate import Simulation, _unit_field

SMALL = (12, 24, 24)
Floats = npt.NDArray[np.float64]


def codes_of(case: Case) -> npt.NDArray[np.uint16]:
    members = case.probability if case.probability.ndim == 4 else case.probability[np.newaxis]
    return mean_codes(members)[0]


def marks_of(case: Case) -> npt.NDArray[np.uint8]:
    assert case.votes is not None
    return np.stack([case.votes >> bit & 1 for bit in range(len(case.raters))])


def sums_per_code(case: Case) -> Floats:
    """(2, codes): voxels and summed mean human response of every code."""
    codes = codes_of(case).ravel()
    mhr = marks_of(case).mean(axis=0).ravel()
    return np.stack([np.bincount(codes, minlength=N_CODES), np.bincount(codes, mhr, minlength=N_CODES)])


def assert_equal_cases(one: Case, other: Case) -> None:
    assert one.name == other.name
    assert one.raters == other.raters
    assert one.geometry == other.geometry
    assert one.attributes == other.attributes
    assert one.source == other.source
    np.testing.assert_array_equal(one.probability, other.probability)
    np.testing.assert_array_equal(one.votes, other.votes)
    np.testing.assert_array_equal(one.roi, other.roi)


@pytest.fixture(scope="module")
def sums() -> Floats:
    """(case, 2, codes) of 320 small cases; its beginnings are smaller cohorts."""
    return np.stack([sums_per_code(case) for case in Simulation(320, SMALL, members=2, seed=3)])


def test_a_case_is_what_the_store_expects() -> None:
    simulation = Simulation(3, SMALL, raters=4, members=2, seed=7)
    case = simulation.case(1)
    assert case.name == "case001"
    assert simulation.case_names() == ("case000", "case001", "case002")
    assert case.raters == ("rater1", "rater2", "rater3", "rater4")
    assert (str(case.probability.dtype), case.probability.shape) == ("float16", (2, *SMALL))
    assert case.votes is not None
    assert (str(case.votes.dtype), case.votes.shape) == ("uint8", SMALL)
    assert case.votes.max() < 2**4
    assert case.roi is not None
    assert (str(case.roi.dtype), case.roi.shape) == ("bool", SMALL)
    assert case.geometry.spacing_mm == (3.0, 1.0, 1.0)
    assert [c.attributes["site"] for c in simulation] == ["A", "B", "A"]
    assert case.source == {"simulated": True, "seed": 7, "index": 1}
    assert Simulation(1, SMALL, members=1).case(0).probability.shape == SMALL


def test_a_case_depends_neither_on_order_nor_on_the_number_of_cases() -> None:
    in_order = list(Simulation(4, SMALL, seed=5))
    again = Simulation(9, SMALL, seed=5)
    for index in (3, 0, 2, 1):
        assert_equal_cases(again.case(index), in_order[index])


def test_cases_and_seeds_differ() -> None:
    volumes = [Simulation(3, SMALL, seed=seed).case(index).probability for seed in (0, 1) for index in (0, 1, 2)]
    assert len({volume.tobytes() for volume in volumes}) == len(volumes)


def test_more_members_or_raters_leave_the_others_as_they_were() -> None:
    few, many = Simulation(1, SMALL, raters=3, members=2), Simulation(1, SMALL, raters=5, members=4)
    np.testing.assert_array_equal(few.case(0).probability, many.case(0).probability[:2])
    np.testing.assert_array_equal(few.case(0).roi, many.case(0).roi)
    np.testing.assert_array_equal(few.case(0).probability, replace(few, raters=5).case(0).probability)


def test_truth_is_the_mean_of_the_raters_probit_curves() -> None:
    simulation = Simulation(1, SMALL, raters=3, overconfidence=1.5)
    scores = CODE_VALUES[1:-1]
    slope = 1 / (1.702 * 1.5)
    curves = [norm.cdf(slope * np.log(scores / (1 - scores)) + bias) for bias in simulation.rater_biases]
    np.testing.assert_allclose(simulation.truth(scores), np.mean(curves, axis=0), rtol=1e-9)


def test_truth_runs_from_0_to_1_and_keeps_the_shape() -> None:
    simulation = Simulation(1, SMALL)
    truth = simulation.truth(CODE_VALUES)
    assert truth.dtype == np.float64
    assert (truth[0], truth[-1]) == (0, 1)
    assert (np.diff(truth) > 0).all()
    assert simulation.truth(np.full((2, 3), 0.5, dtype=np.float32)).shape == (2, 3)
    with pytest.raises(InvalidScoresError):
        simulation.truth([0.5, np.nan])


def test_an_ensemble_that_is_not_overconfident_is_calibrated() -> None:
    calibrated = Simulation(1, SMALL, overconfidence=1, rater_shift=0, rater_spread=0)
    np.testing.assert_allclose(calibrated.truth(CODE_VALUES), CODE_VALUES, atol=0.01)


def worst_band(sums: Floats, truth: Floats) -> float:
    """Largest |z| over score bands of the difference to ``truth``, with the cases as the independent units."""
    bands = np.searchsorted([0.001, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99, 0.999], CODE_VALUES)
    inner = (CODE_VALUES > 0) & (CODE_VALUES < 1)
    difference = sums[:, 1] - sums[:, 0] * truth
    per_band = np.stack([difference[:, inner & (bands == band)].sum(axis=1) for band in range(10)])
    return float((np.abs(per_band.sum(axis=1)) / np.sqrt((per_band**2).sum(axis=1))).max())


def test_marks_agree_with_the_truth_in_every_score_band(sums: Floats) -> None:
    simulation = Simulation(1, SMALL, members=2, seed=3)
    assert worst_band(sums[:60], simulation.truth(CODE_VALUES)) < 3.5
    assert worst_band(sums, simulation.truth(CODE_VALUES)) < 3.5
    # The same data tell truths apart that are only slightly off.
    assert worst_band(sums, replace(simulation, rater_shift=-0.3).truth(CODE_VALUES)) > 5
    assert worst_band(sums, replace(simulation, overconfidence=1.7).truth(CODE_VALUES)) > 5


def test_every_rater_agrees_with_its_own_curve() -> None:
    simulation = Simulation(60, SMALL, raters=3, members=2, seed=11)
    slope = 1 / (1.702 * simulation.overconfidence)
    differences = []
    for case in simulation:
        scores = CODE_VALUES[codes_of(case)]
        inner = (scores > 0) & (scores < 1)
        latents = slope * np.log(scores[inner] / (1 - scores[inner])) + simulation.rater_biases[:, np.newaxis]
        differences.append((marks_of(case)[:, inner] - norm.cdf(latents)).sum(axis=1))
    z = np.sum(differences, axis=0) / np.sqrt((np.square(differences)).sum(axis=0))
    assert np.abs(z).max() < 3.5


def test_isotonic_fit_converges_to_the_truth(sums: Floats) -> None:
    truth = Simulation(1, SMALL, members=2, seed=3).truth(CODE_VALUES)
    weights = sums[:, 0].sum(axis=0) * ((CODE_VALUES > 0) & (CODE_VALUES < 1))
    errors = []
    for cases in (20, 80, 320):
        voxels, mhr = sums[:cases].sum(axis=0)
        seen = voxels > 0
        fitted = isotonic_regression(mhr[seen] / voxels[seen], weights=voxels[seen]).x
        everywhere = np.interp(CODE_VALUES, CODE_VALUES[seen], fitted)
        errors.append(float(np.average(np.abs(everywhere - truth), weights=weights)))
    assert errors[1] < 0.75 * errors[0]
    assert errors[2] < 0.75 * errors[1]
    assert errors[2] < 0.015


def test_nobody_marks_a_score_of_0_and_everybody_a_score_of_1() -> None:
    for case in Simulation(4, (24, 48, 48)):
        scores, marks = CODE_VALUES[codes_of(case)], marks_of(case)
        assert (scores == 1).any()
        assert marks[:, scores == 1].all()
        assert not marks[:, scores == 0].any()


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 40, 40), (3, 200, 2), (12, 24, 24)])
def test_any_shape_works(shape: tuple[int, int, int]) -> None:
    for case in Simulation(5, shape, members=2):
        assert case.probability.shape == (2, *shape)
        assert codes_of(case).any()


def test_the_background_is_exactly_empty_and_most_of_the_volume() -> None:
    for case in Simulation(3, (40, 128, 128), members=2, seed=2):
        scores = case.probability
        assert (scores == 0).mean() > 0.9
        assert scores[scores > 0].min() >= np.float16(1e-4)
        assert marks_of(case).mean() < 0.1


def dice(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def test_raters_disagree_at_the_border_and_less_surely_than_the_ensemble() -> None:
    for case in Simulation(6, (32, 96, 96), seed=4):
        assert case.roi is not None
        scores, marks = CODE_VALUES[codes_of(case)], marks_of(case)
        mhr = marks.mean(axis=0)
        pairs = [dice(marks[i], marks[j]) for i in range(5) for j in range(i)]
        assert 0.65 < np.mean(pairs) < 0.92
        assert mhr[scores < 0.01].sum() < 0.05 * mhr.sum()
        assert mhr[~case.roi].sum() < 0.05 * mhr.sum()
        sure = (scores > 0.9) & (scores < 1)
        assert scores[sure].mean() - mhr[sure].mean() > 0.03


def test_biases_order_the_raters_volumes() -> None:
    simulation = Simulation(40, SMALL, members=2, seed=6)
    volumes = np.sum([marks_of(case).sum(axis=(1, 2, 3)) for case in simulation], axis=0)
    np.testing.assert_array_equal(np.argsort(volumes), np.argsort(simulation.rater_biases))


def test_biases_have_the_mean_and_the_quantiles_asked_for() -> None:
    biases = Simulation(1, SMALL, raters=5, rater_shift=-0.2, rater_spread=0.5).rater_biases
    np.testing.assert_allclose(np.sort(biases), norm.ppf([0.1, 0.3, 0.5, 0.7, 0.9], loc=-0.2, scale=0.5))
    np.testing.assert_array_equal(Simulation(1, SMALL, raters=1, rater_shift=-0.2).rater_biases, [-0.2])


@pytest.mark.parametrize(("shape", "sigma"), [((6, 9), (1.2, 2.0)), ((5, 1), (0.4, 3.0)), ((4, 7), (0.05, 9.0))])
def test_fields_have_unit_variance_at_every_voxel(shape: tuple[int, int], sigma: tuple[float, float]) -> None:
    """The field is linear in the noise: its variance is the sum of its squared responses to single impulses."""
    impulses = np.eye(shape[0] * shape[1], dtype=np.float32).reshape(-1, *shape)
    responses = [_unit_field(impulse, sigma) for impulse in impulses]
    np.testing.assert_allclose(np.sum(np.square(responses), axis=0), np.ones(shape), rtol=1e-5)


def test_rater_correlation_is_between_none_and_full() -> None:
    together = Simulation(1, SMALL, rater_correlation=1, rater_spread=0).case(0)
    marks = marks_of(together)
    np.testing.assert_array_equal(marks, np.broadcast_to(marks[0], marks.shape))
    apart = marks_of(Simulation(1, SMALL, rater_correlation=0, rater_spread=0).case(0))
    assert dice(apart[0], apart[1]) < 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cases", 0),
        ("cases", 2.5),
        ("shape", (0, 4, 4)),
        ("shape", (4, 4)),
        ("shape", (4, 4.5, 4)),
        ("raters", 0),
        ("raters", 9),
        ("members", 0),
        ("seed", -1),
        ("spacing_mm", (1.0, 0.0, 1.0)),
        ("spacing_mm", (1.0, 1.0)),
        ("overconfidence", 0.0),
        ("overconfidence", np.inf),
        ("rater_shift", np.nan),
        ("rater_spread", -0.1),
        ("rater_correlation", 1.1),
    ],
)
def test_values_that_are_not_allowed_are_refused(field: str, value: Any) -> None:
    with pytest.raises(RequestError, match=rf"^{field} is ") as caught:
        Simulation(**{"cases": 1, "shape": SMALL, field: value})
    assert caught.value.allowed


@pytest.mark.parametrize("index", [-1, 2])
def test_a_case_that_does_not_exist_is_refused(index: int) -> None:
    with pytest.raises(RequestError, match=f"no case {index}"):
        Simulation(2, SMALL).case(index)
