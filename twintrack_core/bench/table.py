"""Rows as a Markdown table for people and as what JSON can hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from twintrack_core.bench.timing import Spread

if TYPE_CHECKING:
    from twintrack_core.bench.run import Row

COLUMNS = ("contender", "threads", "ms", "Mvoxel/s", "runs", "time / floor", "best peer / time")


def group_table(rows: Sequence[Row]) -> str:
    """Lay out the rows of one task and kind; both ratios are median (low to high). Who was not timed stands below."""
    text = markdown(COLUMNS, [_cells(row) for row in rows if row.seconds is not None])
    rivals = sorted({(row.threads, row.best_peer) for row in rows if row.best_peer})
    best = [f"best peer, {threads} threads: {name}" for threads, name in rivals]
    absent = dict.fromkeys(f"{row.contender}: {row.why}" for row in rows if row.why)
    remarks = "\n".join(f"- {remark.replace(', 1 threads', ', 1 thread')}" for remark in (*best, *absent))
    return f"{text}\n\n{remarks}" if remarks else text


def _cells(row: Row) -> list[str]:
    assert row.seconds is not None  # noqa: S101 - for mypy; the others are remarks
    milliseconds = row.seconds.scaled(1e3)
    rate = row.voxels / row.seconds.median / 1e6
    return [
        row.contender,
        str(row.threads),
        str(milliseconds),
        f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}",
        str(row.runs),
        _ratio(row.to_floor),
        _ratio(row.to_best_peer),
    ]


def _ratio(ratio: Spread | None) -> str:
    return "" if ratio is None else str(ratio)


def markdown(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Lay out a Markdown table whose source is aligned too: the first column left, the others right."""
    lines = [[cell_text(cell) for cell in line] for line in (header, *rows)]
    widths = [max(len(text) for text in column) for column in zip(*lines, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(f"| {' | '.join(_aligned(line, widths))} |" for line in (lines[0], rule, *lines[1:]))


def _aligned(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [line[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True))]


def cell_text(cell: object) -> str:
    """Text of a cell: three figures of a fraction, thousands apart in a whole number."""
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 100 else f"{cell:#.3g}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def as_json(row: Row) -> dict[str, Any]:
    """Return a row as JSON can hold it: a spread is {"median", "low", "high"}."""
    return {name: value._asdict() if isinstance(value, Spread) else value for name, value in vars(row).items()}
