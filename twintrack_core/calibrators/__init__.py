"""Calibrators: from the mean target at every score to a calibration map."""

from twintrack_core.calibrators.fitting import fit
from twintrack_core.calibrators.knots import Calibrator, Knots
from twintrack_core.calibrators.registry import get, names

__all__ = ["Calibrator", "Knots", "fit", "get", "names"]
