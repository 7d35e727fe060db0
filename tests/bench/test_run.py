"""Requests, groups and what is computed of times."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from twintrack_core.bench import data, run, timing
from twintrack_core.bench.contenders import Contender, contenders
from twintrack_core.bench.run import Request, Row, measure, measure_group
from twintrack_core.bench.table import as_json, group_table, markdown
from twintrack_core.bench.tasks import TASKS
from twintrack_core.bench.timing import Spread
from twintrack_core.errors import RequestError


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"tasks": ("nap",)}, r"'nap'(.|\n)*accumulate, apply"),
        ({"kinds": ("red",)}, r"'red'(.|\n)*unwritten, region"),
        ({"kernels": ("fortran",)}, r"'fortran'(.|\n)*numba"),
        ({"threads": (0,)}, r"0 threads(.|\n)*1 or more"),
        ({"runs": 0}, r"0 runs(.|\n)*1 or more"),
        ({"megavoxels": 0.0}, r"0\.0 megavoxels(.|\n)*0\.001"),
        ({"megavoxels": float("nan")}, "nan megavoxels"),
        ({"tasks": ("job",), "kinds": ("uniform",)}, r"Nothing is left(.|\n)*softmax"),
        ({"tasks": ()}, "Nothing is left"),
    ],
)
def test_wrong_requests(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        Request(**arguments)


def test_real_data_that_are_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(data.DATA_VARIABLE, raising=False)
    with pytest.raises(RequestError, match=r"TWINTRACK_TEST_DATA does not name(.|\n)*Allowed: unwritten"):
        Request(kinds=("cells",))
    assert "cells" not in data.available_kinds()
    monkeypatch.setenv(data.DATA_VARIABLE, str(tmp_path))
    with pytest.raises(RequestError, match=r"cells does not exist"):
        data.volume("cells", 1000)


def test_tasks_are_measured_on_the_kinds_they_make_sense_on() -> None:
    request = Request(tasks=("apply", "job"), kinds=("uniform", "region"))
    assert request.groups() == [("apply", "uniform"), ("apply", "region"), ("job", "region")]


def test_a_group() -> None:
    request = Request(("accumulate",), ("region",), ("numba",), (1, 2), 0.03, 2)
    (rows,) = measure(request)
    named = {(row.contender, row.threads): row for row in rows}
    assert {("floor: read", 1), ("floor: read", 2), ("kernel numba", 1), ("kernel numba", 2)} <= named.keys()
    assert {("boost_histogram", 1), ("boost_histogram", 2), ("numpy.bincount", 1)} <= named.keys()
    for row in rows:
        assert (row.task, row.kind, row.why, row.wrong) == ("accumulate", "region", None, False)
        assert row.runs == 2
        assert row.seconds is not None
        if row.contender.startswith("floor"):
            assert row.to_floor is row.to_best_peer is None
            continue
        assert row.to_floor is not None
        floor = named["floor: read", row.threads]
        assert row.to_floor == row.over(floor)
        best = [named[key] for key in named if key[0] == row.best_peer and key[1] <= row.threads]
        assert row.to_best_peer in [some.over(row) for some in best]
    (fewer,) = measure(Request(("accumulate",), ("region",), ("numba",), (2,), 0.03, 1, peers=False))
    assert [(row.contender, row.threads) for row in fewer] == [("floor: read", 2), ("kernel numba", 2)]


def test_slow_contenders_have_fewer_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_PATIENCE_SECONDS", 0.05)
    volume = data.volume("one_bin", 1000)

    def slow(some: data.Volume, _: int) -> Callable[[], Any]:
        def work() -> Any:
            time.sleep(0.03)
            return TASKS["apply"].expected(some)

        return work

    fast = contenders("apply", ["numba"])[0]
    rows = measure_group("apply", volume, [fast, Contender("apply", "slow", slow)], [1], 4)
    assert [row.runs for row in rows] == [4, 4, 2]
    assert rows[2].rounds[2:] == (None, None)


def test_rows_as_a_table_and_as_json() -> None:
    third = Spread(0.002, 0.001, 0.004)
    rows = [
        Row("apply", "region", "floor: copy", 1, None, 1000, (0.001,), Spread(0.001, 0.001, 0.001)),
        Row("apply", "region", "kernel a", 1, "a", 1000, (0.002,), third, Spread(2, 2, 2), Spread(25, 20, 30), "b"),
        Row("apply", "region", "c", 1, None, 1000, why="not installed: pip install c"),
    ]
    text = group_table(rows).splitlines()
    assert text[0].split("|")[1].strip() == "contender"
    cells = ["kernel a", "1", "2.00 (1.00 to 4.00)", "0.5", "1", "2.00 (2.00 to 2.00)", "25 (20 to 30)"]
    assert [cell.strip() for cell in text[3].split("|")[1:-1]] == cells
    assert text[-2:] == ["- best peer, 1 thread: b", "- c: not installed: pip install c"]
    document = as_json(rows[1])
    assert document["seconds"] == {"median": 0.002, "low": 0.001, "high": 0.004}
    assert (document["contender"], document["rounds"]) == ("kernel a", (0.002,))


def test_markdown() -> None:
    assert markdown(("a", "b"), [("x", 1234), ("yy", 0.5)]) == (
        "| a  |     b |\n| -- | ----: |\n| x  | 1,234 |\n| yy | 0.500 |"
    )


# --- Times


def test_alternate_takes_turns() -> None:
    calls: list[str] = []
    works = [lambda: calls.append("a"), lambda: calls.append("b")]
    taken = timing.alternate(works, 3, before=lambda: calls.append("before"))
    assert calls == ["before", "a", "before", "b"] * 3
    assert taken.shape == (3, 2)
    assert (taken >= 0).all()


def test_a_spread_leaves_out_what_did_not_run() -> None:
    spread = Spread.of([3.0, np.nan, 1.0, 2.0])
    assert tuple(spread) == (2, 1, 3)
    assert tuple(spread.scaled(10)) == (20, 10, 30)
    assert [str(Spread(value, value, value)) for value in (1.0, 12.0, 34.0)] == [
        "1.00 (1.00 to 1.00)",
        "12.0 (12.0 to 12.0)",
        "34 (34 to 34)",
    ]


def test_the_machine_is_named() -> None:
    assert f"numpy {np.__version__}" in timing.machine()
    assert "no-such-thing" not in timing.machine(["no-such-thing"])
    assert timing.version_of("no-such-thing") is None
