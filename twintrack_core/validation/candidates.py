"""What a comparison finds of each way to calibrate, and of the raw scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from twintrack_core.calibrators.recipe import Recipe
from twintrack_core.errors import RequestError
from twintrack_core.metrics import Metric
from twintrack_core.names import some
from twintrack_core.validation.bootstrap import Bootstrap, Estimate
from twintrack_core.validation.refit import Drawn

RAW = "raw"
"""What the scores are called as they are."""

_MOST_INCOMPLETE = 0.1

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """A metric of one way to calibrate, over cases held out.

    Attributes
    ----------
    metric
        Name.
    value
        Mean over cases; the interval resamples test cases, the maps fixed (BCa).
    percentile
        The same with the percentile interval.
    to_raw
        Difference to the raw scores, paired by case (BCa); None for the raw scores.
    """

    metric: str
    value: Estimate
    percentile: Estimate
    to_raw: Estimate | None


@dataclass(frozen=True)
class Refitted:
    """The ranking metric of one way to calibrate, its intervals for resampling all cases and refitting the maps.

    Attributes
    ----------
    value, to_raw
        As in `Measured`, with standard intervals; see `Bootstrap.around`.
    incomplete
        Number of draws in which some fold had no map; they count with the folds that had one. Where they are more than
        a tenth, there is no interval: so many draws say that there are too few cases, or groups, to draw from.
    """

    value: Estimate
    to_raw: Estimate | None
    incomplete: int


@dataclass(frozen=True)
class Candidate:
    """One way to calibrate, or the raw scores.

    Attributes
    ----------
    label
        "isotonic to mhr", or "raw".
    recipe
        How maps are fitted; None for the raw scores.
    measured
        Every metric.
    to_best
        Difference of the ranking metric to the first of the ranking, paired by case; None for the first.
    refitted
        The ranking metric where maps are refitted in every draw; None where that was not asked for.
    groups
        Mean of the ranking metric over the held-out cases of each group, and its difference to the raw scores;
        intervals resample the cases within the group.
    failed
        Why there is no map in some fold: such a candidate is measured and ranked nowhere.
    """

    label: str
    recipe: Recipe | None
    measured: tuple[Measured, ...] = ()
    to_best: Estimate | None = None
    refitted: Refitted | None = None
    groups: Mapping[str, tuple[Estimate, Estimate]] = field(default_factory=dict)
    failed: str | None = None

    def __getitem__(self, metric: str) -> Measured:
        for found in self.measured:
            if found.metric == metric:
                return found
        raise RequestError(f"{self.label} has no {metric!r}.", f"Allowed: {some(m.metric for m in self.measured)}.")


@dataclass(frozen=True)
class Measuring:
    """How candidates are measured, which all of them share.

    Attributes
    ----------
    metrics, rank
        What is measured, and the place of the ranking metric among it.
    bootstrap
        How test cases are resampled.
    cases, groups, places
        Names of the cases, those of each group, and the number of each case's group; none without groups.
    """

    metrics: Sequence[Metric]
    rank: int
    bootstrap: Bootstrap
    cases: Sequence[str]
    groups: Mapping[str, Sequence[str]]
    places: npt.NDArray[np.intp] | None

    def candidate(
        self,
        recipe: Recipe | None,
        values: Mapping[Recipe | None, _Floats],
        best: Recipe | None,
        drawn: Mapping[Recipe | None, Drawn] | None,
    ) -> Candidate:
        """Measure one way, given (cases, metrics) values of all, the best of them, and the draws refitted, if any."""
        own, raw = values[recipe], values[None]
        ranges = [metric.range for metric in self.metrics]
        estimates = self.bootstrap.estimates(own, self.places, ranges)
        low, high = self.bootstrap.of_means(own, "percentile", self.places)
        least, most = np.array(ranges).T
        to_raw: Sequence[Estimate | None] = [None] * len(self.metrics)
        if recipe is not None:
            to_raw = self._differences(own - raw)
        measured = tuple(
            Measured(metric.name, found, _ends(found, start, end), difference)
            for metric, found, start, end, difference in zip(
                self.metrics,
                estimates,
                np.maximum(low, least).tolist(),
                np.minimum(high, most).tolist(),
                to_raw,
                strict=True,
            )
        )
        ranking = own[:, [self.rank]]
        return Candidate(
            label_of(recipe),
            recipe,
            measured,
            to_best=None if recipe == best else self._differences(ranking - values[best][:, [self.rank]])[0],
            refitted=None if drawn is None else self._refitted(measured[self.rank], drawn[recipe]),
            groups=self._by_group(own, raw),
        )

    def _differences(self, values: _Floats) -> list[Estimate]:
        return self.bootstrap.estimates(values, self.places)

    def _refitted(self, measured: Measured, drawn: Drawn) -> Refitted:
        n_drawn = measured.value.defined if self.places is None else len(np.unique(self.places))
        value, to_raw = measured.value, measured.to_raw
        if drawn.incomplete > _MOST_INCOMPLETE * len(drawn.value):
            nothing = float("nan")
            return Refitted(
                _ends(value, nothing, nothing),
                None if to_raw is None else _ends(to_raw, nothing, nothing),
                drawn.incomplete,
            )
        if value.mean is not None:
            low, high = self.bootstrap.around(value.mean, drawn.value, n_drawn)
            least, most = self.metrics[self.rank].range
            value = _ends(value, max(low, least), min(high, most))
        if to_raw is not None and to_raw.mean is not None:
            to_raw = _ends(to_raw, *self.bootstrap.around(to_raw.mean, drawn.value - drawn.raw, n_drawn))
        return Refitted(value, to_raw, drawn.incomplete)

    def _by_group(self, own: _Floats, raw: _Floats) -> dict[str, tuple[Estimate, Estimate]]:
        found = {}
        for group, names in self.groups.items():
            rows = [self.cases.index(name) for name in names if name in self.cases]
            if rows:
                own_of_group, raw_of_group = own[rows, self.rank], raw[rows, self.rank]
                both = np.column_stack([own_of_group, own_of_group - raw_of_group])
                ranges = [self.metrics[self.rank].range, (-math.inf, math.inf)]
                value, difference = self.bootstrap.estimates(both, ranges=ranges)
                found[group] = value, difference
        return found


def label_of(recipe: Recipe | None) -> str:
    """Return what tells a way to calibrate apart; "raw" for the scores as they are."""
    return RAW if recipe is None else recipe.label


def _ends(found: Estimate, low: float, high: float) -> Estimate:
    known = not math.isnan(low)
    return replace(found, low=low if known else None, high=high if known else None)
