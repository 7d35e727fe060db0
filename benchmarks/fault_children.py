"""Child processes that run ``twintrack``, and what is done to them: signals, and system calls that fail.

Children are forked from this process, which has imported everything and has no threads, so that one takes as long as
its work. What reads a store in them may be counted, and their system calls met by ``fault_calls.c``, where this
process was started with it (`preload`).
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import importlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from twintrack_core import kernels
from twintrack_core.cli import COMMANDS, entry
from twintrack_core.engine import accumulate, apply, run

LIMIT = 90.0
"""Seconds after which a child hangs."""

_POLL = 0.002
_IMPORTED = (
    "distributed", "scipy.ndimage", "scipy.optimize", "scipy.spatial", "SimpleITK", "tqdm", "zarr",
    "twintrack_core.calibrators.isotonic", "twintrack_core.cohort.nnunet", "twintrack_core.cohort.volumes",
    "twintrack_core.engine.cluster", "twintrack_core.engine.evaluate", "twintrack_core.engine.importing",
    "twintrack_core.metrics.evaluation", "twintrack_core.report.tables",
    "twintrack_core.storage.local",
)  # fmt: skip
_LIBRARY = "fault_calls.so"


class Outcome(NamedTuple):
    """What a child left: its exit code, negative for a signal and None if it hung, what it printed, how long it took.

    ``after`` is the time from the first signal it was sent.
    """

    code: int | None
    out: str
    err: str
    seconds: float
    after: float

    @property
    def message(self) -> str:
        """What it printed on stderr without notes."""
        lines = self.err.splitlines(keepends=True)
        return "".join(line for line in lines if not line.startswith("twintrack: note: "))


class Child:
    """A process of its own group that runs ``twintrack`` with some words.

    Parameters
    ----------
    words
        Arguments.
    logs
        Folder for what it prints.
    before
        Run in the child first.
    """

    def __init__(self, words: Sequence[object], logs: Path, before: Callable[[], object] | None = None) -> None:
        self._logs = logs
        self._signalled: float | None = None
        ready, tell = os.pipe()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(ready)
            _be([str(word) for word in words], logs, before, tell)
        os.close(tell)
        os.read(ready, 1)
        os.close(ready)
        self._begun = time.perf_counter()
        self._outcome: Outcome | None = None

    @property
    def age(self) -> float:
        """Seconds since it began."""
        return time.perf_counter() - self._begun

    def ended(self) -> bool:
        """Whether it has ended."""
        if self._outcome is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._end(os.waitstatus_to_exitcode(status))
        return self._outcome is not None

    def _end(self, code: int | None) -> None:
        now = time.perf_counter()
        out, err = ((self._logs / name).read_text(encoding="utf-8", errors="replace") for name in ("out", "err"))
        after = 0.0 if self._signalled is None else now - self._signalled
        self._outcome = Outcome(code, out, err, now - self._begun, after)

    def until(self, reached: Callable[[], bool]) -> None:
        """Wait for something, or for its end."""
        while not self.ended() and not reached():
            time.sleep(_POLL)

    def sleep(self, seconds: float) -> None:
        """Wait some time, or for its end."""
        end = time.perf_counter() + seconds
        while not self.ended() and time.perf_counter() < end:
            time.sleep(min(_POLL, max(0.0, end - time.perf_counter())))

    def send(self, number: signal.Signals, *, group: bool = False) -> None:
        """Send a signal, to those it started as well if so asked."""
        if not self.ended():
            self._signalled = self._signalled or time.perf_counter()
            (os.killpg if group else os.kill)(self.pid, number)

    def strike(self, pid: int) -> None:
        """Kill it, or one of those that work for it."""
        self._signalled = self._signalled or time.perf_counter()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def wait(self, limit: float = LIMIT) -> Outcome:
        """Wait for its end; a child that hangs is killed."""
        self.sleep(limit)
        if not self.ended():
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self._end(None)
        assert self._outcome is not None
        return self._outcome

    def clean(self) -> None:
        """Kill what it started and left."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


def _be(words: list[str], logs: Path, before: Callable[[], object] | None, tell: int) -> NoReturn:
    """Be ``twintrack``, and nothing of the process this was forked from."""
    code: int = 99
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for fd, name, flags in ((0, os.devnull, os.O_RDONLY), (1, "out", os.O_CREAT), (2, "err", os.O_CREAT)):
            opened = os.open(logs / name, flags | (os.O_WRONLY | os.O_TRUNC if fd else 0), 0o644)
            os.dup2(opened, fd)
            os.close(opened)
        sys.argv = ["twintrack", *words]
        if before is not None:
            before()
        os.close(tell)
        try:
            entry()
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        with contextlib.suppress(KeyboardInterrupt):  # as an interpreter ends, which does no more than tell of it
            threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001
            atexit._run_exitfuncs()  # noqa: SLF001
    except BaseException:  # noqa: BLE001 - whatever it was, the parent's frames must not see it
        code = 99
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def in_child(work: Callable[[], object]) -> str:
    """Do something in a child, so that its threads are not ours; return the error, or nothing."""
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        said = b""
        try:
            work()
        except BaseException:  # noqa: BLE001 - the parent is told
            said = traceback.format_exc().encode()
        finally:
            os.write(tell, said[-4000:])
            os._exit(0)
    os.close(tell)
    with os.fdopen(ready, "rb") as file:
        said = file.read()
    os.waitpid(pid, 0)
    return said.decode()


def warm_up() -> None:
    """Import what children import, so that they need not."""
    for name in COMMANDS:
        importlib.import_module(f"twintrack_core.cli.{name}_command")
    for name in _IMPORTED:
        importlib.import_module(name)
    kernels.get()


def small_tasks() -> None:
    """Make tasks so small that a cohort of a few hundred kilobytes takes several, and its largest case many."""
    vars(run).update(TASK_BYTES=1 << 16, LARGEST_TASK_BYTES=1 << 16)
    for module in (run, accumulate, apply):
        vars(module)["LOOK_BYTES"] = 1 << 10


def count_tiles_read(log: Path) -> None:
    """In a child: write a byte to a file for every tile whose scores are read."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def counted(read: Callable[..., Any]) -> Callable[..., Any]:
        def read_scores(*arguments: Any, **options: Any) -> Any:
            os.write(file, b".")
            return read(*arguments, **options)

        return read_scores

    for module in (accumulate, apply):
        vars(module)["read_scores"] = counted(vars(module)["read_scores"])


class Meet(IntEnum):
    """What a system call meets; as in ``fault_calls.c``."""

    LOG = 0
    FAIL = 1
    FAIL_FROM = 2
    SHORT = 3
    KILL_BEFORE = 4
    KILL_AFTER = 5


class Calls(IntEnum):
    """Which system calls; as in ``fault_calls.c``."""

    WRITING = 1
    READING = 2


def preload(folder: Path) -> None:
    """Start this process anew with ``fault_calls.c`` in it, if there is a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if preloaded() or compiler is None or not sys.platform.startswith("linux"):
        return
    library = folder / _LIBRARY
    source = Path(__file__).with_name("fault_calls.c")
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    # One thread in BLAS: a process with others must not fork.
    environment = {**os.environ, "LD_PRELOAD": str(library), "OPENBLAS_NUM_THREADS": "1"}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def preloaded() -> bool:
    """Whether this process was started with ``fault_calls.c``."""
    return os.environ.get("LD_PRELOAD", "").endswith(_LIBRARY)


def arm(below: Path, which: Calls, what: Meet, number: int = 0, error: int = 0, log: Path | None = None) -> None:
    """In a child: let one of its system calls below a folder meet something, or log them all."""
    file = -1 if log is None else os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    ctypes.CDLL(None).fault_arm(os.fsencode(below), int(which), int(what), ctypes.c_long(number), error, file)


def workers_of(pid: int) -> list[int]:
    """Processes that a process started to work for it."""
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(word) for word in children.read_text().split()]
    return [child for child in found if b"spawn_main" in _command(child)]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


class Cluster:
    """A Dask scheduler and a nanny with two workers, each a process of its own.

    Parameters
    ----------
    folder
        For what they log and spill.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.address = ""
        self.scheduler: subprocess.Popen[bytes] | None = None
        self.nanny: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start them, and wait until they can be worked with."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{port}"
        self.scheduler = self._run("scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
        self.nanny = self._run(
            "worker", self.address, "--nworkers", "2", "--nthreads", "1", "--no-dashboard", "--death-timeout", "20",
            "--local-directory", str(self._folder),
        )  # fmt: skip
        self.wait()

    def _run(self, *words: str) -> subprocess.Popen[bytes]:
        environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        with (self._folder / f"{words[0]}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "dask", *words],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=environment,
            )  # fmt: skip

    def wait(self) -> None:
        """Wait until both workers are there."""

        def look() -> None:
            from distributed import Client

            with Client(self.address, timeout=60) as client:
                client.wait_for_workers(2, timeout=60)

        if said := in_child(look):
            raise RuntimeError(f"The cluster does not start:\n{said}")

    def workers(self) -> list[int]:
        """Processes of the workers."""
        assert self.nanny is not None
        return workers_of(self.nanny.pid)

    def stop(self) -> None:
        """End them."""
        for process in (self.nanny, self.scheduler):
            if process is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self.scheduler = self.nanny = None

    @contextlib.contextmanager
    def running(self) -> Iterator[Cluster]:
        """Start them where they are not running, and leave them to others that need them."""
        if self.scheduler is None or self.scheduler.poll() is not None:
            self.stop()
            self.start()
        yield self


def tree(root: Path) -> dict[str, bytes]:
    """Return every folder and every file below a folder, files with what is in them."""
    found: dict[str, bytes] = {}
    for folder, _, names in os.walk(root):
        found[f"{os.path.relpath(folder, root)}/"] = b""
        for name in names:
            path = Path(folder, name)
            with contextlib.suppress(FileNotFoundError):  # a worker renames it just now
                found[os.path.relpath(path, root)] = path.read_bytes()
    return found


def difference(found: dict[str, bytes], wanted: dict[str, bytes]) -> str:
    """Say where a tree differs from the one it should be; nothing where it does not."""
    lacks = sorted(wanted.keys() - found.keys())
    more = sorted(found.keys() - wanted.keys())
    others = sorted(name for name in wanted.keys() & found.keys() if wanted[name] != found[name])
    parts = (("lacks", lacks), ("has besides", more), ("differs in", others))
    return "; ".join(f"{what} {', '.join(names[:4])} ({len(names)})" for what, names in parts if names)
