"""The challenge's ranking: per metric the mean over the cases, ranks per metric, mean rank."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast, get_args

import numpy as np
from scipy.stats import rankdata

from twintrack_core.errors import RequestError
from twintrack_core.metrics import Evaluation, Metric, VolumeMetric, get
from twintrack_curvas.crps import CRPS_EXACT, CRPS_OFFICIAL
from twintrack_curvas.dice import DSC
from twintrack_curvas.ece import ECE_EXACT, ECE_OFFICIAL
from twintrack_curvas.vi import VI_EXACT, VI_OFFICIAL

Reading = Literal["official", "exact"]

_Values: TypeAlias = dict[str, float]
"""Values of a metric by case, where it is defined."""

_READINGS: dict[str, tuple[Metric | VolumeMetric, ...]] = {
    "official": (DSC, ECE_OFFICIAL, CRPS_OFFICIAL, VI_OFFICIAL),
    "exact": (DSC, ECE_EXACT, CRPS_EXACT, VI_EXACT),
}
_LARGEST = 1e300  # JSON can hold integers beyond what a float can, and their means
_ADVICE = "Evaluate with --metrics curvas --json."


@dataclass(frozen=True)
class Standing:
    """How a submission stands in one metric.

    Attributes
    ----------
    mean
        Mean over the cases where the metric is defined, in its unit.
    defined
        Number of these cases.
    rank
        1 for the best; submissions of equal means share the average of their ranks.
    """

    mean: float
    defined: int
    rank: float


@dataclass(frozen=True)
class Placing:
    """A submission's place: its mean rank over the metrics, and how it stands in each by name."""

    name: str
    mean_rank: float
    metrics: Mapping[str, Standing]


@dataclass(frozen=True)
class Ranking:
    """Submissions from the best to the worst, those of equal mean rank by name.

    Attributes
    ----------
    reading, variant
        What was ranked.
    cases
        Number of cases.
    placings
        The submissions.
    notes
        What to know before believing the ranking.
    """

    reading: str
    variant: str
    cases: int
    placings: tuple[Placing, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return asdict(self)


def rank(
    evaluations: Mapping[str, Evaluation | Mapping[str, Any]], reading: Reading = "official", variant: str = "raw"
) -> Ranking:
    """Rank submissions by the five metrics of the challenge.

    Per metric, the mean over the cases where it is defined gives the ranks; the mean of the five ranks gives the order.

    Parameters
    ----------
    evaluations
        By name of the submission: an `Evaluation`, or what ``twintrack evaluate --json`` printed.
    reading
        "official" or "exact": which reading of ECE, CRPS and VI to take.
    variant
        Which of the variants to rank, "raw" or "calibrated" for instance.

    Raises
    ------
    RequestError
        For no submission, an unknown reading, what is no evaluation, evaluations of different cases, and those that
        lack the variant or a metric, or where a metric is defined in no case.

    Source: CURVAS-PDACVI challenge, MICCAI 2025.
    """
    if reading not in _READINGS:
        raise RequestError(f"There is no reading {reading!r:.80}.", f"Allowed: {', '.join(get_args(Reading))}.")
    if not evaluations:
        raise RequestError("There is nothing to rank.", "Allowed: one evaluation or more.")
    rows = {name: _rows(name, evaluation, variant) for name, evaluation in evaluations.items()}
    cases = _common_cases(rows)
    standings: dict[str, dict[str, Standing]] = {name: {} for name in rows}
    notes = []
    for metric in (cast("Metric", get("tdsc")), *_READINGS[reading]):
        values = {name: _values(name, found, metric, cases) for name, found in rows.items()}
        means = {name: float(np.mean(list(found.values()))) for name, found in values.items()}
        sign = -1 if metric.better == "higher" else 1
        for (name, mean), place in zip(means.items(), rankdata([sign * mean for mean in means.values()]), strict=True):
            standings[name][metric.name] = Standing(mean, len(values[name]), float(place))
        if len({frozenset(found) for found in values.values()}) > 1:
            counts = ", ".join(f"{name} {len(found)}" for name, found in values.items())
            notes.append(f"{metric.name}: the means are not over the same of the {len(cases)} cases: {counts}.")
    placings = [
        Placing(name, float(np.mean([standing.rank for standing in found.values()])), found)
        for name, found in standings.items()
    ]
    placings.sort(key=lambda placing: (placing.mean_rank, placing.name))
    return Ranking(reading, variant, len(cases), tuple(placings), tuple(notes))


def read_evaluation(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a file that ``twintrack evaluate --json`` printed.

    Raises
    ------
    RequestError
        If there is no such file, or it holds no JSON object.
    """
    try:
        found = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise RequestError(f"Cannot read {path}: {error.strerror}.", "Allowed: evaluations.", _ADVICE) from error
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{path} is not JSON: {error}.", "Allowed: evaluations.", _ADVICE) from error
    if not isinstance(found, dict):
        raise RequestError(f"{path} is no evaluation.", 'Allowed: {"rows": [...], ...}.', _ADVICE)
    return found


def _rows(
    name: str, evaluation: Evaluation | Mapping[str, Any], variant: str
) -> dict[tuple[str, str], dict[str, tuple[float | None, str | None]]]:
    """Values and reasons by metric and region, then by case."""
    rows = (evaluation.to_dict() if isinstance(evaluation, Evaluation) else evaluation).get("rows")
    if not isinstance(rows, list | tuple) or not all(_is_row(row) for row in rows):
        raise RequestError(
            f"{name} is no evaluation: its rows are not those of one.",
            "Allowed: rows of case, metric, variant, region, value and why.",
            _ADVICE,
        )
    variants = sorted({row["variant"] for row in rows})
    if variant not in variants:
        raise RequestError(f"{name} has no variant {variant!r:.80}.", f"Allowed: {', '.join(variants) or 'none'}.")
    found: dict[tuple[str, str], dict[str, tuple[float | None, str | None]]] = {}
    for row in rows:
        if row["variant"] == variant:
            found.setdefault((row["metric"], row["region"]), {})[row["case"]] = (row["value"], row["why"])
    return found


def _is_row(row: Any) -> bool:
    return (
        isinstance(row, Mapping)
        and all(isinstance(row.get(key), str) for key in ("case", "metric", "variant", "region"))
        and isinstance(row.get("why", 0), str | None)
        and (row.get("value", "") is None or _is_number(row["value"]))
    )


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < _LARGEST


def _common_cases(
    rows: Mapping[str, Mapping[tuple[str, str], Mapping[str, tuple[float | None, str | None]]]],
) -> set[str]:
    """Return the cases, which every submission has."""
    cases = {name: {case for column in found.values() for case in column} for name, found in rows.items()}
    (first, expected), *rest = cases.items()
    for name, found in rest:
        if found != expected:
            differing = sorted(found ^ expected)
            raise RequestError(
                f"{first} and {name} are not of the same cases: {len(differing)} differ, {differing[0]!r} for one.",
                "Allowed: evaluations of the same cases.",
                "Evaluate all submissions with the same --cases.",
            )
    return expected


def _values(
    name: str,
    rows: Mapping[tuple[str, str], Mapping[str, tuple[float | None, str | None]]],
    metric: Metric | VolumeMetric,
    cases: set[str],
) -> _Values:
    column = rows.get((metric.name, metric.regions[0]), {})
    lacking = sorted(cases - set(column))
    if lacking:
        raise RequestError(
            f"{name} lacks {metric.name} ({metric.regions[0]}) of {len(lacking)} cases, {lacking[0]!r} for one.",
            "Allowed: evaluations with all metrics of the challenge.",
            _ADVICE,
        )
    values = {case: value for case, (value, _) in column.items() if value is not None}
    if not values:
        _, why = column[min(cases)]
        raise RequestError(
            f"{name}: {metric.name} is defined in none of {len(cases)} cases; in {min(cases)!r}, {why}.",
            "Allowed: evaluations with a value of every metric in one case or more.",
            "Give what is missing, or rank the other --reading.",
        )
    return values
