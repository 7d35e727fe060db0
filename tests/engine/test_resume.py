"""Runs that are cut off and gone on with: the same bytes, nothing done twice, no runs mixed, no case lost silently."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import twintrack_core as tt
from twintrack_core.cohort.case import Case
from twintrack_core.cohort.chunks import ChunkedArray
from twintrack_core.cohort.store import open_cohort
from twintrack_core.engine import accumulate as accumulate_
from twintrack_core.engine import apply as apply_
from twintrack_core.engine import run as run_
from twintrack_core.engine.check import check
from twintrack_core.engine.checkpoint import Merging
from twintrack_core.errors import RequestError, StoreError, WorkError
from twintrack_core.histogram.cells import concatenate, merge
from twintrack_core.simulate import Simulation
from twintrack_core.storage import open_folder

SIMULATION = Simulation(cases=4, shape=(64, 96, 96), raters=3, members=2, seed=3)
CLUSTER = 2


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> tt.Cohort:
    """Three small cases and a large one."""

    class Reader:
        def case_names(self) -> tuple[str, ...]:
            return (*SIMULATION.case_names(), "large")

        def read(self, name: str) -> Case:
            if name == "large":
                rng = np.random.default_rng(0)
                return Case(
                    name,
                    rng.random((2, 64, 256, 256), dtype=np.float32).astype(np.float16),
                    SIMULATION.rater_names,
                    rng.integers(0, 8, (64, 256, 256), dtype=np.uint8),
                )
            return SIMULATION.read(name)

    return tt.import_cases(Reader(), tmp_path_factory.mktemp("resume") / "c.zarr")


@pytest.fixture(scope="module")
def fitted(cohort: tt.Cohort) -> tt.CalibrationMap:
    return tt.fit(tt.accumulate(cohort))


@pytest.fixture
def small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of large cases of a few tiles each."""
    monkeypatch.setattr(run_, "LARGEST_TASK_BYTES", 1 << 22)
    monkeypatch.setattr(run_, "LOOK_BYTES", 1 << 16)
    monkeypatch.setattr(accumulate_, "LOOK_BYTES", 1 << 16)
    monkeypatch.setattr(apply_, "LOOK_BYTES", 1 << 16)


def tree(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def failing(monkeypatch: pytest.MonkeyPatch, after: int, error: BaseException) -> list[int]:
    """Let the reading of chunks fail from the n-th on, and count them."""
    read, calls = ChunkedArray.read, [0]

    def reading(self: ChunkedArray, *arguments: Any) -> bool:
        calls[0] += 1
        if calls[0] > after:
            raise error
        return read(self, *arguments)

    monkeypatch.setattr(ChunkedArray, "read", reading)
    return calls


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    return failing(monkeypatch, 1 << 60, KeyboardInterrupt())


def let_end() -> None:
    """Wait for what an interrupt does not wait for."""
    for thread in threading.enumerate():
        if thread.name.startswith("twintrack"):
            thread.join()


Work = Callable[..., Any]


@pytest.fixture(params=["accumulate", "apply"])
def work(request: pytest.FixtureRequest, cohort: tt.Cohort, fitted: tt.CalibrationMap) -> Work:
    if request.param == "accumulate":
        return lambda path, **options: tt.accumulate(cohort, path=path, **options)
    return lambda path, **options: tt.apply(cohort, fitted, path, **options)


@pytest.mark.usefixtures("small_tasks")
@pytest.mark.parametrize("after", [0, 5, 10, 15, 20])
@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_done_is_not_done_again(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int, workers: int
) -> None:
    with monkeypatch.context() as patch:
        calls = counted(patch)
        work(tmp_path / "whole", workers=workers)
        whole = calls[0]
    assert whole > 20
    with monkeypatch.context() as patch:
        failing(patch, after, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            work(tmp_path / "out", workers=workers)
        let_end()
    assert not (tmp_path / "out" / ".lock").exists()
    with pytest.raises((StoreError, RequestError)):
        tt.CohortStatistics.load(tmp_path / "out")
    with pytest.raises((StoreError, RequestError)):
        open_cohort(tmp_path / "out")
    with monkeypatch.context() as patch:
        calls = counted(patch)
        work(tmp_path / "out", workers=3 - workers, resume=True)  # whoever goes on
        assert whole - after <= calls[0] <= whole
        assert after < 15 or calls[0] < whole
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    with monkeypatch.context() as patch:
        calls = counted(patch)
        work(tmp_path / "out", resume=True)  # a whole one stays as it is
        assert calls[0] == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_run_is_not_resumed_unless_asked_for(work: Work, tmp_path: Path) -> None:
    work(tmp_path / "out", resume=True)  # begins what is not there
    with pytest.raises(RequestError, match="exists already"):
        work(tmp_path / "out")


def cut_off(monkeypatch: pytest.MonkeyPatch, work: Work, path: Path, after: int = 12) -> None:
    with monkeypatch.context() as patch:
        failing(patch, after, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            work(path, workers=1)
        let_end()


@pytest.mark.usefixtures("small_tasks")
def test_runs_are_not_mixed(
    cohort: tt.Cohort, fitted: tt.CalibrationMap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_off(monkeypatch, lambda path, **options: tt.accumulate(cohort, path=path, **options), tmp_path / "s")
    cut_off(monkeypatch, lambda path, **options: tt.apply(cohort, fitted, path, **options), tmp_path / "a")
    before = tree(tmp_path)
    shutil.copytree(cohort.path, tmp_path / "other.zarr")
    chunk = next(path for path in (tmp_path / "other.zarr/large/votes/c").rglob("*") if path.is_file())
    chunk.unlink()
    other = open_cohort(tmp_path / "other.zarr")
    for what, changed in (
        ("roi is 'full', not 'mask'", {"roi": "mask"}),
        ("on_invalid is 'error', not 'clip'", {"on_invalid": "clip"}),
    ):
        with pytest.raises(RequestError, match=f"begun by another run: its {what}"):
            tt.accumulate(cohort, path=tmp_path / "s", resume=True, **changed)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="begun by another run: its input is"):
        tt.accumulate(other, path=tmp_path / "s", resume=True)
    with pytest.raises(RequestError, match="begun by another run: its cases is"):
        tt.accumulate(cohort.select(["case*"]), path=tmp_path / "s", resume=True)
    with pytest.raises(RequestError, match="begun by another run: its source input is"):
        tt.apply(other, fitted, tmp_path / "a", resume=True)
    with pytest.raises(RequestError, match="begun by another run: its source map is"):
        tt.apply(cohort, tt.fit(tt.accumulate(cohort), "platt"), tmp_path / "a", resume=True)
    with pytest.raises(RequestError, match="begun by another run: its source dtype is"):
        tt.apply(cohort, fitted, tmp_path / "a", resume=True, dtype="float32")
    with pytest.raises(RequestError, match="holds the format"):
        tt.apply(cohort, fitted, tmp_path / "s", resume=True)
    shutil.rmtree(tmp_path / "other.zarr")
    assert tree(tmp_path) == before
    statistics = tt.accumulate(cohort, path=tmp_path / "s", resume=True)
    with pytest.raises(RequestError, match="begun by another run: its roi is 'full', not 'mask'"):
        tt.accumulate(cohort, path=tmp_path / "s", resume=True, roi="mask")
    assert tt.CohortStatistics.load(tmp_path / "s") == statistics


def test_two_runs_exclude_each_other(work: Work, tmp_path: Path) -> None:
    with open_folder(tmp_path / "out").lock(), pytest.raises(RequestError, match="Another run is writing"):
        work(tmp_path / "out", resume=True)


@pytest.mark.usefixtures("small_tasks")
def test_a_damaged_checkpoint(cohort: tt.Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_off(monkeypatch, lambda path, **options: tt.accumulate(cohort, path=path, **options), tmp_path / "s")
    parts = sorted((tmp_path / "s/parts").iterdir())
    assert parts
    content = parts[0].read_bytes()
    for damaged in (b"", content[: len(content) // 2], content[:-4] + b"none"):
        parts[0].write_bytes(damaged)
        with pytest.raises(StoreError, match=f"{parts[0].name} is damaged") as raised:
            tt.accumulate(cohort, path=tmp_path / "s", resume=True)
        assert "Remove this file" in str(raised.value)
    parts[0].unlink()
    tt.accumulate(cohort, path=tmp_path / "s", resume=True)
    tt.accumulate(cohort, path=tmp_path / "whole")
    assert tree(tmp_path / "s") == tree(tmp_path / "whole")


@pytest.fixture
def broken(cohort: tt.Cohort, tmp_path: Path) -> tt.Cohort:
    """The cohort with a damaged chunk in a small case and in the large one, and a case cut off."""
    path = tmp_path / "broken.zarr"
    shutil.copytree(cohort.path, path)
    for case in ("case001", "large"):
        chunks = [place for place in sorted((path / case / "probability/c").rglob("*")) if place.is_file()]
        chunks[len(chunks) // 2].write_bytes(b"nonsense")
    metadata = json.loads((path / "case003/zarr.json").read_text())
    metadata["attributes"]["twintrack"]["complete"] = False
    (path / "case003/zarr.json").write_text(json.dumps(metadata))
    return open_cohort(path)


BROKEN = {"case001": "StoreError", "case003": "StoreError", "large": "StoreError"}


@pytest.mark.usefixtures("small_tasks")
@pytest.mark.parametrize("workers", [1, 2])
def test_cases_that_cannot_be_read_are_left_out_if_asked(
    cohort: tt.Cohort, broken: tt.Cohort, fitted: tt.CalibrationMap, tmp_path: Path, workers: int
) -> None:
    rest = cohort.select(["case000", "case002"])
    with pytest.raises(StoreError):
        tt.accumulate(broken, workers=workers)
    statistics = tt.accumulate(broken, path=tmp_path / "s", on_error="skip", workers=workers)
    assert statistics.skipped == BROKEN
    assert statistics == tt.accumulate(rest)
    loaded = tt.CohortStatistics.load(tmp_path / "s")
    assert (loaded, loaded.skipped) == (statistics, BROKEN)
    assert tt.accumulate(broken, path=tmp_path / "s", on_error="skip", resume=True).skipped == BROKEN
    calibration = tt.fit(loaded)
    assert calibration.skipped == ("case001", "case003", "large")
    calibration.save(tmp_path / "map.json")
    assert tt.load_map(tmp_path / "map.json").skipped == calibration.skipped
    assert tt.fit(tt.accumulate(rest)).skipped == ()

    calibrated = tt.apply(broken, fitted, tmp_path / "a", on_error="skip", workers=workers)
    assert (calibrated.names, calibrated.skipped) == (rest.names, BROKEN)
    tt.apply(rest, fitted, tmp_path / "rest")
    for name in rest.names:
        for part in ("probability", "votes"):
            assert tree(tmp_path / "a" / name / part) == tree(tmp_path / "rest" / name / part)
    assert {path.name for path in (tmp_path / "a").iterdir()} == {*rest.names, "zarr.json"}
    assert tt.apply(broken, fitted, tmp_path / "a", on_error="skip", resume=True).skipped == BROKEN


@pytest.mark.usefixtures("small_tasks")
def test_a_run_that_stopped_at_a_case_goes_on_without_it(broken: tt.Cohort, tmp_path: Path) -> None:
    for on_error, resume in (("stop", False), ("stop", True)):
        with pytest.raises(StoreError):
            tt.accumulate(broken, path=tmp_path / "s", on_error=on_error, resume=resume)  # type: ignore[arg-type]
    assert tt.accumulate(broken, path=tmp_path / "s", on_error="skip", resume=True).skipped == BROKEN


def test_nothing_is_left(broken: tt.Cohort, fitted: tt.CalibrationMap, tmp_path: Path) -> None:
    bad = broken.select(["case001", "case003"])
    with pytest.raises(StoreError, match=r"None of 2 cases is left; case001 is left out because: .*/c/"):
        tt.accumulate(bad, on_error="skip")
    with pytest.raises(StoreError, match="None of 2 cases is left"):
        tt.apply(bad, fitted, tmp_path / "a", on_error="skip")
    with pytest.raises(RequestError, match="on_error is 'ignore'"):
        tt.accumulate(bad, on_error="ignore")  # type: ignore[arg-type]


def test_a_full_disk_is_resumed(cohort: tt.Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from twintrack_core.storage.local import LocalFolder

    write, left = LocalFolder.write, [3]

    def full(self: LocalFolder, key: str, data: bytes) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device", str(self))
        write(self, key, data)

    with monkeypatch.context() as patch:
        patch.setattr(LocalFolder, "write", full)
        with pytest.raises(WorkError, match="No space left on device") as raised:
            tt.accumulate(cohort, path=tmp_path / "s", workers=2)
        assert "--resume" in str(raised.value)
    tt.accumulate(cohort, path=tmp_path / "s", resume=True)
    tt.accumulate(cohort, path=tmp_path / "whole")
    assert tree(tmp_path / "s") == tree(tmp_path / "whole")


@pytest.mark.usefixtures("small_tasks")
@pytest.mark.parametrize("what", ["large/probability/c", "large/votes/c/0", "case001/votes", ""])
@pytest.mark.parametrize("after", [1, 3, 9])
def test_what_disappears_is_no_background(
    work: Work, cohort: tt.Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, after: int
) -> None:
    """A mount that goes, a scratch folder that is cleaned: chunks that were listed must be there when they are read."""
    place, aside = cohort.path / what, cohort.path.parent / "aside"
    read, calls = ChunkedArray.read, [0]

    def reading(self: ChunkedArray, *arguments: Any) -> bool:
        calls[0] += 1
        if calls[0] == after:
            place.rename(aside)
        return read(self, *arguments)

    try:
        with monkeypatch.context() as patch:
            patch.setattr(ChunkedArray, "read", reading)
            with contextlib.suppress(StoreError):  # it may have been read before
                work(tmp_path / "out", workers=1)
                assert what
    finally:
        aside.rename(place)
    work(tmp_path / "out", resume=True)
    work(tmp_path / "whole")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_an_interrupt_ends_what_runs_before_the_output_is_let_go(
    cohort: tt.Cohort, fitted: tt.CalibrationMap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it would write into what is made at the same place next, with another map."""
    write, begun = ChunkedArray.write_chunk, threading.Event()

    def writing(self: ChunkedArray, *arguments: Any) -> None:
        begun.set()
        time.sleep(0.02)
        write(self, *arguments)

    def interrupt() -> None:
        begun.wait()
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(ChunkedArray, "write_chunk", writing)
    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        tt.apply(cohort, fitted, tmp_path / "out", workers=1)
    before = tree(tmp_path / "out")
    assert not any(key.startswith("large/probability/c") and "large/zarr.json" not in before for key in before)
    time.sleep(0.3)
    assert tree(tmp_path / "out") == before
    assert len(before) < len(tree(cohort.path))


def test_a_folder_of_something_else_is_left_alone(work: Work, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "parts").mkdir(parents=True)
    (out / "parts/mine.txt").write_text("mine")
    (out / "mine.partial").write_text("mine")
    before = tree(out)
    with pytest.raises(RequestError, match="exists already"):
        work(out, resume=True)
    assert tree(out) == before


def test_a_case_without_tiles_is_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Empty:
        def case_names(self) -> tuple[str, ...]:
            return ("a", "b")

        def read(self, name: str) -> Case:
            return Case(name, np.zeros((8, 16, 16), dtype=np.float16), ("r",), np.zeros((8, 16, 16), dtype=np.uint8))

    empty = tt.import_cases(Empty(), tmp_path / "c.zarr")
    count = accumulate_.count_tiles

    def stop_at_b(task: Any) -> Any:
        if task.case == "b":
            raise KeyboardInterrupt
        return count(task)

    with monkeypatch.context() as patch:
        patch.setattr(accumulate_, "count_tiles", stop_at_b)
        with pytest.raises(KeyboardInterrupt):
            tt.accumulate(empty, path=tmp_path / "s", workers=2)
    let_end()
    found = tt.accumulate(empty, path=tmp_path / "s", workers=2, resume=True)
    assert [case.histogram.n_voxels for _, case in found.items()] == [2048, 2048]


@pytest.mark.usefixtures("small_tasks")
def test_parts_of_another_run_are_not_taken(cohort: tt.Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, roi, after in (("old", "raters+2", 35), ("new", "full", 12)):
        cut_off(
            monkeypatch,
            lambda path, roi=roi, **options: tt.accumulate(cohort, path=path, roi=roi, **options),
            tmp_path / name,
            after,
        )
    for part in (tmp_path / "old/parts").iterdir():
        shutil.copy(part, tmp_path / "new/parts" / part.name)
    assert tt.accumulate(cohort, path=tmp_path / "new", resume=True) == tt.accumulate(cohort)
    tt.accumulate(cohort, path=tmp_path / "whole")
    assert tree(tmp_path / "new") == tree(tmp_path / "whole")


def test_a_run_whose_output_is_taken_away_says_so(work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = ChunkedArray.read

    def reading(self: ChunkedArray, *arguments: Any) -> bool:
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        return read(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(ChunkedArray, "read", reading)
        with pytest.raises(WorkError):
            work(tmp_path / "out", workers=1)
    with pytest.raises((RequestError, StoreError)):
        open_cohort(tmp_path / "out")


@pytest.mark.usefixtures("small_tasks")
def test_what_is_wrong_with_an_output_is_no_fault_of_the_case(
    cohort: tt.Cohort, fitted: tt.CalibrationMap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_off(monkeypatch, lambda path, **options: tt.apply(cohort, fitted, path, **options), tmp_path / "a")
    metadata = tmp_path / "a/large/probability/zarr.json"
    content = metadata.read_text()
    for spoiled in ("{}", content.replace('"shape": [', '"shape": [9,', 1).replace("9,\n    64", "9", 1)):
        metadata.write_text(spoiled)
        with pytest.raises(WorkError, match="Remove the output"):
            tt.apply(cohort, fitted, tmp_path / "a", resume=True, on_error="skip")
    metadata.write_text(content)
    assert tt.apply(cohort, fitted, tmp_path / "a", resume=True).skipped == {}


def test_what_is_finished_is_not_looked_at_again(broken: tt.Cohort, fitted: tt.CalibrationMap, tmp_path: Path) -> None:
    tt.apply(broken, fitted, tmp_path / "a", on_error="skip")
    assert tt.apply(broken, fitted, tmp_path / "a", resume=True).skipped == BROKEN


def test_whole_statistics_of_another_cohort(cohort: tt.Cohort, tmp_path: Path) -> None:
    tt.accumulate(cohort.select(["case*"]), path=tmp_path / "s")
    other = tt.import_cases(Simulation(4, (64, 96, 90), 3, 2, 3), tmp_path / "other.zarr")
    with pytest.raises(RequestError, match="made from another cohort: its case case000 differs"):
        tt.accumulate(other, path=tmp_path / "s", resume=True)


def test_an_output_does_not_lie_in_its_input(work: Work, cohort: tt.Cohort) -> None:
    with pytest.raises(RequestError, match="lies in the cohort"):
        work(cohort.path / "large" / "out")


# Import


def test_an_import_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, names = Simulation.read, []

    def reading(self: Simulation, name: str) -> Case:
        names.append(name)
        if len(names) == 3:
            raise KeyboardInterrupt
        return read(self, name)

    monkeypatch.setattr(Simulation, "read", reading)
    with pytest.raises(KeyboardInterrupt):
        tt.import_cases(SIMULATION, tmp_path / "out", workers=1)
    with pytest.raises(RequestError, match="begun by another run: its reader is"):
        tt.import_cases(Simulation(4, (64, 96, 96), 3, 2, 4), tmp_path / "out", resume=True)
    tt.import_cases(SIMULATION, tmp_path / "out", resume=True, workers=1)
    assert names.count("case000") == names.count("case001") == 1
    assert set(names) == set(SIMULATION.case_names())
    tt.import_cases(SIMULATION, tmp_path / "whole")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_an_import_leaves_out_what_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Simulation.read

    def reading(self: Simulation, name: str) -> Case:
        if name == "case001":
            raise OSError(5, "Input/output error", "case001.nii.gz")
        return read(self, name)

    monkeypatch.setattr(Simulation, "read", reading)
    imported = tt.import_cases(SIMULATION, tmp_path / "out", on_error="skip")
    assert (imported.names, imported.skipped) == (("case000", "case002", "case003"), {"case001": "ImageError"})


# Clusters


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=CLUSTER, threads_per_worker=1, dashboard_address=":0", silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def test_the_same_bytes_on_a_cluster(cohort: tt.Cohort, fitted: tt.CalibrationMap, client: Any, tmp_path: Path) -> None:
    for name, options in (
        ("threads", {"workers": 2}),
        ("client", {"scheduler": client}),
        ("address", {"scheduler": client.scheduler.address}),
    ):
        tt.accumulate(cohort, path=tmp_path / f"{name}.stats", roi="raters+3", **options)
        tt.apply(cohort, fitted, tmp_path / f"{name}.zarr", **options)
        tt.import_cases(SIMULATION, tmp_path / f"{name}.imported", **options)
        tt.export(cohort.select(["large"]), tmp_path / f"{name}.images", suffix="mha", **options)
        for kind in ("stats", "zarr", "imported", "images"):
            assert tree(tmp_path / f"{name}.{kind}") == tree(tmp_path / f"threads.{kind}")
    metrics = ["surface_dice:0.5:2"]
    assert tt.evaluate(cohort, fitted, metrics, scheduler=client) == tt.evaluate(cohort, fitted, metrics)


def test_faults_are_told_from_a_cluster(broken: tt.Cohort, client: Any, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"damaged|cut off"):
        tt.accumulate(broken, path=tmp_path / "s", scheduler=client)
    assert tt.accumulate(broken, path=tmp_path / "s", scheduler=client, on_error="skip", resume=True).skipped == BROKEN


# Checks


def test_a_store_is_checked(cohort: tt.Cohort, broken: tt.Cohort) -> None:
    assert check(cohort) == {}
    found = check(broken)
    assert {name: type(error).__name__ for name, error in found.items()} == BROKEN
    assert "c/" in found["case001"].what
    assert "cut off" in found["case003"].what


# Tables


def test_tables_are_merged_as_a_tree() -> None:
    rng = np.random.default_rng(0)
    tables = [
        merge(rng.integers(0, 2, 50), rng.integers(0, 99, 50), rng.integers(0, 8, 50), rng.integers(1, 9, 50))
        for _ in range(37)
    ]
    for n in (1, 2, 3, 8, 37):
        merging = Merging()
        for table in tables[:n]:
            merging.add(table)
        for found, expected in zip(merging.total(), concatenate(tables[:n]), strict=True):
            np.testing.assert_array_equal(found, expected)
        assert len(merging._levels) <= n.bit_length()
