"""Evaluations as text: a table per metric with a line per case, and a summary."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from twintrack_core import metrics
from twintrack_core.histogram import RegionName
from twintrack_core.metrics import Evaluation, Row, SummaryRow

Column = tuple[RegionName, str]
"""Region and variant."""

_GAINS: dict[str, Callable[[float, float], bool]] = {
    "lower": lambda raw, new: new < raw,
    "higher": lambda raw, new: new > raw,
    "zero": lambda raw, new: abs(new) < abs(raw),
}


def case_tables(evaluation: Evaluation, *, roi: str) -> str:
    """Lay out a table per metric: cases, their mean and the pooled value down, regions and variants across."""
    values = {(row.metric, row.case, row.region, row.variant): row.value for row in evaluation.rows}
    totals = {(row.metric, row.region, row.variant): row for row in evaluation.summary}
    columns = _columns(evaluation, roi)
    cases = _distinct(row.case for row in evaluation.rows)
    blocks = []
    for metric in _distinct(row.metric for row in evaluation.rows):
        found = [totals[metric, region, variant] for region, variant in columns]
        lines = [
            [metric, *_titles(columns, roi)],
            *([case, *(_number(values[metric, case, *column]) for column in columns)] for case in cases),
            ["mean", *(_number(total.mean) for total in found)],
            ["pooled", *(_number(total.pooled) for total in found)],
        ]
        blocks.append(_aligned(lines))
        blocks.append(_remarks([row for row in evaluation.rows if row.metric == metric], found, columns))
    return "\n\n".join(block for block in blocks if block)


def summary_table(evaluation: Evaluation, *, roi: str) -> str:
    """Lay out the means over cases, and how many cases each map made better."""
    values = {(row.metric, row.case, row.region, row.variant): row.value for row in evaluation.rows}
    totals = {(row.metric, row.region, row.variant): row for row in evaluation.summary}
    columns = _columns(evaluation, roi)
    cases = _distinct(row.case for row in evaluation.rows)
    lines = [["mean over cases", *_titles(columns, roi)]]
    for metric in _distinct(row.metric for row in evaluation.rows):
        line = [metric]
        for region, variant in columns:
            text = _number(totals[metric, region, variant].mean)
            if variant != "raw":
                pairs = [(values[metric, case, region, "raw"], values[metric, case, region, variant]) for case in cases]
                text += f" ({_improved(metric, pairs)} better)"
            line.append(text)
        lines.append(line)
    return _aligned(lines)


def _columns(evaluation: Evaluation, roi: str) -> list[Column]:
    # Everything is inside when the rule is "full", so the region would only repeat the volume.
    regions: list[RegionName] = ["whole"] if roi == "full" else ["whole", "roi"]
    variants = _distinct(row.variant for row in evaluation.rows)
    return [(region, variant) for region in regions for variant in variants]


def _titles(columns: Sequence[Column], roi: str) -> list[str]:
    return [f"{'whole volume' if region == 'whole' else roi}: {variant}" for region, variant in columns]


def _improved(metric: str, pairs: Iterable[tuple[float | None, float | None]]) -> str:
    (described,) = metrics.resolve([metric])
    gain = _GAINS[described.better]
    defined = [(raw, new) for raw, new in pairs if raw is not None and new is not None]
    return f"{sum(gain(raw, new) for raw, new in defined)} of {len(defined)}"


def _remarks(rows: Sequence[Row], totals: Sequence[SummaryRow], columns: Sequence[Column]) -> str:
    """Say why values are missing, and what should be known of the pooled ones."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.why and row.value is None and (row.region, row.variant) in columns:
            reasons.setdefault(row.why, []).append(row.case)
    remarks = [f"{', '.join(_distinct(cases))}: {why}" for why, cases in reasons.items()]
    remarks += [f"pooled, {total.region}, {total.variant}: {total.why}" for total in totals if total.why]
    return "\n".join(f"  - {remark}" for remark in remarks)


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(text) for text in column) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(text.rjust(n) for text, n in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:#.3g}"


def _distinct(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
