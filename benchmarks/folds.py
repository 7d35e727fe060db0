"""Calibrators x folds x metrics on statistics in memory: work in which no voxel is read."""

from __future__ import annotations

import tempfile
from pathlib import Path

import twintrack_core as tt
from benchmarks.sections import Goal, Section, Settings, table
from twintrack_core import calibrators, metrics
from twintrack_core.bench import stores
from twintrack_core.bench.timing import Spread, seconds
from twintrack_core.histogram import CohortStatistics

_CASES = 100
_FOLDS = 10
_GOAL_CALIBRATORS = 10


def folds(settings: Settings) -> Section:
    """Fit every calibrator to nine tenths of the cases and evaluate all metrics on the rest, ten times."""
    with tempfile.TemporaryDirectory(dir=settings.folder) as name:
        statistics = tt.accumulate(stores.cohort("softmax", Path(name), _CASES, (80, 128, 128)))
    taken = Spread.of([seconds(lambda: _cross_validate(statistics)) for _ in range(settings.runs)])
    names = calibrators.names()
    text = table(
        f"{_CASES} cases, softmax, {sum(len(case.histogram.count) for _, case in statistics.items()):,} cells",
        ("calibrators", "folds", "metrics", "seconds"),
        [(", ".join(names), _FOLDS, len(metrics.resolve(None)), taken)],
    )
    scaled = taken.scaled(_GOAL_CALIBRATORS / len(names))
    n_metrics = len(metrics.resolve(None))
    how = f"{len(names)} calibrators there are, x {_GOAL_CALIBRATORS / len(names):g}; {n_metrics} metrics"
    what = "10 calibrators x 10 folds x metrics, 100 cases, seconds"
    return Section(text, (Goal(what, "softmax", 10.0, scaled, at_least=False, how=how),))


def _cross_validate(statistics: CohortStatistics) -> None:
    for fold in range(_FOLDS):
        held_out = statistics.names[fold::_FOLDS]
        rest = [name for name in statistics.names if name not in held_out]
        for calibrator in calibrators.names():
            tt.evaluate(statistics.select(held_out), tt.fit(statistics.select(rest), calibrator))
