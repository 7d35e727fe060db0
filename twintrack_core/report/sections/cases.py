"""Case by case."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from twintrack_core.report.document import Figure, Row, Section, Table, Text
from twintrack_core.report.figures.cases_figure import CasesFigure, DifferencesFigure
from twintrack_core.report.figures.drawing import Drawing
from twintrack_core.report.numbers import counted, numbers
from twintrack_core.report.sections.words import MAIN, where
from twintrack_core.report.subject import Subject

_TITLE = "Case by case"
_MOST = 60
_BINS = 20

_Floats = npt.NDArray[np.float64]


def cases_section(subject: Subject) -> Section:
    """Show what each case was and became."""
    raw, calibrated = (values[:, 0] for values in subject.values([MAIN], "roi"))
    names = np.array(subject.names)
    known = np.flatnonzero(~np.isnan(raw - calibrated))
    order = known[np.argsort((calibrated - raw)[known], kind="stable")]
    place = where(subject, "roi")
    if not len(known):
        return Section("cases", _TITLE, (Text(f"No case has voxels there: {place}."),))
    n_worse = int((calibrated > raw).sum())
    worse = "none gets worse" if not n_worse else f"{n_worse} {'gets' if n_worse == 1 else 'get'} worse"
    drawing: Drawing
    if len(known) <= _MOST:
        drawing = CasesFigure(
            tuple(str(name) for name in names[order]), raw[order], calibrated[order], "Brier score to the MHR"
        )
        caption = (
            f"Brier score to the MHR of each case, {place}: further left is better. The case that gains most is at the "
            f"top; of the {len(known)}, {worse}{', at the bottom' if n_worse else ''}."
        )
    else:
        drawing = DifferencesFigure(*_spread((calibrated - raw)[order]), "difference in Brier score to the MHR")
        caption = (
            f"How the Brier score to the MHR of each case changes, {place}: left of the line at 0 calibration makes it "
            f"better. Of the {len(known)} cases, {worse}."
        )
    left_out = len(names) - len(known)
    if left_out:
        caption += f" {counted(left_out, 'case')} without voxels there {'is' if left_out == 1 else 'are'} left out."
    rows: list[Row] = []
    for k in order:
        before, after = numbers([float(raw[k]), float(calibrated[k])])
        rows.append((str(names[k]), before, after, numbers([float(calibrated[k] - raw[k])], signed=True)[0]))
    table = Table(
        f"Brier score to the MHR by case, {place}",
        ("case", "raw", "calibrated", "difference"),
        tuple(rows),
        folded=True,
    )
    return Section(
        "cases",
        _TITLE,
        (Figure("cases", "Brier score of each case before and after", caption, drawing, table),),
    )


def _spread(difference: _Floats) -> tuple[_Floats, npt.NDArray[np.int64]]:
    """Return about twenty bins of equal width of which 0 is an edge, and the cases in each."""
    low, high = min(float(difference.min()), 0.0), max(float(difference.max()), 0.0)
    width = (high - low) / _BINS or 1.0
    edges = np.arange(np.floor(low / width), np.ceil(high / width) + 1) * width
    cases, _ = np.histogram(difference, np.concatenate([edges[:-1], [max(edges[-1], high)]]))
    return edges, cases
