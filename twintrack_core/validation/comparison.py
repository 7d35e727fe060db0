"""Compare: calibrators and targets on held-out cases, ranked, with intervals, and which to take."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from twintrack_core.calibrators.recipe import Recipe, Weighting
from twintrack_core.calibrators.registry import OURS
from twintrack_core.errors import FitError, RequestError
from twintrack_core.histogram import CohortStatistics
from twintrack_core.maps import CalibrationMap
from twintrack_core.metrics import Metric, resolve
from twintrack_core.names import some
from twintrack_core.validation.bootstrap import Bootstrap, Estimate
from twintrack_core.validation.cross_fit import CrossFitted, Fitter, cross_fit, held_out_values
from twintrack_core.validation.scoring import PROPER, check_metric, scorer
from twintrack_core.validation.splits import Folds, Split, groups_of, places_of, split_cases

_Floats = npt.NDArray[np.float64]

RAW = "raw"
"""What the scores are called as they are."""


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
        Number of draws in which some fold had no map; they count with the folds that had one.
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
class Comparison:
    """Ways to calibrate, compared on cases that their maps were not fitted to.

    Attributes
    ----------
    candidates
        Ranked by the mean of the ranking metric, the best first; those that failed last.
    recommendation
        Which to take and why, in a sentence.
    best
        Recipe that is recommended; None if the raw scores are.
    rank_by
        Metric of the ranking, lower is better.
    roi
        Rule of the region of interest, inside which everything is fitted and measured.
    splits
        The folds.
    cases
        Names of the cases that were held out once, in the order of ``values``.
    values
        (cases,) values of the ranking metric by candidate: NaN where undefined.
    bootstrap
        How test cases (or groups) were resampled.
    refit_draws
        Number of draws in which maps were refitted; 0 for none.
    group_by
        Attribute that kept cases together, in folds and in draws.
    statistics
        SHA-256 of the statistics.
    """

    candidates: tuple[Candidate, ...]
    recommendation: str
    best: Recipe | None
    rank_by: str
    roi: str
    splits: tuple[Split, ...]
    cases: tuple[str, ...]
    values: Mapping[str, tuple[float, ...]]
    bootstrap: Bootstrap
    refit_draws: int
    group_by: str | None
    statistics: str

    def __getitem__(self, label: str) -> Candidate:
        for candidate in self.candidates:
            if candidate.label == label:
                return candidate
        raise RequestError(f"There is no {label!r}.", f"Allowed: {some(each.label for each in self.candidates)}.")

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold: undefined values are null."""
        document = asdict(self)
        document["values"] = {
            label: [None if math.isnan(value) else value for value in values] for label, values in self.values.items()
        }
        return document


def compare(
    statistics: CohortStatistics,
    calibrators: Sequence[str] | None = None,
    *,
    targets: Sequence[str] = ("mhr",),
    folds: Folds = 5,
    group_by: str | None = None,
    metrics: Sequence[str] | None = None,
    rank_by: str = "brier_mhr",
    bootstrap: int = 1000,
    refit: int = 0,
    level: float = 0.95,
    weighting: Weighting = "voxels",
    min_cases: float = 0.0,
    shrinkage: float = 0.0,
    seed: int = 0,
    progress: bool = False,
) -> Comparison:
    """Compare calibrators and targets by cross-validation over cases, inside the region of interest.

    Every case is scored on maps that were not fitted to it. No voxel is read.

    Parameters
    ----------
    statistics
        Joint histograms of the cases; those without raters are left out.
    calibrators
        Names of calibrators; all of ours by default. The raw scores are always there, and are what "identity" gives.
    targets
        What to fit to: "mhr", "majority", "staple", "rater:NAME". Whatever it is, metrics are what they are.
    folds
        Number of folds, "leave-one-out", or the cases to score on in each of some folds by name.
    group_by
        Attribute of the cases, such as "patient" or "site": cases of one value stay together, in folds and in draws, so
        that intervals speak of other patients or sites.
    metrics
        Names of metrics and suites that need no voxels; all of ours by default.
    rank_by
        Metric of the ranking: one of `scoring.PROPER`, which are lowest for the true mean human response.
    bootstrap
        Number of draws of test cases, the maps fixed.
    refit
        Number of draws of all cases in which the maps are refitted; 0 for none. 50 to 200 are enough for its standard
        errors, and each takes as long as fitting all maps.
    level
        Coverage that intervals are made for.
    weighting, min_cases, shrinkage
        As in `calibrators.fit`, of all maps.
    seed
        Of folds and draws.
    progress
        Show a bar on stderr, if that is a terminal.

    Raises
    ------
    RequestError
        For unknown names, and numbers and folds that make no sense. A calibrator that a fold does not determine is no
        error; see `Candidate.failed`.
    FitError
        For a target that a case does not have.
    PluginError
        If a calibrator or metric of another distribution cannot be used, or fails.
    """
    if not isinstance(statistics, CohortStatistics):
        raise RequestError(
            f"A {type(statistics).__name__} cannot be compared on.", "Allowed: CohortStatistics of several cases."
        )
    measures = metrics_of(metrics, rank_by)
    resampling, refitting = check_draws(bootstrap, refit, level, seed)
    recipes = recipes_of(calibrators, targets, weighting, min_cases, shrinkage)
    rated = statistics.select(name for name, case in statistics.items() if case.histogram.raters)
    splits = split_cases(rated, folds, group_by=group_by, seed=seed)
    groups = {} if group_by is None else groups_of(rated, group_by)
    fitter = Fitter(rated)
    for target in targets:
        fitter.targets(target)  # refuses what a case does not have
    hidden = not (progress and sys.stderr.isatty())
    with tqdm(
        desc="comparing", unit="fold", total=len(splits) * (2 + refit), file=sys.stderr, disable=hidden, leave=False
    ) as bar:
        crossed = cross_fit(fitter, recipes, splits, bar.update)
        names = [metric.name for metric in measures]
        cases, values = held_out_values(rated, crossed, names, bar.update)
        refits = _Refits(fitter, crossed, rank_by, places_of(rated, group_by, rated.names))
        drawn = None if refitting is None else refits.draw(refitting, bar.update)
    rank = names.index(rank_by)
    ranked = sorted(values, key=lambda recipe: _mean(values[recipe][:, rank]))  # stable, and the raw scores come first
    measuring = _Measuring(measures, rank, resampling, cases, groups, places_of(rated, group_by, cases))
    candidates = [measuring.candidate(recipe, values, ranked[0], drawn) for recipe in ranked]
    candidates += [Candidate(recipe.label, recipe, failed=why) for recipe, why in crossed.failed.items()]
    return Comparison(
        tuple(candidates),
        _recommendation(candidates, rank_by, level),
        _recommended(candidates, rank_by),
        rank_by,
        rated.roi,
        splits,
        cases,
        {_label(recipe): tuple(values[recipe][:, rank].tolist()) for recipe in ranked},
        resampling,
        refit,
        group_by,
        rated.digest(),
    )


@dataclass(frozen=True)
class _Measuring:
    """How candidates are measured, which all of them share."""

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
        drawn: Mapping[Recipe | None, _Drawn] | None,
    ) -> Candidate:
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
            _label(recipe),
            recipe,
            measured,
            to_best=None if recipe == best else self._differences(ranking - values[best][:, [self.rank]])[0],
            refitted=None if drawn is None else self._refitted(measured[self.rank], drawn[recipe]),
            groups=self._by_group(own, raw),
        )

    def _differences(self, values: _Floats) -> list[Estimate]:
        return self.bootstrap.estimates(values, self.places)

    def _refitted(self, measured: Measured, drawn: _Drawn) -> Refitted:
        n_drawn = measured.value.defined if self.places is None else len(np.unique(self.places))
        value, to_raw = measured.value, measured.to_raw
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


def metrics_of(metrics: Sequence[str] | None, rank_by: str) -> tuple[Metric, ...]:
    """Return what `compare` measures.

    Raises
    ------
    RequestError
        For unknown metrics, those that need voxels or mean nothing inside the region, and a metric that cannot rank.
    """
    if rank_by not in PROPER:
        raise RequestError(
            f"Calibrators cannot be ranked by {rank_by!r}, which need not be best for the true mean human response.",
            f"Allowed: {', '.join(PROPER)}.",
        )
    found = {metric.name: metric for metric in (*resolve(metrics), *resolve([rank_by]))}
    return tuple(check_metric(name) for name in found)


def check_draws(bootstrap: int, refit: int, level: float = 0.95, seed: int = 0) -> tuple[Bootstrap, Bootstrap | None]:
    """Return how `compare` resamples test cases, and how all cases where maps are refitted.

    Raises
    ------
    RequestError
        For numbers that make no sense.
    """
    return Bootstrap(bootstrap, level, seed), Bootstrap(refit, level, seed) if refit else None


def recipes_of(
    calibrators: Sequence[str] | None,
    targets: Sequence[str],
    weighting: Weighting = "voxels",
    min_cases: float = 0.0,
    shrinkage: float = 0.0,
) -> list[Recipe]:
    """Return what `compare` fits: every calibrator to every target, but for the identity, which is the raw scores.

    Raises
    ------
    RequestError
        For unknown names, numbers that make no sense, or nothing to compare.
    PluginError
        For the calibrator of another distribution that cannot be used.
    """
    if isinstance(calibrators, str) or isinstance(targets, str):
        raise RequestError("Calibrators and targets are one text.", 'Allowed: a list of names, such as ["isotonic"].')
    if not targets or (calibrators is not None and not calibrators):
        raise RequestError("There is nothing to compare.", "Allowed: one calibrator and target or more.")
    wanted = OURS if calibrators is None else calibrators
    found = [Recipe(name, target, weighting, min_cases, shrinkage) for name in wanted for target in targets]
    return [recipe for recipe in dict.fromkeys(found) if recipe.calibrator != "identity"]


@dataclass(frozen=True, eq=False)
class _Drawn:
    """The mean of a metric in every draw of all cases, maps refitted: (draws,), NaN where no map could be.

    Where some folds of a draw have no map, both means are over the cases of the others, so that they stay paired.
    """

    value: _Floats
    raw: _Floats
    incomplete: int


@dataclass(frozen=True)
class _Refits:
    """Refitting in every draw.

    The folds stay as they are, so all copies of a case are on one side: it is scored, as often as it was drawn, on maps
    that were fitted to the cases drawn among the others.
    """

    fitter: Fitter
    crossed: CrossFitted
    metric: str
    groups: npt.NDArray[np.intp] | None

    def draw(self, bootstrap: Bootstrap, tick: Callable[[], object]) -> dict[Recipe | None, _Drawn]:
        recipes = [None, *self.crossed.maps]
        score = scorer(self.fitter, self.metric)
        splits = [(self.fitter.times(split.fit), self.fitter.times(split.test)) for split in self.crossed.splits]
        totals = np.zeros((3, len(recipes), bootstrap.draws))  # of the metric, of the raw one, of how many cases
        incomplete = np.zeros((len(recipes), bootstrap.draws), dtype=bool)
        for draw, times in enumerate(bootstrap.times(len(self.fitter.statistics), self.groups)):
            for fit, test in splits:
                maps = [None if recipe is None else _refit(self.fitter, recipe, times * fit) for recipe in recipes]
                there = np.array([each is not None for each in maps])
                there[0] = True  # the raw scores
                cases = np.flatnonzero(test)
                values = score([each for each, fitted in zip(maps, there, strict=True) if fitted], cases)
                defined = ~np.isnan(values[0])  # for every map: the scores of a case are there or not
                weight = times[cases] * defined
                totals[0, there, draw] += (np.where(defined, values, 0) * weight).sum(axis=1)
                totals[1, there, draw] += (np.where(defined, values[0], 0) * weight).sum()
                totals[2, there, draw] += weight.sum()
                incomplete[:, draw] |= ~there
                tick()
        number = np.where(totals[2] > 0, totals[2], np.nan)
        return {
            recipe: _Drawn(totals[0, k] / number[k], totals[1, k] / number[k], int(incomplete[k].sum()))
            for k, recipe in enumerate(recipes)
        }


def _refit(fitter: Fitter, recipe: Recipe, times: npt.NDArray[np.int64]) -> CalibrationMap | None:
    try:
        return fitter.fit(recipe, times)
    except FitError:
        return None


def _recommended(candidates: Sequence[Candidate], rank_by: str) -> Recipe | None:
    """Return the first of the ranking, unless its advantage over the raw scores may be chance, refitted or not."""
    first = candidates[0]
    if first[rank_by].to_raw is None or _doubtful(first, rank_by) is not None:
        return None
    return first.recipe


def _recommendation(candidates: Sequence[Candidate], rank_by: str, level: float) -> str:
    measured = [each for each in candidates if not each.failed]
    first, n_cases = measured[0], measured[0][rank_by].value.defined
    value, to_raw = first[rank_by].value, first[rank_by].to_raw
    if to_raw is None:
        others = "nothing that was compared is better" if len(measured) > 1 else "nothing could be fitted in every fold"
        return f"Keep the raw scores: by {rank_by} on {n_cases} held-out cases, {others}."
    doubtful = _doubtful(first, rank_by)
    if doubtful is not None:
        refitted = ", maps refitted" if doubtful is not to_raw else ""
        return (
            f"Keep the raw scores, or rate more cases: {first.label} has the lowest {rank_by} on {n_cases} held-out "
            f"cases, but its difference of {_signed(to_raw.mean)} to that of the raw scores "
            f"({level * 100:g} % interval {_span(doubtful)}{refitted}) may be chance."
        )
    lower = f"{_signed(to_raw.mean)} to that of the raw scores ({level * 100:g} % interval {_span(to_raw)})"
    rest = [each for each in measured[1:] if each.recipe]
    alike = [each.label for each in rest if each.to_best and _may_be_chance(each.to_best)]
    beside = f"; {some(alike)} may be as good" if alike else "; the others are worse by more than chance" * bool(rest)
    return (
        f"Take {first.label}: its {rank_by} on {n_cases} held-out cases is the lowest, {_number(value.mean)}, "
        f"a difference of {lower}{beside}."
    )


def _doubtful(candidate: Candidate, rank_by: str) -> Estimate | None:
    """Return the difference to the raw scores whose interval holds 0: maps fixed, or refitted."""
    refitted = candidate.refitted.to_raw if candidate.refitted else None
    for difference in (candidate[rank_by].to_raw, refitted):
        if difference is not None and _may_be_chance(difference):
            return difference
    return None


def _may_be_chance(difference: Estimate) -> bool:
    return difference.low is None or difference.high is None or difference.low <= 0 <= difference.high


def _label(recipe: Recipe | None) -> str:
    return RAW if recipe is None else recipe.label


def _ends(found: Estimate, low: float, high: float) -> Estimate:
    known = not math.isnan(low)
    return replace(found, low=low if known else None, high=high if known else None)


def _mean(values: _Floats) -> float:
    """Return the mean where defined; infinity where nowhere, which ranks last."""
    return float(np.nanmean(values)) if not np.isnan(values).all() else math.inf


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:#.3g}".removesuffix(".")


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+#.3g}".removesuffix(".")


def _span(found: Estimate) -> str:
    return f"{_signed(found.low)} to {_signed(found.high)}"
