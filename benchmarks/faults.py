"""Faults, one after the other, and whether a run ends as promised after each; see docs/robustness.md.

    python -m benchmarks.faults [--seed 0] [--kills 200] [--what NAME ...] [--only NAME ...] [--write]

Every fault is drawn from the seed. What ended otherwise than promised is printed with the arguments that repeat it,
and the exit code says that there was something. Children are forked and signalled, so this takes Linux.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import shutil
import signal
import statistics
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np

from benchmarks.fault_children import preload, preloaded, small_tasks, warm_up
from benchmarks.fault_inputs import Job, Shop, Wrong
from benchmarks.fault_kinds import (
    Rng,
    Trial,
    calls_of,
    damage,
    fail_call,
    fail_read,
    interrupt,
    kill,
    kill_at_call,
    mix,
    spoil,
    two,
    vanish,
)
from benchmarks.sections import replaced, table

PAGE = Path(__file__).parent.parent / "docs" / "robustness.md"
COMMANDS = ("accumulate", "apply", "import volumes", "import nnunet")
SCHEDULERS = ("threads", "processes", "tcp")
FULL = 200
"""Kills of a command in a full session; of other faults there are as many as `KINDS` says."""

_Work = Callable[[Shop, Job, Rng, Trial], None]


def _times(work: _Work, number: int, share: float) -> Iterator[_Work]:
    return iter([work] * max(1, round(number * share)))


def _kills(_: Shop, job: Job, share: float) -> Iterator[_Work]:
    return _times(kill, FULL // 4 if job.name.startswith("import") else FULL, share)


def _interrupts(_: Shop, job: Job, share: float) -> Iterator[_Work]:
    return _times(interrupt, 40 if job.name.startswith("import") else 60, share)


def _calls(shop: Shop, job: Job, share: float) -> Iterator[_Work]:
    """Every call fails once, and every other one is the last; in a short session some of them."""
    tiny = shop.jobs().get(f"tiny {job.name}", job)
    found = list(enumerate(calls_of(shop, tiny)))
    step = max(1, round(1 / share))
    for number, name in found[min(step // 2, len(found) - 1) :: step]:
        for work in (fail_call, kill_at_call)[: 1 + number % 2]:
            yield partial(_on, tiny, partial(work, number=number, name=name))


def _on(job: Job, work: _Work, shop: Shop, _: Job, rng: Rng, trial: Trial) -> None:
    work(shop, job, rng, trial)


def _reads(_: Shop, job: Job, share: float) -> Iterator[_Work]:
    return iter(()) if job.name.startswith("import") else _times(fail_read, 100, share)


def _damages(_: Shop, job: Job, share: float) -> Iterator[_Work]:
    return iter(()) if job.name.startswith("import") else _times(damage, 100, share)


def _vanishing(_: Shop, job: Job, share: float) -> Iterator[_Work]:
    return iter(()) if job.name.startswith("import") else _times(vanish, 40, share)


def _mixes(_: Shop, job: Job, share: float) -> Iterator[_Work]:
    for what in job.others:
        yield from _times(partial(mix, what=what), 5, share)
    yield from _times(two, 10, share)
    if job.name == "accumulate":
        yield from _times(spoil, 20, share)


KINDS: dict[str, Callable[[Shop, Job, float], Iterator[_Work]]] = {
    "kills": _kills,
    "interrupts": _interrupts,
    "calls": _calls,
    "reads": _reads,
    "damage": _damages,
    "vanishing": _vanishing,
    "mixes": _mixes,
}
"""What makes the trials of a kind, given the share of a full session that is wanted."""


def session(
    shop: Shop, seed: int, share: float, commands: Sequence[str], kinds: Sequence[str], only: Sequence[int]
) -> Iterator[Trial]:
    """Give the trials, each as soon as it is done."""
    jobs = shop.jobs()
    for command in commands:
        for kind in kinds:
            for number, work in enumerate(KINDS[kind](shop, jobs[command], share)):
                if only and number not in only:
                    continue
                trial = Trial(kind, command, seed, number)
                rng = np.random.default_rng([seed, zlib.crc32(f"{kind} {command}".encode()), number])
                start = time.perf_counter()
                try:
                    work(shop, jobs[command], rng, trial)
                except Wrong as wrong:
                    trial.wrong = str(wrong)
                    repeat = f"--seed {seed} --what '{command}' --only {kind} --trial {number}"
                    print(f"WRONG {repeat}\n  {trial.fault}; {trial.detail}\n  {wrong}", file=sys.stderr, flush=True)
                    shop.before = shop.look()
                shop.tidy()
                trial.seconds = time.perf_counter() - start
                yield trial


def tables(trials: Sequence[Trial]) -> str:
    """Lay out what became of the trials, and where."""
    rows: dict[tuple[str, str], list[Trial]] = {}
    for trial in trials:
        rows.setdefault((trial.fault, trial.command), []).append(trial)
    cells = []
    for (fault, command), found in rows.items():
        ends = Counter(trial.ended for trial in found)
        cells.append(
            (
                fault, command, len(found), sum(bool(trial.wrong) for trial in found),
                ends["killed"], ends["message"], ends["done"],
                _spread([trial.lost for trial in found], "{:.2f} s"),
                _spread([trial.again for trial in found], "{:.0%}"),
                _spread([trial.stop for trial in found], "{:.2f} s"),
            )
        )  # fmt: skip
    header = (
        "fault", "command", "runs", "not as promised", "killed", "message", "went on", "time lost",
        "tiles read again", "time to stop",
    )  # fmt: skip
    wrong = sum(bool(trial.wrong) for trial in trials)
    kills = Counter(trial.command for trial in trials if trial.kind == "kills" and trial.struck)
    packages = ", ".join(
        f"{name} {version(name)}" for name in ("twintrack-core", "numpy", "zarr", "dask", "distributed")
    )
    title = (
        f"{len(trials)} faults, of which {wrong} ended otherwise than promised; killed at a random instant were "
        f"{', '.join(f'{number} runs of {command}' for command, number in kills.items()) or 'none'}. Seed "
        f"{', '.join(map(str, sorted({trial.seed for trial in trials})))}, {datetime.now(UTC):%Y-%m-%d}, "
        f"{sum(trial.seconds for trial in trials) / 60:.0f} minutes, {packages}, Python {platform.python_version()}, "
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores. Times and shares are median (largest)."
    )
    return table(title, header, cells)


def _spread(values: Sequence[float | None], form: str) -> str:
    there = [value for value in values if value is not None]
    return f"{form.format(statistics.median(there))} ({form.format(max(there))})" if there else ""


def main() -> int:
    """Let faults happen and print what became of them; write where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="what everything is drawn from (default: 0)")
    parser.add_argument(
        "--kills", type=int, default=FULL,
        help=f"kills of a command; other faults in proportion (default: {FULL}, and every system call)",
    )  # fmt: skip
    parser.add_argument("--what", nargs="+", choices=(*COMMANDS, "import"), default=COMMANDS, help="commands")
    parser.add_argument("--only", nargs="+", choices=list(KINDS), default=list(KINDS), help="kinds of faults")
    parser.add_argument("--schedulers", nargs="+", choices=SCHEDULERS, default=SCHEDULERS, help="where tasks run")
    parser.add_argument("--trial", nargs="+", type=int, default=[], help="only those of these numbers")
    parser.add_argument("--folder", type=Path, help="where stores are made (default: the folder for temporary files)")
    parser.add_argument("--log", type=Path, help="add the trials to this file, and tell of all in it; to go on later")
    parser.add_argument("--json", action="store_true", help="print the trials as JSON instead of the table")
    parser.add_argument("--write", action="store_true", help="write the table into docs/robustness.md")
    arguments = parser.parse_args()
    folder = Path(os.environ["LD_PRELOAD"]).parent if preloaded() else Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        preload(folder)
        return _main(arguments, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _main(arguments: argparse.Namespace, folder: Path) -> int:
    kinds = [kind for kind in arguments.only if preloaded() or kind not in ("calls", "reads")]
    for kind in sorted({*arguments.only} - {*kinds}):
        print(f"{kind} are left out: there is no C compiler.", file=sys.stderr)
    warm_up()
    small_tasks()
    gc.freeze()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the cluster is stopped as well
    shop = Shop(folder, arguments.schedulers)
    commands = [name for name in COMMANDS if any(name.startswith(word) for word in arguments.what)]
    log = arguments.log or shop.logs / "trials"
    try:
        for trial in session(shop, arguments.seed, arguments.kills / FULL, commands, kinds, arguments.trial):
            with log.open("a", encoding="utf-8") as file:
                file.write(f"{json.dumps(vars(trial))}\n")
            if sys.stderr.isatty():
                print(f"\r{trial.command}, {trial.kind}, {trial.number}  ", end="", file=sys.stderr, flush=True)
        if shop.digest() != shop.content:
            raise RuntimeError("What is in the inputs has changed.")
    finally:
        shop.cluster.stop()
    # The last of those that were repeated.
    lines = map(json.loads, log.read_text(encoding="utf-8").splitlines())
    trials = list(
        {(line["kind"], line["command"], line["seed"], line["number"]): Trial(**line) for line in lines}.values()
    )
    trials.sort(key=lambda trial: (COMMANDS.index(trial.command), list(KINDS).index(trial.kind), trial.fault))
    text = tables(trials)
    print(json.dumps(list(map(vars, trials))) if arguments.json else text)
    if arguments.write:
        PAGE.write_text(replaced(PAGE.read_text(encoding="utf-8"), {"faults": text}), encoding="utf-8")
    return int(any(trial.wrong for trial in trials))


if __name__ == "__main__":
    sys.exit(main())
