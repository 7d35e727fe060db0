"""The bootstrap over cases: intervals for means over cases and for whatever is computed anew in every draw."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from twintrack_core.errors import RequestError

Method = Literal["bca", "percentile"]

_Floats = npt.NDArray[np.float64]


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
        Number of draws, each of as many cases as there are, with replacement; at least 50.
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
        if not isinstance(self.draws, int) or self.draws < 50:
            raise RequestError(f"{self.draws!r:.40} bootstrap draws make no interval.", "Allowed: 50 or more.")
        if not 0 < self.level < 1:
            raise RequestError(f"The level is {self.level!r:.40}.", "Allowed: between 0 and 1, such as 0.95.")
        if not isinstance(self.seed, int) or self.seed < 0:
            raise RequestError(f"The seed is {self.seed!r:.40}.", "Allowed: a whole number, 0 or more.")

    def times(self, n_cases: int) -> npt.NDArray[np.int64]:
        """Return how often each case is drawn, (draws, n_cases) int64; rows add up to ``n_cases``."""
        share = np.full(n_cases, 1 / n_cases)
        return np.random.default_rng(self.seed).multinomial(n_cases, share, size=self.draws)

    def of_means(self, values: _Floats, method: Method = "bca") -> tuple[_Floats, _Floats]:
        """Return intervals for means over cases, the values of the cases being given.

        That is resampling test cases with the map fixed, where the values are what a map leaves of a metric. For the
        difference of two maps, give the differences of their values, case by case.

        Parameters
        ----------
        values
            (cases, k) float64, NaN where undefined: the mean is over the others.
        method
            "percentile", or "bca" (bias-corrected and accelerated).

        Returns
        -------
        low, high
            (k,) float64, NaN where fewer than two cases are defined.

        Raises
        ------
        RequestError
            For an unknown method.

        References
        ----------
        B. Efron, R. J. Tibshirani: An Introduction to the Bootstrap, 1993, chapters 13 and 14. For few cases both are
        too short, being made of the population standard deviation and of normal quantiles; quantiles of the draws are
        taken further out for it as T. C. Hesterberg, What teachers should know about the bootstrap, The American
        Statistician 2015, section 5.3 ("expanded percentile"), does.
        """
        if method not in get_args(Method):
            raise RequestError(f"There is no interval {method!r}.", "Allowed: bca, percentile.")
        defined = ~np.isnan(values)
        filled = np.where(defined, values, 0.0)
        n_defined = defined.sum(axis=0)
        times = self.times(len(values)).astype(np.float64)
        # Summed by loops rather than by a matrix product, so that every machine gives the same bits.
        number = np.einsum("dc,ck->dk", times, defined.astype(np.float64))
        total = np.einsum("dc,ck->dk", times, filled)
        drawn = total / np.where(number > 0, number, np.nan)
        low, high = np.full(values.shape[1], np.nan), np.full(values.shape[1], np.nan)
        for k in np.flatnonzero(n_defined > 1):
            column = values[defined[:, k], k]
            means = drawn[~np.isnan(drawn[:, k]), k]
            shares = self._bca(column, means) if method == "bca" else self._expanded(len(column))
            low[k], high[k] = np.quantile(means, shares)
        return low, high

    def estimates(self, values: _Floats) -> list[Estimate]:
        """Return the mean over cases, with its BCa interval, of each column of (cases, k) values; NaN is undefined."""
        low, high = self.of_means(values)
        found = []
        for column, start, end in zip(values.T, low, high, strict=True):
            defined = column[~np.isnan(column)]
            mean = float(defined.mean()) if len(defined) else None
            known = not np.isnan(start)
            found.append(Estimate(mean, float(start) if known else None, float(end) if known else None, len(defined)))
        return found

    def of_draws(self, drawn: _Floats, n_cases: int) -> tuple[_Floats, _Floats]:
        """Return percentile intervals of what was computed in every draw, taken further out for few cases.

        Parameters
        ----------
        drawn
            (draws, k) float64; NaN where a draw left it undefined.
        n_cases
            How many cases were drawn from.

        Returns
        -------
        low, high
            (k,) float64, NaN where no draw defines it or there is one case only.
        """
        low, high = np.full(drawn.shape[1], np.nan), np.full(drawn.shape[1], np.nan)
        if n_cases > 1:
            shares = self._expanded(n_cases)
            for k in np.flatnonzero(~np.isnan(drawn).all(axis=0)):
                low[k], high[k] = np.nanquantile(drawn[:, k], shares)
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
            How many cases were drawn from.

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

    def _bca(self, values: _Floats, means: _Floats) -> tuple[float, float]:
        from scipy.special import ndtr, ndtri

        centre = values.mean()
        deviation = values - centre  # what the jackknife finds but for a factor
        spread = float((deviation**2).sum())
        # Rounding alone sets draws of equal values apart.
        if spread <= (1e-12 * float(np.abs(values).max())) ** 2:
            return 0.5, 0.5
        acceleration = float((deviation**3).sum()) / (6 * spread**1.5)
        tie = 1e-12 * float(np.abs(values).max())
        below = float((means < centre - tie).mean() + (np.abs(means - centre) <= tie).mean() / 2)
        bias = float(ndtri(np.clip(below, 1 / (2 * len(means)), 1 - 1 / (2 * len(means)))))
        reach = self._reach(len(values))
        shares = []
        for end in (-reach, reach):
            shifted = bias + end
            stretch = 1 - acceleration * shifted
            # Past its pole the formula has no meaning: the interval ends with the draws.
            shares.append(float(ndtr(bias + shifted / stretch)) if stretch > 0 else float(end > 0))
        return shares[0], shares[1]
