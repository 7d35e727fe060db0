"""Metrics: figures of merit of tables, and of the volumes of a case."""

from twintrack_core.metrics.cells import LabelledScores, Panel, ScoredCells, Scores
from twintrack_core.metrics.evaluation import Evaluation, Row, SummaryRow, case_values, evaluate
from twintrack_core.metrics.metric import Metric, Noted, Result, Suite, Undefined, VolumeMetric
from twintrack_core.metrics.registry import get, names, preferred_roi, resolve
from twintrack_core.metrics.reliability import Reliability, reliability_of
from twintrack_core.metrics.volumes import CaseVolumes, extent

__all__ = [
    "CaseVolumes",
    "Evaluation",
    "LabelledScores",
    "Metric",
    "Noted",
    "Panel",
    "Reliability",
    "Result",
    "Row",
    "ScoredCells",
    "Scores",
    "Suite",
    "SummaryRow",
    "Undefined",
    "VolumeMetric",
    "case_values",
    "evaluate",
    "extent",
    "get",
    "names",
    "preferred_roi",
    "reliability_of",
    "resolve",
]
