"""The comparison: which way to calibrate to take, and how sure that is."""

from __future__ import annotations

import re

from twintrack_core.report.document import Block, Cell, Figure, Group, Notes, Row, Section, Table, Text
from twintrack_core.report.figures.forest_figure import ForestFigure
from twintrack_core.report.numbers import NOTHING, counted, interval, stacked
from twintrack_core.report.subject import Subject
from twintrack_core.validation import Candidate, Comparison, Estimate

FIXED = "test cases resampled, maps fixed"
REFITTED = "maps refitted in every draw"


def comparison_section(comparison: Comparison, subject: Subject) -> Section:
    """Say what was compared, and what came of it."""
    measured = [each for each in comparison.candidates if not each.failed]
    failed = [each for each in comparison.candidates if each.failed]
    alike = ""
    if comparison.group_by:
        alike = (
            f" All cases of one {comparison.group_by} are drawn together, so intervals say how far things may lie off "
            f"for others ({comparison.group_by}), and are wide where there are few."
        )
    grouped = f", cases of one {comparison.group_by} kept together" if comparison.group_by else ""
    blocks: list[Block] = [
        Text(
            f"{counted(len(comparison.cases), 'case')} were each scored once on maps that were not fitted to them: "
            f"{counted(len(comparison.splits), 'fold')}{grouped}, region {comparison.roi}. Candidates are ranked by "
            f"mean {comparison.rank_by}, of which lower is better. "
            + (
                "There are two kinds of interval, which answer different questions. "
                f"“{FIXED[0].upper()}{FIXED[1:]}” says how far the mean of these maps may lie off by the choice of "
                f"test cases ({comparison.bootstrap.draws:,} draws, BCa). “{REFITTED[0].upper()}{REFITTED[1:]}” says "
                "how far the whole way of calibrating may, the choice of cases to fit to included "
                f"({comparison.refit_draws:,} draws, standard intervals). The first is for maps that are done, the "
                "second for choosing a way to calibrate."
                if comparison.refit_draws
                else f"Intervals: {FIXED} ({comparison.bootstrap.draws:,} draws, BCa). They leave out that other cases "
                "to fit to would have given other maps; for that, compare with --refit."
            )
            + alike
            + " The first of a ranking is chosen by these very figures, which flatter it a little, the more so the "
            "more candidates there are."
        ),
    ]
    if comparison.statistics not in (subject.rated.digest(), subject.calibration.statistics):
        blocks.append(
            Notes(("Other cases: this comparison was made on other statistics than those this page looks at.",))
        )
    ranking = _ranking(comparison, measured)
    calibrated = [each for each in measured if each.recipe is not None]
    if calibrated:
        blocks.append(
            Figure(
                "comparison",
                f"Difference in {comparison.rank_by} to the raw scores, by candidate",
                "Left of the line at 0 a candidate is better than the raw scores. An interval that crosses the line "
                "may be chance. Candidates whose intervals overlap are not thereby equal: the table has their paired "
                "differences to the first.",
                ForestFigure(
                    tuple(each.label for each in calibrated),
                    tuple(each[comparison.rank_by].to_raw or _UNDEFINED for each in calibrated),
                    tuple(each.refitted.to_raw if each.refitted else None for each in calibrated),
                    f"difference in {comparison.rank_by} to raw",
                ),
                ranking,
            )
        )
    blocks.append(ranking)
    if comparison.refit_draws:
        blocks.append(_refitted(comparison, measured))
    if failed:
        blocks.append(
            Table(
                "Not ranked: no map in some fold",
                ("candidate", "why"),
                tuple((each.label, each.failed or "") for each in failed),
                words=(1,),
            )
        )
    if any(each.groups for each in measured):
        blocks.append(_groups(comparison, measured))
    return Section("comparison", "Comparison of candidates", tuple(blocks))


_UNDEFINED = Estimate(None, None, None, 0)


def recommendation(comparison: Comparison) -> str:
    """Return the comparison's sentence, with the signs and spaces of print."""
    text = re.sub(r"(?<=[ (])-(?=\d)", "−", comparison.recommendation)
    return re.sub(r"(?<=\d) %", "\u00a0%", text)


def _ranking(comparison: Comparison, measured: list[Candidate]) -> Table:
    rank = comparison.rank_by
    rows: list[Row] = []
    for place, each in enumerate(measured, start=1):
        found = each[rank]
        rows.append(
            (
                Cell(f"{place}. {each.label}", strong=each.recipe is not None and each.recipe == comparison.best),
                _stacked(found.value),
                _stacked(found.to_raw, signed=True),
                _stacked(each.to_best, signed=True),
            )
        )
    return Table(
        f"Candidates by rank: mean over held-out cases, {_level(comparison)} interval: {FIXED}",
        ("candidate", rank, "difference to raw", "difference to the first"),
        tuple(rows),
    )


def _refitted(comparison: Comparison, measured: list[Candidate]) -> Table:
    found = [(each.label, each.refitted) for each in measured if each.refitted]
    rows: list[Row] = [
        (label, _stacked(refitted.value), _stacked(refitted.to_raw, signed=True)) for label, refitted in found
    ]
    notes = tuple(
        f"{label}: {refitted.incomplete:,} of {comparison.refit_draws:,} draws determine no map in some fold, and "
        "count with the others."
        for label, refitted in found
        if refitted.incomplete
    )
    return Table(
        f"The same means, {_level(comparison)} interval: {REFITTED}",
        ("candidate", comparison.rank_by, "difference to raw"),
        tuple(rows),
        notes=notes,
    )


def _level(comparison: Comparison) -> str:
    return f"{100 * comparison.bootstrap.level:g}\u00a0%"


def _stacked(found: Estimate | None, *, signed: bool = False) -> Cell | str:
    return NOTHING if found is None else Cell(*stacked(found, signed=signed))


def _groups(comparison: Comparison, measured: list[Candidate]) -> Table:
    rows: list[Row] = []
    for group in sorted({name for each in measured for name in each.groups}):
        rows.append(Group(f"{comparison.group_by}: {group}"))
        for each in measured:
            if group in each.groups:
                value, to_raw = each.groups[group]
                rows.append(
                    (
                        each.label,
                        interval(value),
                        NOTHING if each.recipe is None else interval(to_raw, signed=True),
                        str(value.defined),
                    )
                )
    return Table(
        f"{comparison.rank_by} by {comparison.group_by}",
        ("candidate", comparison.rank_by, "difference to raw", "cases"),
        tuple(rows),
        notes=(f"Intervals: {FIXED}, within the group.",),
    )
