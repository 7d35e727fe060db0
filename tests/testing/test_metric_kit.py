"""The kit of metrics: ours pass, and mistakes are caught."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from twintrack_core.errors import RequestError
from twintrack_core.metrics import CaseVolumes, Metric, Noted, Result, ScoredCells, Suite, Undefined, VolumeMetric
from twintrack_core.metrics.registry import METRICS
from twintrack_core.testing import MetricConformance, check_metric


def mean_score(cells: ScoredCells) -> float:
    return float(np.average(cells.score, weights=cells.count))


def volume(volumes: CaseVolumes) -> float:
    return float(volumes.above(0.5).sum())


GOOD = Metric(
    name="good", function=mean_score, unit="1", better="neither", range=(0.0, 1.0), description="Mean", source="here"
)
VOLUME = VolumeMetric(
    name="volume", function=volume, unit="1", better="neither", range=(0.0, math.inf), description="V", source="here"
)
SUITE = Suite(name="suite", metrics=("brier_mhr",), description="One")


@pytest.mark.parametrize("name", METRICS.names())
def test_ours_pass(name: str) -> None:
    check_metric(METRICS.get(name))


@pytest.mark.parametrize("metric", [GOOD, VOLUME, SUITE], ids=lambda metric: metric.name)
def test_good_ones_pass(metric: Metric | VolumeMetric | Suite) -> None:
    check_metric(metric)


class TestGood(MetricConformance):
    """As a page of the documentation would have it."""

    metric = GOOD


def raises(cells: ScoredCells) -> float:
    return 1 / int(cells.mhr.sum() > 0)


def nan(cells: ScoredCells) -> float:
    return math.nan if len(cells.cases) > 1 else 0.5


def no_reason(cells: ScoredCells) -> Result:
    return Undefined("") if cells.n_raters == 1 else 0.5


def out_of_range(cells: ScoredCells) -> float:
    return mean_score(cells) + 0.8


def overflows(cells: ScoredCells) -> float:
    return float(1 - (cells.count.astype(np.int32) * cells.score).sum() / cells.count.astype(np.int32).sum() * 2) / 2


def changes_its_input(cells: ScoredCells) -> float:
    result = mean_score(cells)
    cells.score[:] = 0
    return result


def changes_the_panels(cells: ScoredCells) -> float:
    cells.panels[0].count[0] += 1
    return mean_score(cells)


def depends_on_the_order_of_raters(cells: ScoredCells) -> float:
    histogram = cells.cases[0].histogram
    return float(histogram.count[histogram.pattern & 1 == 1].sum() / histogram.n_voxels)


def depends_on_the_order_of_cases(cells: ScoredCells) -> float:
    return mean_score(ScoredCells(cells.cases[:1]))


_calls = iter(range(10**9))


def random(_: ScoredCells) -> float:
    return next(_calls) / 1e9


def odd_note(cells: ScoredCells) -> Result:
    return Noted(mean_score(cells), "two\nlines")


def one_panel(cells: ScoredCells) -> float:
    if cells.n_raters is None:
        raise ValueError("different raters")
    return 0.5


FUNCTIONS: dict[Callable[[ScoredCells], Any], tuple[str, str]] = {
    raises: ("values", "raised .*ZeroDivisionError"),
    nan: ("values", "the value is nan"),
    no_reason: ("values", "the reason why"),
    out_of_range: ("values", "outside the range"),
    overflows: ("values", "outside the range"),
    odd_note: ("values", "the note"),
    one_panel: ("values", "raised .*different raters"),
    changes_its_input: ("input_unchanged", "was changed|read-only"),
    changes_the_panels: ("input_unchanged", "was changed|read-only"),
    random: ("same_again", ", then "),
    depends_on_the_order_of_raters: ("order", "raters in another order"),
    depends_on_the_order_of_cases: ("order", "cases in another order"),
}


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_mistakes_are_caught(function: Callable[[ScoredCells], Any]) -> None:
    check, words = FUNCTIONS[function]
    suite = MetricConformance()
    suite.metric = replace(GOOD, function=function)
    with pytest.raises(AssertionError, match=rf"^good\b.*({words})"):
        getattr(suite, f"test_{check}")()
    with pytest.raises(AssertionError):
        check_metric(suite.metric)


def divides_by_the_lesion(volumes: CaseVolumes) -> float:
    return volumes.codes.size // int(volumes.above(0.5).sum())


def needs_a_margin(volumes: CaseVolumes) -> float:
    return float(volumes.scores()[1, 1, 1])


def takes_the_first_rater(volumes: CaseVolumes) -> float:
    return float(volumes.marked_by(volumes.raters[0]).sum())


def erases_the_votes(volumes: CaseVolumes) -> float:
    volumes.votes[:] = 0  # type: ignore[index]
    return 0.0


@pytest.mark.parametrize("function", [divides_by_the_lesion, needs_a_margin, takes_the_first_rater, erases_the_votes])
def test_mistakes_of_volume_metrics_are_caught(function: Callable[[CaseVolumes], float]) -> None:
    with pytest.raises(AssertionError, match=r"^volume"):
        check_metric(replace(VOLUME, function=function))


def test_a_metric_says_what_it_needs() -> None:
    with pytest.raises(AssertionError, match="no vessels given"):
        check_metric(replace(VOLUME, function=lambda volumes: float(volumes.vessels.max())))  # type: ignore[union-attr]
    check_metric(
        replace(
            VOLUME,
            function=lambda volumes: float(volumes.vessels.max()),  # type: ignore[union-attr]
            needs=("votes", "vessels"),
        )
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "a:b"},
        {"name": ""},
        {"name": 5},
        {"description": ""},
        {"description": "two\nlines"},
        {"unit": ""},
        {"source": ""},
        {"better": "best"},
        {"range": (1.0, 0.0)},
        {"range": (0.0, math.nan)},
        {"range": None},
        {"range": (0, 1, 2)},
        {"range": ("0", "1")},
        {"regions": ()},
        {"regions": None},
        {"regions": ([],)},
        {"regions": ("inside",)},
        {"argument": "NAME"},
        {"argument": "NAME", "with_argument": lambda text: GOOD},
        {
            "argument": "NAME",
            "with_argument": lambda text: replace(GOOD, name=f"good:{text}", range=(0.0, float(text))),
        },
    ],
)
def test_odd_descriptions_are_caught(changes: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        check_metric(replace(GOOD, **changes))


def test_arguments() -> None:
    def with_argument(text: str) -> Metric:
        if text != "ann":
            raise RequestError(f"There is no {text!r}.")
        return replace(GOOD, name=f"good:{text}")

    check_metric(replace(GOOD, argument="NAME", with_argument=with_argument))
    with pytest.raises(AssertionError, match="nan"):
        check_metric(
            replace(GOOD, argument="NAME", with_argument=lambda text: replace(GOOD, name="good:x", function=nan))
        )


@pytest.mark.parametrize(
    "changes",
    [{"metrics": ("nothing",)}, {"metrics": ()}, {"metrics": "brier_mhr"}, {"metrics": None}, {"description": ""}],
)
def test_suites_that_cannot_be_taken_are_caught(changes: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        check_metric(replace(SUITE, **changes))


def test_what_is_no_metric() -> None:
    with pytest.raises(AssertionError, match="is of type function, not Metric"):
        check_metric(mean_score)  # type: ignore[arg-type]


def test_a_rule_that_is_none() -> None:
    check_metric(replace(GOOD, roi="mask+5mm"))
    with pytest.raises(AssertionError, match="good: 'lesion' is no rule"):
        check_metric(replace(GOOD, roi="lesion"))
