"""The memory that is stated before a run: never exceeded, not far too much, and held against what there is."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import twintrack_core as tt
from twintrack_core import system
from twintrack_core.cohort.case import Case
from twintrack_core.cohort.roi import parse_roi, region_of
from twintrack_core.cohort.store import open_cohort
from twintrack_core.cohort.writer import CohortWriter
from twintrack_core.engine import memory, workspace
from twintrack_core.engine.cost import cost_of
from twintrack_core.errors import WorkError

SHAPE = (64, 192, 192)


def make_case(members: int, raters: int) -> Case:
    rng = np.random.default_rng(0)
    roi = np.zeros(SHAPE, dtype=bool)
    roi[20:40, 60:120, 60:120] = True
    return Case(
        name="a",
        probability=rng.random((members, *SHAPE), dtype=np.float32).astype(np.float16),
        raters=tuple(f"r{number}" for number in range(raters)),
        votes=rng.integers(0, 1 << raters, SHAPE, dtype=np.uint8),
        roi=roi,
    )


def write(path: Path, case: Case) -> tt.Cohort:
    writer = CohortWriter(path, [case.name])
    writer.write_case(case)
    writer.finish()
    return open_cohort(path)


def peak(work: Callable[[], Any]) -> int:
    """Bytes that NumPy and Python allocate at most while ``work`` runs in a thread with nothing kept before."""
    workspace._threads = workspace.threading.local()  # type: ignore[attr-defined]
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kernel", ["numba", "auto"])
@pytest.mark.parametrize("rule", ["full", "mask", "mask+5mm", "raters+3"])
@pytest.mark.parametrize(("members", "raters"), [(1, 2), (5, 7)])
def test_accumulate_takes_no_more_than_is_stated(
    tmp_path: Path, members: int, raters: int, rule: str, kernel: str
) -> None:
    cohort = write(tmp_path / "c.zarr", make_case(members, raters))
    stated = memory.to_count(cohort["a"], region_of(cohort["a"], parse_roi(rule)))

    def work() -> None:
        tt.accumulate(cohort, roi=rule, workers=1, kernel=kernel)

    work()  # kernels are compiled, libraries loaded
    found = peak(work)
    assert found <= stated
    assert stated <= 5 * found


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_apply_takes_no_more_than_is_stated(tmp_path: Path, dtype: str) -> None:
    cohort = write(tmp_path / "c.zarr", make_case(3, 2))
    fitted = tt.fit(tt.accumulate(cohort))
    stated = memory.to_relabel(cohort["a"], np.dtype(dtype))
    tt.apply(cohort, fitted, tmp_path / "warm.zarr", workers=1, dtype=dtype)
    found = peak(lambda: tt.apply(cohort, fitted, tmp_path / "out.zarr", workers=1, dtype=dtype))
    assert found <= stated
    assert stated <= 3 * found


def test_the_cost_of_a_run(tmp_path: Path) -> None:
    case = make_case(2, 3)
    case.probability[:, :, :64] = 0
    cohort = write(tmp_path / "c.zarr", case)
    cost = cost_of(cohort["a"])
    places = [
        place
        for part in ("probability", "votes")
        for place in (tmp_path / "c.zarr/a" / part / "c").rglob("*")
        if place.is_file()
    ]
    assert cost.chunks == len(places) < cost.grid
    assert cost.stored_bytes == sum(place.stat().st_size for place in places)
    assert cost.decoded_bytes == case.probability[:, :, 64:].nbytes + case.votes.nbytes  # type: ignore[union-attr]
    assert cost.process_bytes(4) - cost.process_bytes(3) == max(cost.accumulate_bytes, cost.apply_bytes)


def test_a_run_that_would_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = write(tmp_path / "c.zarr", make_case(2, 7))
    fitted = tt.fit(tt.accumulate(cohort))
    a_worker = memory.to_count(cohort["a"], region_of(cohort["a"], parse_roi("full")))
    room = memory.process_bytes(a_worker, 2)
    monkeypatch.setattr("twintrack_core.engine.run.available_memory", lambda: room)
    tt.accumulate(cohort, workers=2)
    with pytest.raises(WorkError) as raised:
        tt.accumulate(cohort, workers=3, path=tmp_path / "s")
    assert f"3 workers of up to {-(-a_worker >> 20)} MiB each, and 250 MiB of their process" in raised.value.what
    assert (raised.value.allowed, raised.value.action) == ("Allowed: up to 2 workers.", "Use fewer --workers.")
    monkeypatch.setattr("twintrack_core.engine.run.available_memory", lambda: 1 << 20)
    with pytest.raises(WorkError, match="up to 0 workers"):
        tt.apply(cohort, fitted, tmp_path / "a", workers=1)
    monkeypatch.setattr("twintrack_core.engine.run.available_memory", lambda: None)
    tt.accumulate(cohort, workers=3)


def facts(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


STAT = "anon 5\nfile 900\nshmem 600\ninactive_file 100\nactive_file 50"


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"": "max", "a": "max", "a/b": "max"}, 8192),
        ({"a": 5000, "a/b": "max"}, 5000 - 1000 + 150),
        ({"a": 5000, "a/b": 4000}, 4000 - 1000 + 150),
        ({"": 3000, "a": 5000}, 3000 - 1000 + 150),
        ({"a": 500}, 0),
    ],
)
def test_the_room_that_groups_leave(tmp_path: Path, limits: dict[str, object], expected: int) -> None:
    facts(tmp_path / "proc", meminfo="MemTotal: 9 kB\nMemAvailable: 8 kB")
    facts(tmp_path / "proc/self", cgroup="0::/a/b")
    for path, limit in limits.items():
        facts(tmp_path / "groups" / path, memory__max=limit, memory__current=1000, memory__stat=STAT)
    assert system.available_memory(tmp_path / "proc", tmp_path / "groups") == expected


@pytest.mark.parametrize("path", ["/a/b", "/docker/of/the/host", "/"])
def test_the_room_that_groups_of_version_1_leave(tmp_path: Path, path: str) -> None:
    facts(tmp_path / "proc/self", cgroup=f"12:cpu,cpuacct:/\n5:memory:{path}\n0::/")
    files = {"memory__limit_in_bytes": 5000, "memory__usage_in_bytes": 1000}
    stat = f"{STAT}\ntotal_inactive_file 200\ntotal_active_file 100"
    facts(tmp_path / "groups/memory", **files, memory__stat=stat)
    facts(tmp_path / "groups/memory/a/b", **{**files, "memory__limit_in_bytes": 1 << 62}, memory__stat=stat)
    assert system.available_memory(tmp_path / "proc", tmp_path / "groups") == 5000 - 1000 + 300


def test_what_linux_says_is_there() -> None:
    found = system.available_memory()
    if not Path("/proc/meminfo").is_file():
        assert found is None
    else:
        assert found is not None
        assert 1 << 20 < found < 1 << 50
