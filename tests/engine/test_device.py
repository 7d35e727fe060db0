"""Cohorts on a device made of NumPy: the same bytes as on the CPU, what is copied when, and how much is held."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import fake_cupy
import numpy as np
import numpy.typing as npt
import pytest

import twintrack_core as tt
from twintrack_core.cli import main
from twintrack_core.codes import N_CODES
from twintrack_core.cohort.case import Case, Geometry
from twintrack_core.cohort.chunks import ChunkedArray
from twintrack_core.cohort.roi import parse_roi
from twintrack_core.cohort.store import open_cohort
from twintrack_core.cohort.writer import CohortWriter
from twintrack_core.engine import device
from twintrack_core.engine.accumulate import _plan_case, count_tiles
from twintrack_core.engine.run import TASK_BYTES
from twintrack_core.errors import RequestError, StoreError, TwinTrackError, WorkError

SHAPE = (40, 70, 90)
MAP = tt.CalibrationMap(score=np.array([0.1, 0.4, 0.9]), value=np.array([0.05, 0.3, 0.8]), target="mhr")


@pytest.fixture(autouse=True)
def machine() -> Iterator[fake_cupy.Machine]:
    with fake_cupy.installed() as found:
        yield found


def make_case(name: str, *, members: int = 1, raters: int = 3, dtype: str = "float16", seed: int = 0) -> Case:
    """Scores in one part of the volume, votes that reach further, a region, and much that is empty."""
    rng = np.random.default_rng(seed)
    scores = np.zeros((members, *SHAPE))
    scores[:, 2:25, 5:50, 8:60] = rng.random((members, 23, 45, 52))
    stored = (scores * 255).astype(np.uint8) if dtype == "uint8" else scores.astype(dtype)
    votes = np.zeros(SHAPE, dtype=np.uint8)
    votes[18:38, 32:68, 40:85] = rng.integers(0, 1 << raters, (20, 36, 45))
    roi = np.zeros(SHAPE, dtype=bool)
    roi[5:30, 10:60, 5:70] = rng.random((25, 50, 65)) < 0.7
    return Case(
        name=name,
        probability=stored if members > 1 else stored[0],
        raters=tuple(f"rater{r}" for r in range(raters)),
        votes=votes if raters else None,
        roi=roi,
        geometry=Geometry(spacing_mm=(3.0, 1.0, 0.7)),
    )


def write(path: Path, *cases: Case, chunks: tuple[int, int, int] = (8, 32, 32)) -> tt.Cohort:
    import zarr

    writer = CohortWriter(path, [case.name for case in cases])
    for case in cases:
        writer.write_case(case)
    writer.finish()
    for case in cases:
        for part, grid in (("probability", chunks), ("votes", (16, 30, 32)), ("roi", chunks)):
            values: Any = getattr(case, part)
            if values is not None:
                array = zarr.create_array(
                    store=str(path / case.name / part),
                    shape=values.shape,
                    dtype=values.dtype,
                    chunks=(1,) * (values.ndim - 3) + grid,
                    fill_value=0,
                    overwrite=True,
                    config={"write_empty_chunks": False},
                )
                array[...] = values
    return open_cohort(path)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tt.Cohort:
    """Cases of every stored dtype, of one member and several, and without raters."""
    cases = [
        make_case("a", members=3, raters=5),
        make_case("b", dtype="float32", raters=1, seed=1),
        make_case("c", dtype="uint8", members=9, raters=2, seed=2),
        make_case("d", raters=0, seed=3),
    ]
    return write(tmp_path_factory.mktemp("mixed") / "c.zarr", *cases)


def tree(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def on_both(cohort: tt.Cohort, folder: Path, **options: Any) -> tuple[dict[str, bytes], dict[str, bytes]]:
    where: tuple[Literal["cpu", "cuda"], ...] = ("cpu", "cuda")
    folder.mkdir(exist_ok=True)
    for name in where:
        tt.accumulate(cohort, device=name, **options).save(folder / name)
    return tree(folder / "cpu"), tree(folder / "cuda")


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("rule", ["full", "mask", "mask+3mm", "raters+2"])
def test_statistics_are_those_of_the_cpu(
    mixed: tt.Cohort, tmp_path: Path, machine: fake_cupy.Machine, rule: str, workers: int
) -> None:
    cpu, cuda = on_both(mixed, tmp_path, roi=rule, workers=workers)
    assert cpu == cuda
    assert any(event.what == "accumulate" for event in machine.log)


def test_statistics_of_cases_in_several_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: fake_cupy.Machine
) -> None:
    cohort = write(tmp_path / "c.zarr", make_case("a", members=2), make_case("b", members=2, seed=1))
    monkeypatch.setattr("twintrack_core.engine.run.TASK_BYTES", TASK_BYTES >> 10)
    cpu, cuda = on_both(cohort, tmp_path, roi="raters+2", workers=2)
    assert cpu == cuda
    assert len({event.stream for event in machine.log if event.what == "accumulate"}) == 2


@pytest.mark.parametrize("dtype", ["float16", "float32", "uint8"])
@pytest.mark.parametrize("workers", [1, 2])
def test_calibrated_stores_are_those_of_the_cpu(mixed: tt.Cohort, tmp_path: Path, dtype: str, workers: int) -> None:
    tt.apply(mixed, MAP, tmp_path / "cpu", dtype=dtype)
    tt.apply(mixed, MAP, tmp_path / "cuda", dtype=dtype, device="cuda", workers=workers)
    assert tree(tmp_path / "cpu") == tree(tmp_path / "cuda")


def test_a_store_may_be_begun_on_one_device_and_finished_on_another(
    mixed: tt.Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tt.apply(mixed, MAP, tmp_path / "cpu")
    write_chunk = ChunkedArray.write_chunk
    written: list[ChunkedArray] = []

    def fail(self: ChunkedArray, *arguments: Any) -> None:
        if len(written) == 60:
            raise OSError(28, "No space left on device")
        written.append(self)
        write_chunk(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(ChunkedArray, "write_chunk", fail)
        with pytest.raises(WorkError, match="No space left"):
            tt.apply(mixed, MAP, tmp_path / "both", device="cuda", workers=1)
    tt.apply(mixed, MAP, tmp_path / "both", resume=True)
    assert tree(tmp_path / "cpu") == tree(tmp_path / "both")


def test_evaluate_on_a_device(mixed: tt.Cohort, machine: fake_cupy.Machine) -> None:
    cases = mixed.select(["a", "b"])
    assert tt.evaluate(cases, MAP, device="cuda").to_dict() == tt.evaluate(cases, MAP).to_dict()
    assert any(event.what == "accumulate" for event in machine.log)


class Reader:
    """Cases that are read from nowhere."""

    def __init__(self, *cases: Case) -> None:
        self.cases = {case.name: case for case in cases}

    def case_names(self) -> tuple[str, ...]:
        return tuple(self.cases)

    def read(self, name: str) -> Case:
        return self.cases[name]


@pytest.mark.parametrize("workers", [1, 3])
def test_cases_are_calibrated_in_pieces_of_a_size(
    mixed: tt.Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: fake_cupy.Machine, workers: int
) -> None:
    pytest.importorskip("SimpleITK")
    reader = Reader(*(case.read() for case in mixed))
    monkeypatch.setattr(device, "_PIECE_BYTES", 1 << 17)
    tt.calibrate(reader, MAP, tmp_path / "cpu")
    tt.calibrate(reader, MAP, tmp_path / "cuda", device="cuda", workers=workers)
    assert tree(tmp_path / "cpu") == tree(tmp_path / "cuda")
    bytes_of_voxels = [3 * 2 + 2, 4 + 2, 9 + 2, 2 + 2]
    pieces = [math.ceil(math.prod(SHAPE) / ((1 << 17) // n // 4096 * 4096)) for n in bytes_of_voxels]
    assert sum(event.what == "relabel" for event in machine.log) == sum(pieces)
    pools = [pool for pool in machine.pools if pool.limit]
    assert 1 <= len(pools) <= workers
    for pool in pools:
        assert pool.limit == (1 << 17) + 2 * (N_CODES + 1) + (1 << 20)
        assert 0 < pool.peak <= pool.limit
    assert machine.pinned_peak <= workers * 2 * ((1 << 17) + 32)
    assert not machine.pinned


def test_a_case_that_a_device_cannot_calibrate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: fake_cupy.Machine
) -> None:
    pytest.importorskip("SimpleITK")
    case = make_case("a", members=2)
    reader = Reader(case)
    machine.free = 1 << 20
    with pytest.raises(WorkError, match=r"1 workers of up to 66 MiB(.|\n)*Free device memory"):
        tt.calibrate(reader, MAP, tmp_path / "out", device="cuda")
    machine.free = 1 << 30

    def fail(*_: Any, **__: Any) -> None:
        raise fake_cupy.CUDARuntimeError(700)

    with monkeypatch.context() as patch:
        patch.setattr(fake_cupy.Kernel, "__call__", fail)
        with pytest.raises(WorkError, match=r"Case a: the device failed: cudaError700(.|\n)*nvidia-smi"):
            tt.calibrate(reader, MAP, tmp_path / "out", device="cuda")
    machine.pinnable = 1000
    with pytest.raises(WorkError, match=r"1 MiB of pinned memory cannot be had: cudaError2(.|\n)*fewer --workers"):
        tt.calibrate(reader, MAP, tmp_path / "out", device="cuda")
    machine.pinnable = 1 << 30
    case.probability[1, 20, 41, 3] = np.nan
    message = error_of(lambda where: tt.calibrate(reader, MAP, tmp_path / "out", device=where), "cuda")
    assert message == error_of(lambda where: tt.calibrate(reader, MAP, tmp_path / "out", device=where), "cpu")
    assert message.startswith("InvalidScoresError: Case a, probability: 1 of 252000 scores are not probabilities")


def error_of(work: Callable[[Any], object], where: str) -> str:
    with pytest.raises(TwinTrackError) as caught:
        work(where)
    return f"{type(caught.value).__name__}: {caught.value}"


@pytest.mark.parametrize(("dtype", "wrong"), [("float16", np.nan), ("float32", 1.5), ("float32", -np.inf)])
def test_errors_are_those_of_the_cpu(tmp_path: Path, dtype: str, wrong: float) -> None:
    case = make_case("a", members=2, dtype=dtype)
    for place in ((0, 20, 40, 50), (1, 20, 41, 3), (1, 21, 2, 9)):
        case.probability[place] = wrong
    cohort = write(tmp_path / "c.zarr", case)
    for work in (
        lambda where: tt.accumulate(cohort, device=where),
        lambda where: tt.apply(cohort, MAP, tmp_path / where, device=where),
    ):
        message = error_of(work, "cuda")
        assert message == error_of(work, "cpu")
        assert message.startswith("InvalidScoresError: Case a, chunk")
    for policy in ("exclude",) if math.isnan(wrong) else ("exclude", "clip"):
        cpu, cuda = on_both(cohort, tmp_path / policy, on_invalid=policy)
        assert cpu == cuda


def test_votes_without_a_meaning_are_those_of_the_cpu(tmp_path: Path) -> None:
    case = make_case("a")
    assert case.votes is not None
    case.votes[15, 33, 40] = 200
    write(tmp_path / "c.zarr", make_case("a"))
    import zarr

    zarr.open_array(str(tmp_path / "c.zarr/a/votes"), mode="r+")[...] = case.votes
    cohort = open_cohort(tmp_path / "c.zarr")
    message = error_of(lambda where: tt.accumulate(cohort, device=where), "cuda")
    assert message == error_of(lambda where: tt.accumulate(cohort, device=where), "cpu")
    assert message.startswith("InvalidVotesError: Case a, chunk")


def test_of_two_faults_the_first_is_told(tmp_path: Path) -> None:
    case = make_case("a")
    case.probability[9, 40, 50] = np.nan
    cohort = write(tmp_path / "c.zarr", case)
    chunks = tmp_path / "c.zarr/a/probability/c"
    for tile, kind in (("1/1/1", "StoreError"), ("0/1/1", "StoreError"), ("2/0/0", "InvalidScoresError")):
        content = (chunks / tile).read_bytes()
        (chunks / tile).write_bytes(content[:-7])
        out = tmp_path / f"before{tile[0]}"
        out.mkdir()
        for work in (
            lambda where: tt.accumulate(cohort, device=where, workers=1),
            lambda where, out=out: tt.apply(cohort, MAP, out / where, device=where, workers=1),
        ):
            message = error_of(work, "cuda")
            assert message == error_of(work, "cpu")
            assert message.startswith(kind)
        (chunks / tile).write_bytes(content)


def test_a_damaged_chunk_leaves_nothing_behind_for_the_next_task(mixed: tt.Cohort, tmp_path: Path) -> None:
    cohort = write(tmp_path / "c.zarr", make_case("a"), make_case("b", seed=1))
    whole = tt.accumulate(cohort, device="cuda", workers=1)
    chunk = max(path for path in (tmp_path / "c.zarr/a/probability/c").rglob("*") if path.is_file())
    content = chunk.read_bytes()
    chunk.write_bytes(content[:-7])
    with pytest.raises(StoreError, match="damaged"):
        tt.accumulate(cohort, device="cuda", workers=1)
    chunk.write_bytes(content)
    assert tt.accumulate(cohort, device="cuda", workers=1)["a"].histogram == whole["a"].histogram


def tiles(shape: tuple[int, int, int]) -> Iterator[tuple[slice, ...]]:
    for index in np.ndindex(*(-(-size // tile) for size, tile in zip(SHAPE, shape, strict=True))):
        yield tuple(slice(i * n, min((i + 1) * n, size)) for i, n, size in zip(index, shape, SHAPE, strict=True))


def test_only_what_was_written_is_copied(tmp_path: Path, machine: fake_cupy.Machine) -> None:
    case = make_case("a", members=2, raters=2)
    cohort = write(tmp_path / "c.zarr", case)
    assert case.votes is not None
    reach = np.zeros(SHAPE, dtype=bool)  # of the chunks of votes that were written
    for box in tiles((16, 30, 32)):
        reach[box] = case.votes[box].any()
    scores = votes = visited = filled = 0
    for box in tiles((8, 32, 32)):
        voxels = reach[box].size
        if case.probability[(slice(None), *box)].any():
            scores += voxels * 4
            visited += 1
        elif reach[box].any():
            filled += voxels * 4
            visited += 1
        votes += voxels * bool(reach[box].any())
    tt.accumulate(cohort, device="cuda", workers=1)
    copied = [event.of for event in machine.log if event.what == "to device"]
    assert sum(copied) == scores + votes
    assert filled > 0
    assert sum(event.what == "accumulate" for event in machine.log) == visited < len(list(tiles((8, 32, 32))))
    back = [event.of for event in machine.log if event.what == "to host"]
    assert len(back) == 3  # places, counts and findings, once
    assert sum(back) == (8 + 4) * len(whole_cells(cohort)) + 32 * visited
    machine.log.clear()
    tt.apply(cohort, MAP, tmp_path / "out", device="cuda", workers=1)
    lut = 2 * (N_CODES + 1)
    n = sum(bool(case.probability[(slice(None), *box)].any()) for box in tiles((8, 32, 32)))
    assert sum(event.of for event in machine.log if event.what == "to device") == lut + scores
    assert sum(event.of for event in machine.log if event.what == "to host") == scores // 2 + 32 * n


def whole_cells(cohort: tt.Cohort) -> npt.NDArray[np.int64]:
    """Cells that are counted on the device: all but the background that is in no tile."""
    (case,) = cohort
    work = _plan_case(case, parse_roi("full"), "auto", "error").work()
    return count_tiles(replace(work, background=None))[3]


def test_a_tile_is_decoded_while_the_last_one_is_on_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: fake_cupy.Machine
) -> None:
    cohort = write(tmp_path / "c.zarr", make_case("a"))
    read, write_chunk = ChunkedArray.read, ChunkedArray.write_chunk

    def note(what: str) -> None:
        machine.note(what, fake_cupy.current())

    def reading(self: ChunkedArray, *arguments: Any) -> bool:
        if self.folder.name == "probability":
            note("decode")
        return read(self, *arguments)

    def writing(self: ChunkedArray, *arguments: Any) -> None:
        note("encode")
        write_chunk(self, *arguments)

    monkeypatch.setattr(ChunkedArray, "read", reading)
    monkeypatch.setattr(ChunkedArray, "write_chunk", writing)
    tt.accumulate(cohort, device="cuda", workers=1)
    decoded = progress(machine.log, "decode")
    # When tile k is decoded, tiles up to k - 1 were queued, and those up to k - 2, whose buffers it takes, are done.
    assert len(decoded) > 10
    assert decoded == [(k, max(0, k - 1)) for k in range(len(decoded))]
    machine.log.clear()
    tt.apply(cohort, MAP, tmp_path / "out", device="cuda", workers=1)
    decoded, encoded = progress(machine.log, "decode"), progress(machine.log, "encode")
    assert decoded == [(k, max(0, k - 1)) for k in range(len(decoded))]
    # When tile k is encoded it is done, and the next one was queued.
    assert encoded == [(min(k + 2, len(encoded)), k + 1) for k in range(len(encoded))]


def progress(log: Sequence[fake_cupy.Event], what: str) -> list[tuple[int, int]]:
    """How many tiles were queued, and how many were waited for, whenever something was done."""
    found, records, done = [], [], 0
    for event in log:
        if event.what == "record":
            records.append(event.of)
        elif event.what == "wait":
            done = max(done, max((i + 1 for i, of in enumerate(records) if of == event.of), default=0))
        elif event.what == what:
            found.append((len(records), done))
    return found


def test_without_waiting_the_fake_gives_other_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = write(tmp_path / "c.zarr", make_case("a"))
    monkeypatch.setattr(device._Lane, "wait", lambda self, half: None)
    with contextlib.suppress(TwinTrackError):
        assert tt.accumulate(cohort, device="cuda")["a"].histogram != tt.accumulate(cohort)["a"].histogram


@pytest.mark.parametrize("workers", [1, 3])
def test_memory_is_bounded_as_stated(
    mixed: tt.Cohort, tmp_path: Path, machine: fake_cupy.Machine, workers: int
) -> None:
    tt.accumulate(mixed, roi="mask", device="cuda", workers=workers)
    voxels, n_tiles = 8 * 32 * 32, max(sum(1 for _ in tiles((8, 32, 32))), 1)
    needs = [(3 * 2, 5), (4, 1), (9, 2), (2, 0)]  # bytes of a voxel's scores, and raters
    bounds = [voxels * (score + 2) + 52 * 2 * N_CODES * 2**raters for score, raters in needs]
    pools = [pool for pool in machine.pools if pool.limit]
    assert 1 <= len(pools) <= workers
    for pool in pools:
        assert max(bounds) + (1 << 20) <= pool.limit <= max(bounds) + (1 << 20) + 32 * n_tiles
        assert 0 < pool.peak <= pool.limit
        assert pool.used == 0  # given back when the workers ended
    assert machine.pinned_peak <= workers * 2 * voxels * (9 + 2)
    assert not machine.pinned
    machine.pools.clear()
    tt.apply(mixed, MAP, tmp_path / "out", dtype="float32", device="cuda", workers=workers)
    for pool in machine.pools:
        assert pool.limit == voxels * (9 + 4) + 4 * (N_CODES + 1) + (1 << 20)
        assert 0 < pool.peak <= pool.limit


def test_more_workers_than_the_device_has_memory_for(mixed: tt.Cohort, machine: fake_cupy.Machine) -> None:
    machine.free = 120 << 20
    with pytest.raises(WorkError) as caught:
        tt.accumulate(mixed, device="cuda", workers=3)
    assert re.fullmatch(
        r"3 workers of up to 50 MiB each need 1\d\d MiB of device memory; 120 MiB of Fake GPU are free.\n"
        r"Allowed: up to 2 workers.\nUse fewer --workers.",
        str(caught.value),
    )
    tt.accumulate(mixed, device="cuda", workers=2)
    machine.free = 1 << 20
    with pytest.raises(WorkError, match=r"Allowed: up to 0 workers.\nFree device memory, or make the store"):
        tt.accumulate(mixed, device="cuda", workers=1)


def test_a_device_that_is_full_or_fails(
    mixed: tt.Cohort, monkeypatch: pytest.MonkeyPatch, machine: fake_cupy.Machine
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(device, "_ROUNDING", -(45 << 20))
        with pytest.raises(WorkError, match=r"Case a: the device is out of memory: Out(.|\n)*Each of 1 workers takes"):
            tt.accumulate(mixed, device="cuda", workers=1)

    def fail(*_: Any, **__: Any) -> None:
        raise fake_cupy.CUDARuntimeError(700)

    with monkeypatch.context() as patch:
        patch.setattr(fake_cupy.Kernel, "__call__", fail)
        with pytest.raises(WorkError, match=r"Case [abcd]: the device failed: cudaError700(.|\n)*nvidia-smi"):
            tt.accumulate(mixed, device="cuda")
    tt.accumulate(mixed, device="cuda")


def test_a_device_that_lets_nobody_in(mixed: tt.Cohort, machine: fake_cupy.Machine) -> None:
    machine.is_taken = True
    with pytest.raises(WorkError, match=r"Fake GPU cannot be used: cudaError46(.|\n)*nvidia-smi who else"):
        tt.accumulate(mixed, device="cuda")
    machine.is_taken, machine.max_streams = False, 0
    with pytest.raises(WorkError, match=r"Case [abcd]: the device failed: cudaError2: "):
        tt.accumulate(mixed, device="cuda")


def test_requests_that_no_device_can_meet(mixed: tt.Cohort, tmp_path: Path) -> None:
    where: Any = "gpu"
    for work in (
        lambda: tt.accumulate(mixed, device=where),
        lambda: tt.apply(mixed, MAP, tmp_path / "out", device=where),
        lambda: tt.evaluate(mixed, device=where),
    ):
        with pytest.raises(RequestError, match=r"no device 'gpu'.\nAllowed: cpu, cuda"):
            work()
    with pytest.raises(RequestError, match=r"'reference' does not run on a CUDA device.\nAllowed: auto, or cupy"):
        tt.accumulate(mixed, device="cuda", kernel="reference")
    assert tt.accumulate(mixed, device="cuda", kernel="cupy")["a"] == tt.accumulate(mixed)["a"]
    assert not (tmp_path / "out").exists()


def test_the_cpu_never_takes_the_place_of_a_device(
    mixed: tt.Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("twintrack_core.kernels.device.is_installed", lambda: False)
    MAP.save(tmp_path / "map.json")
    store, out = str(mixed.path), str(tmp_path / "out")
    statistics = str(tmp_path / "statistics.zarr")
    tt.accumulate(mixed).save(statistics)
    for words in (
        ["fit", statistics, "-o", out],
        ["evaluate", statistics],
        ["compare", statistics],
        ["accumulate", store, "-o", out],
        ["fit", store, "-o", out],
        ["apply", store, str(tmp_path / "map.json"), "-o", out],
        ["evaluate", store],
        ["compare", store],
    ):
        assert main([*words, "--device", "cuda"]) == 1
        said = capsys.readouterr()
        assert said.err.startswith(
            "twintrack: A CUDA device cannot be used without CuPy.\npip install 'twintrack-core[gpu]'"
        )
        assert not Path(out).exists()
    reader: Any = None
    with pytest.raises(WorkError, match="without CuPy"):
        tt.calibrate(reader, MAP, out, device="cuda")
    with pytest.raises(WorkError, match="without CuPy"):
        tt.evaluate(tt.CohortStatistics.load(statistics), device="cuda")
    with pytest.raises(RequestError, match="no device 'gpu'"):
        tt.evaluate(tt.CohortStatistics.load(statistics), device="gpu")  # type: ignore[arg-type]


def test_commands(mixed: tt.Cohort, tmp_path: Path, machine: fake_cupy.Machine) -> None:
    store = str(mixed.path)
    for where in ("cpu", "cuda"):
        folder = tmp_path / where
        folder.mkdir()
        for words in (
            ["accumulate", store, "-o", f"{folder}/stats"],
            ["fit", store, "-o", f"{folder}/map.json", "--cases", "a"],
            ["apply", store, f"{folder}/map.json", "-o", f"{folder}/out"],
            ["evaluate", store, "-o", f"{folder}/evaluation.json"],
        ):
            machine.log.clear()
            assert main([*words, "--device", where]) == 0
            kernels = {event.what for event in machine.log} & {"accumulate", "relabel"}
            assert kernels == (set() if where == "cpu" else {"relabel" if words[0] == "apply" else "accumulate"})
    assert tree(tmp_path / "cpu") == tree(tmp_path / "cuda")
    assert not any(b"cuda" in content or b"cupy" in content for content in tree(tmp_path / "cuda").values())
