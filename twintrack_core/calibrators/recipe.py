"""How a map is fitted: which calibrator to which target, and what guards it against what real cohorts do."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from twintrack_core.calibrators import registry
from twintrack_core.calibrators.guards import pool_scores, shrink
from twintrack_core.errors import FitError, RequestError
from twintrack_core.targets import BinnedTarget, CaseTargets, check_target

Weighting = Literal["voxels", "cases"]
"""What counts the same: every voxel, or every case, whose voxels then share one weight."""


GUARDS = ("weighting", "min_cases", "shrinkage")
"""Names of what guards a fit, as a map's parameters hold it where it is not the default."""


@dataclass(frozen=True)
class Recipe:
    """How to fit a map.

    Attributes
    ----------
    calibrator
        Name of a calibrator: one of ours or of a plugin.
    target
        "mhr", "majority", "staple" or "rater:NAME".
    weighting
        "voxels": a case counts as much as it has voxels inside the region; "cases": all cases count the same.
    min_cases
        Least effective number of cases behind every value that the calibrator is shown; see `guards.pool_scores`.
    shrinkage
        Number of imaginary cases whose raters answer exactly with the score; see `guards.shrink`.

    Raises
    ------
    RequestError
        For an unknown calibrator, target or weighting, or numbers below 0.
    PluginError
        For the calibrator of another distribution that cannot be used.
    """

    calibrator: str = "isotonic"
    target: str = "mhr"
    weighting: Weighting = "voxels"
    min_cases: float = 0.0
    shrinkage: float = 0.0

    def __post_init__(self) -> None:
        registry.get(self.calibrator)
        check_target(self.target)
        if self.weighting not in get_args(Weighting):
            raise RequestError(f"There is no weighting {self.weighting!r}.", "Allowed: voxels, cases.")
        for name in ("min_cases", "shrinkage"):
            number = getattr(self, name)
            if not (isinstance(number, int | float | np.integer | np.floating) and 0 <= number < math.inf):
                raise RequestError(f"{name} is {number!r:.40}.", "Allowed: a number of cases, 0 or more.")
            object.__setattr__(self, name, float(number))

    @property
    def label(self) -> str:
        """What tells recipes of a comparison apart: "isotonic to mhr", and identity, which has no target."""
        return self.calibrator if self.calibrator == "identity" else f"{self.calibrator} to {self.target}"

    @property
    def guards(self) -> dict[str, Any]:
        """What differs from the default among weighting, min_cases and shrinkage: kept with a map's parameters."""
        default = Recipe()
        return {name: getattr(self, name) for name in GUARDS if getattr(self, name) != getattr(default, name)}

    def target_of(self, cases: CaseTargets, times: npt.NDArray[Any] | None = None) -> BinnedTarget:
        """Return what the calibrator is shown.

        Parameters
        ----------
        cases
            Sums of the recipe's target.
        times
            (cases,) how often each case counts, 0 or more: all once by default. One drawn twice is two cases.

        Raises
        ------
        FitError
            If there is no voxel, or fewer effective cases than ``min_cases``.
        """
        size = cases.size
        drawn = np.ones(len(size)) if times is None else np.asarray(times, dtype=np.float64)
        counted = (size > 0) & (drawn > 0)
        if not counted.any():
            raise FitError(
                "The cases to fit to have no voxel inside the region of interest.",
                "Allowed: one voxel or more to fit to.",
            )
        n_cases = float(drawn[counted].sum())
        scale = np.ones(len(size))
        if self.weighting == "cases":
            # As much in all as there are voxels, so that weights still are numbers of voxels.
            scale[counted] = (drawn * size)[counted].sum() / n_cases / size[counted]
        binned = cases.binned(drawn * scale)
        if self.min_cases > 1:
            binned = pool_scores(binned, cases, drawn, scale, self.min_cases)
        if self.shrinkage:
            binned = shrink(binned, self.shrinkage / (n_cases + self.shrinkage))
        return binned
