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
from twintrack_core.metrics import resolve
from twintrack_core.names import some
from twintrack_core.validation.bootstrap import Bootstrap, Estimate
from twintrack_core.validation.cross_fit import CrossFitted, Fitter, cross_fit, held_out_values
from twintrack_core.validation.scoring import PROPER, scorer
from twintrack_core.validation.splits import Folds, Split, groups_of, split_cases

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
        The ranking metric, its interval for resampling all cases and refitting the maps in every draw; None where that
        was not asked for.
    refitted_to_raw
        The same for the difference to the raw scores.
    groups
        Mean of the ranking metric over the held-out cases of each group, and its difference to the raw scores.
    failed
        Why there is no map in some fold: such a candidate is measured and ranked nowhere.
    """

    label: str
    recipe: Recipe | None
    measured: tuple[Measured, ...] = ()
    to_best: Estimate | None = None
    refitted: Estimate | None = None
    refitted_to_raw: Estimate | None = None
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
        How test cases were resampled.
    refit_draws
        Number of draws in which maps were refitted; 0 for none.
    group_by
        Attribute that kept cases together.
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
        Attribute of the cases, such as "site": cases of one value stay together.
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
    if rank_by not in PROPER:
        raise RequestError(
            f"Calibrators cannot be ranked by {rank_by!r}, which need not be best for the true mean human response.",
            f"Allowed: {', '.join(PROPER)}.",
        )
    if not isinstance(refit, int) or refit < 0 or refit == 1:
        raise RequestError(f"{refit!r:.40} draws cannot be refitted.", "Allowed: 0 for none, or 2 or more.")
    resampling, refitting = check_draws(bootstrap, refit, level, seed)
    recipes = recipes_of(calibrators, targets, weighting, min_cases, shrinkage)
    rated = statistics.select(name for name, case in statistics.items() if case.histogram.raters)
    splits = split_cases(rated, folds, group_by=group_by, seed=seed)
    names = [metric.name for metric in resolve(metrics)]
    names += [rank_by] if rank_by not in names else []
    rank = names.index(rank_by)
    fitter = Fitter(rated)
    hidden = not (progress and sys.stderr.isatty())
    with tqdm(
        desc="comparing", unit="fold", total=len(splits) * (2 + refit), file=sys.stderr, disable=hidden, leave=False
    ) as bar:
        crossed = cross_fit(fitter, recipes, splits, bar.update)
        cases, values = held_out_values(rated, crossed, names, bar.update)
        drawn = None if refitting is None else _refitted(fitter, crossed, rank_by, refitting, bar.update)
    ranked = sorted(values, key=lambda recipe: _mean(values[recipe][:, rank]))  # stable, and the raw scores come first
    groups = {} if group_by is None else groups_of(rated, group_by)
    measuring = _Measuring(names, rank, resampling, cases, groups)
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

    metrics: Sequence[str]
    rank: int
    bootstrap: Bootstrap
    cases: Sequence[str]
    groups: Mapping[str, Sequence[str]]

    def candidate(
        self,
        recipe: Recipe | None,
        values: Mapping[Recipe | None, _Floats],
        best: Recipe | None,
        drawn: Mapping[Recipe | None, _Floats] | None,
    ) -> Candidate:
        own, raw = values[recipe], values[None]
        estimates = self.bootstrap.estimates(own)
        low, high = self.bootstrap.of_means(own, "percentile")
        to_raw: Sequence[Estimate | None] = [None] * len(self.metrics)
        if recipe is not None:
            to_raw = self.bootstrap.estimates(own - raw)
        measured = tuple(
            Measured(metric, found, _ends(found, start, end), difference)
            for metric, found, start, end, difference in zip(
                self.metrics, estimates, low.tolist(), high.tolist(), to_raw, strict=True
            )
        )
        ranking = own[:, [self.rank]]
        to_best = None if recipe == best else self.bootstrap.estimates(ranking - values[best][:, [self.rank]])[0]
        refitted = refitted_to_raw = None
        if drawn is not None:
            refitted = self._standard(measured[self.rank].value, drawn[recipe])
            difference = measured[self.rank].to_raw
            if difference is not None:
                refitted_to_raw = self._standard(difference, drawn[recipe] - drawn[None])
        return Candidate(_label(recipe), recipe, measured, to_best, refitted, refitted_to_raw, self._by_group(own, raw))

    def _standard(self, found: Estimate, drawn: _Floats) -> Estimate:
        if found.mean is None:
            return found
        return _ends(found, *self.bootstrap.around(found.mean, drawn, found.defined))

    def _by_group(self, own: _Floats, raw: _Floats) -> dict[str, tuple[Estimate, Estimate]]:
        found = {}
        for group, names in self.groups.items():
            rows = [self.cases.index(name) for name in names if name in self.cases]
            if rows:
                both = np.column_stack([own[rows, self.rank], own[rows, self.rank] - raw[rows, self.rank]])
                value, difference = self.bootstrap.estimates(both)
                found[group] = value, difference
        return found


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


def _refitted(
    fitter: Fitter, crossed: CrossFitted, metric: str, bootstrap: Bootstrap, tick: Callable[[], object]
) -> dict[Recipe | None, _Floats]:
    """Return the mean metric in every draw of all cases, (draws,) for each recipe and for the raw scores.

    The folds stay as they are, so all copies of a case are on one side: it is scored, as often as it was drawn, on maps
    that were fitted to the cases drawn among the others.
    """
    recipes = list(crossed.maps)
    score = scorer(fitter, metric)
    inside = [fitter.times(split.fit) for split in crossed.splits]
    place = [np.flatnonzero(fitter.times(split.test)) for split in crossed.splits]
    found = np.full((1 + len(recipes), bootstrap.draws), np.nan)
    for draw, times in enumerate(bootstrap.times(len(fitter.statistics))):
        sums, weights = np.zeros(1 + len(recipes)), np.zeros(1 + len(recipes))
        for fit, test in zip(inside, place, strict=True):
            maps = [_refit(fitter, recipe, times * fit) for recipe in recipes]
            fitted = [0, *(number for number, each in enumerate(maps, start=1) if each is not None)]
            values = score([None, *(each for each in maps if each is not None)], test)
            defined = ~np.isnan(values)
            sums[fitted] += np.where(defined, values * times[test], 0).sum(axis=1)
            weights[fitted] += (defined * times[test]).sum(axis=1)
            tick()
        np.divide(sums, weights, out=found[:, draw], where=weights > 0)
    return dict(zip([None, *recipes], found, strict=True))


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
        refitted = ", maps refitted" if doubtful is first.refitted_to_raw else ""
        return (
            f"Keep the raw scores, or rate more cases: {first.label} has the lowest {rank_by} on {n_cases} held-out "
            f"cases, but its difference of {_signed(to_raw.mean)} to that of the raw scores "
            f"({level * 100:g} % interval {_span(doubtful)}{refitted}) may be chance."
        )
    lower = f"{_signed(to_raw.mean)} to that of the raw scores ({level * 100:g} % interval {_span(to_raw)})"
    alike = [each.label for each in measured[1:] if each.recipe and each.to_best and _may_be_chance(each.to_best)]
    rest = f"{some(alike)} may be as good" if alike else "the others are worse by more than chance"
    return (
        f"Take {first.label}: its {rank_by} on {n_cases} held-out cases is the lowest, {_number(value.mean)}, "
        f"a difference of {lower}; {rest}."
    )


def _doubtful(candidate: Candidate, rank_by: str) -> Estimate | None:
    """Return the difference to the raw scores whose interval holds 0: maps fixed, or refitted."""
    for difference in (candidate[rank_by].to_raw, candidate.refitted_to_raw):
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
