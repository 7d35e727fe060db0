"""Drift: whether the cases look like those the map was fitted to."""

from __future__ import annotations

import math
from dataclasses import dataclass

from twintrack_core.errors import RequestError
from twintrack_core.report.document import Block, Cell, Figure, Row, Section, Table, Text
from twintrack_core.report.figures.drift_figure import DriftFigure
from twintrack_core.report.numbers import counted, number, percent
from twintrack_core.report.subject import Subject
from twintrack_core.validation import Drift, drift

_MUCH = 0.05
_RARE = 0.05
_SHOWN = 20


@dataclass(frozen=True)
class Drifted:
    """What drift found, in a section and, where it should worry the reader, in a sentence."""

    section: Section
    warning: str


def drifted(subject: Subject) -> Drifted | None:
    """Compare the scores of the cases that the map was not fitted to with those of the cases that it was.

    None where there is nothing to compare: no fitted statistics, or no other cases.
    """
    if subject.fitted is None:
        return None
    new = subject.statistics.select(name for name in subject.statistics if name not in subject.fitted)
    if not len(new):
        return None
    try:
        found = drift(subject.fitted, new)
    except RequestError as error:
        text = f"Drift cannot be looked at. {error.what} {error.action or ''}".strip()
        return Drifted(Section("drift", "Drift", (Text(text),)), "")
    return _told(subject, found, len(new))


def _told(subject: Subject, found: Drift, n_new: int) -> Drifted:
    assert subject.fitted is not None  # noqa: S101 - there is no drift without
    far = far_cases(found, len(subject.fitted))
    chance = chance_of(len(far), len(found.distance), len(subject.fitted))
    foreground = found.unsupported_foreground
    unlike = bool(far) and chance < _RARE
    texts = [
        f"Every score of the {counted(n_new, 'case')} has {found.least:g} fitted cases or more behind it, effectively."
        if not found.unsupported
        else f"{percent(found.unsupported)} of the voxels of the {n_new} cases, and "
        f"{'an unknown share' if math.isnan(foreground) else percent(foreground)} of those scored 0.02 or more, have "
        f"scores that fewer than {found.least:g} fitted cases stand behind, effectively. There the map rests on "
        "little.",
    ]
    if far:
        texts.append(
            f"{_named(far)} {'stands' if len(far) == 1 else 'stand'} out: the scores of "
            f"{'this case' if len(far) == 1 else 'these cases'} are further from the fitted cases than those of any "
            "fitted case are from the others. Were new and fitted cases of one kind, so many or more would stand out "
            f"with a probability of {number(chance)}: "
            f"{'that is hardly chance' if unlike else 'chance may well do that'}."
        )
    else:
        texts.append(
            "No case stands out: none is further from the fitted cases than every fitted case is from the others."
        )
    caption = (
        f"Above, the share of voxels at each raw score, by powers of ten, region {subject.fitted.roi}: dashed for the "
        "cases fitted to, solid for those looked at. Below, the effective number of fitted cases behind each score; "
        f"under the dashed line at {found.least:g} hardly any."
    )
    blocks: list[Block] = [Text(text) for text in texts]
    blocks.append(
        Figure("drift", "Scores of the cases fitted to and looked at", caption, DriftFigure(found), _bins(found))
    )
    if found.distance:
        blocks.append(_distances(found, far))
    warning = ""
    if foreground > _MUCH:
        warning = (
            f"Drift: {percent(foreground)} of the voxels scored 0.02 or more have scores that hardly any fitted case "
            "stands behind."
        )
    if unlike:
        warning = (
            f"{warning or 'Drift:'} {counted(len(far), 'case')} of {n_new} look{'s' if len(far) == 1 else ''} unlike "
            "all cases that the map was fitted to."
        )
    return Drifted(Section("drift", "Drift", tuple(blocks)), warning)


def far_cases(found: Drift, n_fitted: int) -> tuple[str, ...]:
    """Return the cases further from the fitted ones than any of those from the others, the furthest first."""
    least = 1.5 / (n_fitted + 1)
    far = [name for name, rank in found.rank.items() if rank < least]
    return tuple(sorted(far, key=lambda name: -found.distance[name]))


def chance_of(n_far: int, n_new: int, n_fitted: int) -> float:
    """Return how probable it is that so many new cases or more are further than all fitted ones, were all of one kind.

    That is the probability that the ``n_far`` furthest of all are new.
    """
    return math.prod((n_new - k) / (n_new + n_fitted - k) for k in range(n_far))


def _named(names: tuple[str, ...]) -> str:
    *first, last = names[:8]
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"{', '.join(first)} and {last}" if first and not more else f"{', '.join(names[:8])}{more}"


def _bins(found: Drift) -> Table:
    n_bins = len(found.support)
    rows: list[Row] = [
        (
            f"{k / n_bins:.2f} to {(k + 1) / n_bins:.2f}",
            percent(float(found.fitted[k])),
            percent(float(found.new[k])),
            number(float(found.support[k])),
        )
        for k in range(n_bins)
    ]
    return Table("Scores", ("raw score", "fitted to", "looked at", "cases behind"), tuple(rows), folded=True)


def _distances(found: Drift, far: tuple[str, ...]) -> Table:
    order = sorted(found.distance, key=lambda name: (-found.distance[name], name))
    rows: list[Row] = [
        (
            Cell(name, "stands out" if name in far else "", strong=name in far),
            number(found.distance[name]),
            number(found.rank[name]),
        )
        for name in order
    ]
    return Table(
        "How far each case is from the fitted ones",
        ("case", "distance", "rank"),
        tuple(rows),
        notes=(
            (
                "Distance: Jensen-Shannon, 0 (the same scores) to 1 (no score in common), of the scores of 0.02 or "
                "more. Rank: the share of fitted cases that are at least as far from the others, the case itself "
                "counted."
            ),
        ),
        folded=len(rows) > _SHOWN,
    )
