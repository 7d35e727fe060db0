"""How far the raters agree, and whether the map helps each of them."""

from __future__ import annotations

from twintrack_core.errors import FitError, RequestError
from twintrack_core.report.document import Block, Cell, Row, Section, Table, Text
from twintrack_core.report.numbers import counted, interval, numbers
from twintrack_core.report.sections.words import where
from twintrack_core.report.subject import Subject
from twintrack_core.validation import LeftOutRater, leave_one_rater_out
from twintrack_core.validation.scoring import check_metric

_TOGETHER = {
    "pairwise_dice": "Dice of what two raters marked, mean over pairs",
    "krippendorff_alpha": "Krippendorff’s alpha: 1 is full agreement, 0 what chance alone would give",
}


def raters_section(subject: Subject) -> Section:
    """Show the raters' agreement, which bounds what can be asked of a score, and leave out each in turn."""
    blocks: list[Block] = []
    if len(subject.rated):
        blocks += _agreement(subject)
    blocks += _left_out(subject)
    return Section("raters", "The raters", tuple(blocks))


def _agreement(subject: Subject) -> list[Block]:
    raters = subject.rated.raters
    together = list(_TOGETHER)
    own = [f"staple_{rate}:{rater}" for rater in raters for rate in ("sensitivity", "specificity")]
    wanted = [*together, *own]
    values, _ = subject.values(wanted, "roi")
    found = subject.bootstrap.estimates(values, subject.groups, [check_metric(name).range for name in wanted])
    place = where(subject, "roi")
    agreement: list[Row] = [
        (Cell(name, words), interval(each), str(each.defined))
        for (name, words), each in zip(_TOGETHER.items(), found[: len(together)], strict=True)
    ]
    rates = found[len(together) :]
    rows: list[Row] = [
        (rater, interval(rates[2 * k]), interval(rates[2 * k + 1]), str(rates[2 * k].defined))
        for k, rater in enumerate(raters)
    ]
    return [
        Text(
            "No score takes part in these: they say how far the raters agree among themselves. Where they disagree, no "
            "score can agree with all of them."
        ),
        Table(
            f"Agreement, {place}: mean over cases with 95\u00a0% interval",
            ("metric", "value", "cases"),
            tuple(agreement),
            described=True,
        ),
        Table(
            f"Each rater against the STAPLE of all, {place}: mean over cases with 95\u00a0% interval",
            ("rater", "sensitivity", "specificity", "cases"),
            tuple(rows),
            notes=(
                (
                    "Sensitivity: how much of what all together find likely the rater marks. Specificity: how much of "
                    "the rest the rater leaves unmarked; it is near 1 wherever most voxels are background."
                ),
            ),
        ),
    ]


def _left_out(subject: Subject) -> list[Block]:
    if subject.fitted is None or subject.recipe is None or not subject.splits:
        why = subject.no_recipe or "it takes two cases"
        return [Text(f"No rater could be left out of the fit: {why}.")]
    try:
        found = leave_one_rater_out(subject.fitted, subject.recipe, subject.splits, subject.bootstrap)
    except (FitError, RequestError) as error:
        return [Text(f"No rater could be left out of the fit: {error.what}")]
    of_cases = f"{counted(len(subject.fitted), 'fitted case')}, region {subject.fitted.roi}"
    traits: list[Row] = [
        (
            each.rater,
            interval(each.bias, signed=True),
            interval(each.agreement),
            str(each.agreement.defined),
        )
        for each in found
    ]
    rows: list[Row] = [
        (
            each.rater,
            *numbers([each.raw.mean, each.calibrated.mean]),
            interval(each.difference, signed=True),
            Cell(_verdict(each), strong=True),
            str(each.difference.defined),
        )
        for each in found
    ]
    return [
        Table(
            f"Each rater against the others, {of_cases}: mean with 95\u00a0% interval",
            ("rater", "bias", "agreement", "cases"),
            tuple(traits),
            notes=(
                "Bias: how much more than the mean of the others the rater marks, as a fraction of it.",
                "Agreement: Dice with each of the others, mean.",
            ),
        ),
        Table(
            f"Leaving out one rater, {of_cases}: Brier score to this rater’s marks, mean with 95\u00a0% interval",
            ("rater left out", "raw", "calibrated", "difference", "", "cases"),
            tuple(rows),
            words=(4,),
            notes=(
                f"The map is fitted to the other raters, on other cases ({len(subject.splits)} folds).",
                "A difference below 0 says that it helps an expert whom it has never seen.",
            ),
        ),
    ]


def _verdict(each: LeftOutRater) -> str:
    low, high = each.difference.low, each.difference.high
    if low is None or high is None or low <= 0 <= high:
        return ""
    return "better" if high < 0 else "worse"
