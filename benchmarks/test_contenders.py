"""Every contender of the table, on every kind of volume: its answer, and its time where benchmarks are enabled."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from twintrack_core.bench.contenders import Contender, combinations

Measure = Callable[[Contender, str, int], None]


def every(*tasks: str) -> pytest.MarkDecorator:
    found = combinations(*tasks)
    names = [f"{contender.task}-{kind}-{contender.name}-{threads}" for contender, kind, threads in found]
    return pytest.mark.parametrize(("contender", "kind", "threads"), found, ids=names)


@every("accumulate", "apply")
def test_kernels(contender: Contender, kind: str, threads: int, measure: Measure) -> None:
    measure(contender, kind, threads)


@every("fit")
def test_fits(contender: Contender, kind: str, threads: int, measure: Measure) -> None:
    measure(contender, kind, threads)


@every("metrics")
def test_metrics(contender: Contender, kind: str, threads: int, measure: Measure) -> None:
    measure(contender, kind, threads)


@every("job")
def test_the_whole_job(contender: Contender, kind: str, threads: int, measure: Measure) -> None:
    measure(contender, kind, threads)
