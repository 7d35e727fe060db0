"""The summary: what was calibrated, what came of it, and what to be wary of."""

from __future__ import annotations

from twintrack_core.report.document import Block, Facts, Notes, Section, Text
from twintrack_core.report.numbers import counted, numbers, span, stacked, whole
from twintrack_core.report.paired import Paired, paired
from twintrack_core.report.sections.comparison import recommendation
from twintrack_core.report.sections.drift import Drifted
from twintrack_core.report.sections.words import MAIN, reading_words, roi_words, target_words
from twintrack_core.report.subject import Subject
from twintrack_core.validation import Comparison

_FEW = 10
_FEW_FITTED = 5


def summary(subject: Subject, drifted: Drifted | None, comparison: Comparison | None) -> Section:
    """Say the main things first."""
    (main,) = paired(subject, [MAIN], "roi") if len(subject.rated) else (None,)
    blocks: list[Block] = []
    if main is None:
        blocks.append(
            Text(
                "None of the cases looked at has raters, so nothing can be said of how well the scores fit what raters "
                "would say. What follows is the map"
                + (", and whether the scores of these cases look like those it was fitted to." if drifted else "."),
                lead=True,
            )
        )
    else:
        blocks.append(Text(result(subject, main), lead=True))
    if comparison is not None:
        blocks.append(Text(recommendation(comparison)))
    warnings = _warnings(subject, drifted)
    if warnings:
        blocks.append(Notes(warnings))
    blocks.append(Facts(_facts(subject)))
    return Section("summary", "Summary", tuple(blocks))


def result(subject: Subject, main: Paired) -> str:
    """Say in words what calibration does to the main metric."""
    place = subject.region_words("roi")
    start = "In-sample, and therefore flattering: " if subject.reading == "in-sample" else ""
    sentence = f"{start}{place}, {_result(main)}"
    return sentence[0].upper() + sentence[1:]


def _result(main: Paired) -> str:
    difference = main.difference
    if main.raw.mean is None or main.calibrated.mean is None or difference.mean is None:
        return "there are no voxels, so the Brier score to the mean human response is undefined."
    raw, calibrated = numbers([main.raw.mean, main.calibrated.mean])
    what = "the mean squared difference between score and mean human response (Brier score)"
    if difference.low is None:
        return f"{what} is {raw} raw and {calibrated} calibrated. One case makes no interval: this may be chance."
    gap = f"{stacked(difference, signed=True)[0]} (95\u00a0% interval {span(difference, signed=True)}), paired by case"
    better = f"It is lower in {main.n_better} of {counted(difference.defined, 'case')}."
    if main.verdict:
        verb = "lowers" if main.verdict == "better" else "raises"
        return f"calibration {verb} {what} from {raw} to {calibrated}: a difference of {gap}. {better}"
    return (
        f"{what} is {raw} raw and {calibrated} calibrated. The difference, {gap}, may be chance: its interval includes "
        f"0. {better}"
    )


def _warnings(subject: Subject, drifted: Drifted | None) -> tuple[str, ...]:
    found = []
    n_rated, calibration = len(subject.rated), subject.calibration
    if subject.reading != "held out":
        found.append(reading_words(subject))
    if n_rated == 1:
        found.append("One case: there are no intervals, and nothing follows for others.")
    elif 0 < n_rated < _FEW:
        found.append(
            f"Few cases: intervals from {counted(n_rated, 'case')} are wide and lean on little. In simulated "
            "cohorts of 3 to 20 cases those of means covered the truth 92 to 96 times in 100; where one case is unlike "
            "all others, they will not."
        )
    if 0 < len(calibration.cases) < _FEW_FITTED:
        found.append(
            f"Few fitted cases: the map was fitted to {counted(len(calibration.cases), 'case')}, and others like them "
            "would have made another map."
        )
    if n_rated and calibration.target != "mhr":
        found.append(
            f"Another target: the map was fitted to {target_words(calibration.target)}, and is measured here against "
            "the mean human response."
        )
    if calibration.roi is not None and calibration.roi != subject.statistics.roi:
        found.append(
            f"Another region: the map was fitted to {roi_words(calibration.roi)}, and is looked at in "
            f"{roi_words(subject.statistics.roi)}."
        )
    n_unrated = len(subject.statistics) - n_rated
    if n_rated and n_unrated:
        found.append(f"{counted(n_unrated, 'case')} without raters take part in nothing but drift.")
    if drifted is not None and drifted.warning:
        found.append(drifted.warning)
    return tuple(found)


def _with_raters(subject: Subject) -> str:
    n_raters = len(subject.statistics.raters)
    return f"with {counted(n_raters, 'rater')}" if n_raters else "without raters"


def _facts(subject: Subject) -> tuple[tuple[str, str], ...]:
    calibration, statistics = subject.calibration, subject.statistics
    facts = [
        ("Map", f"{calibration.calibrator or 'unnamed'}, fitted to {target_words(calibration.target)}"),
        (
            "Fitted to",
            (
                f"{whole(calibration.voxels)} voxels of {counted(len(calibration.cases), 'case')} with "
                f"{counted(len(calibration.raters), 'rater')}, in {roi_words(calibration.roi)}"
            ),
        ),
        (
            "Looked at",
            (f"{counted(len(statistics), 'case')} {_with_raters(subject)}, in {roi_words(statistics.roi)}"),
        ),
    ]
    if subject.reading == "held out" and len(subject.rated):
        facts.append(("Scored", reading_words(subject)))
    if len(subject.rated):
        facts.append(
            (
                "Intervals",
                (
                    f"95\u00a0%, from {subject.bootstrap.draws:,} draws of the {subject.drawn} with replacement, the "
                    "maps fixed; BCa, none shorter than Student’s t. They say how far a mean may lie off by the choice "
                    f"of {subject.drawn}, for such as these."
                ),
            )
        )
    return tuple(facts)
