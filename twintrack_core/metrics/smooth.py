"""Smooth calibration error to the mean human response (MHR): p is a voxel's score, m its MHR.

Needs no bins, and no bandwidth to be chosen either: the kernel is as wide as the error that it finds.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.fft import dct, next_fast_len

from twintrack_core.metrics.cells import ScoredCells
from twintrack_core.metrics.metric import Metric

_TOLERANCE = 5e-6  # relative, of the bandwidth
_MAX_EVALUATIONS = 60
_APART = 11.0  # bandwidths from which on two masses count as apart: they cancel 4e-8 of each other at most
_POINTS_PER_WIDTH = 8.0
_MIN_INTERVALS = 64
_SHORT = 1e-3  # width of a kernel whose grid takes no longer to transform than to fill

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
    tried: list[tuple[float, float]] = []
    smoother = None
    while high - low > _TOLERANCE * high and len(tried) < _MAX_EVALUATIONS:
        width = _next_width(low, high, tried)
        if smoother is None or not smoother.serves(width):
            smoother = _Smoother(place, mass, width, max(low, width / 4))
        error = smoother.error(width)
        tried.append((width, error))
        # The error falls as the width grows, so the fixed point lies between any width and its error.
        low, high = max(low, min(width, error)), min(high, max(width, error))
    return (low + high) / 2


def _next_width(low: float, high: float, tried: list[tuple[float, float]]) -> float:
    """Return the width to try next: the secant's if it lies in the bracket, else one in the middle of its decades."""
    if len(tried) >= 2 and len(tried) % 6:  # now and then the middle, so that the bracket does shrink
        (a, error_a), (b, error_b) = tried[-2:]
        slope = (error_b - error_a) / (b - a) if a != b else 0.0
        secant = b + (error_b - b) / (1 - slope)
        if low <= secant <= high:
            return secant
    return max(math.sqrt(low * high), high / 16)


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
    return _Smoother(place, mass, width, width).error(width)


class _Smoother:
    """Point masses on a grid as a sum of cosines, to be smoothed by a Gaussian of some width.

    Scores lie the further apart the larger they are. Those beyond the last two neighbours that meet stand alone: each
    contributes its mass, and the grid need not reach them, however narrow the kernel is.
    """

    def __init__(self, place: _Values, mass: _Values, width: float, narrowest: float) -> None:
        meeting = np.flatnonzero(np.diff(place) < _APART * width)
        stop = int(meeting[-1]) + 2 if len(meeting) else 0
        self._alone = float(np.abs(mass[stop:]).sum())
        self._end = min(1.0, float(place[stop - 1]) + _APART / 2 * width) if stop else 0.0
        # A grid that is short anyway is made fine enough for the narrower kernels that may be tried next.
        finest = min(width, max(narrowest, _SHORT)) if self._end == 1 else width
        wanted = math.ceil(self._end / finest * _POINTS_PER_WIDTH)
        self._n_intervals = int(next_fast_len(max(_MIN_INTERVALS, wanted), real=True))
        self._cosines = np.zeros(0)
        if stop:
            grid = _deposit(place[:stop] * (self._n_intervals / self._end), mass[:stop], self._n_intervals)
            grid[[0, -1]] *= 2  # the transform counts its ends once, all other points twice
            self._cosines = np.asarray(dct(grid, type=1)) / 2

    def serves(self, width: float) -> bool:
        """Whether the grid is fine enough for a width, and reaches far enough."""
        return self._end == 1 and self._n_intervals * width >= _POINTS_PER_WIDTH

    def error(self, width: float) -> float:
        """Return the integral of the absolute value of what is smoothed."""
        if not len(self._cosines):
            return self._alone
        # The reflected Gaussian is the heat kernel of an interval with insulated ends: cosines diagonalise it.
        frequency = np.arange(self._n_intervals + 1) * (np.pi * width / self._end)
        smoothed = np.asarray(dct(self._cosines * np.exp(-0.5 * frequency**2), type=1))
        return _integral_of_absolute(smoothed) / self._n_intervals + self._alone


def _deposit(position: _Values, mass: _Values, n_intervals: int) -> _Values:
    """Put masses at positions in [0, n] on the points 0 to n of a grid, moments up to the fifth preserved.

    Each is spread over six points by the weights of Lagrange's interpolation; what falls off an end is reflected there.
    """
    first = np.minimum(position.astype(np.intp), n_intervals - 1)  # the third of the six
    t = position - first
    # Products of the distances to the points at -2, -1, 0, 1, 2 and 3.
    below = (t + 2) * (t + 1)
    above = (t - 2) * (t - 3)
    inner = t * (t - 1)
    weights = (
        -(t + 1) * inner * above / 120,
        (t + 2) * inner * above / 24,
        -below * (t - 1) * above / 12,
        below * t * above / 12,
        -below * inner * (t - 3) / 24,
        below * inner * (t - 2) / 120,
    )
    padded = np.zeros(n_intervals + 6)
    for offset, weight in enumerate(weights):
        padded += np.bincount(first + offset, weights=weight * mass, minlength=n_intervals + 6)
    grid = padded[2 : n_intervals + 3].copy()
    grid[1:3] += padded[1::-1]
    grid[-4:-1] += padded[: n_intervals + 2 : -1]
    return grid


def _integral_of_absolute(values: _Values) -> float:
    """Return the integral of |f| in units of the grid's step, f smooth and even at both ends.

    Each step has f as the straight line between its ends, which may cross 0, and a parabola upon it.
    """
    bend = np.diff(values, n=2, prepend=values[1], append=values[-2])
    left, right, bend = values[:-1], values[1:], (bend[:-1] + bend[1:]) / 2
    steps = np.abs((left + right) / 2 - bend / 12)
    crossing = np.flatnonzero(left * right < 0)
    a, b = left[crossing], right[crossing]
    zero = a / (a - b)
    line = (a**2 + b**2) / (2 * np.abs(a - b))
    parabola = np.sign(a) * bend[crossing] * (1 / 12 - zero**2 / 2 + zero**3 / 3)
    steps[crossing] = line + parabola
    return float(steps.sum())


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
