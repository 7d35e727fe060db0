"""Kinds of faults: each a function that lets one happen to one run, and checks all that was promised of it.

It raises `Wrong` if something is not so. What it draws comes from the generator it is given.
"""

from __future__ import annotations

import contextlib
import errno
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fault_children import (
    Calls,
    Child,
    Meet,
    Outcome,
    arm,
    count_tiles_read,
    difference,
    in_child,
    tree,
    workers_of,
)
from benchmarks.fault_inputs import LARGE, RATERS, Job, Shop, Wrong, chunks

Rng = np.random.Generator

_PATIENCE = 5.0  # workers of a client that was killed may finish what they write, with the same bytes


@dataclass
class Trial:
    """One fault, and what became of the run.

    Attributes
    ----------
    kind, command, seed, number
        What repeats it.
    fault
        Which, for people: a row of the table.
    ended
        How the run ended that it happened to: "done", "message" or "killed".
    wrong
        What was promised and is not so.
    struck
        Whether the run had not ended before.
    lost
        Seconds that the run and the resumed one took more than one that is not disturbed.
    again
        Tiles that were read more than once, as a share of all.
    stop
        Seconds from Ctrl-C to the end.
    detail
        What was drawn, for a report.
    seconds
        What all of it took.
    """

    kind: str
    command: str
    seed: int
    number: int
    fault: str = ""
    ended: str = ""
    wrong: str = ""
    struck: bool = True
    lost: float | None = None
    again: float | None = None
    stop: float | None = None
    detail: str = ""
    seconds: float = 0.0


Kind = Callable[[Shop, Job, Rng, Trial], None]


def require(fact: bool, what: str) -> None:
    """Raise `Wrong` unless something is so."""
    if not fact:
        raise Wrong(what)


def require_message(outcome: Outcome, *words: str) -> None:
    """Require that a command failed with one message as all should be."""
    message = outcome.message
    lines = message.splitlines()
    require(outcome.code in (1, 2), f"ended with {outcome.code}: {message or outcome.out}")
    require(
        1 <= len(lines) <= 3 and lines[0].startswith("twintrack: "), f"printed more or less than a message: {message}"
    )
    require("Traceback" not in message and "a bug in twintrack" not in message, f"took a fault for a bug: {message}")
    for word in words:
        require(word in message, f"says nothing of {word!r}: {message}")


def require_inputs(shop: Shop) -> None:
    """Require that inputs are as they were: files, sizes and times, and at the end of the session what is in them."""
    require(shop.look() == shop.before, "the inputs changed")


def require_whole(shop: Shop, job: Job, output: Path) -> None:
    """Require that an output is what a run makes that is not disturbed, and nothing besides."""
    require_same(tree(output), shop.whole(job))


def require_same(found: dict[str, bytes], wanted: dict[str, bytes]) -> None:
    """Require that two trees are the same."""
    said = difference(found, wanted)
    require(not said, f"the output {said}")


def require_refused(shop: Shop, job: Job, output: Path, rng: Rng, *, alone: bool = True) -> None:
    """Require that what reads an output refuses it, unless it is whole; ``alone`` if no worker may write it yet."""
    if not output.exists():
        return
    wanted = shop.whole(job)
    first, *rest = job.reading(output)
    for reader in (first, rest[int(rng.integers(len(rest)))]):
        before = tree(output) if alone else {}
        made = Path(f"{output}.read")
        outcome = shop.run(reader)
        shop.remove(made)
        made.unlink(missing_ok=True)
        require(not alone or not difference(tree(output), before), f"{reader[0]} changed an output it was to read")
        if outcome.code == 0:
            # What a run removes at its very end may still be there.
            found = {name: content for name, content in tree(output).items() if name in wanted}
            said = difference(found, wanted)
            require(not said, f"{reader[0]} takes an output that is not whole: it {said}")
        else:
            require_message(outcome, str(output))
    if rng.random() < 0.1:
        outcome = shop.run(job.arguments(output))
        require_message(outcome, "exists already")
        require(outcome.code == 2, f"an output that exists was refused with {outcome.code}")


def require_resumed(
    shop: Shop, job: Job, output: Path, *more: str, before: Callable[[], object] | None = None
) -> float:
    """Require that a run can be resumed and ends as one that is not disturbed; return the seconds it took."""
    outcome = shop.run(job.arguments(output, "--resume", *more), before)
    require(outcome.code == 0, f"resumed, it ended with {outcome.code}: {outcome.err}")
    end = time.perf_counter() + _PATIENCE
    while more and difference(tree(output), shop.whole(job)) and time.perf_counter() < end:
        time.sleep(0.1)
    require_whole(shop, job, output)
    require_inputs(shop)
    return outcome.seconds


def ended(outcome: Outcome) -> str:
    """Say how a run ended that something happened to."""
    if outcome.code is None:
        raise Wrong(f"hangs: {outcome.err}")
    if outcome.code == 0:
        return "done"
    if outcome.code == -signal.SIGKILL:
        return "killed"
    require_message(outcome)
    return "message"


# Schedulers, victims, and of a hundred kills how many.
_VICTIMS = (
    ("threads", "client", 78),
    ("processes", "client", 4),
    ("processes", "worker", 4),
    ("tcp", "client", 5),
    ("tcp", "worker", 6),
    ("tcp", "scheduler", 3),
)
_KILLED = {
    ("threads", "client"): "threads: the process",
    ("processes", "client"): "processes: client, scheduler and nannies",
    ("processes", "worker"): "processes: a worker",
    ("tcp", "client"): "tcp: the client",
    ("tcp", "worker"): "tcp: a worker",
    ("tcp", "scheduler"): "tcp: the scheduler",
}


def victim_of(rng: Rng, schedulers: Sequence[str]) -> tuple[str, str]:
    """Draw a scheduler and who is killed."""
    share = np.array([share * (scheduler in schedulers) for scheduler, _, share in _VICTIMS])
    scheduler, victim, _ = _VICTIMS[int(rng.choice(len(_VICTIMS), p=share / share.sum()))]
    return scheduler, victim


def kill(shop: Shop, job: Job, rng: Rng, trial: Trial) -> None:
    """Kill something that takes part in a run at a random instant, once or several times, and resume."""
    scheduler, victim = victim_of(rng, shop.schedulers)
    trial.fault = _KILLED[scheduler, victim]
    with shop.cluster.running() if scheduler == "tcp" else contextlib.nullcontext():
        for number in range(_TRIES):
            _kill(shop, job, rng, trial, scheduler, victim, sooner=_SOONER**number)
            if trial.struck:
                break


def _kill(shop: Shop, job: Job, rng: Rng, trial: Trial, scheduler: str, victim: str, *, sooner: float) -> None:
    total, until = shop.seconds(job, scheduler)
    output = shop.new()
    log = shop.logs / "tiles"
    log.unlink(missing_ok=True)
    counted = scheduler == "threads" and not job.name.startswith("import")
    before = partial(count_tiles_read, log) if counted else None
    times = 1 if rng.random() < 0.7 else int(rng.integers(2, 5))
    trial.detail = f"{times} kills"
    trial.struck, trial.ended, spent = False, "", 0.0
    for number in range(times):
        resume = ("--resume",) if number else ()
        child = shop.start(job.arguments(output, *shop.scheduler(scheduler), *resume), before, f"a{number}")
        if rng.random() < 0.25:
            child.sleep(rng.random() * total * sooner)
        else:  # while it writes
            child.until(output.exists)
            child.sleep(rng.random() * (total - until) * sooner)
        trial.struck |= _strike(shop, child, scheduler, victim)
        outcome = child.wait()
        spent += outcome.seconds
        end = ended(outcome)
        trial.ended = trial.ended if trial.struck and trial.ended else end
        if scheduler == "tcp" and victim == "scheduler":
            shop.cluster.stop()
            shop.cluster.start()
        require_inputs(shop)
        if end == "done":
            require_whole(shop, job, output)
            break
        require(victim != "worker", f"a worker less, and the run stopped: {outcome.message}")
        require_refused(shop, job, output, rng, alone=scheduler == "threads")
    # What processes are left is so on purpose: they may still be writing.
    spent += require_resumed(shop, job, output, *shop.scheduler(scheduler), before=before)
    trial.lost = spent - total
    if counted:
        trial.again = log.stat().st_size / _tiles(shop, job) - 1 if log.exists() else 0.0
    shop.remove(output)
    if scheduler == "tcp" and victim == "worker":
        shop.cluster.wait()


def _strike(shop: Shop, child: Child, scheduler: str, victim: str) -> bool:
    """Kill one that takes part, unless the run has ended."""
    found = [child.pid]
    if victim == "worker":

        def workers() -> bool:
            found[:] = shop.cluster.workers() if scheduler == "tcp" else workers_of(child.pid)
            return bool(found)

        child.until(workers)
    if child.ended():
        return False
    if victim == "scheduler":
        assert shop.cluster.scheduler is not None
        shop.cluster.scheduler.kill()
        shop.cluster.scheduler.wait()
    else:
        child.strike(found[-1])
    return True


_tiles_of: dict[str, int] = {}


def _tiles(shop: Shop, job: Job) -> int:
    """Tiles that a job reads when nothing happens to it."""
    if job.name not in _tiles_of:
        log, output = shop.logs / f"tiles of {job.name}", shop.new()
        shop.run(job.arguments(output), partial(count_tiles_read, log))
        _tiles_of[job.name] = log.stat().st_size
        shop.remove(output)
    return _tiles_of[job.name]


_TRIES = 8
_SOONER = 0.6
"""A run may end before its instant has come; then another one is begun, and its instant comes sooner."""

_INTERRUPTED = {"threads": 70, "processes": 10, "tcp": 20}


def interrupt(shop: Shop, job: Job, rng: Rng, trial: Trial) -> None:
    """Press Ctrl-C at a random instant, and resume."""
    share = np.array([_INTERRUPTED[scheduler] for scheduler in shop.schedulers])
    scheduler = shop.schedulers[int(rng.choice(len(share), p=share / share.sum()))]
    trial.fault = f"{scheduler}: Ctrl-C"
    with shop.cluster.running() if scheduler == "tcp" else contextlib.nullcontext():
        for number in range(_TRIES):
            _interrupt(shop, job, rng, trial, scheduler, sooner=_SOONER**number)
            if trial.struck:
                break


def _interrupt(shop: Shop, job: Job, rng: Rng, trial: Trial, scheduler: str, *, sooner: float) -> None:
    total, _ = shop.seconds(job, scheduler)
    output = shop.new()
    child = shop.start(job.arguments(output, *shop.scheduler(scheduler)))
    child.sleep(rng.random() * total * sooner)
    child.send(signal.SIGINT, group=True)  # as a terminal does
    outcome = child.wait()
    trial.struck = outcome.code != 0
    if outcome.code == 0:
        trial.ended = "done"
        require_whole(shop, job, output)
    else:
        trial.ended, trial.stop = "message", outcome.after
        require(outcome.code == 130, f"ended with {outcome.code}: {outcome.err}")
        lines = outcome.message.splitlines()
        short = 1 <= len(lines) <= 3 and lines[0].startswith("twintrack: ") and "Traceback" not in outcome.err
        require(short, f"printed more or less than a message: {outcome.err}")
        begun = not output.exists() or "--resume" in outcome.message
        require(begun, f"does not say how to go on: {outcome.message}")
        require_refused(shop, job, output, rng, alone=scheduler == "threads")
    require_inputs(shop)
    require_resumed(shop, job, output, *shop.scheduler(scheduler))
    shop.remove(output)


_ERRORS = {
    "open": (errno.ENOSPC, errno.EACCES, errno.EDQUOT, errno.EMFILE, errno.EIO, errno.EROFS),
    "write": (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG),
    "close": (errno.EIO, errno.ENOSPC, errno.EDQUOT),
    "rename": (errno.EACCES, errno.EIO, errno.ENOSPC, errno.EDQUOT),
    "link": (errno.EACCES, errno.EIO, errno.ENOSPC),
    "mkdir": (errno.ENOSPC, errno.EACCES, errno.EDQUOT, errno.EMLINK),
    "unlink": (errno.EACCES, errno.EIO, errno.EBUSY),
    "rmdir": (errno.EACCES, errno.EIO, errno.EBUSY),
    "flock": (errno.ENOLCK, errno.EIO, errno.EOPNOTSUPP),
    "fsync": (errno.EIO, errno.ENOSPC),
    "ftruncate": (errno.EIO, errno.EFBIG),
    "read": (errno.EIO, errno.ESTALE),
}
_LASTING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_ALONE = ("--workers", "1")


def calls_of(shop: Shop, job: Job) -> list[str]:
    """Name the system calls of a job on its output, in order."""
    log, output = shop.logs / "calls", shop.new()
    log.unlink(missing_ok=True)
    outcome = shop.run(job.arguments(output, *_ALONE), partial(arm, output, Calls.WRITING, Meet.LOG, log=log))
    require(outcome.code == 0, f"{job.name} ended with {outcome.code}: {outcome.err}")
    require_whole(shop, job, output)
    shop.remove(output)
    return log.read_text(encoding="ascii").split()


def fail_call(shop: Shop, job: Job, rng: Rng, trial: Trial, number: int, name: str) -> None:
    """Let one system call on the output fail; a full disk stays full, and takes a part of what is written first."""
    error = int(rng.choice(_ERRORS[name]))
    what = Meet.FAIL
    if error in _LASTING:
        what = Meet.SHORT if name == "write" and error != errno.EROFS and rng.random() < 0.5 else Meet.FAIL_FROM
    trial.fault = "a failing system call"
    trial.detail = f"call {number}, {name}, {what.name} with {errno.errorcode[error]}"
    output = shop.new()
    outcome = shop.run(job.arguments(output, *_ALONE), partial(arm, output, Calls.WRITING, what, number, error))
    trial.ended = ended(outcome)
    if trial.ended == "done":
        left = output / ".lock"
        if name == "unlink" and left.exists():  # what could not be removed stays; the next run can
            left.unlink()
        require_whole(shop, job, output)
    else:
        require(outcome.code == 1, f"ended with {outcome.code}: {outcome.err}")
        require_message(outcome, str(output))
        require_refused(shop, job, output, rng)
    require_inputs(shop)
    require_resumed(shop, job, output)
    shop.remove(output)


def kill_at_call(shop: Shop, job: Job, rng: Rng, trial: Trial, number: int, name: str) -> None:
    """Kill a run just before or after one of its system calls on the output; sometimes the resumed one too."""
    trial.fault = "killed at a system call"
    output = shop.new()
    for round_ in range(2 if rng.random() < 0.3 else 1):
        what = Meet.KILL_BEFORE if rng.random() < 0.5 else Meet.KILL_AFTER
        at = int(rng.integers(0, number + 1)) if round_ else number
        trial.detail += f"{'; resumed, ' if round_ else ''}{what.name} call {at}{'' if round_ else f', {name}'}"
        resume = ("--resume",) if round_ else ()
        outcome = shop.run(job.arguments(output, *_ALONE, *resume), partial(arm, output, Calls.WRITING, what, at))
        end = ended(outcome)
        trial.ended = trial.ended or end
        require_inputs(shop)
        if end == "done":
            require_whole(shop, job, output)
        else:
            require_refused(shop, job, output, rng)
    require_resumed(shop, job, output)
    shop.remove(output)


def fail_read(shop: Shop, job: Job, rng: Rng, trial: Trial) -> None:
    """Let a file of the input fail to be read: once, which a run must get over if it is a chunk, or always."""
    cohort = Path(job.words[1])
    cases = sorted(path.name for path in cohort.iterdir() if path.is_dir())
    case = str(rng.choice(cases))
    array = str(rng.choice(["probability", "votes", "roi"]))
    files = chunks(cohort / case / array)
    path = files[int(rng.integers(len(files)))]
    once = rng.random() < 0.5
    passing = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT)
    error = int(rng.choice(passing if once else (*passing, errno.EACCES, errno.ENOENT)))
    trial.fault = f"a chunk that cannot be read {'once' if once else 'at all'}"
    trial.detail = f"{path.relative_to(cohort)}, {errno.errorcode[error]}"
    output = shop.new()
    what = Meet.FAIL if once else Meet.FAIL_FROM
    outcome = shop.run(job.arguments(output), partial(arm, path, Calls.READING, what, 0, error))
    trial.ended = ended(outcome)
    if trial.ended == "done":
        require_whole(shop, job, output)
    else:
        require(outcome.code == 1, f"ended with {outcome.code}: {outcome.err}")
        require_message(outcome, case)
        require(not once, f"did not try again: {outcome.message}")
        require_refused(shop, job, output, rng)
    require_inputs(shop)
    require_resumed(shop, job, output)
    shop.remove(output)


def vanish(shop: Shop, job: Job, rng: Rng, trial: Trial) -> None:
    """Let the input or the output disappear at a random instant; the input comes back."""
    cohort = shop.copy(Path(job.words[1]))
    words = (job.words[0], str(cohort), *job.words[2:])
    output = shop.new()
    total, until = shop.seconds(job, "threads")
    of_input = rng.random() < 0.5
    trial.fault = f"the {'input' if of_input else 'output'} disappears"
    gone = Path(f"{cohort if of_input else output}.gone")
    child = shop.start(job.arguments(output, words=words))
    child.until(output.exists)
    child.sleep(rng.random() * (total - until) * 0.6)
    child.send(signal.SIGSTOP)
    place = cohort if of_input else output
    if place.exists():
        place.rename(gone)
    child.send(signal.SIGCONT)
    outcome = child.wait()
    trial.ended = ended(outcome)
    if trial.ended == "done":
        if of_input or output.exists():
            require_whole(shop, job, output)
        else:
            require_same(tree(gone), shop.whole(job))  # it was finished before
    else:
        require_message(outcome, *(() if of_input else (str(output),)))
        require_refused(shop, job, output, rng)
    if of_input:
        gone.rename(cohort)
    else:
        shop.remove(output)
        if gone.exists():
            gone.rename(output)
    final = shop.run(job.arguments(output, "--resume", words=words))
    require(final.code == 0, f"resumed, it ended with {final.code}: {final.err}")
    require_whole(shop, job, output)
    for path in (cohort, output):
        shop.remove(path)


_DAMAGES = ("bit flip", "truncation", "emptied", "another chunk", "header", "random bytes")


def damage(shop: Shop, job: Job, rng: Rng, trial: Trial) -> None:
    """Damage a chunk of the input: a clear error that names the case, with ``--on-error skip`` all but that case.

    Where the damaged bytes still decode to scores or marks, which a format without checksums allows, the run must end
    as one that was given these scores.
    """
    cohort = shop.copy(Path(job.words[1]))
    cases = sorted(path.name for path in cohort.iterdir() if path.is_dir())
    case = LARGE if rng.random() < 0.4 else str(rng.choice(cases))
    array = str(rng.choice(["probability", "votes", "roi"], p=(0.6, 0.3, 0.1)))
    files = chunks(cohort / case / array)
    path = files[int(rng.integers(len(files)))]
    way = str(rng.choice(_DAMAGES))
    data = path.read_bytes()
    others = [other.read_bytes() for other in files]
    bad = _damaged(data, way, others, rng)
    path.unlink()
    path.write_bytes(bad)
    trial.detail = f"{path.relative_to(cohort)}: {way}"
    words = (job.words[0], str(cohort), *job.words[2:])
    output = shop.new()
    outcome = shop.run(job.arguments(output, words=words))
    trial.ended = ended(outcome)
    detected = trial.ended != "done"
    copied = job.name.endswith("apply") and array != "probability"  # byte for byte, without a look
    trial.fault = "a damaged chunk" if detected else "a damaged chunk that still decodes"
    if detected:
        require(outcome.code == 1, f"ended with {outcome.code}: {outcome.err}")
        require_message(outcome, case)
        require_refused(shop, job, output, rng)
        shop.remove(output)
        _skip(shop, job, words, output, case)
    elif copied:
        trial.fault = "a damaged chunk that is only copied"
        require_same({path.name: tree(output)[f"{path.relative_to(cohort)}"]}, {path.name: bad})
    elif said := in_child(partial(_as_decoded, cohort, output, case, job)):
        raise Wrong(f"took damaged bytes: {said}")
    for place in (cohort, output):
        shop.remove(place)


def _skip(shop: Shop, job: Job, words: Sequence[str], output: Path, case: str) -> None:
    """Require that a run that skips a case is one without it."""
    outcome = shop.run(job.arguments(output, "--on-error", "skip", words=words))
    require(outcome.code == 0, f"skipping, it ended with {outcome.code}: {outcome.err}")
    require(f"{case} was left out" in outcome.err, f"does not list the case it skipped: {outcome.err}")
    without = shop.new()
    rest = sorted(path.name for path in Path(words[1]).iterdir() if path.is_dir() and path.name != case)
    more = [part for name in rest for part in ("--cases", name)]
    done = shop.done(job.arguments(without, *more, words=words))
    require(done.code == 0, done.err)
    # The descriptions say of which cohort they are, and what was skipped.
    named = {"zarr.json", *(f"{name}/zarr.json" for name in rest)} if job.name.endswith("apply") else {"zarr.json"}
    trees = ({name: data for name, data in tree(path).items() if name not in named} for path in (output, without))
    require_same(*trees)
    resumed = shop.run(job.arguments(output, "--on-error", "skip", "--resume", words=words))
    require(resumed.code == 0, f"finished, it was resumed with {resumed.code}: {resumed.err}")
    shop.remove(without)


def _damaged(data: bytes, way: str, others: Sequence[bytes], rng: Rng) -> bytes:
    if way == "bit flip":
        at = int(rng.integers(8 * len(data)))
        flipped = bytearray(data)
        flipped[at // 8] ^= 1 << at % 8
        return bytes(flipped)
    if way == "truncation":
        return data[: int(rng.integers(1, len(data)))]
    if way == "emptied":
        return b""
    if way == "another chunk":
        return others[int(rng.integers(len(others)))]
    if way == "header":
        header = bytearray(data[:16])
        at = int(rng.integers(4)) if rng.random() < 0.5 else 4 * int(rng.integers(1, 4))
        lie = rng.bytes(1) if at < 4 else int(rng.choice([0, 1, 2**31 - 1, 2**32 - 1, 4096])).to_bytes(4, "little")
        header[at : at + len(lie)] = lie
        return bytes(header) + data[16:]
    return rng.bytes(len(data))


def _as_decoded(cohort: Path, output: Path, case: str, job: Job) -> None:
    """Decode a case with zarr-python, and require that a run made of it what it decodes to."""
    import zarr

    import twintrack_core as tt
    from twintrack_core.codes import encode

    def read(store: Path, name: str) -> Any:
        return zarr.open_array(str(store / case / name), mode="r")[...]

    probability, votes, roi = (read(cohort, name) for name in ("probability", "votes", "roi"))
    assert ((probability >= 0) & (probability <= 1)).all(), "scores that are none"
    assert (votes < 1 << len(RATERS)).all(), "marks of raters that are none"
    if job.name.endswith("apply"):
        calibrated = tt.load_map(job.words[2]).table_as(np.float16)
        wanted = calibrated[encode((probability[0].astype(np.float32) + probability[1].astype(np.float32)) / 2)]
        assert (read(output, "probability") == wanted).all(), "other calibrated scores"
        return
    found = tt.CohortStatistics.load(output)[case].histogram
    whole = tt.JointHistogram.from_votes(probability, votes, RATERS, roi=roi, members=True)
    assert (found.counts.sum(axis=0) == whole.counts.sum(axis=0)).all(), "other counts"


def _begun(shop: Shop, job: Job, output: Path) -> None:
    """Leave an output that was cut off."""
    for _ in range(20):
        child = shop.start(job.arguments(output))
        child.until(lambda: (output / "zarr.json").exists())
        child.send(signal.SIGKILL)
        child.wait()
        if (output / "zarr.json").exists() and shop.run(["info", output]).code != 0:
            return
        shop.remove(output)
    raise Wrong("no run could be cut off")


def mix(shop: Shop, job: Job, rng: Rng, trial: Trial, what: str) -> None:
    """Resume what another run began, or finished."""
    finished = rng.random() < 0.3
    trial.fault, trial.detail = "resumed as another run", what
    output = shop.new()
    if finished:
        shop.done(job.arguments(output))
    else:
        _begun(shop, job, output)
    (output / ".lock").unlink(missing_ok=True)  # which the next run removes, whatever else it does
    before = tree(output)
    outcome = shop.run(job.arguments(output, "--resume", words=job.others[what]))
    if finished and outcome.code == 0 and not job.name.endswith("apply"):
        # Whole statistics and imported stores do not tell of their run: there is nothing to do, and nothing is done.
        trial.fault, trial.ended = "finished, and resumed as another run", "done"
    else:
        trial.ended = ended(outcome)
        require(outcome.code == 2, f"ended with {outcome.code}: {outcome.out}{outcome.err}")
        require_message(outcome, str(output))
    require_same(tree(output), before)
    require_resumed(shop, job, output)
    shop.remove(output)


def two(shop: Shop, job: Job, rng: Rng, trial: Trial) -> None:
    """Start a run on an output that another is writing; then let that go on."""
    trial.fault = "two runs at once"
    output = shop.new()
    total, until = shop.seconds(job, "threads")
    first = shop.start(job.arguments(output))
    first.until(lambda: (output / "zarr.json").exists())
    first.sleep(rng.random() * (total - until) * 0.5)
    first.send(signal.SIGSTOP)
    running = not first.ended()
    second = shop.run(job.arguments(output, "--resume"))
    fresh = shop.run(job.arguments(output))
    first.send(signal.SIGCONT)
    outcome = first.wait()
    trial.ended = ended(second)
    require(outcome.code == 0, f"the first ended with {outcome.code}: {outcome.err}")
    if running and second.code != 0:
        require(second.code == 2, f"the second ended with {second.code}: {second.err}")
        require_message(second, str(output))
    require(fresh.code == 2, f"a third, without --resume, ended with {fresh.code}: {fresh.err}")
    require_whole(shop, job, output)
    shop.remove(output)


def spoil(shop: Shop, job: Job, rng: Rng, trial: Trial) -> None:
    """Damage what a run that was killed left of its counts: a resumed run names the file, and counts it again."""
    trial.fault = "a damaged checkpoint"
    output = shop.new()
    files: list[Path] = []
    for _ in range(20):
        child = shop.start(job.arguments(output))
        child.until(lambda: len(list((output / "parts").glob("*.npz"))) > 1)
        child.send(signal.SIGKILL)
        child.wait()
        files = sorted((output / "parts").glob("*.npz"))
        if files:
            break
        shop.remove(output)
    require(bool(files), "no run could be cut off")
    path = files[int(rng.integers(len(files)))]
    data = path.read_bytes()
    way = str(rng.choice(("bit flip", "truncation", "emptied", "random bytes")))
    trial.detail = way
    path.write_bytes(_damaged(data, way, [data], rng))
    outcome = shop.run(job.arguments(output, "--resume"))
    trial.ended = ended(outcome)
    if trial.ended == "done":  # a bit of what nobody reads
        require_whole(shop, job, output)
    else:
        require_message(outcome, str(path))
        require_refused(shop, job, output, rng)
        path.unlink()
    require_resumed(shop, job, output)
    shop.remove(output)
