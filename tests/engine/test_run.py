"""The runner: results as they come, errors that stop or leave out, and workers that die."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from twintrack_core.engine.run import (
    LARGEST_TASK_BYTES,
    TASK_BYTES,
    Crew,
    Run,
    Skipped,
    Task,
    compute,
    crew_of,
    groups,
    task_bytes,
)
from twintrack_core.errors import RequestError, StoreError, WorkerError, WorkError

distributed = pytest.importorskip("distributed")


def square(number: int) -> int:
    return number * number


def fail(error: Exception) -> int:
    raise error


def die(marks: Path, times: int) -> int:
    """Kill the process that runs this, the first times it is run."""
    (marks / f"{time.monotonic_ns()}").touch()
    if len(list(marks.iterdir())) <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return len(list(marks.iterdir()))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50) as local,
        distributed.Client(local) as client,
    ):
        yield client


@pytest.fixture(params=["threads", "client", "tcp"])
def crew(request: pytest.FixtureRequest) -> Iterator[tuple[Crew, Run]]:
    if request.param == "threads":
        run = Run(2)
    else:
        client = request.getfixturevalue("cluster")
        run = Run(scheduler=client if request.param == "client" else client.scheduler.address)
    with crew_of(run) as found:
        yield found, run


def tasks_of(*works: Callable[[], Any]) -> list[Task[Any]]:
    return [Task(f"case{number}", work, (f"case{number}",)) for number, work in enumerate(works)]


def test_every_result_comes_once(crew: tuple[Crew, Run]) -> None:
    tasks = tasks_of(*(partial(square, number) for number in range(50)))
    found = {task.name: result for task, result in compute(tasks, *crew, "squaring")}
    assert found == {f"case{number}": number * number for number in range(50)}
    assert crew[0].size == 2


def test_an_error_stops(crew: tuple[Crew, Run]) -> None:
    tasks = tasks_of(partial(square, 2), partial(fail, StoreError("broken", "whole", "mend it")))
    with pytest.raises(StoreError) as raised:
        list(compute(tasks, *crew, "squaring"))
    assert (raised.value.what, raised.value.allowed, raised.value.action) == ("broken", "whole", "mend it")


def test_what_is_not_of_a_case_is_not_skipped(crew: tuple[Crew, Run]) -> None:
    skipped = Skipped("skip")
    full = OSError(28, "No space left on device", "here")
    with pytest.raises(OSError, match="No space left"):
        list(skipped.compute(tasks_of(partial(fail, full)), lambda _: pytest.fail("no"), *crew, "failing"))


def fail_for(bad: str, names: tuple[str, ...]) -> list[str]:
    if bad in names:
        raise StoreError(f"{bad} is broken")
    return list(names)


def test_a_group_that_fails_is_done_again_case_by_case(crew: tuple[Crew, Run]) -> None:
    def task(*names: str) -> Task[list[str]]:
        return Task(" ".join(names), partial(fail_for, "b", names), names)

    skipped = Skipped("skip")
    found = list(skipped.compute([task("a", "b", "c"), task("d", "e")], task, *crew, "failing"))
    assert sorted(name for names in found for name in names) == ["a", "c", "d", "e"]
    assert skipped.reasons == {"b": "StoreError"}
    skipped.check_rest(5)
    with pytest.raises(StoreError, match="None of 1 cases is left; b is left out because: b is broken"):
        skipped.check_rest(1)


def test_a_worker_that_dies_is_replaced_and_its_task_done_again(tmp_path: Path) -> None:
    run = Run(1, scheduler="processes")
    with crew_of(run) as crew:
        assert [result for _, result in compute(tasks_of(partial(die, tmp_path, 2)), crew, run, "dying")] == [3]


def test_a_task_that_kills_its_workers_is_given_up(tmp_path: Path) -> None:
    run, skipped = Run(1, scheduler="processes"), Skipped("skip")
    with crew_of(run) as crew:
        tasks = tasks_of(partial(die, tmp_path, 100), partial(square, 3))
        assert list(skipped.compute(tasks, lambda _: pytest.fail("no"), crew, run, "dying")) == [9]
    assert isinstance(skipped.errors["case0"], WorkerError)
    assert "case0: 4 workers died" in skipped.errors["case0"].what
    assert len(list(tmp_path.iterdir())) == 8  # four, and four more by itself


def test_a_scheduler_that_goes_away(tmp_path: Path) -> None:
    local = distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address=":0", silence_logs=50, processes=True
    )
    run = Run(scheduler=local.scheduler_address)
    try:
        with crew_of(run) as crew:
            threading.Timer(0.5, local.close).start()
            with pytest.raises(WorkError, match="scheduler of the cluster went away") as raised:
                list(compute(tasks_of(partial(time.sleep, 20)), crew, run, "sleeping"))
        assert "--resume" in str(raised.value)
    finally:
        local.close()


def test_no_scheduler() -> None:
    run = Run(scheduler="tcp://127.0.0.1:1")
    with pytest.raises(WorkError, match=r"No Dask scheduler answers at tcp://127\.0\.0\.1:1"), crew_of(run):
        pass


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"workers": 0}, "0 workers cannot work"),
        ({"scheduler": "dask"}, "There is no scheduler 'dask'"),
        ({"scheduler": "tcp://host:8786", "workers": 2}, "has workers of its own: 2 cannot be asked for"),
        ({"scheduler": 3}, "A int is no scheduler"),
    ],
)
def test_what_cannot_be_run(arguments: Any, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        Run(**arguments)


def test_an_interrupt_does_not_wait() -> None:
    begun, release, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        release.wait()
        ended.set()

    def interrupt() -> None:
        begun.wait()
        os.kill(os.getpid(), signal.SIGINT)

    run = Run(1)
    threading.Thread(target=interrupt).start()
    try:
        with pytest.raises(KeyboardInterrupt), crew_of(run) as crew:
            list(compute(tasks_of(work, work), crew, run, "waiting"))
        assert not ended.is_set()
    finally:
        release.set()


def test_tasks_are_shaped_by_bytes() -> None:
    assert task_bytes(8 << 30, 2) == TASK_BYTES  # as many as it takes
    assert task_bytes(64 << 20, 2) == 8 << 20  # every worker has some
    assert task_bytes(1 << 50, 2) == LARGEST_TASK_BYTES
    assert TASK_BYTES < task_bytes(100 << 30, 2) < LARGEST_TASK_BYTES
    assert groups("abcd", [1, 1, 5, 1], 2) == [("a", "b"), ("c",), ("d",)]
    assert len(groups(range(1000), [1 << 20] * 1000, task_bytes(1000 << 20, 2))) == 8
