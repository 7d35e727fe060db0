"""CRPS of the volume: how far the probabilistic volume V lies from the raters' volumes V_r, in mm3.

V = v * sum(p) for the voxel volume v. The raters' volumes are taken as the normal distribution of their mean mu and
population standard deviation sigma, or as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

from twintrack_core.metrics import Metric, Result, ScoredCells, Undefined

_NODES = np.linspace(ndtri(0.01), ndtri(0.99), 100)
_REACH = 3.0

_CURVAS = "CURVAS-PDACVI challenge, MICCAI 2025"
_GNEITING = "Gneiting and Raftery, Journal of the American Statistical Association 2007"


def crps_official(cells: ScoredCells) -> Result:
    """CRPS of the volume as the challenge's evaluation gives it, in mm3.

    Integral of (F(x) - H(x - V))^2 from mu - 3 sigma to mu + 3 sigma, with H(0) = 0.5. F is the normal distribution
    function at 100 equally spaced points between its 1 % and 99 % quantiles, linear between them, 0 below and 1 above.
    So it saturates near 2.44 sigma however wrong V is; it is undefined where the raters' volumes are all the same.

    Source: CURVAS-PDACVI challenge, MICCAI 2025.
    """
    volume, raters = _voxels(cells)
    sigma = float(raters.std())
    if sigma == 0:
        return Undefined(_NO_SPREAD)
    return _mm3(cells) * sigma * _tabulated((volume - float(raters.mean())) / sigma)


def crps_exact(cells: ScoredCells) -> Result:
    """CRPS of the volume for the normal distribution of the raters' volumes in closed form, in mm3.

    sigma (z (2 Phi(z) - 1) + 2 phi(z) - 1 / sqrt(pi)), z = (V - mu) / sigma; |V - mu| where sigma is 0.

    Source: Gneiting and Raftery, Journal of the American Statistical Association 2007.
    """
    volume, raters = _voxels(cells)
    off, sigma = volume - float(raters.mean()), float(raters.std())
    if sigma == 0:
        return _mm3(cells) * abs(off)
    z = off / sigma
    phi = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return _mm3(cells) * sigma * (z * (2 * float(ndtr(z)) - 1) + 2 * phi - 1 / math.sqrt(math.pi))


def crps_empirical(cells: ScoredCells) -> Result:
    """CRPS of the volume for the raters' volumes as they are, in mm3.

    mean |V - V_r| - 0.5 mean |V_r - V_s|, the latter over all R^2 pairs of raters.

    Source: Gneiting and Raftery, Journal of the American Statistical Association 2007.
    """
    volume, raters = _voxels(cells)
    spread = np.abs(raters[:, np.newaxis] - raters).mean()
    return _mm3(cells) * float(np.abs(volume - raters).mean() - spread / 2)


def _voxels(cells: ScoredCells) -> tuple[float, npt.NDArray[np.float64]]:
    """Return the predicted volume and the R raters', in voxels, so that no rounding gives spread to equal volumes."""
    (panel,) = cells.panels
    patterns = np.arange(len(panel.count))
    marked = [int(panel.count[patterns >> rater & 1 == 1].sum()) for rater in range(len(panel.raters))]
    return float((cells.scores.count * cells.scores.score).sum()), np.array(marked, dtype=np.float64)


def _mm3(cells: ScoredCells) -> float:
    return cells.cases[0].voxel_mm3


def _tabulated(z: float) -> float:
    """Integral of (F(u) - H(u - z))^2 over [-3, 3], F the tabulated distribution function of the standard normal."""
    cut = min(max(z, -_REACH), _REACH)
    bounds = np.sort(np.concatenate([[-_REACH, cut, _REACH], _NODES]))
    left, right = bounds[:-1], bounds[1:]
    # F and H jump at bounds only; in between F is linear, and the middle of a piece says on which side of a jump it is.
    middle = (left + right) / 2
    step = middle > z
    inside = (middle > _NODES[0]) & (middle < _NODES[-1])
    beyond = middle >= _NODES[-1]
    start, stop = (np.where(inside, np.interp(end, _NODES, ndtr(_NODES)), beyond) - step for end in (left, right))
    return float(((right - left) * (start**2 + start * stop + stop**2) / 3).sum())


_NO_SPREAD = "all raters marked the same volume, and the official formula divides by their spread"


def _metric(name: str, function: Callable[[ScoredCells], Result], description: str, source: str) -> Metric:
    return Metric(
        name=name,
        function=function,
        unit="mm3",
        better="lower",
        range=(0.0, math.inf),
        description=description,
        source=source,
        regions=("whole",),
        pooled=False,  # a volume is of one case
    )


CRPS_OFFICIAL = _metric(
    "crps_official",
    crps_official,
    "CRPS of the volume and a normal of the raters' volumes, as the challenge's evaluation gives it",
    _CURVAS,
)
CRPS_EXACT = _metric(
    "crps_exact", crps_exact, "CRPS of the volume and a normal of the raters' volumes, in closed form", _GNEITING
)
CRPS_EMPIRICAL = _metric("crps_empirical", crps_empirical, "CRPS of the volume and the raters' volumes", _GNEITING)
