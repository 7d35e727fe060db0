"""Drift: how the scores of new cases, which nobody need have rated, differ from those a map was fitted to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from twintrack_core.codes import CODE_VALUES, N_CODES
from twintrack_core.errors import RequestError
from twintrack_core.histogram import CohortStatistics

N_BINS = 50
"""Bins of the score, of equal width, in which histograms are compared."""

_PLACE = np.minimum((CODE_VALUES * N_BINS).astype(np.intp), N_BINS - 1)

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Drift:
    """How the scores of new cases compare with those of the cases that a map was fitted to, inside the region.

    Attributes
    ----------
    fitted, new
        (50,) float64 share of the voxels in each bin of the score, [k/50, (k+1)/50), the last one closed: of all cases
        together.
    support
        (50,) float64 effective number of fitted cases in each bin: (sum of w)^2 / (sum of w^2), w the voxels of a case.
    least
        Effective number of cases that a bin needs to be supported.
    unsupported
        Share of the new voxels in bins with fewer; NaN without voxels.
    unsupported_foreground
        The same of those scored 1/50 or more, which background does not dilute.
    distance
        For each new case by name: Jensen-Shannon distance (0 to 1) of the histogram of its scores of 1/50 or more from
        that of the fitted cases; cases without such scores are left out.
    rank
        For each of them: the share of fitted cases that are at least as far from the other fitted cases, counting the
        new case among them. A small one means that the case is unlike all of them; it cannot be below 1 / (cases + 1).
    """

    fitted: _Floats
    new: _Floats
    support: _Floats
    least: float
    unsupported: float
    unsupported_foreground: float
    distance: dict[str, float]
    rank: dict[str, float]


def drift(fitted: CohortStatistics, new: CohortStatistics, *, least: float = 3.0) -> Drift:
    """Compare the scores of new cases, rated or not, with those of the cases that a map was fitted to.

    Parameters
    ----------
    fitted
        Joint histograms of the cases that the map was fitted to, two or more.
    new
        Those of the new cases.
    least
        Effective number of fitted cases below which a bin counts as hardly supported.

    Raises
    ------
    RequestError
        For fewer than two fitted cases with voxels, no new one, or statistics of another region of interest.

    References
    ----------
    D. M. Endres, J. E. Schindelin: A new metric for probability distributions, IEEE Transactions on Information Theory
    2003 (the square root of the Jensen-Shannon divergence, here to the base 2). The rank is a conformal p-value (V.
    Vovk, A. Gammerman, G. Shafer: Algorithmic Learning in a Random World, 2005), but for what cases are compared with:
    all fitted cases, of which a fitted one leaves out itself.
    """
    if fitted.roi != new.roi:
        raise RequestError(
            f"The map's cases were counted in the region {fitted.roi!r}, the new ones in {new.roi!r}.",
            "Allowed: the same rule.",
            "Accumulate the new cohort again with the rule of the map.",
        )
    before, after = score_histograms(fitted), score_histograms(new)
    if len(before) < 2 or not after:
        raise RequestError(
            f"There are {len(before)} cases with voxels to compare with, and {len(after)} new ones.",
            "Allowed: 2 or more, and 1 or more.",
        )
    tables = np.stack(list(before.values()))
    pooled = tables.sum(axis=0)
    others = [_distance(case, pooled - case) for case in before.values() if case[1:].any()]
    distance = {name: _distance(case, pooled) for name, case in after.items() if case[1:].any()}
    rank = {name: (1 + sum(other >= far for other in others)) / (len(others) + 1) for name, far in distance.items()}
    squares = (tables**2).sum(axis=0)
    support = np.divide(pooled**2, squares, out=np.zeros(N_BINS), where=squares > 0)
    total = np.sum(list(after.values()), axis=0)
    weak = support < least
    return Drift(
        pooled / pooled.sum(),
        total / total.sum(),
        support,
        least,
        float(total[weak].sum() / total.sum()),
        float(total[1:][weak[1:]].sum() / total[1:].sum()) if total[1:].any() else float("nan"),
        distance,
        rank,
    )


def score_histograms(statistics: CohortStatistics) -> dict[str, _Floats]:
    """Return (50,) float64 voxels in every bin of the score, for the cases that have voxels inside the region."""
    found = {}
    for name, case in statistics.items():
        cells = case.histogram.select("roi")
        by_code = np.bincount(cells.code, weights=cells.count, minlength=N_CODES)
        counts = np.bincount(_PLACE, weights=by_code, minlength=N_BINS).astype(np.float64, copy=False)
        if counts.any():
            found[name] = counts
    return found


def _distance(one: _Floats, other: _Floats) -> float:
    """Return the distance of two histograms beyond their first bin; 1 where the other is empty there."""
    from scipy.special import rel_entr

    if not other[1:].any():
        return 1.0
    p, q = one[1:] / one[1:].sum(), other[1:] / other[1:].sum()
    middle = (p + q) / 2
    divergence = float(rel_entr(p, middle).sum() + rel_entr(q, middle).sum()) / (2 * np.log(2))
    return float(np.sqrt(np.clip(divergence, 0.0, 1.0)))
