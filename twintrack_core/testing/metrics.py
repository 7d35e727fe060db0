"""The conformance kit of metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from twintrack_core.errors import RequestError, TwinTrackError
from twintrack_core.metrics import (
    CaseVolumes,
    Metric,
    Noted,
    Result,
    ScoredCells,
    Suite,
    Undefined,
    VolumeMetric,
    resolve,
)
from twintrack_core.metrics.registry import is_names
from twintrack_core.testing._checks import fail, make_all
from twintrack_core.testing._tables import Table, tables, volumes

_Seen: TypeAlias = ScoredCells | CaseVolumes

_BETTER = ("lower", "higher", "zero", "neither")
_ROUNDING = 1e-9


class _Input(NamedTuple):
    """What a metric is given, made anew by each call; and the same in other orders."""

    words: str
    make: Callable[[], _Seen]
    others: tuple[tuple[str, Callable[[], _Seen]], ...]


class MetricConformance:
    """What every metric must do, as a class of tests: derive from it, name the metric, and let pytest collect it.

    It is taken of tables or volumes of every kind, in which nobody or everybody marked, of 1 to 8 raters, of cases with
    different raters, without voxels, with more than 2^32 of them. The result must be a number in the metric's range, or
    undefined for a reason; the same again, for the raters in another order, and, if the metric is pooled, for the cases
    in another order. What the metric is given must stay as it is. Of a suite, the metrics must be there.

    Attributes
    ----------
    metric
        A Metric, VolumeMetric or Suite.

    Examples
    --------
    >>> from my_package import metric
    >>> class TestMine(MetricConformance):
    ...     metric = metric
    """

    metric: Metric | VolumeMetric | Suite

    def test_description(self) -> None:
        """A name that can be asked for, and what tables and help texts say."""
        metric = self.metric
        if not isinstance(metric, Metric | VolumeMetric | Suite):
            fail("metric", f"is of type {type(metric).__name__}, not Metric, VolumeMetric or Suite")
        if not isinstance(metric.name, str) or not metric.name or any(sign in metric.name for sign in ":, \n"):
            fail("name", f"{metric.name!r} cannot be asked for; it has a colon, a comma or a space, or is empty")
        _check_line(metric.name, "description", metric.description)
        if isinstance(metric, Suite):
            return
        for word in ("unit", "source"):
            _check_line(metric.name, word, getattr(metric, word))
        if metric.better not in _BETTER:
            fail(metric.name, f"better is {metric.better!r}, not one of {', '.join(_BETTER)}")
        if not _is_range(metric.range):
            fail(metric.name, f"range is {metric.range!r}, not a tuple of a smaller and a larger number")
        regions: object = metric.regions
        if not isinstance(regions, tuple) or not regions or any(region not in ("whole", "roi") for region in regions):
            fail(metric.name, f"regions are {regions!r}, not a tuple of whole, roi or both")

    def test_values(self) -> None:
        """A number in the range, or undefined for a reason."""
        for given in _inputs(self.metric):
            _check_result(self.metric, given.words, _take(self.metric, given.words, given.make()))

    def test_same_again(self) -> None:
        """The same result of the same input, and of an equal one."""
        for given in _inputs(self.metric):
            seen = given.make()
            results = [_take(self.metric, given.words, one) for one in (seen, seen, given.make())]
            if not results[0] == results[1] == results[2]:
                fail(self.metric.name, f"{given.words}: {results[0]}, then {results[1]}, then {results[2]}")

    def test_input_unchanged(self) -> None:
        """What the metric is given stays as it is: other metrics are taken of it."""
        for given in _inputs(self.metric):
            seen = given.make()
            before = _bytes_of(seen)
            _take(self.metric, given.words, seen)
            if _bytes_of(seen) != before:
                fail(self.metric.name, f"{given.words}: the input was changed")

    def test_order(self) -> None:
        """The order of raters, and of cases, does not matter but for rounding."""
        for given in _inputs(self.metric):
            result = _take(self.metric, given.words, given.make())
            for words, make in given.others:
                other = _take(self.metric, given.words, make())
                if not _is_close(result, other):
                    fail(self.metric.name, f"{given.words}: {result}, but {other} with the {words} in another order")

    def test_argument(self) -> None:
        """What may follow the name and a colon makes a metric of that name, or is refused with a RequestError."""
        metric = self.metric
        if isinstance(metric, Suite):
            return
        if (metric.argument is None) != (metric.with_argument is None):
            fail(metric.name, "has one of argument and with_argument without the other")
        if metric.with_argument is None:
            return
        for text in ("", "no such thing", "ann", "0.5", "-1", "nan"):
            try:
                made = metric.with_argument(text)
            except RequestError:
                continue
            except Exception as error:
                raise AssertionError(f"{metric.name}:{text}: raised {error!r} instead of a RequestError") from error
            if type(made) is not type(metric) or not made.name.startswith(f"{metric.name}:"):
                fail(metric.name, f"the argument {text!r} made {getattr(made, 'name', made)!r}")
            for given in _inputs(made):
                _check_result(made, given.words, _take(made, given.words, given.make()))

    def test_suite(self) -> None:
        """The metrics of a suite are there."""
        if not isinstance(self.metric, Suite):
            return
        if not is_names(self.metric.metrics):
            fail(self.metric.name, f"metrics are {self.metric.metrics!r}, not a tuple of one name or more")
        try:
            resolve(self.metric.metrics)
        except TwinTrackError as error:
            raise AssertionError(f"{self.metric.name}: {error}") from error

    def test_roi(self) -> None:
        """The rule of the region of interest that a metric is meant for is one."""
        from twintrack_core.cohort.roi import parse_roi

        if isinstance(self.metric, Metric) and self.metric.roi is not None:
            try:
                parse_roi(self.metric.roi)
            except (TwinTrackError, TypeError, AttributeError) as error:
                raise AssertionError(f"{self.metric.name}: {error}") from error


def check_metric(metric: Metric | VolumeMetric | Suite) -> None:
    """Run the checks of `MetricConformance` without pytest.

    Parameters
    ----------
    metric
        A Metric, VolumeMetric or Suite.

    Raises
    ------
    AssertionError
        For the first thing that is wrong: what the metric was given, and what it made of it.
    """
    checks = MetricConformance()
    checks.metric = metric
    make_all(checks, MetricConformance)


def _inputs(metric: Metric | VolumeMetric | Suite) -> Iterator[_Input]:
    if isinstance(metric, Metric):
        for table in tables():
            for region in metric.regions:
                make = partial(_cells, region=region)
                others = [("raters", partial(make, table.with_raters_reversed()))]
                if metric.pooled:
                    others.append(("cases", partial(make, table.with_cases_reversed())))
                yield _Input(f"{table.words}, {region}", partial(make, table), tuple(others))
    elif isinstance(metric, VolumeMetric):
        for volume in volumes():
            yield _Input(volume.words, volume.make, (("raters", partial(volume.make, reverse=True)),))


def _cells(table: Table, region: Any) -> ScoredCells:
    return ScoredCells.of(table.cases, region, table.roi)


def _take(metric: Any, words: str, seen: _Seen) -> Result:
    try:
        result: Result = metric(seen)
    except Exception as error:
        raise AssertionError(f"{metric.name}, {words}: raised {error!r}") from error
    return result


def _check_result(metric: Any, words: str, result: Result) -> None:
    what = f"{metric.name}, {words}"
    if isinstance(result, Undefined):
        _check_line(what, "the reason why it is undefined", result.why)
        if result.why.startswith("the value is "):  # of what was not finite
            fail(what, f"{result.why}; return Undefined and say why there is no value")
        return
    if isinstance(result, Noted):
        _check_line(what, "the note", result.note)
    value = result.value if isinstance(result, Noted) else result
    low, high = metric.range
    if not low - _ROUNDING <= value <= high + _ROUNDING:
        fail(what, f"{value!r} is outside the range {metric.range}")


def _is_close(result: Result, other: Result) -> bool:
    if isinstance(result, Undefined) or isinstance(other, Undefined):
        return result == other
    values = [one.value if isinstance(one, Noted) else one for one in (result, other)]
    return type(result) is type(other) and math.isclose(*values, rel_tol=_ROUNDING, abs_tol=_ROUNDING)


def _is_range(bounds: object) -> bool:
    if not isinstance(bounds, tuple) or len(bounds) != 2 or not all(isinstance(bound, int | float) for bound in bounds):
        return False
    return bool(bounds[0] < bounds[1])  # NaN neither


def _check_line(what: str, name: str, text: object) -> None:
    if not isinstance(text, str) or not text.strip() or "\n" in text:
        fail(what, f"{name} is {text!r}, not one line")


def _bytes_of(seen: _Seen) -> list[bytes]:
    if isinstance(seen, CaseVolumes):
        arrays: list[Any] = [seen.codes, seen.votes, seen.vessels, seen.values]
    else:
        scores = seen.scores
        arrays = [seen.score, seen.mhr, seen.count, scores.score, scores.count, scores.mean]
        arrays += [panel.count for panel in seen.panels]
        arrays += [column for case in seen.cases for column in case.histogram.cells]
    return [np.asarray(array).tobytes() for array in arrays if array is not None]
