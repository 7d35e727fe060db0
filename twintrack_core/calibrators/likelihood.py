"""The expected log-likelihood of a soft target, and where it is highest: what the parametric fits and the spline share.

    L(theta) = sum_i w_i [m_i ln q_i + (1 - m_i) ln(1 - q_i)] - |P theta|^2 / 2,    q = sigmoid(X theta)

with w the share of the voxels at each score, m the mean target there, X columns that depend on the score, and P a
penalty that only the spline has. L is concave, so there is one maximum to find.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit, log_expit

from twintrack_core.errors import FitError
from twintrack_core.targets import BinnedTarget

ACTION = "Use isotonic, which any target determines, or fit to more cases."
"""What to do with a target that does not determine a fit."""

_MAX_ITERATIONS = 200

# Of the first step, in logits. The curvature of a term changes e-fold or less while its logit changes by 1 (F. Bach:
# Self-concordant analysis for logistic regression, 2010), so the quadratic model means nothing far away.
_LONGEST_STEP = 5.0

_Array = npt.NDArray[np.float64]


def shares(target: BinnedTarget) -> _Array:
    """Return the share of the voxels at each score, (n,), which adds up to 1. Counts may add up to more than 2^63."""
    weight = target.weight.astype(np.float64)
    return np.asarray(weight / weight.sum())


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
    n_scores = len(np.unique(target.score))
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


def maximise(
    columns: _Array, target: BinnedTarget, start: _Array, *, free: int, penalty: _Array | None = None
) -> tuple[_Array, int]:
    """Find the parameters of highest likelihood, to convergence in float64.

    Newton's method with step halving. Each step maximises the quadratic model under the constraints, so a parameter
    at its bound is exactly 0 and the others are what a fit without it gives.

    Parameters
    ----------
    columns
        (k, n) columns of X, one value at each score.
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
        Newton steps taken.

    Raises
    ------
    FitError
        If it does not converge, which a target that barely determines the parameters can cause.

    References
    ----------
    S. Boyd, L. Vandenberghe: Convex Optimization, 2004, sections 9.5 and 10.2.
    """
    if penalty is None:
        penalty = np.zeros((0, len(columns)))
    problem = _Problem(columns, shares(target), means(target), penalty)
    theta, last_change, longest = start, np.inf, _LONGEST_STEP
    for iteration in range(1, _MAX_ITERATIONS + 1):
        aim = problem.newton(theta, free)
        change = float(np.abs(problem.logits(aim - theta)).max())
        if change <= 1e-9:  # the error falls to its square, below rounding
            return aim, iteration
        if change <= 1e-5 and change > last_change / 2:  # steps that shrink no more are rounding
            return theta, iteration
        share = min(1.0, longest / change)
        theta, taken = problem.advance(theta, aim, share)
        # Some targets lead far: there, steps that are good become longer.
        longest = 2 * longest if taken == share else max(_LONGEST_STEP, taken * change)
        last_change = change
    raise _no_convergence()


@dataclass(frozen=True)
class _Problem:
    columns: _Array
    weight: _Array
    mean: _Array
    penalty: _Array

    def logits(self, theta: _Array) -> _Array:
        # Sums as NumPy takes them, not BLAS: the same bits whatever the number of threads.
        return np.asarray((self.columns * theta[:, np.newaxis]).sum(axis=0))

    def newton(self, theta: _Array, free: int) -> _Array:
        """Return where the quadratic model at theta is highest under the constraints."""
        logits = self.logits(theta)
        q, rest = expit(logits), expit(-logits)
        rows = np.concatenate([self.columns * np.sqrt(self.weight * q * rest), self.penalty.T], axis=1)
        root = _triangle(rows)
        return _constrained(root, self.gradient(theta), theta, free)

    def gradient(self, theta: _Array) -> _Array:
        logits = self.logits(theta)
        # m - q, without the cancellation where both are nearly 1.
        residual = self.mean * expit(-logits) - (1 - self.mean) * expit(logits)
        slope = (self.columns * (self.weight * residual)).sum(axis=1)
        return np.asarray(slope - self.penalty.T @ (self.penalty @ theta))

    def losses(self, theta: _Array) -> _Array:
        """Return the terms of -L, all 0 or more: differences of them tell gains that their sum would round away."""
        logits = self.logits(theta)
        loss = -self.weight * (self.mean * log_expit(logits) + (1 - self.mean) * log_expit(-logits))
        return np.append(loss, (self.penalty @ theta) ** 2 / 2)

    def advance(self, theta: _Array, aim: _Array, share: float) -> tuple[_Array, float]:
        """Return the first good point, that share of the way to the aim or half of it and so on, and its share.

        A good point is enough of a gain, and not so far past the highest that it goes down there as it went up.
        """
        slope = float((self.gradient(theta) * (aim - theta)).sum())
        before = self.losses(theta)
        for _ in range(60):
            point = aim if share == 1 else theta + share * (aim - theta)
            after = self.losses(point)
            rounding = 1e-15 * float((before + after).sum())
            gains = (before - after).sum() >= 1e-4 * share * slope - rounding
            if gains and (self.gradient(point) * (aim - theta)).sum() >= -abs(slope):
                return point, share
            share /= 2
        raise _no_convergence()


def _triangle(rows: _Array) -> _Array:
    """Return R, upper triangular, with R^T R = A A^T of (k, n) rows A, by modified Gram-Schmidt.

    Not from A A^T itself: one score with nearly all voxels would round the others away.
    """
    rest = rows.copy()
    root = np.zeros((len(rows), len(rows)))
    for j in range(len(rows)):
        length = float(np.sqrt((rest[j] ** 2).sum()))
        if not length > 1e-15 * float(np.sqrt((rows[j] ** 2).sum())):
            raise _no_convergence()
        direction = rest[j] / length
        root[j, j] = length
        root[j, j + 1 :] = (rest[j + 1 :] * direction).sum(axis=1)
        rest[j + 1 :] -= root[j, j + 1 :, np.newaxis] * direction
    return root


def _constrained(root: _Array, gradient: _Array, theta: _Array, free: int) -> _Array:
    """Minimise |R (x - theta)|^2 / 2 - gradient (x - theta) with x 0 or more but for the leading `free`."""
    from scipy.linalg import solve_triangular
    from scipy.optimize import nnls

    goal = solve_triangular(root, gradient, trans="T") + root @ theta  # |R x - goal|^2 is the same but for a constant
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
        aim[:free] = solve_triangular(root[:free, :free], goal[:free] - root[:free, free:] @ aim[free:])
    return aim


def _no_convergence() -> FitError:
    return FitError(
        "The fit did not converge: the targets hardly determine its parameters.",
        "Allowed: targets above 0 and below 1 at more scores.",
        ACTION,
    )
