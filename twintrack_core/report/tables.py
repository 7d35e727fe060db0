"""Evaluations as text: a table per metric with a line per case, a summary, and the rows as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from twintrack_core.histogram import RegionName
from twintrack_core.metrics import Evaluation, Metric, Row, SummaryRow, resolve
from twintrack_core.metrics.registry import AnyMetric

Column = tuple[RegionName, str]
"""Region and variant."""

_GAINS: dict[str, Callable[[float, float], bool]] = {
    "lower": lambda raw, new: new < raw,
    "higher": lambda raw, new: new > raw,
    "zero": lambda raw, new: abs(new) < abs(raw),
}


def case_tables(evaluation: Evaluation, *, roi: str) -> str:
    """Lay out a table per metric: cases, their mean, where it is defined and the pooled value down, columns across."""
    view = _View.of(evaluation, roi)
    blocks = []
    for metric in view.metrics.values():
        columns = view.columns_of(metric)
        totals = [view.totals[metric.name, *column] for column in columns]
        lines = [
            [_titled(metric), *view.titles(columns)],
            *([case, *(number(view.value(metric, case, column)) for column in columns)] for case in view.cases),
            ["mean", *(number(total.mean) for total in totals)],
        ]
        if any(total.defined < len(view.cases) for total in totals):
            lines.append(["defined", *(f"{total.defined} of {len(view.cases)}" for total in totals)])
        pools = isinstance(metric, Metric) and metric.pooled
        if pools:
            lines.append(["pooled", *(number(total.pooled) for total in totals)])
        blocks.append(aligned(lines))
        rows = [row for row in evaluation.rows if row.metric == metric.name and (row.region, row.variant) in columns]
        blocks.append(_remarks(rows, totals if pools else (), len(view.cases)))
    return "\n\n".join(block for block in blocks if block)


def summary_table(evaluation: Evaluation, *, roi: str) -> str:
    """Lay out the means over cases, in how many they are defined, and how many cases each map made better."""
    view = _View.of(evaluation, roi)
    lines = [["mean over cases", "better", *view.titles(view.columns)]]
    for metric in view.metrics.values():
        cells = [_mean(view, metric, column) for column in view.columns]
        lines.append([_titled(metric), "-" if metric.better == "neither" else metric.better, *cells])
    missing: dict[str, list[str]] = {}
    for metric in view.metrics.values():
        if all(view.totals[metric.name, *column].mean is None for column in view.columns_of(metric)):
            reasons = _distinct(row.why for row in evaluation.rows if row.metric == metric.name and row.why)
            missing.setdefault("; ".join(reasons), []).append(metric.name)
    remarks = "\n".join(f"  - {', '.join(names)}: {why}" for why, names in missing.items())
    return f"{aligned(lines)}\n\n{remarks}" if remarks else aligned(lines)


def rows_as_csv(evaluation: Evaluation) -> str:
    """Return one line per case, metric, variant and region, with the metric's unit and direction."""
    described = _described(evaluation)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("case", "metric", "variant", "region", "value", "unit", "better", "why"))
    for row in evaluation.rows:
        metric = described[row.metric]
        value = "" if row.value is None else repr(row.value)
        line = (row.case, row.metric, row.variant, row.region, value, metric.unit, metric.better, row.why or "")
        writer.writerow(line)
    return text.getvalue()


@dataclass(frozen=True)
class _View:
    """An evaluation by place: what the cells of tables are looked up in."""

    metrics: Mapping[str, AnyMetric]
    cases: Sequence[str]
    columns: Sequence[Column]
    roi: str
    values: Mapping[tuple[str, str, RegionName, str], float | None]
    totals: Mapping[tuple[str, RegionName, str], SummaryRow]

    @classmethod
    def of(cls, evaluation: Evaluation, roi: str) -> _View:
        metrics = _described(evaluation)
        # Everything is inside when the rule is "full", so the region would only repeat the volume.
        regions: list[RegionName] = ["whole", "roi"]
        if roi == "full" and all("whole" in metric.regions for metric in metrics.values()):
            regions = ["whole"]
        present = {row.region for row in evaluation.summary}
        variants = _distinct(row.variant for row in evaluation.summary)
        return cls(
            metrics,
            _distinct(row.case for row in evaluation.rows),
            [(region, variant) for region in regions if region in present for variant in variants],
            roi,
            {(row.metric, row.case, row.region, row.variant): row.value for row in evaluation.rows},
            {(row.metric, row.region, row.variant): row for row in evaluation.summary},
        )

    def titles(self, columns: Sequence[Column]) -> list[str]:
        return [f"{'whole volume' if region == 'whole' else self.roi}: {variant}" for region, variant in columns]

    def columns_of(self, metric: AnyMetric) -> list[Column]:
        """Return the columns in which a metric is taken."""
        return [column for column in self.columns if (metric.name, *column) in self.totals]

    def value(self, metric: AnyMetric, case: str, column: Column) -> float | None:
        return self.values[metric.name, case, *column]


def _described(evaluation: Evaluation) -> dict[str, AnyMetric]:
    return {metric.name: metric for metric in resolve(_distinct(row.metric for row in evaluation.summary))}


def _titled(metric: AnyMetric) -> str:
    return metric.name if metric.unit == "1" else f"{metric.name} [{metric.unit}]"


def _mean(view: _View, metric: AnyMetric, column: Column) -> str:
    region, variant = column
    total = view.totals.get((metric.name, region, variant))
    if total is None:
        return ""
    text = number(total.mean)
    if 0 < total.defined < len(view.cases):
        text += f" of {total.defined}"
    gain = _GAINS.get(metric.better)
    if variant == "raw" or gain is None or not total.defined:
        return text
    pairs = [(view.value(metric, case, (region, "raw")), view.value(metric, case, column)) for case in view.cases]
    defined = [(raw, new) for raw, new in pairs if raw is not None and new is not None]
    return f"{text} ({sum(gain(raw, new) for raw, new in defined)} of {len(defined)} better)"


def _remarks(rows: Sequence[Row], totals: Sequence[SummaryRow], n_cases: int) -> str:
    """Say why values are missing, what should be known of others, and what of the pooled ones."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.why and row.value is None:
            reasons.setdefault(row.why, []).append(row.case)
    remarks = []
    for why, found in reasons.items():
        cases = _distinct(found)
        remarks.append(f"{'all cases' if len(cases) == n_cases else ', '.join(cases)}: {why}")
    noted = [row for row in rows if row.why and row.value is not None]
    if noted:
        first = noted[0]
        more = f", and so on in {len(noted)} values; --json or -o has all of them" if len(noted) > 1 else ""
        remarks.append(f"{first.case}, {first.region}, {first.variant}: {first.why}{more}")
    notes: dict[str, list[str]] = {}
    for total in totals:
        if total.why:
            notes.setdefault(total.why, []).append(f"{total.region}, {total.variant}")
    remarks += [
        f"pooled: {why}" if len(places) == len(totals) else f"pooled, {'; '.join(places)}: {why}"
        for why, places in notes.items()
    ]
    return "\n".join(f"  - {remark}" for remark in remarks)


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Lay out rows of one length: the first column to the left, all others to the right."""
    widths = [max(len(text) for text in column) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *(text.rjust(n) for text, n in zip(line[1:], widths[1:], strict=True))]
        ).rstrip()
        for line in lines
    )


def number(value: float | None) -> str:
    """Return a value with three significant digits; "-" where there is none."""
    return "-" if value is None else f"{value:#.3g}".removesuffix(".")


def _distinct(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
