"""How many cases are enough."""

from __future__ import annotations

import numpy as np

from twintrack_core.errors import FitError
from twintrack_core.report.document import Figure, Row, Section, Table, Text
from twintrack_core.report.figures.learning_figure import LearningFigure
from twintrack_core.report.numbers import NOTHING, counted, number, numbers
from twintrack_core.report.sections.words import MAIN
from twintrack_core.report.subject import Subject
from twintrack_core.validation import LearningCurve, learning_curve


def learning_section(subject: Subject) -> Section:
    """Show how good maps of fewer cases are, or say why that cannot be."""
    title = "How many cases are enough"
    if subject.fitted is None or subject.recipe is None:
        return Section("learning", title, (Text(f"There is no learning curve: {subject.no_recipe}."),))
    if len(subject.fitted) < 3:
        text = f"There is no learning curve: it takes 3 cases, of {len(subject.fitted)} that there are."
        return Section("learning", title, (Text(text),))
    try:
        curve = learning_curve(subject.fitted, subject.recipe, MAIN, seed=subject.bootstrap.seed)
    except FitError as error:
        return Section("learning", title, (Text(f"There is no learning curve. {error.what}"),))
    caption = (
        f"Brier score to the MHR of {counted(curve.n_test, 'held-out case')} ({curve.repeats} random choices of the "
        f"{len(subject.fitted)} fitted cases), region {subject.fitted.roi}, against the number of cases that the map "
        "is fitted to. The band holds 8 of 10 single choices of cases: it is what chance does to one of them, and no "
        "interval of the mean. The dashed line is the raw scores."
    )
    figure = Figure(
        "learning", "Learning curve", caption, LearningFigure(curve, "Brier score to the MHR"), _table(curve)
    )
    return Section("learning", title, (Text(enough_words(curve)), figure))


def enough_words(curve: LearningCurve) -> str:
    """Say from where on more cases change little."""
    most = int(curve.size[-1])
    slack = f"{100 * curve.tolerance:g}\u00a0%"
    if curve.enough is None:
        words = "No number of cases was enough: no map could be fitted to all but the held-out ones."
    elif curve.enough == most:
        words = (
            f"More cases still help: only with {most}, the most there are to fit to, is the mean within {slack} of the "
            "best. Rating further cases is likely to improve the map."
        )
    else:
        words = (
            f"From {counted(curve.enough, 'case')} on, the mean is within {slack} of the best that up to {most} cases "
            "give: more cases of the same kind would change it little, though they would narrow what chance does."
        )
    beats = [int(size) for size, mean in zip(curve.size, curve.mean, strict=True) if mean < curve.raw]
    if not beats:
        words += " At no size is the mean better than that of the raw scores."
    elif beats[0] != curve.size[0] or len(beats) < len(curve.size):
        words += f" The mean is better than that of the raw scores with {_listed(beats)} cases."
    return words


def _listed(sizes: list[int]) -> str:
    *first, last = [str(size) for size in sizes]
    return f"{', '.join(first)} and {last}" if first else last


def _table(curve: LearningCurve) -> Table:
    rows: list[Row] = []
    for size, *values, failed in zip(curve.size, curve.mean, curve.low, curve.high, curve.failed, strict=True):
        mean, low, high = numbers([float(value) for value in values])
        rows.append((str(size), mean, NOTHING if np.isnan(values[1]) else f"{low} to {high}", str(failed)))
    rows.append(("raw scores", number(curve.raw), NOTHING, NOTHING))
    return Table(
        "Learning curve", ("cases", "mean", "8 of 10 choices", "could not be fitted"), tuple(rows), folded=True
    )
