"""Leases: a lock of a remote folder that is renewed, is kept while it is, and goes to another when it is not."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from twintrack_core.errors import RequestError, WorkError
from twintrack_core.storage import lease as lease_module
from twintrack_core.storage import open_folder

pytest.importorskip("obstore")
pytest.importorskip("moto.server")

OWNER = """
import sys, time
from twintrack_core.storage import lease, open_folder
lease.RENEW_SECONDS = 0.2
with open_folder(sys.argv[1]).lock():
    print("locked", flush=True)
    time.sleep(100)
"""


@pytest.fixture
def place(server: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(lease_module, "LEASE_SECONDS", 2.0)
    monkeypatch.setattr(lease_module, "RENEW_SECONDS", 0.2)
    return f"{server.bucket()}/s"


def test_a_lease_is_renewed_and_leaves_nothing(place: str, server: Any) -> None:
    folder = open_folder(place)
    with folder.lock():
        assert folder.names() == frozenset({".lock"})
        folder.write("a", b"")
        (folder / "case").write("a", b"")
        with pytest.raises(RequestError, match=r"Another run is writing s3://.*/s"), open_folder(place).lock():
            pass
        before = folder.read(".lock")
        time.sleep(0.8)
        assert folder.read(".lock") != before
    assert folder.names() == frozenset({"a", "case"})
    assert not [thread for thread in threading.enumerate() if thread.name == "twintrack-lease"]
    with folder.lock():
        pass


def test_a_lease_dies_with_its_owner(place: str, server: Any) -> None:
    folder = open_folder(place)
    with subprocess.Popen([sys.executable, "-c", OWNER, place], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "locked\n"
            with pytest.raises(RequestError, match="Another run is writing"), folder.lock():
                pass
        finally:
            process.kill()
    assert folder.names() == frozenset({".lock"})
    started = time.monotonic()
    with folder.lock():
        assert time.monotonic() - started >= 1.9
        folder.write("a", b"")
    assert folder.names() == frozenset({"a"})


def test_only_one_of_several_takes_a_dead_lease(place: str, server: Any) -> None:
    folder = open_folder(place)
    folder.write(".lock", b"{}")
    outcomes: list[str] = []
    together = threading.Barrier(4)

    def run() -> None:
        try:
            together.wait()
            with folder.lock():
                outcomes.append("locked")
                time.sleep(3)
        except RequestError:
            outcomes.append("held")

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["held"] * 3 + ["locked"]


def test_who_lost_the_lease_writes_no_more(place: str, server: Any) -> None:
    folder = open_folder(place)
    with folder.lock():
        folder.write("a", b"mine")
        other = lease_module.Lease(folder)  # type: ignore[arg-type]
        seen = other._look()
        assert seen is not None
        assert other._write(mode=seen[0])
        time.sleep(0.8)
        with pytest.raises(WorkError, match=r"The lock of s3://.*/s was lost"):
            (folder / "case").write("a", b"mine")
        with pytest.raises(WorkError, match="was lost"):
            folder.remove("a")
        with pytest.raises(WorkError, match="was lost"):
            (folder / "case").copy_from(folder, "a")  # type: ignore[attr-defined]
        assert open_folder(f"{place}-2").create("a", b"")
    assert folder.names() == frozenset({"a", ".lock"})  # the other one's


def test_a_lease_that_cannot_be_renewed_is_lost(place: str, server: Any) -> None:
    folder = open_folder(place)
    with folder.lock():
        server.counted.matching = lambda kind, path: path.endswith(".lock") and kind == "PUT"
        server.counted.faults = ["503 Slow Down"] * 1000
        time.sleep(2.5)
        with pytest.raises(WorkError, match="was lost: it could not be renewed for 2 s"):
            folder.write("a", b"mine")
        server.counted.reset()


def test_a_renewal_that_stalls_is_not_waited_for(place: str, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "RELEASE_SECONDS", 0.2)
    stalled, go = threading.Event(), threading.Event()

    def stall(lease: lease_module.Lease, mode: Any) -> bool:
        stalled.set()
        go.wait()
        return False

    with open_folder(place).lock():
        monkeypatch.setattr(lease_module.Lease, "_write", stall)
        stalled.wait()
    left = [thread for thread in threading.enumerate() if thread.name == "twintrack-lease"]
    assert left  # it stalls yet
    go.set()
    for thread in left:
        thread.join()


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="there is no such clock")
def test_a_lease_is_lost_while_the_machine_sleeps(place: str, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lease, real = lease_module.Lease(open_folder(place)), time.clock_gettime  # type: ignore[arg-type]
    assert lease._write(mode="create")
    assert not lease.lost
    monkeypatch.setattr(time, "clock_gettime", lambda clock: real(clock) + 10 * (clock == time.CLOCK_BOOTTIME))
    assert lease.lost


def test_a_child_has_no_lease(place: str, server: Any) -> None:
    with open_folder(place).lock():
        assert {process for process, _ in lease_module._leases} == {os.getpid()}
