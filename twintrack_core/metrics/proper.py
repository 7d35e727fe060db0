"""Proper scores to the mean human response (MHR) and to the raters: p is a voxel's score, m its MHR.

What is linear in m is taken from the mean of m at each score, which is the same and quicker.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy.special import entr

from twintrack_core.codes import CODE_VALUES
from twintrack_core.metrics.cells import ScoredCells
from twintrack_core.metrics.metric import Metric, Noted, Result

# Half a code beyond the outermost codes between 0 and 1, whose logarithms are not finite.
_CLIP_LOW = 2.0**-25
_CLIP_HIGH = 1.0 - 2.0**-12

_OF_MARKED = -np.log(np.clip(CODE_VALUES, _CLIP_LOW, _CLIP_HIGH))
_OF_UNMARKED = -np.log1p(-np.clip(CODE_VALUES, _CLIP_LOW, _CLIP_HIGH))


def brier_mhr(cells: ScoredCells) -> float:
    """Brier score to the MHR: mean of (p - m)^2."""
    total = 0.0
    for table in cells.tables:
        mhr = np.arange(len(table.raters) + 1)[:, np.newaxis] / len(table.raters)
        total += float((table.by_marks * (table.score - mhr) ** 2).sum())
    return total / cells.n_voxels


def brier_calibration(cells: ScoredCells) -> float:
    """Calibration part of the raters' Brier score: mean of (p - mean of m where the score is p)^2.

    With `brier_refinement` it adds up to `brier_rater`. Scores are told apart exactly, not by bins. See Murphy 1973.
    """
    scores = cells.scores
    return float((scores.count * (scores.score - scores.mean) ** 2).sum() / cells.n_voxels)


def brier_refinement(cells: ScoredCells) -> float:
    """Refinement part of the raters' Brier score: mean of q (1 - q), q the mean of m where the score is p."""
    scores = cells.scores
    return float((scores.count * scores.mean * (1 - scores.mean)).sum() / cells.n_voxels)


def cross_entropy_mhr(cells: ScoredCells) -> Result:
    """Cross-entropy to the MHR: mean of -m log p - (1 - m) log(1 - p), in nats, p clipped to [2^-25, 1 - 2^-12]."""
    return _noted(cells, _cross_entropy(cells))


def kl_mhr(cells: ScoredCells) -> Result:
    """Kullback-Leibler divergence from the MHR to the score: mean of m log(m / p) + (1 - m) log((1 - m) / (1 - p)).

    In nats, p clipped as in `cross_entropy_mhr`, which it is less the raters' own entropy.
    """
    return _noted(cells, max(0.0, _cross_entropy(cells) - _entropy_of_mhr(cells)))


def js_mhr(cells: ScoredCells) -> float:
    """Jensen-Shannon divergence of MHR and score: mean of H((m + p) / 2) - (H(m) + H(p)) / 2, H the binary entropy."""
    middle, of_score = 0.0, 0.0
    for table in cells.tables:
        middle += float((table.by_marks * _entropy_between(len(table.raters)).take(table.code, axis=1)).sum())
        of_score += float((table.voxels * entropy_of_codes()[table.code]).sum())
    return min(max(0.0, (middle - of_score / 2) / cells.n_voxels - _entropy_of_mhr(cells) / 2), math.log(2))


@cache
def _entropy_between(n_raters: int) -> npt.NDArray[np.float64]:
    """Return the binary entropy of (m + p) / 2, (R + 1, 15361) for every m of R raters and every code."""
    mhr = np.arange(n_raters + 1)[:, np.newaxis] / n_raters
    return entropy((mhr + CODE_VALUES) / 2)


@cache
def entropy_of_codes() -> npt.NDArray[np.float64]:
    """Return the binary entropy of the value of each code, (15361,), in nats."""
    return entropy(CODE_VALUES)


def _cross_entropy(cells: ScoredCells) -> float:
    """Return the cross-entropy to the MHR; two metrics share it."""
    return cells.once((__name__, "cross-entropy"), lambda: _cross_entropy_of(cells))


def _cross_entropy_of(cells: ScoredCells) -> float:
    scores = cells.scores
    of_marked, of_unmarked = log_losses(scores.score.astype(np.float16).view(np.uint16))
    loss = scores.mean * of_marked + (1 - scores.mean) * of_unmarked
    return float((scores.count * loss).sum() / cells.n_voxels)


def _entropy_of_mhr(cells: ScoredCells) -> float:
    """Return the mean over voxels of the binary entropy of m, in nats."""
    return cells.of_marks((__name__, "entropy"), _entropy_of)


def _entropy_of(cells: ScoredCells) -> float:
    total = 0.0
    for table in cells.tables:
        mhr = np.arange(len(table.raters) + 1) / len(table.raters)
        total += float((table.condensed.by_marks * entropy(mhr)).sum())
    return total / cells.n_voxels


def entropy(p: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the binary entropy of probabilities, in nats."""
    return np.asarray(entr(p) + entr(1 - p))


def log_losses(code: npt.NDArray[np.uint16]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return -log p and -log(1 - p) in nats, p clipped to [2^-25, 1 - 2^-12]: the losses of a mark, and of none.

    Parameters
    ----------
    code
        (n,) score codes.
    """
    return _OF_MARKED[code], _OF_UNMARKED[code]


def _noted(cells: ScoredCells, value: float) -> Result:
    n_contradicted = 0
    for table in cells.tables:
        low, high = table.at_ends[0].T
        n_contradicted += int(low[1:].sum() + high[:-1].sum())
    if not n_contradicted:
        return value
    return Noted(
        value,
        f"{n_contradicted} of {cells.n_voxels} voxels have a score of 0 or 1 that a rater contradicts; it was clipped",
    )


METRICS = (
    Metric(
        name="brier_mhr",
        function=brier_mhr,
        unit="1",
        better="lower",
        range=(0.0, 1.0),
        description="Brier score to the MHR: mean squared difference of score and MHR",
        source="Brier, Monthly Weather Review 1950, with the MHR in place of the outcome",
    ),
    Metric(
        name="brier_calibration",
        function=brier_calibration,
        unit="1",
        better="lower",
        range=(0.0, 1.0),
        description="Calibration part of brier_rater: mean squared difference of score and mean MHR at that score",
        source="Murphy, Journal of Applied Meteorology 1973",
    ),
    Metric(
        name="brier_refinement",
        function=brier_refinement,
        unit="1",
        better="lower",
        range=(0.0, 0.25),
        description="Refinement part of brier_rater: variance of the marks at each score, which no map removes",
        source="Murphy, Journal of Applied Meteorology 1973",
    ),
    Metric(
        name="cross_entropy_mhr",
        function=cross_entropy_mhr,
        unit="nat",
        better="lower",
        range=(0.0, math.inf),
        description="Cross-entropy of the score to the MHR, natural logarithm",
        source="Good, Journal of the Royal Statistical Society B 1952, with the MHR in place of the outcome",
    ),
    Metric(
        name="kl_mhr",
        function=kl_mhr,
        unit="nat",
        better="lower",
        range=(0.0, math.inf),
        description="Kullback-Leibler divergence from the MHR to the score: cross-entropy less the raters' own entropy",
        source="Kullback and Leibler, Annals of Mathematical Statistics 1951",
    ),
    Metric(
        name="js_mhr",
        function=js_mhr,
        unit="nat",
        better="lower",
        range=(0.0, math.log(2)),
        description="Jensen-Shannon divergence of MHR and score, natural logarithm",
        source="Lin, IEEE Transactions on Information Theory 1991",
    ),
)
