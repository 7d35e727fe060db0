"""The expected log-likelihood of a soft target, and where it is highest: what the parametric fits and the spline share.

    L(theta) = sum_i w_i [m_i ln q_i + (1 - m_i) ln(1 - q_i)] - |P theta|^2 / 2,    q = sigmoid(X theta)

with w the share of the voxels at each score, m the mean target there, X columns that depend on the score, and P a
penalty that only the spline has. L is concave, so there is one maximum to find.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from twintrack_core.calibrators import smooth
from twintrack_core.errors import FitError
from twintrack_core.targets import BinnedTarget

ACTION = "Use isotonic, which any target determines, or fit to more cases."
"""What to do with a target that does not determine a fit."""

_MAX_ITERATIONS = 200

# Of the first step, in logits. The curvature of a term changes e-fold or less while its logit changes by 1 (F. Bach:
# Self-concordant analysis for logistic regression, 2010), so the quadratic model means nothing far away.
_LONGEST_STEP = 5.0

# Scores whose logits agree to this fraction of 1 are first taken together: up to 821 groups, near enough for a start.
_COARSE = 1 / 32

_Array = npt.NDArray[np.float64]


def shares(target: BinnedTarget) -> _Array:
    """Return the share of the voxels at each score, (n,), which adds up to 1."""
    return np.asarray(target.weight / target.weight.sum())


def means(target: BinnedTarget) -> _Array:
    """Return the mean target at each score, (n,), where ones that rounding made less are 1 again."""
    return np.where(target.mean > 1 - 1e-15, 1.0, target.mean)


def check_determined(target: BinnedTarget, least: int) -> None:
    """Refuse a target that gives the likelihood of an increasing function of the score no single finite maximum.

    Parameters
    ----------
    target
        What to fit to.
    least
        How many different scores the function needs.

    Raises
    ------
    FitError
        If there are fewer scores, all targets are 0 or all are 1, or some score separates zeros from ones: a function
        that is steep without end would fit best.
    """
    n_scores = 1 + int(np.count_nonzero(np.diff(target.score)))
    if n_scores < least:
        raise FitError(
            f"The voxels have {n_scores} different score{'s' * (n_scores != 1)}, which do not determine the fit.",
            f"Allowed: {least} different scores or more.",
            ACTION,
        )
    mean = means(target)
    marked, unmarked = target.score[mean > 0], target.score[mean < 1]
    if not len(marked) or not len(unmarked):
        raise FitError(
            f"All targets are {int(not len(unmarked))}, so the likelihood has no finite maximum.",
            "Allowed: targets of which some are above 0 and some below 1.",
            ACTION,
        )
    if unmarked.max() <= marked.min():
        raise FitError(
            f"All targets are 0 below the score {float(marked.min()):.6g} and 1 above {float(unmarked.max()):.6g}, "
            "so the likelihood has no finite maximum.",
            "Allowed: targets above 0 at some score that is lower than another with a target below 1.",
            ACTION,
        )


@dataclass(frozen=True)
class Design:
    """The columns X of which the logits are a sum, in stretches of scores where few functions differ from 0.

    Attributes
    ----------
    columns
        (c, n) functions at each score: others in each stretch.
    start
        (g,) index of the first score of each stretch, strictly ascending from 0.
    matrix
        (g, c, k) factors of these functions in each stretch, as linear functions of the parameters.
    """

    columns: _Array
    start: npt.NDArray[np.intp]
    matrix: _Array

    @classmethod
    def dense(cls, *columns: _Array) -> Design:
        """Take (n,) columns, one for each parameter."""
        return cls(np.stack(columns), np.zeros(1, dtype=np.intp), np.eye(len(columns))[np.newaxis])

    # Sums are as NumPy takes them, not BLAS: the same bits whatever the number of threads. Column by column, for NumPy
    # is slow along short axes.

    def logits(self, theta: _Array) -> _Array:
        """Return X theta, (n,)."""
        factors = (self.matrix * theta).sum(axis=2).T
        logits = self.columns[0] * self._spread(factors[0])
        for column, factor in zip(self.columns[1:], factors[1:], strict=True):
            logits += column * self._spread(factor)
        return np.asarray(logits)

    def pull(self, residual: _Array) -> _Array:
        """Return X^T residual, (k,)."""
        sums = np.stack([np.add.reduceat(column * residual, self.start) for column in self.columns], axis=1)
        return np.asarray((self.matrix * sums[:, :, np.newaxis]).sum(axis=(0, 1)))

    def condensed(self, root: _Array) -> _Array:
        """Return (m, k) rows A, m = g c, with A^T A = X^T W X, W the diagonal matrix of (n,) root squared.

        By modified Gram-Schmidt in each stretch, not from X^T W X itself: one score with nearly all voxels would round
        the others away. Where a stretch has fewer scores than functions, what is left of some is 0 or rounding.
        """
        rest = [column * root for column in self.columns]
        triangle = np.zeros((len(self.start), len(rest), len(rest)))
        for j, column in enumerate(rest):
            length = np.sqrt(np.add.reduceat(column**2, self.start))
            triangle[:, j, j] = length
            direction = column / self._spread(np.where(length > 0, length, 1.0))
            for i in range(j + 1, len(rest)):
                triangle[:, j, i] = np.add.reduceat(rest[i] * direction, self.start)
                rest[i] -= self._spread(triangle[:, j, i]) * direction
        return np.asarray((triangle @ self.matrix).reshape(-1, self.matrix.shape[2]))

    def _spread(self, values: _Array) -> _Array:
        """Return (n,) what each stretch has of (g,) values."""
        return values if len(values) == 1 else np.repeat(values, self._sizes)

    @cached_property
    def _sizes(self) -> npt.NDArray[np.intp]:
        return np.diff(self.start, append=self.columns.shape[1])


def maximise(
    design: Design, target: BinnedTarget, start: _Array, *, free: int, penalty: _Array | None = None
) -> tuple[_Array, int]:
    """Find the parameters of highest likelihood, to convergence in float64.

    Newton's method with step halving. Each step maximises the quadratic model under the constraints, so a parameter
    at its bound is exactly 0 and the others are what a fit without it gives. A fit to groups of neighbouring scores
    comes first, which takes little time and leaves few steps over all scores.

    Parameters
    ----------
    design
        X, at each score.
    target
        What to fit to, n scores.
    start
        (k,) parameters to start from.
    free
        How many leading parameters may have any sign; all others are 0 or more.
    penalty
        (r, k) matrix P.

    Returns
    -------
    parameters
        (k,) float64.
    iterations
        Newton steps taken over all scores.

    Raises
    ------
    FitError
        If it does not converge, which a target that barely determines the parameters can cause.

    References
    ----------
    S. Boyd, L. Vandenberghe: Convex Optimization, 2004, sections 9.5 and 10.2.
    """
    if penalty is None:
        penalty = np.zeros((0, len(start)))
    problem = _Problem(design, shares(target), means(target), penalty, free)
    step = np.flatnonzero(np.diff(np.floor(smooth.logit(target.score) / _COARSE))) + 1
    first = np.union1d(design.start, step)
    if len(first) <= len(target.score) / 4:
        try:
            near, _ = problem.grouped(first).climb(start, close=1e-2)
            return problem.climb(near)
        except FitError:
            pass  # the groups may determine less than the scores do, and then say nothing
    return problem.climb(start)


@dataclass(frozen=True)
class _Problem:
    design: Design
    weight: _Array
    mean: _Array
    penalty: _Array
    free: int

    def grouped(self, first: npt.NDArray[np.intp]) -> _Problem:
        """Return the problem with the means of groups of scores, given the first of each; none crosses a stretch."""
        weight = np.add.reduceat(self.weight, first)
        columns = np.stack([np.add.reduceat(column * self.weight, first) / weight for column in self.design.columns])
        mean = np.minimum(np.add.reduceat(self.mean * self.weight, first) / weight, 1.0)
        design = Design(columns, np.searchsorted(first, self.design.start), self.design.matrix)
        return _Problem(design, weight, mean, self.penalty, self.free)

    def climb(self, theta: _Array, close: float = 1e-7) -> tuple[_Array, int]:
        """Return the highest point and how many steps lead there; the last changes no logit by more than `close`."""
        point, last_change, longest = self.at(theta), np.inf, _LONGEST_STEP
        for iteration in range(1, _MAX_ITERATIONS + 1):
            aim = self.newton(point)
            change = float(np.abs(self.design.logits(aim - point.theta)).max())
            if change <= close:  # the error falls to about its square
                return aim, iteration
            if change <= 1e-3 and change > last_change / 2:  # steps that shrink no more are rounding
                return point.theta, iteration
            share = min(1.0, longest / change)
            point, taken = self.advance(point, aim, share)
            # Some targets lead far: there, steps that are good become longer.
            longest = 2 * longest if taken == share else max(_LONGEST_STEP, taken * change)
            last_change = change
        raise _no_convergence()

    def at(self, theta: _Array) -> _Point:
        logits = self.design.logits(theta)
        positive = logits > 0
        small = np.exp(-np.abs(logits))
        larger = 1 / (1 + small)
        smaller = small * larger
        # Of what is less likely there, whichever that is: m - q and the loss would cancel where both are nearly 1.
        mean = np.where(positive, 1 - self.mean, self.mean)
        loss = self.weight * (mean * np.abs(logits) + np.log1p(small))
        residual = self.weight * np.where(positive, smaller - mean, mean - smaller)
        bends = self.penalty @ theta
        return _Point(
            theta,
            np.append(loss, bends**2 / 2),
            self.design.pull(residual) - self.penalty.T @ bends,
            np.sqrt(self.weight * smaller * larger),
        )

    def newton(self, point: _Point) -> _Array:
        """Return where the quadratic model at a point is highest under the constraints."""
        rows = np.concatenate([self.design.condensed(point.root), self.penalty])
        return _constrained(_triangle(rows), point.gradient, point.theta, self.free)

    def advance(self, point: _Point, aim: _Array, share: float) -> tuple[_Point, float]:
        """Return the first good point, that share of the way to the aim or half of it and so on, and its share.

        A good point is enough of a gain, and not so far past the highest that it goes down there as it went up.
        """
        way = aim - point.theta
        slope = float((point.gradient * way).sum())
        for _ in range(60):
            new = self.at(aim if share == 1 else point.theta + share * way)
            rounding = 1e-15 * float((point.losses + new.losses).sum())
            gains = (point.losses - new.losses).sum() >= 1e-4 * share * slope - rounding
            if gains and (new.gradient * way).sum() >= -abs(slope):
                return new, share
            share /= 2
        raise _no_convergence()


class _Point(NamedTuple):
    """Parameters, and what the likelihood is like there.

    Attributes
    ----------
    theta
        (k,) parameters.
    losses
        Terms of -L, all 0 or more: differences of them tell gains that their sum would round away.
    gradient
        (k,) of L.
    root
        (n,) square root of what each score adds to the curvature of -L in its logit.
    """

    theta: _Array
    losses: _Array
    gradient: _Array
    root: _Array


def _triangle(rows: _Array) -> _Array:
    """Return R, upper triangular, with R^T R = A^T A of (m, k) rows A: few of them, which BLAS takes in one thread."""
    root = np.asarray(np.linalg.qr(rows, mode="r"))
    if not (np.abs(np.diag(root)) > 1e-15 * np.sqrt((rows**2).sum(axis=0))).all():
        raise _no_convergence()
    return root


def _constrained(root: _Array, gradient: _Array, theta: _Array, free: int) -> _Array:
    """Minimise |R (x - theta)|^2 / 2 - gradient (x - theta) with x 0 or more but for the leading `free`."""
    from scipy.linalg.lapack import dtrtrs
    from scipy.optimize import nnls

    goal = dtrtrs(root, gradient, trans=1)[0] + root @ theta  # |R x - goal|^2 is the same but for a constant
    aim = np.zeros(len(theta))
    if free < len(theta):
        # R is triangular: its lower right block concerns the constrained alone, the free follow from them. Lengths of
        # 1 give the tolerances of nnls a meaning.
        block, wanted = root[free:, free:], goal[free:]
        lengths = np.sqrt((block**2).sum(axis=0))
        size = float(np.abs(wanted).max()) or 1.0
        try:
            aim[free:] = nnls(block / lengths, wanted / size)[0] * size / lengths
        except RuntimeError as error:  # too many iterations
            raise _no_convergence() from error
    if free:
        aim[:free] = dtrtrs(root[:free, :free], goal[:free] - root[:free, free:] @ aim[free:])[0]
    return aim


def _no_convergence() -> FitError:
    return FitError(
        "The fit did not converge: the targets hardly determine its parameters.",
        "Allowed: targets above 0 and below 1 at more scores.",
        ACTION,
    )
