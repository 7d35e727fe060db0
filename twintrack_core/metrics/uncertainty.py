"""What a score says of its own certainty: p is a voxel's score, m its mean human response."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy.special import digamma

from twintrack_core.codes import CODE_VALUES, MAX_RATERS
from twintrack_core.errors import FitError, RequestError
from twintrack_core.metrics.cells import LabelledScores, ScoredCells
from twintrack_core.metrics.metric import Metric, Result, Undefined
from twintrack_core.metrics.proper import entropy_of_codes
from twintrack_core.targets import check_target

_Values = npt.NDArray[np.float64]

# Differences of m (1 - m), p (1 - p) and of entropies of p are larger than this, or rounding.
_SAME = 1e-12
_PARTS = math.lcm(*range(1, MAX_RATERS + 1))  # any fraction of raters is a whole number of these
_LARGE = 64  # from here on four terms of Stirling's series give the digamma function to the last bit


def ncc(cells: ScoredCells) -> Result:
    """Normalised cross-correlation over voxels of the entropy of p with the raters' variance m (1 - m)."""
    return _correlation(cells, lambda code: entropy_of_codes()[code])


def ncc_variance(cells: ScoredCells) -> Result:
    """Normalised cross-correlation over voxels of p (1 - p) with the raters' variance m (1 - m)."""
    return _correlation(cells, lambda code: CODE_VALUES[code] * (1 - CODE_VALUES[code]))


def _correlation(cells: ScoredCells, uncertainty: Callable[[npt.NDArray[np.uint16]], _Values]) -> Result:
    """Return the correlation of a function of the score code with the raters' variance."""
    spread, mean, variance = cells.of_marks((__name__, "disagreement"), _disagreement)
    found = [(table, uncertainty(table.code)) for table in cells.tables if len(table.code)]
    if max(a.max() for _, a in found) - min(a.min() for _, a in found) < _SAME:
        return Undefined("the scores are everywhere as uncertain")
    if spread < _SAME:
        return Undefined("the raters disagree everywhere as much")
    mean_a = sum(float((table.voxels * a).sum()) for table, a in found) / cells.n_voxels
    product, variance_a = 0.0, 0.0
    for table, a in found:
        centred = a - mean_a
        variance_a += float((table.voxels * centred**2).sum()) / cells.n_voxels
        of_marks = (table.by_marks * centred).sum(axis=1)
        product += float((of_marks * (_disagreements(len(table.raters)) - mean)).sum()) / cells.n_voxels
    return float(np.clip(product / math.sqrt(variance_a * variance), -1, 1))


def _disagreement(cells: ScoredCells) -> tuple[float, float, float]:
    """Return the range, mean and variance over voxels of m (1 - m)."""
    values = np.concatenate([_disagreements(len(table.raters)) for table in cells.tables])
    weight = np.concatenate([table.condensed.by_marks for table in cells.tables]) / cells.n_voxels
    mean = float((weight * values).sum())
    return float(np.ptp(values[weight > 0])), mean, float((weight * (values - mean) ** 2).sum())


def _disagreements(n_raters: int) -> _Values:
    """Return m (1 - m) of each number of marks."""
    mhr = np.arange(n_raters + 1) / n_raters
    return np.asarray(mhr * (1 - mhr))


def _ncc_of(argument: str) -> Metric:
    if argument != "variance":
        raise RequestError(f"'ncc' takes no argument {argument!r}.", "Allowed: ncc, ncc:variance.")
    return replace(
        _NCC,
        name="ncc:variance",
        function=ncc_variance,
        description="Correlation over voxels of p (1 - p) with the raters' variance m (1 - m)",
        argument=None,
        with_argument=None,
    )


def aurc(cells: ScoredCells) -> float:
    """Area under the risk-coverage curve: mean over n of the mean loss of the n most certain of all voxels.

    A voxel's certainty is max(p, 1 - p), its class 1 if p > 0.5, and its loss the fraction of raters that contradict
    the class. Voxels that are equally certain come in random order; what is returned is the expectation over it. See
    Geifman, Uziel and El-Yaniv, ICLR 2019.
    """
    return cells.once((__name__, "aurc"), lambda: _by_certainty(cells))


def _by_certainty(cells: ScoredCells) -> float:
    scores = cells.scores
    loss = np.where(scores.score > 0.5, 1 - scores.mean, scores.mean)
    return _area(-np.maximum(scores.score, 1 - scores.score), loss, scores.count)


def eaurc(cells: ScoredCells) -> float:
    """Excess area under the risk-coverage curve: `aurc` less what it would be if the voxels came by ascending loss."""
    count = np.zeros(_PARTS + 1, dtype=np.int64)
    for table in cells.tables:
        unmarked, marked = table.of_runs(np.searchsorted(table.score, [0.5], side="right"))[0].T
        count[:: _PARTS // len(table.raters)] += unmarked + marked[::-1]
    parts = np.flatnonzero(count)
    loss = parts / _PARTS
    return max(0.0, aurc(cells) - _area(loss, loss, count[parts]))


def _area(rank: _Values, loss: _Values, count: npt.NDArray[np.int64]) -> float:
    """Return the mean over n of the mean loss of the n voxels that come first, those of one rank in random order.

    Of g voxels of a rank with mean loss mu, after N others with a loss of L in all, the j-th is expected to leave a
    mean of (L + j mu) / (N + j) = mu + (L - mu N) / (N + j); the sum of 1 / (N + j) over j is one of harmonic numbers.
    """
    order = np.argsort(rank, kind="stable")
    starts = np.flatnonzero(np.diff(rank[order], prepend=-np.inf))
    size = np.add.reduceat(count[order], starts)
    total = np.add.reduceat(count[order] * loss[order], starts)
    until = np.concatenate([[0], np.cumsum(size)])
    loss_before = np.cumsum(total) - total
    mean = total / size
    areas = mean * size + (loss_before - mean * until[:-1]) * _harmonic(until)
    return float(areas.sum() / int(until[-1]))


def _harmonic(n: npt.NDArray[np.int64]) -> _Values:
    """Return 1 / (a + 1) + ... + 1 / b for each two neighbours a and b of (k,) ascending numbers, (k - 1,)."""
    x = np.asarray(n + 1, dtype=np.float64)
    # As a difference of digamma functions it loses its digits where n is large.
    found = np.log1p(np.diff(n) / x[:-1]) + np.diff(_stirling(x))
    few = int(np.searchsorted(n[:-1], _LARGE))
    found[:few] = np.diff(digamma(x[: few + 1]))
    return np.asarray(found)


def _stirling(x: _Values) -> _Values:
    """Return the digamma function less the logarithm, for large x."""
    inverse = 1 / x
    square = inverse * inverse
    return np.asarray(-0.5 * inverse - square * (1 / 12 - square * (1 / 120 - square / 252)))


def auroc(cells: ScoredCells, consensus: str = "majority") -> Result:
    """Area under the receiver operating characteristic of p against a consensus.

    It is the probability that a voxel which the consensus marks has a higher score than one which it does not, plus
    half the probability of a tie.
    """
    found, marked, unmarked = _classes(cells, consensus)
    below = np.cumsum(found.unmarked) - found.unmarked
    return float((found.marked * ((below + found.unmarked / 2) / unmarked)).sum() / marked)


def average_precision(cells: ScoredCells, consensus: str = "majority") -> Result:
    """Average precision of p against a consensus: sum over scores of precision times gain in recall."""
    found, marked, _ = _classes(cells, consensus)
    true = np.cumsum(found.marked[::-1])
    false = np.cumsum(found.unmarked[::-1])
    return float((found.marked[::-1] * (true / (true + false))).sum() / marked)


def _classes(cells: ScoredCells, consensus: str) -> tuple[LabelledScores, int, int]:
    found = cells.labelled(consensus)
    marked, unmarked = int(found.marked.sum()), int(found.unmarked.sum())
    if not marked + unmarked:
        raise FitError("there are no voxels")
    if not marked or not unmarked:
        raise FitError(f"{consensus} marks {'every' if marked else 'no'} voxel")
    return found, marked, unmarked


class _OfConsensus(Protocol):
    def __call__(self, cells: ScoredCells, consensus: str) -> Result: ...


def _against(base: Metric, function: _OfConsensus) -> Metric:
    """Return a metric that takes the name of a consensus after a colon."""

    def of_consensus(consensus: str) -> Metric:
        if consensus in ("mhr", "rater:"):
            raise RequestError(
                f"{base.name!r} cannot be taken against {consensus!r}.", "Allowed: majority, staple, rater:NAME."
            )
        check_target(consensus)
        return replace(
            base,
            name=f"{base.name}:{consensus}",
            function=partial(function, consensus=consensus),
            description=base.description.replace("the majority", consensus),
        )

    return replace(base, argument="CONSENSUS", with_argument=of_consensus)


def sharpness(cells: ScoredCells) -> float:
    """Sharpness: the variance of p over voxels. See Murphy and Winkler, 1992."""
    scores = cells.scores
    mean = float((scores.count * scores.score).sum()) / cells.n_voxels
    return float((scores.count * (scores.score - mean) ** 2).sum() / cells.n_voxels)


_NCC = Metric(
    name="ncc",
    function=ncc,
    unit="1",
    better="higher",
    range=(-1.0, 1.0),
    description="Correlation over voxels of the score's entropy with the raters' variance m (1 - m)",
    source="Hu et al., Supervised uncertainty quantification for segmentation, MICCAI 2019",
    argument="variance",
    with_argument=_ncc_of,
)

METRICS = (
    _NCC,
    Metric(
        name="aurc",
        function=aurc,
        unit="1",
        better="lower",
        range=(0.0, 1.0),
        description="Area under the risk-coverage curve; the risk is the fraction of raters who contradict the class",
        source="Geifman, Uziel and El-Yaniv, ICLR 2019, with the expectation over ties",
    ),
    Metric(
        name="eaurc",
        function=eaurc,
        unit="1",
        better="lower",
        range=(0.0, 1.0),
        description="aurc less the least that any order of the voxels would give",
        source="Geifman, Uziel and El-Yaniv, ICLR 2019, with the expectation over ties",
    ),
    _against(
        Metric(
            name="auroc",
            function=auroc,
            unit="1",
            better="higher",
            range=(0.0, 1.0),
            description="Area under the receiver operating characteristic of the score against the majority",
            source="Hanley and McNeil, Radiology 1982",
        ),
        auroc,
    ),
    _against(
        Metric(
            name="average_precision",
            function=average_precision,
            unit="1",
            better="higher",
            range=(0.0, 1.0),
            description="Average precision of the score against the majority, not interpolated",
            source="as scikit-learn defines it",
        ),
        average_precision,
    ),
    Metric(
        name="sharpness",
        function=sharpness,
        unit="1",
        better="higher",
        range=(0.0, 0.25),
        description="Variance of the scores over voxels",
        source="Murphy and Winkler, International Journal of Forecasting 1992",
    ),
)
