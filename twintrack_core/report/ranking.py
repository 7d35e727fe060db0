"""A comparison as text: the ranking with its intervals, groups, what failed, and which to take."""

from __future__ import annotations

from collections.abc import Sequence

from twintrack_core.metrics import Suite, get
from twintrack_core.report.tables import aligned, number
from twintrack_core.validation import Candidate, Comparison, Estimate


def ranking_table(comparison: Comparison, metrics: Sequence[str] = ()) -> str:
    """Lay out a comparison: a line a candidate, the best first.

    Parameters
    ----------
    comparison
        What was compared.
    metrics
        Names of further metrics to show, mean and interval, besides that of the ranking.
    """
    measured = [candidate for candidate in comparison.candidates if not candidate.failed]
    shown = [comparison.rank_by, *(name for name in metrics if name != comparison.rank_by)]
    first, *others = (_titled(name) for name in shown)
    head = ["held-out mean", first, "difference to raw", "difference to first", *others]
    lines = [head, *(_line(candidate, shown, comparison.rank_by) for candidate in measured)]
    blocks = [aligned(lines), _how(comparison)]
    if comparison.refit_draws:
        blocks.append(aligned(_refitted(measured, comparison)))
        notes = [
            f"  - {each.label}: {each.refitted.incomplete:,} draws determine no map in some fold"
            for each in measured
            if each.refitted and each.refitted.incomplete
        ]
        blocks += ["\n".join(notes)] if notes else []
    if comparison.group_by is not None:
        blocks.append(aligned(_groups(measured, comparison)))
    failed = [f"  - {each.label}: {each.failed}" for each in comparison.candidates if each.failed]
    if failed:
        blocks.append("\n".join(["Not ranked, for a fold has no map:", *failed]))
    blocks.append(comparison.recommendation)
    return "\n\n".join(blocks)


def _line(candidate: Candidate, shown: Sequence[str], rank_by: str) -> list[str]:
    to_raw = candidate[rank_by].to_raw
    return [
        candidate.label,
        interval(candidate[rank_by].value),
        interval(to_raw, signed=True) if to_raw else "",
        interval(candidate.to_best, signed=True) if candidate.to_best else "",
        *(interval(candidate[name].value) for name in shown if name != rank_by),
    ]


def _how(comparison: Comparison) -> str:
    bootstrap = comparison.bootstrap
    units = "cases" if comparison.group_by is None else f"cases of one {comparison.group_by} together"
    together = f", cases of one {comparison.group_by} together" if comparison.group_by is not None else ""
    n_cases, n_folds = len(comparison.cases), len(comparison.splits)
    others = {name for split in comparison.splits for name in split.fit} - set(comparison.cases)
    also = f" (fitted to {len(others)} others too)" if others else ""
    return (
        f"{n_cases} cases in {n_folds} fold{'s' * (n_folds != 1)}{also}{together}, region {comparison.roi}. "
        f"In brackets: {bootstrap.level * 100:g} % intervals (BCa, none shorter than Student's t),\n"
        f"test {units} resampled {bootstrap.draws:,} times, the maps of the folds fixed."
    )


def _refitted(measured: Sequence[Candidate], comparison: Comparison) -> list[list[str]]:
    head = [f"all cases resampled, maps refitted, {comparison.refit_draws:,} draws", comparison.rank_by]
    lines = [[*head, "difference to raw"]]
    for candidate in measured:
        found = candidate.refitted
        if found is not None:
            to_raw = interval(found.to_raw, signed=True) if found.to_raw else ""
            lines.append([candidate.label, interval(found.value), to_raw])
    return lines


def _groups(measured: Sequence[Candidate], comparison: Comparison) -> list[list[str]]:
    names = list(measured[0].groups)
    lines = [[f"{comparison.rank_by} by {comparison.group_by}", *names]]
    lines += [[each.label, *(interval(each.groups[name][0]) for name in names)] for each in measured]
    return lines


def interval(found: Estimate | None, *, signed: bool = False) -> str:
    """Return "mean (low to high)"; the mean alone without an interval, "-" without either."""
    if found is None or found.mean is None:
        return "-"
    texts = [_signed(value) if signed else number(value) for value in (found.mean, found.low, found.high)]
    return texts[0] if found.low is None else f"{texts[0]} ({texts[1]} to {texts[2]})"


def _signed(value: float | None) -> str:
    text = number(value)
    return text if value is None or value < 0 else f"+{text}"


def _titled(name: str) -> str:
    metric = get(name)
    return name if isinstance(metric, Suite) or metric.unit == "1" else f"{name} [{metric.unit}]"
