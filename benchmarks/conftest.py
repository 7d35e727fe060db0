"""Every contender's answer is asserted before it is timed; without ``--benchmark-enable`` that is all that happens.

pytest benchmarks                                          # answers only, on small volumes
pytest benchmarks --benchmark-enable --megavoxels 4        # timed
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from twintrack_core.bench import data

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

    from twintrack_core.bench.contenders import Contender


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--megavoxels", type=float, default=0.03, help="millions of voxels of a volume")


@pytest.fixture
def measure(benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> Callable[[Contender, str, int], None]:
    """Check the answer of a contender on a kind of volume, then time it."""

    def run(contender: Contender, kind: str, threads: int) -> None:
        reason = contender.missing() or data.why_not(kind)
        if reason:
            pytest.skip(reason)
        voxels = round(1e6 * request.config.getoption("megavoxels"))
        some, expected = _volume(kind, voxels), _expected(contender.task, kind, voxels)
        work = contender.checked(some, threads, expected)
        benchmark.group = f"{contender.task}, {kind}, {some.voxels:,} voxels"
        benchmark.extra_info.update(contender=contender.name, kind=kind, threads=threads, voxels=some.voxels)
        benchmark(work)

    return run


@functools.lru_cache(2)
def _volume(kind: str, voxels: int) -> data.Volume:
    return data.volume(kind, voxels)


@functools.lru_cache(2)
def _expected(task: str, kind: str, voxels: int) -> Any:
    from twintrack_core.bench.tasks import TASKS

    return TASKS[task].expected(_volume(kind, voxels))
