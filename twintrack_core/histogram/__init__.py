"""Joint histograms of score codes and rater patterns: of one case, and of a cohort."""

from twintrack_core.histogram.cohort import CaseStatistics, CohortStatistics
from twintrack_core.histogram.joint import JointHistogram, RegionName

__all__ = ["CaseStatistics", "CohortStatistics", "JointHistogram", "RegionName"]
