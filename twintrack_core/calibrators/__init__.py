"""Calibrators: from the mean target at every score to a calibration map."""

from twintrack_core.calibrators.fitting import fit
from twintrack_core.calibrators.knots import Calibrator, Knots
from twintrack_core.calibrators.recipe import Recipe
from twintrack_core.calibrators.registry import get, names
from twintrack_core.targets import BinnedTarget

__all__ = ["BinnedTarget", "Calibrator", "Knots", "Recipe", "fit", "get", "names"]
