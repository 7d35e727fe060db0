"""The bootstrap over cases: intervals for means over cases and for whatever is computed anew in every draw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from twintrack_core.errors import RequestError

Method = Literal["bca", "percentile"]

_Floats = npt.NDArray[np.float64]
_Groups: TypeAlias = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Estimate:
    """A mean over cases with its interval; None where undefined.

    Attributes
    ----------
    mean, low, high
        The mean over the cases that define it, and the ends of its interval.
    defined
        Number of these cases.
    """

    mean: float | None
    low: float | None
    high: float | None
    defined: int


@dataclass(frozen=True)
class Bootstrap:
    """How to resample cases.

    Attributes
    ----------
    draws
        Number of draws, each of as many cases (or groups) as there are, with replacement; at least 50.
    level
        Coverage that intervals are made for, between 0 and 1.
    seed
        Of the draws.

    Raises
    ------
    RequestError
        For other values.
    """

    draws: int = 1000
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.draws, int | np.integer) or self.draws < 50:
            raise RequestError(f"{self.draws!r:.40} bootstrap draws make no interval.", "Allowed: 50 or more.")
        if not 0 < self.level < 1:
            raise RequestError(f"The level is {self.level!r:.40}.", "Allowed: between 0 and 1, such as 0.95.")
        if not isinstance(self.seed, int | np.integer) or self.seed < 0:
            raise RequestError(f"The seed is {self.seed!r:.40}.", "Allowed: a whole number, 0 or more.")

    def times(self, n_cases: int, groups: _Groups | None = None) -> npt.NDArray[np.int64]:
        """Return how often each case is drawn, (draws, n_cases) int64.

        Parameters
        ----------
        n_cases
            Number of cases.
        groups
            (n_cases,) number of each case's group, from 0 on: groups are drawn, with all their cases; each case is one
            by itself by default.
        """
        place = np.arange(n_cases) if groups is None else groups
        n_groups = int(place.max()) + 1 if n_cases else 0
        share = np.full(n_groups, 1 / max(1, n_groups))
        return np.random.default_rng(self.seed).multinomial(n_groups, share, size=self.draws)[:, place]

    def of_means(
        self, values: _Floats, method: Method = "bca", groups: _Groups | None = None
    ) -> tuple[_Floats, _Floats]:
        """Return intervals for means over cases, the values of the cases being given.

        That is resampling test cases with the map fixed, where the values are what a map leaves of a metric. For the
        difference of two maps, give the differences of their values, case by case.

        No interval is shorter than Student's: means of draws lie between the least and the greatest value, beyond which
        the truth lies once in 2^(n-1) times however far out quantiles are taken: one time in four for three cases.

        Parameters
        ----------
        values
            (cases, k) float64, NaN where undefined: the mean is over the others.
        method
            "percentile", or "bca" (bias-corrected and accelerated).
        groups
            As in `times`. With groups the mean over cases is that of groups of any size.

        Returns
        -------
        low, high
            (k,) float64, NaN where fewer than two cases, or groups, are defined.

        Raises
        ------
        RequestError
            For an unknown method.

        References
        ----------
        B. Efron, R. J. Tibshirani: An Introduction to the Bootstrap, 1993, chapters 12 to 14. Quantiles of the draws
        are taken further out for few cases as T. C. Hesterberg, What teachers should know about the bootstrap, The
        American Statistician 2015, section 5.3 ("expanded percentile"), does: they are made of the population standard
        deviation and of normal quantiles.
        """
        if method not in get_args(Method):
            raise RequestError(f"There is no interval {method!r}.", "Allowed: bca, percentile.")
        place = np.arange(len(values)) if groups is None else groups
        sums = _summed(np.where(np.isnan(values), 0.0, values), place)
        counts = _summed((~np.isnan(values)).astype(np.float64), place)
        times = self.times(len(sums)).astype(np.float64)
        # Summed by loops rather than by a matrix product, so that every machine gives the same bits.
        number = np.einsum("dg,gk->dk", times, counts)
        drawn = np.einsum("dg,gk->dk", times, sums) / np.where(number > 0, number, np.nan)
        low, high = np.full(values.shape[1], np.nan), np.full(values.shape[1], np.nan)
        for k in np.flatnonzero((counts > 0).sum(axis=0) > 1):
            defined = counts[:, k] > 0
            mean = _Mean(sums[defined, k], counts[defined, k])
            means = drawn[~np.isnan(drawn[:, k]), k]
            shares = self._bca(mean, means) if method == "bca" else self._expanded(mean.n)
            low[k], high[k] = np.quantile(means, shares)
            reach = self._reach(mean.n) * mean.spread
            low[k], high[k] = min(low[k], mean.value - reach), max(high[k], mean.value + reach)
        return low, high

    def estimates(
        self, values: _Floats, groups: _Groups | None = None, ranges: Sequence[tuple[float, float]] | None = None
    ) -> list[Estimate]:
        """Return means over cases with BCa intervals.

        Parameters
        ----------
        values
            (cases, k) float64, NaN where undefined.
        groups
            As in `times`.
        ranges
            For each of the k, the least and the greatest value there can be, beyond which no interval reaches.
        """
        low, high = self.of_means(values, groups=groups)
        if ranges is not None:
            least, most = np.array(ranges).T
            low, high = np.maximum(low, least), np.minimum(high, most)
        found = []
        for column, start, end in zip(values.T, low, high, strict=True):
            defined = column[~np.isnan(column)]
            mean = float(defined.mean()) if len(defined) else None
            known = not np.isnan(start)
            found.append(Estimate(mean, float(start) if known else None, float(end) if known else None, len(defined)))
        return found

    def of_draws(self, drawn: _Floats, estimate: _Floats, n_cases: int) -> tuple[_Floats, _Floats]:
        """Return percentile intervals of what was computed in every draw, expanded as in `of_means`.

        None is shorter than Student's.

        Parameters
        ----------
        drawn
            (draws, k) float64; NaN where a draw left it undefined.
        estimate
            (k,) float64 what the draws compute anew.
        n_cases
            How many cases, or groups, were drawn from.

        Returns
        -------
        low, high
            (k,) float64, NaN where no draw defines it or there is one case only.
        """
        low, high = np.full(drawn.shape[1], np.nan), np.full(drawn.shape[1], np.nan)
        if n_cases > 1:
            shares = self._expanded(n_cases)
            for k in np.flatnonzero(~np.isnan(drawn).all(axis=0)):
                start, end = self.around(float(estimate[k]), drawn[:, k], n_cases)
                first, last = np.nanquantile(drawn[:, k], shares)
                low[k], high[k] = np.fmin(first, start), np.fmax(last, end)
        return low, high

    def around(self, estimate: float, drawn: _Floats, n_cases: int) -> tuple[float, float]:
        """Return the standard interval: an estimate, and as far to both sides as draws spread.

        It needs fewer draws than percentiles do, and is centred at the estimate where draws are biased, as those are
        that refit a map: they hold two cases of three, so their maps are worse.

        Parameters
        ----------
        estimate
            What the draws estimate anew.
        drawn
            (draws,) float64, NaN where undefined.
        n_cases
            How many cases, or groups, were drawn from.

        References
        ----------
        B. Efron, R. J. Tibshirani: An Introduction to the Bootstrap, 1993, chapter 12.
        """
        known = drawn[~np.isnan(drawn)]
        if n_cases < 2 or len(known) < 2:
            return float("nan"), float("nan")
        reach = self._reach(n_cases) * float(known.std(ddof=1))
        return estimate - reach, estimate + reach

    def _reach(self, n_cases: int) -> float:
        """Return how far out an interval ends, in standard deviations of the draws' mean: Student's t, expanded."""
        from scipy.special import stdtrit

        return float(math.sqrt(n_cases / (n_cases - 1)) * stdtrit(n_cases - 1, (1 + self.level) / 2))

    def _expanded(self, n_cases: int) -> tuple[float, float]:
        from scipy.special import ndtr

        share = float(ndtr(-self._reach(n_cases)))
        return share, 1 - share

    def _bca(self, mean: _Mean, means: _Floats) -> tuple[float, float]:
        from scipy.special import ndtr, ndtri

        influence = mean.influence
        squares = float((influence**2).sum())
        # Rounding alone sets draws of equal values apart.
        tie = 1e-12 * mean.largest
        if math.sqrt(squares) <= tie:
            return 0.5, 0.5
        acceleration = float((influence**3).sum()) / (6 * squares**1.5)
        below = float((means < mean.value - tie).mean() + (np.abs(means - mean.value) <= tie).mean() / 2)
        bias = float(ndtri(np.clip(below, 1 / (2 * len(means)), 1 - 1 / (2 * len(means)))))
        reach = self._reach(mean.n)
        shares = []
        for end in (-reach, reach):
            shifted = bias + end
            stretch = 1 - acceleration * shifted
            # Past its pole the formula has no meaning: the interval ends with the draws.
            shares.append(float(ndtr(bias + shifted / stretch)) if stretch > 0 else float(end > 0))
        return shares[0], shares[1]


@dataclass(frozen=True, eq=False)
class _Mean:
    """The mean of all cases of some groups: the sum of their sums over that of their counts, all above 0."""

    sums: _Floats
    counts: _Floats

    @property
    def n(self) -> int:
        return len(self.sums)

    @cached_property
    def value(self) -> float:
        return float(self.sums.sum() / self.counts.sum())

    @cached_property
    def spread(self) -> float:
        """Standard deviation of the means of draws, to first order: exact where groups are of one size."""
        residual = self.sums - self.value * self.counts
        return float(np.sqrt((residual**2).sum()) / self.counts.sum())

    @cached_property
    def largest(self) -> float:
        return float(np.abs(self.sums / self.counts).max())

    @cached_property
    def influence(self) -> _Floats:
        """How each group moves the mean: the jackknife's mean less its values."""
        without = (self.sums.sum() - self.sums) / (self.counts.sum() - self.counts)
        return np.asarray(without.mean() - without)


def _summed(values: _Floats, place: _Groups) -> _Floats:
    """Return the sums of (cases, k) values over each group, in order."""
    sums = np.zeros((int(place.max()) + 1 if len(place) else 0, values.shape[1]))
    np.add.at(sums, place, values)
    return sums
