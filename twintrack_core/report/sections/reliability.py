"""Reliability before and after."""

from __future__ import annotations

import math

import numpy as np

from twintrack_core.histogram import CohortStatistics, RegionName
from twintrack_core.metrics import ScoredCells, reliability_of
from twintrack_core.metrics.reliability import N_BINS
from twintrack_core.report.document import Figure, FigureRow, Group, Row, Section, Table, Text
from twintrack_core.report.figures.reliability_figure import Binned, ReliabilityFigure
from twintrack_core.report.numbers import NOTHING, number, numbers, percent, whole
from twintrack_core.report.sections.words import where
from twintrack_core.report.subject import Subject
from twintrack_core.validation import reliability_band


def reliability_section(subject: Subject) -> Section:
    """Show what the voxels of each bin are scored, and how many raters mark them."""
    return Section(
        "reliability",
        "Reliability",
        (
            Text(
                "Voxels of all cases together, in 15 bins of equal width by their score; a point stands at the mean "
                "score of its bin. On the diagonal scores mean what they say: of the voxels scored 0.4, raters mark "
                "0.4 on average. Below it the score promises more than the raters give, above it less. Lines up and "
                "down are 95\u00a0% intervals over cases (percentiles, none shorter than Student’s t). The lower "
                "panel counts voxels by powers of ten."
            ),
            FigureRow(tuple(_figure(subject, region) for region in subject.regions)),
        ),
    )


def _figure(subject: Subject, region: RegionName) -> Figure:
    raw, calibrated = (_binned(subject, each, region) for each in (subject.rated, subject.calibrated))
    place = where(subject, region)
    return Figure(
        f"reliability-{region}",
        f"Reliability, {place}",
        f"The interval leaves out the diagonal in {_off(raw)} bins before calibration, and in {_off(calibrated)} after "
        f"it. The lowest bin holds {_lowest(raw)} of the voxels before, and {_lowest(calibrated)} after.",
        ReliabilityFigure(raw, calibrated),
        Table(
            f"Reliability, {place}",
            ("score in", "mean score", "mean MHR", "interval", "voxels"),
            (Group("raw"), *_rows(raw), Group("calibrated"), *_rows(calibrated)),
            folded=True,
        ),
    )


def _off(found: Binned) -> str:
    """Return in how many of the bins that hold voxels the interval does not hold the mean score."""
    known = ~np.isnan(found.low)
    off = known & ((found.bins.mean_score < found.low) | (found.bins.mean_score > found.high))
    return f"{int(off.sum())} of {int((found.bins.voxels > 0).sum())}"


def _lowest(found: Binned) -> str:
    total = float(found.bins.voxels.sum())
    return percent(float(found.bins.voxels[0]) / total) if total else "none"


def _binned(subject: Subject, statistics: CohortStatistics, region: RegionName) -> Binned:
    cases = [case for _, case in statistics.items()]
    return Binned(
        reliability_of(ScoredCells.of(cases, region)), *reliability_band(cases, region, subject.bootstrap)
    )  # fmt: skip


def _rows(found: Binned) -> list[Row]:
    rows: list[Row] = []
    bins = found.bins
    for k in range(N_BINS):
        response, low, high = numbers([float(bins.mean_mhr[k]), float(found.low[k]), float(found.high[k])])
        ends = NOTHING if math.isnan(found.low[k]) else f"{low} to {high}"
        rows.append(
            (f"{k / N_BINS:.3f} to {(k + 1) / N_BINS:.3f}", number(float(bins.mean_score[k])), response, ends,
             whole(float(bins.voxels[k])))
        )  # fmt: skip
    return rows
