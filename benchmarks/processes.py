"""Commands as processes of their own: how long they take, and what they and the processes they start hold at most."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

_EVERY = 0.1  # seconds between looks; what a process holds at most is kept by the system while it lives
_ANSWER = 60.0


class Taken(NamedTuple):
    """What a command took.

    Attributes
    ----------
    seconds
        From its start to its end.
    cpu
        Processor seconds of it and of all processes it started, which other work on the machine hardly changes.
    peak
        Largest resident memory of its process, in MB.
    worker
        The same of the largest process that it started; 0 where it started none.
    """

    seconds: float
    cpu: float
    peak: float
    worker: float


def twintrack(*arguments: object) -> list[str]:
    """Return the command line of ``twintrack``, without the script, which may not be on the path."""
    return [sys.executable, "-c", "from twintrack_core.cli import entry; entry()", *map(str, arguments)]


def taken(command: Sequence[str]) -> Taken:
    """Run a command to its end.

    Raises
    ------
    RuntimeError
        If it fails, with what it wrote to stderr.
    """
    peaks: dict[int, float] = {}
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors)
        ended = threading.Event()
        watcher = threading.Thread(target=_watch, args=(process.pid, ended, peaks))
        watcher.start()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        code = process.returncode = os.waitstatus_to_exitcode(status)
        ended.set()
        watcher.join()
        errors.seek(0)
        if code:
            raise RuntimeError(f"{' '.join(command)} ended with {code}: {errors.read().decode(errors='replace')}")
    own = peaks.pop(process.pid, 0.0)
    return Taken(seconds, usage.ru_utime + usage.ru_stime, own, max(peaks.values(), default=0.0))


def _watch(pid: int, ended: threading.Event, peaks: dict[int, float]) -> None:
    """Note the peaks of a process and of all below it until it has ended."""
    while not ended.wait(_EVERY):
        with contextlib.suppress(psutil.Error):
            for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
                peaks[process.pid] = max(peaks.get(process.pid, 0.0), _peak(process.pid))


def _peak(pid: int) -> float:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    return 0.0


@contextlib.contextmanager
def dask_cluster(workers: int) -> Iterator[str]:
    """Start a Dask scheduler and workers of one thread by their commands; gives the scheduler's address."""
    from distributed import Client

    dask = [sys.executable, "-m", "dask"]
    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory() as name:
        found = Path(name) / "scheduler.json"
        options = ["--scheduler-file", str(found)]
        stack.enter_context(_background([*dask, "scheduler", "--port", "0", "--dashboard-address", ":0", *options]))
        _wait_for(found)
        for _ in range(workers):
            threads = ["--nworkers", "1", "--nthreads", "1", "--no-dashboard", "--local-directory", name]
            stack.enter_context(_background([*dask, "worker", *options, *threads]))
        with Client(scheduler_file=str(found), timeout=_ANSWER) as client:
            client.wait_for_workers(workers, timeout=_ANSWER)
            address = client.scheduler_info()["address"]
        yield address


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """Start a server of S3 on this machine, for this process and those it starts; gives the URL of an empty bucket."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it tells of every request otherwise
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    kept = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        request = urllib.request.Request(f"http://{host}:{port}/bucket", method="PUT")
        urllib.request.urlopen(request).close()
        yield "s3://bucket"
    finally:
        for name, value in kept.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        server.stop()


def _wait_for(file: Path) -> None:
    end = time.monotonic() + _ANSWER
    while not file.exists():
        if time.monotonic() > end:
            raise TimeoutError(f"{file} does not appear.")
        time.sleep(0.1)


@contextlib.contextmanager
def _background(command: Sequence[str]) -> Iterator[None]:
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(_ANSWER)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
