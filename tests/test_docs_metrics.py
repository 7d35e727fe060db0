"""docs/metrics.md lists every metric as it describes itself.

python -m tests.test_docs_metrics    # write the table into the page
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

from twintrack_core import metrics
from twintrack_core.metrics import Metric, Suite
from twintrack_core.metrics.registry import METRICS

PAGE = Path(__file__).parent.parent / "docs" / "metrics.md"

_BETTER = {"lower": "lower", "higher": "higher", "zero": "near 0", "neither": "-"}
_TABLE = re.compile(r"(<!-- generated: metrics -->\n\n).*?(\n\n<!-- end -->)", re.DOTALL)


def table() -> str:
    """Lay out our metrics."""
    header = ("metric", "what it is", "better", "range", "taken over", "pooled", "source")
    lines = [header, ("---",) * len(header), *_rows()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _rows() -> Iterator[tuple[str, ...]]:
    for name in (offer.name for offer in METRICS.offers() if not offer.value):
        metric = metrics.get(name)
        assert not isinstance(metric, Suite)
        pooled = isinstance(metric, Metric) and metric.pooled
        regions = "volume, region" if len(metric.regions) == 2 else "region" if metric.regions == ("roi",) else "volume"
        argument = f", `{name}:{metric.argument}`" if metric.argument else ""
        limits = "[{}, {}]".format(*(_limit(value) for value in metric.range))
        unit = "" if metric.unit == "1" else f" {metric.unit}"
        yield (
            f"`{name}`{argument}", metric.description, _BETTER[metric.better], limits + unit, regions,
            "yes" if pooled else "no", metric.source,
        )  # fmt: skip


def _limit(value: float) -> str:
    return f"{value:.3g}".replace("inf", "∞") if math.isinf(value) or value % 1 else f"{value:.0f}"


def test_the_page_lists_every_metric() -> None:
    found = _TABLE.search(PAGE.read_text(encoding="utf-8"))
    assert found
    assert found[0] == f"{found[1]}{table()}{found[2]}", "run python -m tests.test_docs_metrics"


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(_TABLE.sub(lambda found: f"{found[1]}{table()}{found[2]}", text), encoding="utf-8")
