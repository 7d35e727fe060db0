"""The table of contenders: nobody is timed whose answer is wrong, and nobody is dropped in silence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from twintrack_core import kernels
from twintrack_core.bench import data, run
from twintrack_core.bench.answers import difference
from twintrack_core.bench.contenders import PEERS, Contender, WrongAnswerError, combinations, contenders
from twintrack_core.bench.tasks import TASKS
from twintrack_core.errors import RequestError, WorkError

VOXELS = 30_000


class Fake:
    """A contender that calibrates with a mistake of some size, and counts how often it is called."""

    def __init__(self, mistake: float) -> None:
        self.mistake, self.calls = mistake, 0

    def contender(self, **options: Any) -> Contender:
        return Contender("apply", "fake", self.prepare, **options)

    def prepare(self, volume: data.Volume, _: int) -> Callable[[], Any]:
        def work() -> Any:
            self.calls += 1
            answer = TASKS["apply"].expected(volume).copy()
            answer[7] += np.float16(self.mistake)
            return answer

        return work


@pytest.fixture(scope="module")
def volume() -> data.Volume:
    return data.volume("softmax", VOXELS)


@pytest.mark.parametrize("task", TASKS)
def test_every_kernel_and_every_peer_is_in_the_table(task: str) -> None:
    found = contenders(task)
    assert [contender.kernel for contender in found if contender.kernel] == list(kernels.names())
    assert [contender for contender in found if not contender.kernel] == [peer for peer in PEERS if peer.task == task]
    assert len({contender.name for contender in found}) == len(found)
    assert [contender.kernel for contender in contenders(task, ["numba", "numba"]) if contender.kernel] == ["numba"]


def test_combinations_keep_one_thread_for_those_that_have_one() -> None:
    found = combinations("apply", threads=(1, 2))
    assert {threads for contender, _, threads in found if contender.name == "numpy.take"} == {1}
    assert {threads for contender, _, threads in found if contender.kernel == "numba"} == {1, 2}
    assert {kind for _, kind, _ in found} == set(data.KINDS)


def test_a_right_answer_is_timed(volume: data.Volume) -> None:
    fake = Fake(0.0)
    rows = run.measure_group("apply", volume, [fake.contender()], [1], 3)
    assert fake.calls == 4
    assert [row.contender for row in rows] == ["floor: copy", "fake"]
    assert rows[1].runs == 3
    assert rows[1].best_peer == "fake"
    assert rows[1].to_best_peer == (1, 1, 1)


@pytest.mark.parametrize("kernel", [None, "fake"])
def test_a_wrong_answer_is_refused_before_it_is_timed(volume: data.Volume, kernel: str | None) -> None:
    fake = Fake(0.5)
    with pytest.raises(WrongAnswerError, match=r"fake gives a wrong answer to apply on softmax.*at \(7,\)"):
        fake.contender().checked(volume, 1, TASKS["apply"].expected(volume))
    assert fake.calls == 1
    rows = run.measure_group("apply", volume, [fake.contender(kernel=kernel), Fake(0.0).contender()], [1], 3)
    assert fake.calls == 2
    assert (rows[1].rounds, rows[1].seconds, rows[1].wrong, rows[1].kernel) == ((), None, True, kernel)
    assert rows[1].why is not None
    assert "wrong answer" in rows[1].why
    assert rows[2].seconds is not None


@pytest.mark.parametrize(
    ("error", "words"), [(KeyError("x"), "KeyError: 'x'"), (WorkError("broken", "a", "b"), "broken")]
)
def test_a_contender_that_raises_does_not_end_the_run(volume: data.Volume, error: Exception, words: str) -> None:
    def prepare(_volume: data.Volume, _threads: int) -> Callable[[], Any]:
        raise error

    rows = run.measure_group("apply", volume, [Contender("apply", "bad", prepare, kernel="bad")], [1], 1)
    assert (rows[1].why, rows[1].wrong) == (words, True)


def test_what_is_not_installed_is_listed_with_the_way_to_get_it(volume: data.Volume) -> None:
    fake = Fake(0.0)
    rows = run.measure_group("apply", volume, [fake.contender(needs=("numpy", "no-such-thing"))], [1], 1)
    assert (rows[1].why, rows[1].wrong) == ("not installed: pip install no-such-thing", False)
    assert fake.calls == 0


def test_unknown_names() -> None:
    with pytest.raises(RequestError, match=r"no task 'x'(.|\n)*accumulate"):
        contenders("x")
    with pytest.raises(RequestError, match=r"no kernel 'x'(.|\n)*numba"):
        contenders("fit", ["x"])


# --- Answers


def test_arrays() -> None:
    ones = np.ones((2, 3))
    assert difference(ones, ones) is None
    assert difference(ones + 1e-12, ones) is not None
    assert difference(ones + 1e-12, ones, 1e-9) is None
    assert difference(1e3 * ones + 1e-7, 1e3 * ones, 1e-9) is None  # relative above 1
    assert difference(np.ones(3), ones) == "its shape is (3,), not (2, 3)"
    wrong = ones.copy()
    wrong[1, 2] = np.nan
    assert difference(wrong, ones, 1e-9) == "1 of 6 values differ; the first is nan, not 1.0 at (1, 2)"
    assert difference(ones > 0, ones > 1, 1.0) is not None


def test_mappings_may_answer_a_part() -> None:
    expected = {"a": 1.0, "b": np.zeros(2)}
    assert difference({"a": 1.0}, expected) is None
    assert difference({"a": 1.0, "b": np.zeros(2)}, expected) is None
    assert difference({"a": 2.0}, expected) == "a: 1 of 1 values differ; the first is 2.0, not 1.0"
    assert difference({}, expected) is not None
    assert difference({"c": 1.0}, expected) is not None
