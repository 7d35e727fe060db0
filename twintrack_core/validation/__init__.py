"""Validation: which map to trust, how far, and on what. Everything is computed from statistics; no voxel is read."""

from twintrack_core.validation.bands import MapBand, map_band, reliability_band
from twintrack_core.validation.bootstrap import Bootstrap, Estimate
from twintrack_core.validation.candidates import Candidate, Measured, Refitted
from twintrack_core.validation.comparison import Comparison, compare
from twintrack_core.validation.drift import Drift, drift
from twintrack_core.validation.learning_curve import LearningCurve, learning_curve
from twintrack_core.validation.raters import LeftOutRater, leave_one_rater_out
from twintrack_core.validation.splits import Split, split_cases

__all__ = [
    "Bootstrap",
    "Candidate",
    "Comparison",
    "Drift",
    "Estimate",
    "LearningCurve",
    "LeftOutRater",
    "MapBand",
    "Measured",
    "Refitted",
    "Split",
    "compare",
    "drift",
    "learning_curve",
    "leave_one_rater_out",
    "map_band",
    "reliability_band",
    "split_cases",
]
