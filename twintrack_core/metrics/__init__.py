"""Metrics: figures of merit that need nothing but statistics."""

from twintrack_core.metrics.cells import ScoredCells
from twintrack_core.metrics.evaluation import Evaluation, Row, SummaryRow, evaluate
from twintrack_core.metrics.metric import Metric, Noted, Result, Undefined
from twintrack_core.metrics.registry import get, names

__all__ = [
    "Evaluation",
    "Metric",
    "Noted",
    "Result",
    "Row",
    "ScoredCells",
    "SummaryRow",
    "Undefined",
    "evaluate",
    "get",
    "names",
]
