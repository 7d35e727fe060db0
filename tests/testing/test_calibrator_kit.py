"""The kit of calibrators: ours pass, and mistakes are caught."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from twintrack_core.calibrators import BinnedTarget, Knots
from twintrack_core.calibrators.registry import CALIBRATORS
from twintrack_core.errors import FitError
from twintrack_core.testing import CalibratorConformance, check_calibrator

ENDS = np.array([0.0, 1.0])


def mean(target: BinnedTarget) -> float:
    return float(np.average(target.mean, weights=target.weight))


def flat(target: BinnedTarget) -> Knots:
    return Knots(ENDS, np.full(2, mean(target)), {"mean": mean(target)})


def flat_band(target: BinnedTarget) -> Knots:
    return Knots(ENDS, np.full(2, mean(target)), lower=np.zeros(2), upper=ENDS.clip(mean(target)))


def needs_two_scores(target: BinnedTarget) -> Knots:
    if len(target.score) < 2:
        raise FitError("One score does not say how the target changes.")
    return flat(target)


@pytest.mark.parametrize("name", CALIBRATORS.names())
def test_ours_pass(name: str) -> None:
    check_calibrator(CALIBRATORS.get(name))


@pytest.mark.parametrize("calibrator", [flat, flat_band, needs_two_scores])
def test_good_ones_pass(calibrator: Callable[[BinnedTarget], Knots]) -> None:
    check_calibrator(calibrator)


class TestFlat(CalibratorConformance):
    """As a page of the documentation would have it."""

    calibrator = staticmethod(flat)


class TestFlatWithoutStaticmethod(CalibratorConformance):
    """A function as it is will do, too."""

    calibrator = flat  # type: ignore[assignment]


def raises(target: BinnedTarget) -> Knots:
    return Knots(ENDS, np.full(2, 1 / (len(target.score) - 1)).clip(0, 1))


def never_fits(_: BinnedTarget) -> Knots:
    raise FitError("Not today.")


def follows_the_mean(target: BinnedTarget) -> Knots:
    return Knots(target.score, target.mean)


def doubles_a_knot(target: BinnedTarget) -> Knots:
    return Knots(np.append(target.score, 1.0), np.full(len(target.score) + 1, 0.5))


def leaves_the_range(target: BinnedTarget) -> Knots:
    return Knots(ENDS, np.array([mean(target) - 0.1, 1.0]))


def gives_nan(target: BinnedTarget) -> Knots:
    spread = float(np.std(target.score))
    return Knots(ENDS, np.array([0.0, 0.5 if spread else np.nan]))


def has_no_knots(_: BinnedTarget) -> Knots:
    return Knots(np.zeros(0), np.zeros(0))


def keeps_an_array(target: BinnedTarget) -> Knots:
    return Knots(ENDS, ENDS, {"scores": target.score})


def keeps_nan(_: BinnedTarget) -> Knots:
    return Knots(ENDS, ENDS, {"slope": float("nan")})


def returns_a_tuple(_: BinnedTarget) -> Any:
    return ENDS, ENDS


def forgets_to_return(_: BinnedTarget) -> Any:
    return None


def returns_none_for_one_score(target: BinnedTarget) -> Any:
    return None if len(target.score) == 1 else flat(target)


def overflows(target: BinnedTarget) -> Knots:
    weight = target.weight.astype(np.int32)  # 2^40 becomes 0
    return Knots(ENDS, np.array([0.0, (target.mean * weight)[3:4].sum() / weight[3:4].sum()]))


def sorts_in_place(target: BinnedTarget) -> Knots:
    target.mean.sort()
    return Knots(target.score.copy(), target.mean.copy())


def leaves_the_band(target: BinnedTarget) -> Knots:
    return Knots(ENDS, np.full(2, mean(target)), lower=np.zeros(2), upper=np.full(2, 0.9))


def has_half_a_band(target: BinnedTarget) -> Knots:
    return Knots(ENDS, np.full(2, mean(target)), upper=np.ones(2))


def random_band(_: BinnedTarget) -> Knots:
    return Knots(ENDS, ENDS, lower=ENDS / (1 + next(_calls)), upper=ENDS)


_calls = itertools.count()


def random(_: BinnedTarget) -> Knots:
    return Knots(ENDS, np.array([0.0, 1 / (1 + next(_calls))]))


def counts(target: BinnedTarget) -> Knots:
    return Knots(ENDS, ENDS, {"call": next(_calls)})


MISTAKES: dict[Callable[[BinnedTarget], Any], str] = {
    raises: "raised .*ZeroDivision",
    never_fits: "could not be fitted",
    follows_the_mean: "non-decreasing",
    doubles_a_knot: "strictly increasing",
    leaves_the_range: "Allowed: 0 to 1",
    gives_nan: "nan",
    has_no_knots: "one or more",
    keeps_an_array: "parameters",
    keeps_nan: "parameters",
    returns_a_tuple: "returned what is of type tuple instead of Knots",
    forgets_to_return: "returned what is of type NoneType instead of Knots",
    returns_none_for_one_score: "one score.*returned what is of type NoneType instead of Knots",
    overflows: "Allowed: 0 to 1|raised",
    sorts_in_place: "mean was changed",
    leaves_the_band: "upper bound 0.9 below its value",
    has_half_a_band: "no lower ones",
    random: ", then ",
    random_band: ", then ",
    counts: ", then ",
}


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
def test_mistakes_are_caught(mistake: Callable[[BinnedTarget], Any]) -> None:
    with pytest.raises(AssertionError, match=rf"(?s){MISTAKES[mistake]}"):
        check_calibrator(mistake)
