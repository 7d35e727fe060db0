"""Compare: calibrators and targets on held-out cases, ranked, with intervals, and which to take."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from twintrack_core.calibrators.recipe import Recipe, Weighting
from twintrack_core.calibrators.registry import OURS
from twintrack_core.errors import RequestError
from twintrack_core.histogram import CohortStatistics
from twintrack_core.metrics import Metric, resolve
from twintrack_core.names import some
from twintrack_core.validation.bootstrap import Bootstrap
from twintrack_core.validation.candidates import Candidate, Measuring, label_of
from twintrack_core.validation.cross_fit import Fitter, cross_fit, held_out_values
from twintrack_core.validation.recommendation import recommendation, recommended
from twintrack_core.validation.refit import Refits
from twintrack_core.validation.scoring import PROPER, check_metric
from twintrack_core.validation.splits import Folds, Split, groups_of, places_of, split_cases


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
    rated = statistics.rated()
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
        drawn = None
        if refitting is not None:
            refits = Refits(fitter, crossed, rank_by, places_of(rated, group_by, rated.names))
            drawn = refits.draw(refitting, bar.update)
    rank = names.index(rank_by)
    ranked = sorted(values, key=lambda recipe: _mean(values[recipe][:, rank]))  # stable, and the raw scores come first
    measuring = Measuring(measures, rank, resampling, cases, groups, places_of(rated, group_by, cases))
    candidates = [measuring.candidate(recipe, values, ranked[0], drawn) for recipe in ranked]
    candidates += [Candidate(recipe.label, recipe, failed=why) for recipe, why in crossed.failed.items()]
    return Comparison(
        tuple(candidates),
        recommendation(candidates, rank_by, level),
        recommended(candidates, rank_by),
        rank_by,
        rated.roi,
        splits,
        cases,
        {label_of(recipe): tuple(values[recipe][:, rank].tolist()) for recipe in ranked},
        resampling,
        refit,
        group_by,
        rated.digest(),
    )


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
    if refit and not (isinstance(refit, int | np.integer) and refit >= 50):
        raise RequestError(f"refit is {refit!r:.40}.", "Allowed: 50 or more draws in which maps are refitted, or 0.")
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


def _mean(values: npt.NDArray[np.float64]) -> float:
    """Return the mean where defined; infinity where nowhere, which ranks last."""
    return float(np.nanmean(values)) if not np.isnan(values).all() else math.inf
