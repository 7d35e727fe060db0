"""The conformance kit of calibrators."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from twintrack_core.calibrators import Calibrator, Knots
from twintrack_core.codes import CODE_VALUES, N_CODES
from twintrack_core.errors import FitError, MapError
from twintrack_core.maps import CalibrationMap
from twintrack_core.targets import BinnedTarget
from twintrack_core.testing._checks import fail, make_all


class _Target(NamedTuple):
    """What a calibrator is given, and a few words for what that is."""

    words: str
    score: Any
    weight: Any
    mean: Any

    def make(self) -> BinnedTarget:
        """Return the target in arrays of its own."""
        score = np.array(self.score, np.float64)
        weight = np.broadcast_to(self.weight, score.shape).astype(np.float64)
        return BinnedTarget(score, weight, np.broadcast_to(self.mean, score.shape).astype(np.float64))


class CalibratorConformance:
    """What every calibrator must do, as a class of tests: derive from it, name the calibrator, let pytest collect it.

    It is fitted to targets of every kind: of one score and of all 15,361, that rise, fall or never change, that are all
    0 or all 1, and of more than 2^32 voxels. Whatever they are, its knots must be a non-decreasing function on [0, 1],
    between the bounds of its band if it has one, the same when it is fitted again, or it may raise a FitError where the
    target does not determine it. What it is given must stay as it is.

    Attributes
    ----------
    calibrator
        A function of a BinnedTarget that returns Knots.

    Examples
    --------
    >>> from my_package import calibrator
    >>> class TestMine(CalibratorConformance):
    ...     calibrator = staticmethod(calibrator)
    """

    calibrator: Calibrator

    def test_an_ordinary_target(self) -> None:
        """It can be fitted where the target rises with the score: a FitError would be no way out."""
        if isinstance(_fit(self, _ordinary()), FitError):
            fail(_ordinary().words, "could not be fitted")

    def test_knots(self) -> None:
        """Scores that increase, values and bounds in order, all in [0, 1]; parameters that JSON can hold."""
        for target in _targets():
            knots = _fit(self, target)
            if isinstance(knots, FitError):
                continue
            try:
                CalibrationMap(
                    knots.score, knots.value, parameters=knots.parameters, lower=knots.lower, upper=knots.upper
                )
            except (MapError, TypeError, ValueError) as error:
                raise AssertionError(f"{target.words}: {error}") from error

    def test_same_again(self) -> None:
        """The same knots and parameters of an equal target."""
        for target in _targets():
            first, second = _fit(self, target), _fit(self, target)
            if _content(first) != _content(second):
                fail(target.words, f"{first}, then {second}")

    def test_input_unchanged(self) -> None:
        """The target stays as it is."""
        for target in _targets():
            binned = target.make()
            _fit(self, target, binned)
            for name, array in vars(target.make()).items():
                if getattr(binned, name).tobytes() != array.tobytes():
                    fail(target.words, f"the target's {name} was changed")


def check_calibrator(calibrator: Calibrator) -> None:
    """Run the checks of `CalibratorConformance` without pytest.

    Parameters
    ----------
    calibrator
        A function of a BinnedTarget that returns Knots.

    Raises
    ------
    AssertionError
        For the first thing that is wrong: what the calibrator was fitted to, and what it made of it.
    """
    checks = CalibratorConformance()
    checks.calibrator = calibrator
    make_all(checks, CalibratorConformance)


def _fit(checks: CalibratorConformance, target: _Target, binned: BinnedTarget | None = None) -> Knots | FitError:
    """Return the knots, or the FitError that was raised."""
    # A function that a class names becomes a method when it is looked up: this takes it as it is.
    calibrator = inspect.getattr_static(checks, "calibrator")
    function = calibrator.__func__ if isinstance(calibrator, staticmethod) else calibrator
    try:
        knots: object = function(binned or target.make())
    except FitError as error:
        return error
    except Exception as error:
        raise AssertionError(f"{target.words}: raised {error!r}") from error
    if not isinstance(knots, Knots):
        fail(target.words, f"returned what is of type {type(knots).__name__} instead of Knots")
    return knots


def _content(knots: Knots | FitError) -> object:
    if isinstance(knots, FitError):
        return FitError
    columns = (knots.score, knots.value, knots.lower, knots.upper)
    return [column if column is None else np.asarray(column).tobytes() for column in columns], dict(knots.parameters)


def _ordinary() -> _Target:
    rng = np.random.default_rng(0)
    score = np.unique(np.append(rng.random(500), 0.0).astype(np.float16)).astype(np.float64)
    weight = np.where(score == 0, 10_000_000, rng.integers(1, 50, len(score)))
    return _Target("much background", score, weight, np.clip(score**2 + rng.normal(0, 0.05, len(score)), 0, 1))


def _targets() -> Iterator[_Target]:
    """Yield targets, the same every time."""
    rng = np.random.default_rng(0)
    yield _ordinary()
    for score in (0.0, CODE_VALUES[1], 0.5, 1.0):
        for mean in (0.0, 0.3, 1.0):
            yield _Target(f"one score, {score}, of mean {mean}", [score], 1, mean)
    few = CODE_VALUES[:: N_CODES // 40]
    means: tuple[tuple[str, Any], ...] = (
        ("all 0", 0.0),
        ("all 1", 1.0),
        ("all 0.4", 0.4),
        ("rising", few),
        ("falling", 1 - few),
        ("a step", few > 0.2),
        ("a step down", few < 0.2),
        ("in no order", rng.random(len(few))),
    )
    for words, shape in means:
        what = f"{len(few)} scores, {words}"
        yield _Target(what, few, 1, shape)
        yield _Target(f"{what}, weights around 2^40", few, (1 << 40) + np.arange(len(few)), shape)
        yield _Target(f"{what}, one weight of 2^40", few, np.where(few == few[3], 1 << 40, 1), shape)
    yield _Target("scores of 0 and 1", [0.0, 1.0], [1 << 40, 1], [0.1, 0.9])
    yield _Target("scores of 0 and 1 that are all wrong", [0.0, 1.0], [3, 4], [1.0, 0.0])
    yield _Target("neighbouring scores", CODE_VALUES[8000:8002], 5, [0.2, 0.8])
    yield _Target("the smallest scores", CODE_VALUES[:30], 7, np.linspace(0, 1, 30))
    yield _Target("every score", CODE_VALUES, rng.integers(1, 1000, N_CODES), rng.random(N_CODES))
    yield _Target("every score, calibrated", CODE_VALUES, rng.integers(1, 1000, N_CODES), CODE_VALUES)
