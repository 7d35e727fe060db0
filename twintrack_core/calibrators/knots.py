"""What a calibrator is, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from twintrack_core.targets import BinnedTarget


@dataclass(frozen=True, eq=False)
class Knots:
    """A fitted calibration function.

    Attributes
    ----------
    score
        (n,) float64, strictly increasing in [0, 1].
    value
        (n,) float64 calibrated scores at them, non-decreasing in [0, 1]; linear in between, constant beyond.
    parameters
        What was fitted or chosen besides, as JSON can hold it.
    lower, upper
        (n,) float64 bounds of a band at the knots, each non-decreasing, 0 <= lower <= value <= upper <= 1; or neither.
    """

    score: npt.NDArray[np.float64]
    value: npt.NDArray[np.float64]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    lower: npt.NDArray[np.float64] | None = None
    upper: npt.NDArray[np.float64] | None = None


Calibrator: TypeAlias = Callable[[BinnedTarget], Knots]
"""Fits a calibration function to a binned target, which holds one score or more."""
