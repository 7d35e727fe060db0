"""Smooth calibration error to the mean human response (MHR): p is a voxel's score, m its MHR.

Needs no bins, and no bandwidth to be chosen either: the kernel is as wide as the error that it finds.
"""

from __future__ import annotations

import math
from itertools import accumulate

import numpy as np
import numpy.typing as npt
from scipy.fft import dct, next_fast_len

from twintrack_core.metrics.cells import ScoredCells
from twintrack_core.metrics.metric import Metric

_TOLERANCE = 5e-6  # relative, of the bandwidth
_MAX_EVALUATIONS = 60
_APART = 11.0  # bandwidths from which on two masses count as apart: they cancel 4e-8 of each other at most
_POINTS_PER_WIDTH = 4.0
_MIN_POINTS = 64
_FIRST = 0.6  # of the largest error there can be, where the search begins
_SPARE = 0.7  # of a width, down to which its grid is made to serve
_LAGRANGE = [(-1.0) ** (7 - i) / (math.factorial(i) * math.factorial(7 - i)) for i in range(8)]
_NEGLIGIBLE = 8.3  # standard deviations from which on a Gaussian is below 1e-15

_Values = npt.NDArray[np.float64]


def smece_mhr(cells: ScoredCells) -> float:
    """Smooth calibration error of the scores to the MHR.

    The mean residual m - p of the voxels of each score is smoothed along the scores by a Gaussian of standard deviation
    s that is reflected at 0 and 1; smECE_s is the integral over [0, 1] of the absolute value of what results. It falls
    as s grows, and the smooth calibration error is where the two are equal. See Błasiok and Nakkiran, ICLR 2024.
    """
    scores = cells.scores
    return fixed_point(scores.score, scores.count / cells.n_voxels * (scores.mean - scores.score))


def fixed_point(place: _Values, mass: _Values) -> float:
    """Return the bandwidth at which `smoothed_error` is the bandwidth, to a relative accuracy of about 1e-5.

    Parameters
    ----------
    place
        (n,) float64 in [0, 1], ascending.
    mass
        (n,) float64 of either sign; their absolute values sum to 1 at most.
    """
    # No smoothing cancels nothing, and endless smoothing all that can be: the error lies between.
    high, low = float(np.abs(mass).sum()), abs(float(mass.sum()))
    width = max(low, _FIRST * high)
    smoother, last = None, 0.1
    for n_tried in range(1, _MAX_EVALUATIONS + 1):
        if high - low <= _TOLERANCE * high:
            break
        if smoother is None or width < smoother.narrowest:
            smoother = _Smoother(place, mass, max(low, _SPARE * width), high)
        error, slope = smoother.error(width)
        # The error falls as the width grows, so the fixed point lies between any width and its error.
        low, high = max(low, min(width, error)), min(high, max(width, error))
        # Newton's method on the logarithms, which are closer to a line.
        step = math.log(error / width) / (1 - slope * width / error) if error > 0 else -math.inf
        following = width * math.exp(step)
        # Steps shrink as their power of 2, or of 3/2 where a zero has just gone: the next one is not worth its price.
        if abs(step) * (abs(step) / abs(last)) ** 1.5 < _TOLERANCE / 2:
            return min(max(following, low), high)
        last = step
        # Now and then the middle of the decades between, so that the bracket does shrink.
        usable = low <= following <= high and n_tried % 6
        width = following if usable else max(math.sqrt(low * high), high / 16)
    return (low + high) / 2


def smoothed_error(place: _Values, mass: _Values, width: float) -> float:
    """Return the integral over [0, 1] of |r|, r being point masses smoothed by a Gaussian reflected at 0 and 1.

    Parameters
    ----------
    place
        (n,) float64 in [0, 1], ascending.
    mass
        (n,) float64 of either sign.
    width
        Standard deviation of the Gaussian.
    """
    return _Smoother(place, mass, width, width).error(width)[0]


class _Smoother:
    """Point masses on a grid as a sum of cosines, to be smoothed by a Gaussian of some width.

    Scores lie the further apart the larger they are. Those beyond the last two neighbours that meet stand alone: each
    contributes its mass, and the grid need not reach them, however narrow the kernel is.
    """

    def __init__(self, place: _Values, mass: _Values, narrowest: float, widest: float) -> None:
        """Make a grid that serves widths from the narrowest to the widest."""
        self.narrowest = narrowest
        meeting = np.flatnonzero(np.diff(place) < _APART * widest)
        stop = int(meeting[-1]) + 2 if len(meeting) else 0
        self._alone = float(np.abs(mass[stop:]).sum())
        self._end = min(1.0, float(place[stop - 1]) + _APART / 2 * widest) if stop else 0.0
        self._cosines = np.zeros(0)
        if stop:
            wanted = math.ceil(self._end / narrowest * _POINTS_PER_WIDTH)
            n_points = int(next_fast_len(max(_MIN_POINTS, wanted), real=True))
            # Half a step from either end: a transform of such points takes a quarter of the time.
            grid = _deposit(place[:stop] * (n_points / self._end) - 0.5, mass[:stop], n_points)
            self._cosines = np.asarray(dct(grid, type=2)) / (2 * n_points)

    def error(self, width: float) -> tuple[float, float]:
        """Return the integral of the absolute value of what is smoothed, and its derivative by the width."""
        n_points = len(self._cosines)
        if not n_points:
            return self._alone, 0.0
        # The reflected Gaussian is the heat kernel of an interval with insulated ends: cosines diagonalise it.
        spread = np.pi * width / self._end
        left = np.arange(min(n_points, math.ceil(_NEGLIGIBLE / spread))) * spread
        damped = np.zeros(n_points)
        damped[: len(left)] = self._cosines[: len(left)] * np.exp(-0.5 * left**2)
        total, slopes = _integral_of_absolute(np.asarray(dct(damped, type=3, overwrite_x=True)))
        # By the heat equation a width more moves as much through every zero as it is steep.
        return total + self._alone, -2 * width * slopes * (n_points / self._end) ** 2


def _deposit(position: _Values, mass: _Values, n_points: int) -> _Values:
    """Put masses at positions in [-1/2, n - 1/2] on the points 0 to n - 1 of a grid, moments up to the seventh kept.

    Each is spread over eight points by the weights of Lagrange's interpolation; what falls off an end is reflected
    there, half a step beyond the last point.
    """
    first = np.floor(position)
    t = position - first
    # Products of the distances to the points before each and after each.
    distances = [t - node for node in range(-3, 5)]
    before = list(accumulate(distances[:7], np.multiply, initial=mass))
    after = list(accumulate(distances[:0:-1], np.multiply, initial=np.ones_like(mass)))
    weights = [before[i] * after[7 - i] * _LAGRANGE[i] for i in range(8)]
    place = first.astype(np.intp) + np.arange(1, 9)[:, np.newaxis]
    found = np.bincount(place.reshape(-1), weights=np.concatenate(weights), minlength=n_points + 8)
    padded = np.asarray(found, dtype=np.float64)
    grid = padded[4 : n_points + 4].copy()
    grid[:4] += padded[3::-1]
    grid[-4:] += padded[: n_points + 3 : -1]
    return grid


# Coefficients of the powers 0, 2, 4 and 1, 3, 5 of the polynomial through six points half a step and so on from 0, for
# the sums and the differences of those to the right and to the left.
_EVEN = np.array([[150, -25, 3], [-272 / 3, 104, -40 / 3], [32 / 3, -16, 16 / 3]])[:, :, np.newaxis] / 256
_ODD = np.array([[2250, -125, 9], [-1360, 520, -40], [160, -80, 16]])[:, :, np.newaxis] / 1920


def _integral_of_absolute(values: _Values) -> tuple[float, float]:
    """Return the integral of |f| in units of the grid's step, and the sum of |f'| over its zeros, in those units.

    f is smooth, even half a step beyond both ends, and given at points. Between two zeros the sum over points is the
    integral but for what Euler and Maclaurin's formula adds at either zero, where f is a polynomial of degree 5 through
    the six points around it.
    """
    before = np.flatnonzero(values[:-1] * values[1:] < 0)
    padded = np.concatenate([values[1::-1], values, values[:-3:-1]])
    around = padded[before + np.arange(6)[:, np.newaxis]]
    even, odd = around[3:] + around[2::-1], around[3:] - around[2::-1]
    # Of the distance from the middle of the step that holds the zero.
    a = np.empty_like(around)
    a[::2] = (_EVEN * even).sum(axis=1)
    a[1::2] = (_ODD * odd).sum(axis=1)
    # The zero of the line, then a step of Newton's method: |f| is small there, so that little is enough.
    line = -even[0] / (2 * odd[0])
    f = ((((a[5] * line + a[4]) * line + a[3]) * line + a[2]) * line + a[1]) * line + a[0]
    steepness = (((5 * a[5] * line + 4 * a[4]) * line + 3 * a[3]) * line + 2 * a[2]) * line + a[1]
    steepness = np.where(steepness * odd[0] > 0, steepness, odd[0])
    zero = np.clip(line - f / steepness, -0.5, 0.5)
    steepness += (2 * a[2] + 6 * a[3] * line) * (zero - line)
    parts = ((a[5] / 6 * zero + a[4] / 5) * zero + a[3] / 4) * zero + a[2] / 3
    integral = ((parts * zero + a[1] / 2) * zero + a[0]) * zero
    integral += a[1] / 24 - 7 / 960 * a[3] + 31 / 8064 * a[5]
    added = 2 * float((np.sign(around[2]) * integral).sum())
    return float(np.abs(values).sum()) + added, float(np.abs(steepness).sum())


METRICS = (
    Metric(
        name="smece_mhr",
        function=smece_mhr,
        unit="1",
        better="lower",
        range=(0.0, 1.0),
        description="Smooth calibration error to the MHR: residuals smoothed as widely as the error itself; no bins",
        source="Błasiok and Nakkiran, Smooth ECE, ICLR 2024, with the MHR in place of the label",
    ),
)
