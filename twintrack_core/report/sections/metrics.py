"""Metrics before and after, with intervals."""

from __future__ import annotations

from twintrack_core.histogram import RegionName
from twintrack_core.report.document import Block, Cell, Group, Row, Section, Table, Text
from twintrack_core.report.numbers import NOTHING, numbers, stacked
from twintrack_core.report.paired import Paired, paired
from twintrack_core.report.sections.words import MAIN, where
from twintrack_core.report.subject import Subject

_GROUPS = {
    "Is it closer to the raters than before?": (
        "brier_mhr",
        "brier_rater",
        "cross_entropy_mhr",
        "kl_mhr",
        "log_loss_rater",
        "js_mhr",
    ),
    "Is the score what it says?": (
        "smece_mhr",
        "ece_mhr",
        "ace_mhr",
        "adaptive_ece_mhr",
        "mce_mhr",
        "rmsce_mhr",
        "brier_calibration",
        "ece_rater",
    ),
    "The same against all raters but one": ("brier_without", "log_loss_without", "ece_without"),
    "Overlap and volume": ("tdsc", "volume_error"),
    "Does it rank voxels, and know where raters disagree?": (
        "auroc",
        "average_precision",
        "ncc",
        "aurc",
        "eaurc",
        "brier_refinement",
        "sharpness",
    ),
}
_OTHERS = "Others"
_RATERS = "Of the raters alone, which no map changes"
_BETTER = {"lower": "lower is better", "higher": "higher is better", "zero": "best at 0"}


def metrics_section(subject: Subject) -> Section:
    """Show every metric that needs but a table, in the region and in the whole volume."""
    blocks: list[Block] = [
        Text(
            "Means over cases. A difference is calibrated less raw, paired by case, with its 95\u00a0% BCa interval. "
            "“Better” or “worse” stands where that interval leaves out 0. Of twenty intervals about one does so by "
            f"chance alone, and these metrics measure much the same: the result to quote is the first, {MAIN}; the "
            "others say where it comes from. A map cannot add information: where it gives several scores one value, "
            "ranking, refinement and sharpness get a little worse."
        )
    ]
    blocks += [_table(subject, region) for region in subject.regions]
    return Section("metrics", "Metrics before and after", tuple(blocks))


def _table(subject: Subject, region: RegionName) -> Table:
    found = {each.metric.name: each for each in paired(subject, None, region)}
    rows: list[Row] = []
    scored = {name: each for name, each in found.items() if each.metric.better in _BETTER}
    listed = {name for names in _GROUPS.values() for name in names}
    for title, names in {**_GROUPS, _OTHERS: tuple(name for name in scored if name not in listed)}.items():
        there = [scored[name] for name in names if name in scored]
        if there:
            directions = {each.metric.better for each in there}
            shared = f" ({_BETTER[there[0].metric.better]})" if len(directions) == 1 else ""
            rows += [Group(f"{title}{shared}"), *(_row(each, named=not shared) for each in there)]
    unscored = [each for each in found.values() if each.metric.better not in _BETTER]
    if unscored:
        rows += [Group(_RATERS), *(_of_raters(each) for each in unscored)]
    notes = ["Cases: in how many the metric is defined, raw and calibrated; the means are over these."]
    if any(each.metric.better == "zero" for each in found.values()):
        notes.append("Of a metric that is best at 0, the difference is that of absolute values.")
    place = where(subject, region)
    return Table(
        f"{place[0].upper()}{place[1:]}",
        ("metric", "raw", "calibrated", "difference", "", "cases"),
        tuple(rows),
        words=(4,),
        described=True,
        notes=tuple(notes),
    )


def _name(each: Paired, direction: str) -> Cell:
    metric = each.metric
    unit = "" if metric.unit == "1" else f" [{metric.unit}]"
    return Cell(f"{metric.name}{unit}", metric.description + (f" ({direction})" if direction else ""))


def _row(each: Paired, *, named: bool) -> Row:
    raw, calibrated = numbers([each.raw.mean, each.calibrated.mean])
    return (
        _name(each, _BETTER[each.metric.better] if named else ""),
        raw,
        calibrated,
        Cell(*stacked(each.difference, signed=True)),
        Cell(each.verdict, strong=True),
        str(each.difference.defined),
    )


def _of_raters(each: Paired) -> Row:
    return (_name(each, ""), numbers([each.raw.mean])[0], NOTHING, NOTHING, "", str(each.raw.defined))
