"""A metric of every case under many maps: proper scores by one product of tables, other metrics one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from twintrack_core.codes import CODE_VALUES, encode
from twintrack_core.errors import RequestError
from twintrack_core.histogram import JointHistogram
from twintrack_core.maps import CalibrationMap
from twintrack_core.metrics import Metric, resolve
from twintrack_core.metrics.evaluation import case_values
from twintrack_core.metrics.proper import entropy, log_losses
from twintrack_core.validation.cross_fit import Fitter

PROPER = ("brier_mhr", "brier_rater", "cross_entropy_mhr", "kl_mhr")
"""Metrics that are lowest, in expectation, for the true mean human response: what calibrators can be ranked by."""

_Floats = npt.NDArray[np.float64]

Scorer: TypeAlias = Callable[[Sequence[CalibrationMap | None], npt.NDArray[np.int64]], _Floats]
"""From maps, None for the raw scores, and places of cases in the cohort, to (maps, cases) values; NaN undefined."""


def scorer(fitter: Fitter, metric: str) -> Scorer:
    """Return a function that scores cases of a cohort, inside the region of interest, under many maps.

    Parameters
    ----------
    fitter
        Of the cohort, whose tables are shared.
    metric
        Name of a metric that needs no voxels. Those of `PROPER` take next to no time a map.

    Raises
    ------
    RequestError
        For the name of a suite, an unknown metric, or one that needs voxels or means nothing inside the region.
    """
    check_metric(metric)
    if metric in PROPER:
        return _ProperScores(fitter, metric)
    statistics = fitter.statistics

    def one_by_one(maps: Sequence[CalibrationMap | None], cases: npt.NDArray[np.int64]) -> _Floats:
        names = [statistics.names[case] for case in cases]
        return case_values(statistics, maps, [metric], "roi", names)[:, :, 0]

    return one_by_one


def check_metric(name: str) -> Metric:
    """Return the one metric of a name that is taken inside the region from a table.

    Raises
    ------
    RequestError
        If it is none.
    """
    found = resolve([name])
    if len(found) != 1 or not isinstance(found[0], Metric) or "roi" not in found[0].regions:
        raise RequestError(
            f"{name!r} is no single metric of the region of interest that needs no voxels.",
            f"Allowed: one such as {', '.join(PROPER)}.",
        )
    return found[0]


class _ProperScores:
    """Means over voxels of m a(p) + (1 - m) b(p) - c(m), p the score and m the mean human response."""

    def __init__(self, fitter: Fitter, metric: str) -> None:
        cases = fitter.targets("mhr")
        self._losses = _brier_losses if metric.startswith("brier") else log_losses
        self._code = encode(cases.score)
        size = np.where(cases.size > 0, cases.size, np.nan)[:, np.newaxis]
        self._voxels = cases.voxels / size
        self._marks = cases.total / cases.denominator / size
        of_marks = _OF_MARKS.get(metric, np.zeros_like)
        self._own = np.array([_mean_of_mhr(case.histogram, of_marks) for _, case in fitter.statistics.items()])

    def __call__(self, maps: Sequence[CalibrationMap | None], cases: npt.NDArray[np.int64]) -> _Floats:
        codes = [self._code if each is None else each.codes[self._code] for each in maps]
        # The scores are 0 or more, which rounding must not change.
        return np.asarray(np.maximum(self._of(codes, cases) - self._own[cases], 0.0))

    def _of(self, codes: Sequence[npt.NDArray[np.uint16]], rows: npt.NDArray[np.int64]) -> _Floats:
        losses = [self._losses(code) for code in codes]
        of_unmarked = np.stack([unmarked for _, unmarked in losses])
        excess = np.stack([marked - unmarked for marked, unmarked in losses])
        # Not as matrix products, whose rounding depends on the machine.
        found = np.einsum("mn,cn->mc", of_unmarked, self._voxels[rows])
        found += np.einsum("mn,cn->mc", excess, self._marks[rows])
        return np.asarray(found)


_OF_MARKS: dict[str, Callable[[_Floats], _Floats]] = {"brier_mhr": lambda m: m * (1 - m), "kl_mhr": entropy}
"""c(m): how the raters disagree, which `brier_mhr` and `kl_mhr` leave out."""


def _mean_of_mhr(histogram: JointHistogram, function: Callable[[_Floats], _Floats]) -> float:
    """Return the mean over the voxels of a case of a function of the mean human response; NaN without voxels."""
    n_raters = len(histogram.raters)
    cells = histogram.select("roi")
    voxels = np.bincount(np.bitwise_count(cells.pattern), weights=cells.count, minlength=n_raters + 1)
    total = float(voxels.sum())
    return float((voxels * function(np.arange(n_raters + 1) / n_raters)).sum() / total) if total else float("nan")


def _brier_losses(code: npt.NDArray[np.uint16]) -> tuple[_Floats, _Floats]:
    score = CODE_VALUES[code]
    return (1 - score) ** 2, score**2
