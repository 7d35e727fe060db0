"""The whole job on one large case, ours and the peers' each in a process of its own: seconds, memory, equal answers.

python -m benchmarks.job FOLDER WHO RUNS    # what such a process does; WHO is ours, numpy or torch
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.sections import Goal, Section, Settings, peak_memory, table
from twintrack_core.bench import data, job
from twintrack_core.bench.answers import difference
from twintrack_core.bench.contenders import PEERS
from twintrack_core.bench.timing import Spread
from twintrack_core.kernels.dispatch import default_threads

_KINDS = {"region": 300.0, "softmax": 30.0}
_MEGAVOXELS = 42.0
_AND_ORACLE = ("auto", "reference")
_TOLERANCE = 1e-9
_WHO = {"numpy": "numpy + sklearn + SimpleITK", "torch": "numpy + sklearn + torchmetrics + SimpleITK"}


@dataclass(frozen=True)
class _Outcome:
    """What a process reports; memory in MB."""

    seconds: Spread
    peak: float
    inputs: float

    @property
    def own(self) -> float:
        """Memory beyond what the process had with its libraries and inputs loaded."""
        return self.peak - self.inputs


def whole_job(settings: Settings) -> Section:
    """Ours and the peers that are installed, on a region and on a raw softmax."""
    rows: list[tuple[object, ...]] = []
    goals: list[Goal] = []
    missing = {who: _missing(name) for who, name in _WHO.items()}
    for kind in _KINDS:
        with tempfile.TemporaryDirectory(dir=settings.folder) as name:
            folder = Path(name)
            voxels = _save_inputs(kind, folder)
            ours = _run(folder, "ours", settings.runs)
            rows.append((kind, "twintrack", ours.seconds, "", ours.peak, ours.own, "", ""))
            for who in (who for who, reason in missing.items() if reason is None):
                peer = _run(folder, who, 1)
                _check(folder, who)
                faster = Spread(*(peer.seconds.median / ours.seconds[place] for place in (0, 2, 1)))
                leaner = peer.peak / ours.peak
                rows.append((kind, _WHO[who], peer.seconds, faster, peer.peak, peer.own, leaner, peer.own / ours.own))
                goals += _goals(kind, who, faster, Spread(leaner, leaner, leaner), voxels)
    header = (
        "volume", "who", "seconds", "times as long as twintrack", "peak MB", "of it beyond inputs", "peak, ratio",
        "beyond inputs, ratio",
    )  # fmt: skip
    text = table(f"One case of {voxels:,} voxels, {default_threads()} threads; peers once", header, rows)
    absent = "\n".join(f"- {_WHO[who]}: {reason}" for who, reason in missing.items() if reason)
    return Section(f"{text}\n\n{absent}" if absent else text, tuple(goals))


def _goals(kind: str, who: str, faster: Spread, leaner: Spread, voxels: int) -> list[Goal]:
    case, how = f"{kind}, {default_threads()} threads", f"against {_WHO[who]}, {voxels:,} voxels"
    return [
        Goal("whole job: times as fast", case, _KINDS[kind], faster, at_least=True, how=how),
        Goal("whole job: times less memory, whole process", case, 10, leaner, at_least=True, how=how),
    ]


def _missing(name: str) -> str | None:
    return next(peer.missing() for peer in PEERS if (peer.task, peer.name) == ("job", name))


def _save_inputs(kind: str, folder: Path) -> int:
    some = data.volume(kind, round(_MEGAVOXELS * 1e6))
    for name in ("scores", "votes", "masks"):
        np.save(folder / f"{name}.npy", getattr(some, name))
    return some.voxels


def _run(folder: Path, who: str, runs: int) -> _Outcome:
    command = [sys.executable, "-m", "benchmarks.job", str(folder), who, str(runs)]
    report = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return _Outcome(Spread.of(report["seconds"]), report["peak"], report["inputs"])


def _check(folder: Path, who: str) -> None:
    expected, found = (_Answer(folder / name) for name in ("ours", who))
    wrong = difference(found, expected, _TOLERANCE)
    if wrong:
        raise AssertionError(f"{_WHO[who]} and twintrack differ: {wrong}")


class _Answer(Mapping[str, Any]):
    """An answer that a process saved, read item by item."""

    def __init__(self, folder: Path) -> None:
        self._paths = {path.stem: path for path in sorted(folder.iterdir())}

    def __getitem__(self, name: str) -> Any:
        return np.load(self._paths[name])

    def __iter__(self) -> Any:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


def main(folder: Path, who: str, runs: int) -> None:
    """Do the job in this process, save its answer and print a report."""
    marks_name = "votes" if who == "ours" else "masks"
    small = data.volume("unwritten", 30_000)
    _do(who, small.scores, getattr(small, marks_name))  # libraries are imported and kernels compiled
    if who == "ours":
        found, expected = (job.our_job(small.scores, small.votes, kernel=name, threads=1) for name in _AND_ORACLE)
        wrong = difference(found.answer(small.votes), expected.answer(small.votes), _TOLERANCE)
        if wrong:
            raise AssertionError(f"twintrack and the oracle differ: {wrong}")
    scores, marks = (np.load(folder / f"{name}.npy") for name in ("scores", marks_name))
    inputs, taken = peak_memory(), []
    outcome: Any = None
    for _ in range(runs):
        outcome = None  # one at a time in memory
        start = time.perf_counter()
        outcome = _do(who, scores, marks)
        taken.append(time.perf_counter() - start)
    peak = peak_memory()
    (folder / who).mkdir()
    for name, value in (outcome.answer(marks) if who == "ours" else outcome.answer()).items():
        np.save(folder / who / f"{name}.npy", value)
    print(json.dumps({"seconds": taken, "peak": peak, "inputs": inputs}))


def _do(who: str, scores: data.Scores, marks: data.Votes) -> job.OurOutcome | job.PeerOutcome:
    threads = default_threads()
    if who == "ours":
        return job.our_job(scores, marks, threads=threads)
    return job.peer_job(scores, marks, torch=who == "torch", threads=threads)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
