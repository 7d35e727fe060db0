"""How the raters agree, whatever the scores are: each voxel counts through the pattern of who marked it."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import numpy.typing as npt

from twintrack_core.errors import FitError
from twintrack_core.metrics.cells import ScoredCells
from twintrack_core.metrics.metric import Metric, Result, Undefined
from twintrack_core.metrics.raters import with_rater
from twintrack_core.metrics.tables import within
from twintrack_core.targets import staple


def fleiss_kappa(cells: ScoredCells) -> Result:
    """Fleiss' kappa of the marks: 1 - (observed disagreement) / (that of marks thrown together).

    Of R raters of whom k mark a voxel, 2 k (R - k) / (R (R - 1)) of the pairs disagree; if a fraction q of all
    decisions are marks, 2 q (1 - q) of the pairs would. See Fleiss 1971.
    """
    return cells.of_marks((__name__, "kappa"), _fleiss_kappa)


def _fleiss_kappa(cells: ScoredCells) -> Result:
    if cells.n_raters is None:
        return Undefined("the cases have different numbers of raters: take krippendorff_alpha")
    if cells.n_raters == 1:
        return Undefined("it takes 2 raters or more")
    observed, marks, unmarked, _ = _disagreement(cells)
    if not marks or not unmarked:
        return Undefined(f"every rater marked {'every' if marks else 'no'} voxel")
    decisions = marks + unmarked
    return max(-1.0, 1 - observed / decisions / (2 * (marks / decisions) * (unmarked / decisions)))


def krippendorff_alpha(cells: ScoredCells) -> Result:
    """Krippendorff's alpha of the marks, nominal: 1 - (observed disagreement) / (that of marks paired at random).

    Unlike `fleiss_kappa` it allows for cases of different raters; a voxel with one rater makes no pair and is left out.
    See Krippendorff, Content Analysis, 2004.
    """
    return cells.of_marks((__name__, "alpha"), _krippendorff_alpha)


def _krippendorff_alpha(cells: ScoredCells) -> Result:
    observed, marks, unmarked, paired = _disagreement(cells)
    if not paired:
        return Undefined("it takes 2 raters or more")
    if not marks or not unmarked:
        return Undefined(f"every rater marked {'every' if marks else 'no'} voxel")
    decisions = marks + unmarked
    return max(-1.0, 1 - observed / decisions * ((decisions - 1) / marks) * (decisions / unmarked) / 2)


def _disagreement(cells: ScoredCells) -> tuple[float, int, int, bool]:
    """Return sums over the voxels of two raters or more.

    They are 2 k (R - k) / (R - 1), where k of R raters marked a voxel, the marks, the decisions not to mark, and
    whether there is such a voxel.
    """
    observed, marks, unmarked = 0.0, 0, 0
    for panel in cells.panels:
        n_raters = len(panel.raters)
        if n_raters > 1:
            marked = np.bitwise_count(np.arange(len(panel.count))).astype(np.int64)
            observed += float((panel.count * (2 * marked * (n_raters - marked) / (n_raters - 1))).sum())
            # As Python's integers, which do not overflow where each voxel is counted R times.
            voxels = [int(panel.count[marked == k].sum()) for k in range(n_raters + 1)]
            marks += sum(k * n for k, n in enumerate(voxels))
            unmarked += sum((n_raters - k) * n for k, n in enumerate(voxels))
    return observed, marks, unmarked, marks + unmarked > 0


def pairwise_dice(cells: ScoredCells) -> Result:
    """Mean over pairs of raters of the Dice of what they marked: 2 |A and B| / (|A| + |B|).

    A pair is taken over the cases that both rated; one that marked nothing there is left out.
    """
    return cells.of_marks((__name__, "dice"), _pairwise_dice)


def _pairwise_dice(cells: ScoredCells) -> Result:
    both: dict[tuple[str, str], int] = {}
    either: dict[tuple[str, str], int] = {}
    for panel in cells.panels:
        overlap = _overlaps(panel.count, len(panel.raters))
        for (i, a), (j, b) in combinations(enumerate(panel.raters), 2):
            both[a, b] = both.get((a, b), 0) + int(overlap[i, j])
            either[a, b] = either.get((a, b), 0) + int(overlap[i, i]) + int(overlap[j, j])
    if not either:
        return Undefined("it takes 2 raters or more")
    found = [2 * both[pair] / total for pair, total in sorted(either.items()) if total]
    return math.fsum(found) / len(found) if found else Undefined("no rater of a pair marked a voxel")


def _overlaps(count: npt.NDArray[np.int64], n_raters: int) -> npt.NDArray[np.int64]:
    """Return the voxels that two raters marked, (R, R); what one marked is on the diagonal."""
    marked = (np.arange(len(count))[:, np.newaxis] >> np.arange(n_raters)) & 1
    return np.asarray((marked * count[:, np.newaxis]).T @ marked, dtype=np.int64)


def staple_sensitivity_of_rater(cells: ScoredCells, rater: str) -> float:
    """Sensitivity of a rater to STAPLE: sum of W over what the rater marked / sum of W, W the probability of a mark.

    STAPLE is estimated over the whole volume of each case; the sums are over the region.
    """
    cells.require_rater(rater)
    return _mean_rate({rater: _against_staple(cells, marked=True)[rater]})


def staple_specificity_of_rater(cells: ScoredCells, rater: str) -> float:
    """Specificity of a rater to STAPLE: as `staple_sensitivity_of_rater`, of 1 - W and what the rater left unmarked."""
    cells.require_rater(rater)
    return _mean_rate({rater: _against_staple(cells, marked=False)[rater]})


def staple_sensitivity(cells: ScoredCells) -> float:
    """Mean over raters of `staple_sensitivity_of_rater`."""
    return _mean_rate(_against_staple(cells, marked=True))


def staple_specificity(cells: ScoredCells) -> float:
    """Mean over raters of `staple_specificity_of_rater`."""
    return _mean_rate(_against_staple(cells, marked=False))


def _against_staple(cells: ScoredCells, *, marked: bool) -> dict[str, tuple[float, float]]:
    return cells.of_marks((__name__, "staple", marked), lambda raw: _sums_of_staple(raw, marked=marked))


def _sums_of_staple(cells: ScoredCells, *, marked: bool) -> dict[str, tuple[float, float]]:
    """Return of each rater the sum of W, or of 1 - W, where the rater agrees, and everywhere in the rater's cases.

    Left out are cases without a mark, which have no STAPLE, and cases with one or two raters: their marks do not
    determine it, and it ends, after thousands of iterations, somewhere that follows from the rates it starts with.
    """
    cases = [case for case in cells.cases if len(case.histogram.raters) > 2]
    if not cases:
        raise FitError("it takes 3 raters or more for their marks to determine STAPLE")
    marked_cases = [case for case in cases if case.histogram.pattern.any()]
    if not marked_cases:
        raise FitError("STAPLE is undefined where no rater marked a voxel")
    found = dict.fromkeys(cells.raters, (0.0, 0.0))
    for case in marked_cases:
        histogram = case.histogram
        inside = within(histogram, cells.region)
        count = np.zeros(1 << len(histogram.raters), dtype=np.int64)
        np.add.at(count, histogram.pattern[inside], histogram.count[inside])
        truth = staple(histogram.pattern_counts, len(histogram.raters)).probability
        weight = (truth if marked else 1 - truth) * count
        for bit, rater in enumerate(histogram.raters):
            agrees = (np.arange(len(count)) >> bit & 1) == marked
            agreed, total = found[rater]
            found[rater] = agreed + float(np.where(agrees, weight, 0).sum()), total + float(weight.sum())
    return found


def _mean_rate(sums: dict[str, tuple[float, float]]) -> float:
    rates = [agreed / total for agreed, total in sums.values() if total]
    if not rates:
        raise FitError("STAPLE leaves nothing to compare with")
    return math.fsum(rates) / len(rates)


METRICS = (
    Metric(
        name="fleiss_kappa",
        function=fleiss_kappa,
        unit="1",
        better="neither",
        range=(-1.0, 1.0),
        description="Fleiss' kappa of the raters' marks",
        source="Fleiss, Psychological Bulletin 1971",
    ),
    Metric(
        name="krippendorff_alpha",
        function=krippendorff_alpha,
        unit="1",
        better="neither",
        range=(-1.0, 1.0),
        description="Krippendorff's alpha of the raters' marks, nominal; cases may have different raters",
        source="Krippendorff, Content Analysis, 2nd edition 2004",
    ),
    Metric(
        name="pairwise_dice",
        function=pairwise_dice,
        unit="1",
        better="neither",
        range=(0.0, 1.0),
        description="Mean over pairs of raters of the Dice of what they marked",
        source="Dice, Ecology 1945",
    ),
    with_rater(
        Metric(
            name="staple_sensitivity",
            function=staple_sensitivity,
            unit="1",
            better="neither",
            range=(0.0, 1.0),
            description="Sensitivity of a rater to the STAPLE of all, mean over raters",
            source="Warfield, Zou and Wells, IEEE Transactions on Medical Imaging 2004",
        ),
        staple_sensitivity_of_rater,
    ),
    with_rater(
        Metric(
            name="staple_specificity",
            function=staple_specificity,
            unit="1",
            better="neither",
            range=(0.0, 1.0),
            description="Specificity of a rater to the STAPLE of all, mean over raters",
            source="Warfield, Zou and Wells, IEEE Transactions on Medical Imaging 2004",
        ),
        staple_specificity_of_rater,
    ),
)
