"""The report: a map and the cases it is looked at on, as one page."""

from __future__ import annotations

from twintrack_core.histogram import CohortStatistics
from twintrack_core.maps import CalibrationMap
from twintrack_core.report.document import Document, Section, Text
from twintrack_core.report.numbers import counted
from twintrack_core.report.page import page_of, require_libraries
from twintrack_core.report.sections.cases import cases_section
from twintrack_core.report.sections.comparison import comparison_section
from twintrack_core.report.sections.drift import drifted
from twintrack_core.report.sections.learning import learning_section
from twintrack_core.report.sections.mapping import map_section
from twintrack_core.report.sections.metrics import metrics_section
from twintrack_core.report.sections.provenance import provenance_section
from twintrack_core.report.sections.raters import raters_section
from twintrack_core.report.sections.reliability import reliability_section
from twintrack_core.report.sections.summary import summary
from twintrack_core.report.subject import Subject, look_at
from twintrack_core.validation import Bootstrap, Comparison


def html_report(
    calibration: CalibrationMap,
    statistics: CohortStatistics,
    *,
    fitted: CohortStatistics | None = None,
    comparison: Comparison | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    command: str = "",
) -> str:
    """Return a report as one HTML file that loads nothing: equal arguments give equal text.

    Cases that the map was fitted to are scored on maps of folds, fitted in the same way without them, where the fitted
    statistics are known; else the page says that its figures are in-sample.

    Parameters
    ----------
    calibration
        The map.
    statistics
        Joint histograms of the cases to look at. Those without raters take part in nothing but drift.
    fitted
        Joint histograms of the cases that the map was fitted to: with them there are a band of the map, a learning
        curve, leaving out raters, and drift. Not needed if ``statistics`` are these.
    comparison
        A comparison to show.
    bootstrap
        Number of draws of the cases, 50 or more.
    seed
        Of draws and folds.
    command
        What makes the page again, to be shown.

    Raises
    ------
    RequestError
        If the map was not fitted to ``fitted``, without cases, or for numbers that make no sense.
    PluginError
        If the calibrator or a metric of another distribution fails.
    WorkError
        Without matplotlib or Jinja2.
    """
    require_libraries()
    return page_of(document(calibration, statistics, fitted, comparison, Bootstrap(bootstrap, seed=seed), command))


def document(
    calibration: CalibrationMap,
    statistics: CohortStatistics,
    fitted: CohortStatistics | None,
    comparison: Comparison | None,
    bootstrap: Bootstrap,
    command: str,
) -> Document:
    """Return what a report says as plain data; see `html_report`."""
    subject = look_at(calibration, statistics, fitted, bootstrap, comparison)
    drift = drifted(subject)
    sections = [summary(subject, drift, comparison)]
    if comparison is not None:
        sections.append(comparison_section(comparison, subject))
    sections.append(map_section(subject))
    if len(subject.rated):
        sections += [reliability_section(subject), metrics_section(subject), cases_section(subject)]
    else:
        sections.append(_unrated())
    sections += [learning_section(subject), raters_section(subject)]
    if drift is not None:
        sections.append(drift.section)
    sections.append(provenance_section(subject, comparison, command))
    return Document("Calibration report", _subtitle(subject), tuple(sections))


def _unrated() -> Section:
    text = (
        "Reliability, metrics and single cases compare scores with raters. The cases looked at have none, so they are "
        "left out."
    )
    return Section("unrated", "Before and after", (Text(text),))


def _subtitle(subject: Subject) -> str:
    calibration = subject.calibration
    name = f"{calibration.calibrator or 'A map'} to {calibration.target or 'an unnamed target'}"
    fitted = counted(len(calibration.cases), "case")
    looked_at = counted(len(subject.statistics), "case")
    if subject.seen and len(subject.seen) == len(subject.statistics):
        return f"{name}, fitted to and looked at on {looked_at}"
    return f"{name}, fitted to {fitted}, looked at on {looked_at}"
