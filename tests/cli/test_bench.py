"""twintrack bench: its table, its JSON, a third party's kernel, and requests it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from twintrack_core import kernels
from twintrack_core.bench.data import KINDS
from twintrack_core.bench.run import DEFAULT_KINDS
from twintrack_core.bench.tasks import TASKS

Run = Callable[..., Any]

QUICK = ("--kind", "region", "--megavoxels", "0.03", "--runs", "2", "--threads", "1")

KERNEL = """
from twintrack_core.kernels import reference
from twintrack_core.kernels.reference import accumulate

def relabel(scores, lut, out, *, clip=False):
    found = reference.relabel(scores, lut, out, clip=clip)
    out[:1] += out.dtype.type(MISTAKE)
    return found
"""


@pytest.fixture
def offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, float], None]:
    """Install a distribution that offers a kernel."""

    def offer(name: str, mistake: float) -> None:
        (tmp_path / f"{name}.py").write_text(KERNEL.replace("MISTAKE", str(mistake)))
        metadata = tmp_path / f"{name}_kernel-0.1.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-kernel\nVersion: 0.1\n")
        (metadata / "entry_points.txt").write_text(f"[twintrack.kernels]\n{name} = {name}\n")
        monkeypatch.syspath_prepend(str(tmp_path))

    return offer


def test_the_table(twintrack: Run) -> None:
    outcome = twintrack("bench", "--task", "apply", *QUICK)
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert "five raters" in lines[0]
    assert lines[2].startswith("apply, region: ")
    names = [line.split("|")[1].strip() for line in lines if line.startswith("|")][2:]
    ours = [f"kernel {name}" for name in kernels.names()]
    assert names == ["floor: copy", *ours, "numpy.take", "numpy.interp", "sklearn predict"]


def test_json(twintrack: Run) -> None:
    outcome = twintrack("bench", "--task", "apply", "--kernel", "numba", "--no-peers", *QUICK, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    document = json.loads(outcome.out)
    assert "numpy" in document["machine"]
    floor, numba = document["rows"]
    assert (floor["contender"], numba["contender"], numba["kernel"]) == ("floor: copy", "kernel numba", "numba")
    assert len(numba["rounds"]) == 2
    assert numba["to_floor"]["low"] <= numba["to_floor"]["median"] <= numba["to_floor"]["high"]
    assert numba["best_peer"] is None


def test_another_party_s_kernel_stands_beside_ours(twintrack: Run, offered: Callable[[str, float], None]) -> None:
    offered("third", 0.0)
    outcome = twintrack("bench", "--task", "apply", "--no-peers", *QUICK)
    assert (outcome.code, outcome.err) == (0, "")
    assert "| kernel third " in outcome.out
    assert "| kernel numba " in outcome.out


def test_a_kernel_that_is_wrong_is_named_and_not_timed(
    twintrack: Run, offered: Callable[[str, float], None], check_message: Run
) -> None:
    offered("wrong", 0.25)
    outcome = twintrack("bench", "--task", "apply", "--no-peers", *QUICK)
    assert outcome.code == 1
    check_message(outcome.err, "kernel wrong gives a wrong answer to apply on region", "check_kernel")
    assert "| kernel wrong " not in outcome.out
    assert "- kernel wrong: kernel wrong gives a wrong answer" in outcome.out
    assert "| kernel numba " in outcome.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--task", "nap"), ("'nap'", "accumulate, apply")),
        (("--kind", "red"), ("'red'", "region")),
        (("--kernel", "fortran"), ("'fortran'", "numba")),
        (("--runs", "0"), ("0 runs", "1 or more")),
        (("--runs", "many"), ("--runs", "'many'")),
        (("--threads", "0"), ("0 threads", "1 or more")),
        (("--megavoxels", "-1"), ("-1.0 megavoxels", "0.001")),
        (("--task", "job", "--kind", "one_bin"), ("Nothing is left", "softmax")),
    ],
)
def test_wrong_requests(twintrack: Run, check_message: Run, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    outcome = twintrack("bench", *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    check_message(outcome.err, *words)


def test_help_names_every_task_and_kind(twintrack: Run) -> None:
    text = " ".join(twintrack("bench", "--help").out.split())
    assert f"{', '.join(list(TASKS)[:-1])} or {list(TASKS)[-1]}" in text
    assert f"{', '.join(list(KINDS)[:-1])} or {list(KINDS)[-1]}" in text
    assert f"default: {', '.join(DEFAULT_KINDS)}" in text
