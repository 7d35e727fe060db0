"""Words that several sections share."""

from __future__ import annotations

from twintrack_core.histogram import RegionName
from twintrack_core.report.numbers import counted
from twintrack_core.report.subject import Subject

MAIN = "brier_mhr"
"""The metric of the main result: a proper score, which no blurring improves."""

_TARGETS = {
    "mhr": "the mean human response (MHR: the fraction of raters who marked a voxel)",
    "majority": "the majority of the raters",
    "staple": "the probability that STAPLE gives a voxel from all raters",
}

_RULES = {
    "full": "the whole volume",
    "mask": "the region that comes with each case",
}


def target_words(target: str) -> str:
    """Say what a map was fitted to."""
    if target.startswith("rater:"):
        return f"the marks of {target.removeprefix('rater:')}"
    return _TARGETS.get(target, target or "an unnamed target")


def roi_words(roi: str | None) -> str:
    """Say what a rule of the region of interest means."""
    if roi is None:
        return "a region that is not named"
    if roi.startswith("raters+"):
        return f"a box around the raters’ marks, {roi.removeprefix('raters+')} voxels wider on every side ({roi})"
    if roi.startswith("mask+"):
        return f"the region that comes with each case, dilated by {roi.removeprefix('mask+')} ({roi})"
    return f"{_RULES[roi]} ({roi})" if roi in _RULES else roi


def where(subject: Subject, region: RegionName) -> str:
    """Title of a region."""
    if subject.statistics.roi == "full" or region == "whole":
        return "whole volume"
    return f"region {subject.statistics.roi}"


def reading_words(subject: Subject) -> str:
    """Say how the cases are scored."""
    n_seen, n_rated = len(subject.seen), len(subject.rated)
    if subject.reading == "held out":
        if n_rated == 1:
            return (
                "Held out: the map was not fitted to this case, so the figures are what it does on one it has not seen."
            )
        return (
            f"Held out: none of the {counted(n_rated, 'rated case')} looked at is among those the map was fitted to, "
            "so the figures are what the map does on cases it has not seen."
        )
    if subject.reading == "unknown":
        return (
            "Not known to be held out: the map does not name the cases it was fitted to. If these are among them, the "
            "calibrated figures flatter it."
        )
    all_of = n_seen == n_rated
    which = (
        f"the map was fitted to {'the very case' if n_rated == 1 else f'these very {n_rated} cases'}"
        if all_of
        else f"the map was fitted to {n_seen} of the {n_rated} cases"
    )
    if subject.reading == "cross-fitted":
        rest = "" if all_of else " The other cases are scored on the map itself."
        return (
            f"Cross-fitted: {which}. Scored on that map they would flatter it, so each of them is scored on a map "
            f"fitted in the same way without it ({len(subject.splits)} folds).{rest} The figures are of fitting in "
            f"this way; the map shown is fitted to all {len(subject.calibration.cases)} and will differ a little."
        )
    return (
        f"In-sample: {which}, and is scored on them all the same, because {subject.why_in_sample}. The calibrated "
        "figures flatter the map; do not quote them."
    )
