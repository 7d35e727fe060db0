"""Validation on statistics in memory, in which no voxel is read: folds, bootstraps, the learning curve."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

import twintrack_core as tt
from benchmarks.sections import Goal, Section, Settings, table
from twintrack_core import metrics
from twintrack_core.bench import stores
from twintrack_core.bench.timing import Spread, seconds
from twintrack_core.calibrators import Recipe
from twintrack_core.calibrators.registry import OURS
from twintrack_core.histogram import CaseStatistics, CohortStatistics, JointHistogram
from twintrack_core.validation import Bootstrap, learning_curve, map_band

_CASES = 100
_FOLDS = 10
_DRAWS = 1000
_REFIT = 50
_MANY = 1000


def folds(settings: Settings) -> Section:
    """Compare all calibrators on a hundred cases, refit, draw bands, and learn from a thousand cases."""
    with tempfile.TemporaryDirectory(dir=settings.folder) as name:
        (case,) = tt.accumulate(stores.cohort("softmax", Path(name), 1, (80, 128, 128))).items()
    n_metrics = len(metrics.resolve(None))
    everything = f"{len(OURS)} calibrators x {_FOLDS} folds x {n_metrics} metrics, {_DRAWS:,} draws of test cases"
    jobs: dict[str, tuple[int, Callable[[CohortStatistics], object]]] = {
        everything: (_CASES, partial(tt.compare, folds=_FOLDS, bootstrap=_DRAWS)),
        f"the same, brier_mhr only, and {_REFIT} draws in which all maps of 5 folds are refitted": (
            _CASES,
            partial(tt.compare, folds=5, bootstrap=_DRAWS, refit=_REFIT, metrics=["brier_mhr"]),
        ),
        f"the band of an isotonic map, refitted in {_DRAWS:,} draws": (
            _CASES,
            lambda statistics: map_band(statistics, Recipe(), Bootstrap(_DRAWS)),
        ),
        "the learning curve of isotonic regression, 20 orders of the cases": (
            _MANY,
            lambda statistics: learning_curve(statistics, Recipe()),
        ),
    }
    taken = {
        what: Spread.of([seconds(partial(work, _varied(case[1], n_cases, run))) for run in range(settings.runs)])
        for what, (n_cases, work) in jobs.items()
    }
    text = table(
        f"Softmax, about {len(case[1].histogram.count):,} cells a case, all cases different; one thread",
        ("what", "cases", "seconds"),
        [(what, jobs[what][0], spread) for what, spread in taken.items()],
    )
    goal = f"{len(OURS)} calibrators x {_FOLDS} folds x metrics, {_CASES} cases, seconds"
    how = f"{n_metrics} metrics, with {_DRAWS:,} draws of test cases"
    return Section(text, (Goal(goal, "softmax", 10.0, taken[everything], at_least=False, how=how),))


def _varied(case: CaseStatistics, n_cases: int, seed: int) -> CohortStatistics:
    """Return cases like one, their counts drawn anew, so that nothing that is remembered of one serves another."""
    rng = np.random.default_rng(seed)
    cells = case.histogram
    drawn = (rng.poisson(cells.count) for _ in range(n_cases))
    return CohortStatistics(
        {
            f"case{number:04d}": CaseStatistics(
                JointHistogram.from_cells(cells.region, cells.code, cells.pattern, count, cells.raters)
            )
            for number, count in enumerate(drawn)
        }
    )
