"""The map, with its band."""

from __future__ import annotations

import numpy as np

from twintrack_core.codes import CODE_VALUES
from twintrack_core.report.document import Block, Figure, Row, Section, Table, Text
from twintrack_core.report.figures.map_figure import MapFigure
from twintrack_core.report.numbers import counted, number
from twintrack_core.report.sections.words import target_words
from twintrack_core.report.subject import Subject
from twintrack_core.validation import MapBand, map_band
from twintrack_core.validation.drift import N_BINS, score_histograms

_SHOWN = 5  # every fifth of the band's 101 scores stands in the table
_AXES = {
    "mhr": "calibrated score (MHR)",
    "majority": "calibrated score (majority)",
    "staple": "calibrated score (STAPLE)",
}


def map_section(subject: Subject) -> Section:
    """Show the map, what it makes of some scores, and how far it may lie off."""
    calibration = subject.calibration
    counted_in = subject.fitted if subject.fitted is not None else subject.statistics
    voxels = np.sum([np.zeros(N_BINS), *score_histograms(counted_in).values()], axis=0)
    band = None
    if subject.fitted is not None and subject.recipe is not None and len(subject.fitted) > 1:
        band = map_band(subject.fitted, subject.recipe, subject.bootstrap)
    bounds = None
    if calibration.lower is not None and calibration.upper is not None:
        bounds = calibration.lower, calibration.upper
    drawing = MapFigure(
        calibration.score,
        calibration.value,
        None if band is None else (band.score, band.low, band.high),
        bounds,
        np.arange(N_BINS + 1) / N_BINS,
        voxels,
        _AXES.get(calibration.target, "calibrated score"),
    )
    whose = "the cases it was fitted to" if counted_in is subject.fitted else "the cases looked at"
    caption = [
        (
            "A line above the dotted diagonal means that raters mark more often than the score says (the raw scores "
            "are too low), below it less often (too high)."
        ),
        (
            f"Below: how many voxels of {whose} have each raw score, by powers of ten; where there are few, the map "
            "rests on little."
        ),
        _band_words(subject, band),
    ]
    if bounds is not None:
        caption.append(
            f"The dash-dotted lines are the map’s own bounds, which {calibration.calibrator or 'its calibrator'} "
            f"gives, at most {number(float((bounds[1] - bounds[0]).max()))} apart: they are no interval over cases."
        )
    blocks: list[Block] = [
        Text(_examples(subject)),
        Figure(
            "map",
            "The calibration map",
            " ".join(caption),
            drawing,
            _table(subject, band),
        ),
    ]
    return Section("map", "The map", tuple(blocks))


def _examples(subject: Subject) -> str:
    table = subject.calibration.table
    codes = [int(np.searchsorted(CODE_VALUES, score)) for score in (0.1, 0.5, 0.9)]
    low, middle, high = (number(float(table[code])) for code in codes)
    target = subject.calibration.target
    ends = {
        "mhr": f"Read {middle} as: of ten experts, about {10 * float(table[codes[1]]):.0f} would mark the voxel.",
    }.get(target, f"The calibrated score stands for {target_words(target)}.")
    return f"A raw score of 0.1 becomes {low}, 0.5 becomes {middle} and 0.9 becomes {high}. {ends}"


def _band_words(subject: Subject, band: MapBand | None) -> str:
    if band is None:
        why = subject.no_recipe or "one case alone cannot be drawn from"
        return f"There is no band for the choice of cases: {why}."
    failed = ""
    if band.failed:
        failed = f" {counted(band.failed, 'draw')} determined no map and are left out."
    assert subject.fitted is not None  # noqa: S101 - there is no band without
    return (
        f"The band says how far the map may lie off by the choice of its {len(subject.fitted)} cases: they are drawn "
        f"anew and the map refitted in every one of {subject.bootstrap.draws:,} draws (95\u00a0%, point by point, "
        f"none narrower than Student’s t).{failed}"
    )


def _table(subject: Subject, band: MapBand | None) -> Table:
    calibration = subject.calibration
    head = ["raw score", "calibrated"]
    if band is not None:
        code = np.searchsorted(CODE_VALUES, band.score[::_SHOWN])
        score = band.score[::_SHOWN]
        head += ["band from", "to"]
    else:
        code = np.searchsorted(CODE_VALUES, np.linspace(0, 1, 21).astype(np.float16).astype(np.float64))
        score = CODE_VALUES[code]
    columns = [score, calibration.table[code]]
    if band is not None:
        columns += [band.low[::_SHOWN], band.high[::_SHOWN]]
    if calibration.lower is not None:
        head += ["own lower bound", "own upper bound"]
        columns += [calibration.bound("lower").table[code], calibration.bound("upper").table[code]]
    rows: list[Row] = [tuple(number(float(value)) for value in row) for row in zip(*columns, strict=True)]
    return Table("The map at some scores", tuple(head), tuple(rows), folded=True)
