"""What a score says of its own certainty: p is a voxel's score, m its mean human response."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy.special import digamma

from twintrack_core.codes import MAX_RATERS
from twintrack_core.errors import FitError, RequestError
from twintrack_core.metrics.cells import LabelledScores, ScoredCells
from twintrack_core.metrics.metric import Metric, Result, Undefined
from twintrack_core.metrics.proper import entropy
from twintrack_core.targets import check_target

_Values = npt.NDArray[np.float64]

# Differences of m (1 - m), p (1 - p) and of entropies of p are larger than this, or rounding.
_SAME = 1e-12
_PARTS = math.lcm(*range(1, MAX_RATERS + 1))  # any fraction of raters is a whole number of these
_LARGE = 64  # from here on four terms of Stirling's series give the digamma function to the last bit


def ncc(cells: ScoredCells) -> Result:
    """Normalised cross-correlation over voxels of the entropy of p with the raters' variance m (1 - m)."""
    return _correlation(cells, entropy(cells.score))


def ncc_variance(cells: ScoredCells) -> Result:
    """Normalised cross-correlation over voxels of p (1 - p) with the raters' variance m (1 - m)."""
    return _correlation(cells, cells.score * (1 - cells.score))


def _correlation(cells: ScoredCells, uncertainty: _Values) -> Result:
    disagreement = cells.mhr * (1 - cells.mhr)
    if np.ptp(uncertainty) < _SAME:
        return Undefined("the scores are everywhere as uncertain")
    if np.ptp(disagreement) < _SAME:
        return Undefined("the raters disagree everywhere as much")
    weight = cells.count / cells.n_voxels
    a = uncertainty - (weight * uncertainty).sum()
    b = disagreement - (weight * disagreement).sum()
    found = (weight * a * b).sum() / math.sqrt(float((weight * a**2).sum()) * float((weight * b**2).sum()))
    return float(np.clip(found, -1, 1))


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
    marks = np.rint(cells.mhr * _PARTS).astype(np.intp)
    count = np.zeros(_PARTS + 1, dtype=np.int64)
    np.add.at(count, np.where(cells.score > 0.5, _PARTS - marks, marks), cells.count)
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
    before = np.cumsum(size) - size
    loss_before = np.cumsum(total) - total
    mean = total / size
    areas = mean * size + (loss_before - mean * before) * _harmonic(before, size)
    return float(areas.sum() / int(size.sum()))


def _harmonic(n: npt.NDArray[np.int64], g: npt.NDArray[np.int64]) -> _Values:
    """Return 1 / (n + 1) + ... + 1 / (n + g)."""
    a = np.asarray(n + 1, dtype=np.float64)
    b = np.asarray(n + g + 1, dtype=np.float64)
    # As a difference of digamma functions it loses its digits where n is large.
    found = np.log1p(g / a) + (_stirling(b) - _stirling(a))
    few = n < _LARGE
    found[few] = digamma(b[few]) - digamma(a[few])
    return np.asarray(found)


def _stirling(x: _Values) -> _Values:
    """Return the digamma function less the logarithm, for large x."""
    square = 1 / x**2
    return np.asarray(-0.5 / x - square / 12 + square**2 / 120 - square**3 / 252)


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
