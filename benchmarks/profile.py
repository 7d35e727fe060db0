"""Where the time of `accumulate` goes: the seconds of its steps, one worker."""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import twintrack_core as tt
from benchmarks.sections import Section, Settings, table
from twintrack_core.bench import stores
from twintrack_core.cohort.chunks import ChunkedArray
from twintrack_core.cohort.codecs import Codec
from twintrack_core.cohort.store import Cohort
from twintrack_core.engine import accumulate as engine
from twintrack_core.kernels.tally import Tally

_CASES = {"unwritten": 8, "region": 4, "softmax": 1}
_STEPS: dict[str, tuple[Any, str]] = {
    "open a case": (Cohort, "__getitem__"),
    "list its chunks": (engine, "Listing"),
    "read and decode chunks": (ChunkedArray, "read_chunk"),
    "of that, decode": (Codec, "decode"),
    "kernel": (Tally, "add"),
    "cells out of the table": (Tally, "drain"),
}


def profile(settings: Settings) -> Section:
    """Milliseconds a case of each step, the median run by its total."""
    columns = {}
    for kind, n in _CASES.items():
        with tempfile.TemporaryDirectory(dir=settings.folder) as folder:
            cohort = stores.cohort(kind, Path(folder), n)
            tt.accumulate(cohort, workers=1)
            runs = sorted((_run(cohort) for _ in range(settings.runs)), key=lambda run: run["all"])
            columns[kind] = {step: 1e3 * seconds / n for step, seconds in runs[len(runs) // 2].items()}
    rows = [(step, *(columns[kind][step] for kind in _CASES)) for step in [*_STEPS, "the rest", "all"]]
    return Section(table("Milliseconds a case of 320 x 512 x 512", ("step", *_CASES), rows))


def _run(cohort: tt.Cohort) -> dict[str, float]:
    taken: dict[str, float] = defaultdict(float)
    with ExitStack() as patches:
        for step, (owner, name) in _STEPS.items():
            patches.enter_context(mock.patch.object(owner, name, _timed(getattr(owner, name), step, taken)))
        start = time.perf_counter()
        tt.accumulate(cohort, workers=1)
        total = time.perf_counter() - start
    steps = {step: taken[step] for step in _STEPS}
    return {**steps, "the rest": total - sum(steps.values()) + steps["of that, decode"], "all": total}


def _timed(function: Callable[..., Any], step: str, taken: dict[str, float]) -> Callable[..., Any]:
    def timed(*arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            taken[step] += time.perf_counter() - start

    return timed
