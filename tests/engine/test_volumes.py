"""Volume metrics of a cohort against the same metrics of whole arrays."""

from __future__ import annotations

import threading
import time
import tracemalloc
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import twintrack_core as tt
from twintrack_core.codes import CODE_VALUES, mean_codes
from twintrack_core.cohort.case import Case, Geometry
from twintrack_core.cohort.chunks import ChunkedArray
from twintrack_core.cohort.store import open_cohort
from twintrack_core.cohort.writer import CohortWriter
from twintrack_core.engine import volumes as engine
from twintrack_core.engine.volumes import measure, read_volumes
from twintrack_core.errors import InvalidScoresError, InvalidVotesError, PluginError, RequestError, StoreError
from twintrack_core.metrics import CaseVolumes, Result, Undefined, VolumeMetric, get
from twintrack_core.metrics.evaluation import variants
from twintrack_core.simulate import Simulation

RAW = variants(None)
SPACING = (3.0, 1.0, 0.7)
MAP = tt.CalibrationMap(
    score=np.array([0.0, 0.2, 0.9]), value=np.array([0.0, 0.35, 0.8]), calibrator="isotonic", target="mhr"
)


def metric(name: str, function: Callable[[CaseVolumes], Result], *needs: Any) -> VolumeMetric:
    return VolumeMetric(
        name=name,
        function=function,
        needs=needs,
        unit="1",
        better="lower",
        range=(0, 1),
        description=name,
        source="this test",
    )


def _centre(volumes: CaseVolumes) -> float:
    """Where the scores are: it tells a box from one that lies elsewhere."""
    places = np.argwhere(volumes.above(0.2)) + np.asarray(volumes.start)
    return float((places @ [1.0, 100.0, 10000.0]).sum())


def _touched(volumes: CaseVolumes) -> float:
    assert volumes.vessels is not None
    return float((volumes.vessels * volumes.scores()).sum(dtype=np.float64))


def metrics() -> list[VolumeMetric]:
    surfaces = [get(name) for name in ("surface_dice", "surface_dice:0.3:2", "hausdorff95", "hausdorff95:0.2")]
    return [
        *(found for found in surfaces if isinstance(found, VolumeMetric)),
        metric("centre", _centre),
        metric("marks", lambda volumes: float(volumes.mhr_above(0.4).sum()), "votes"),
        metric("touched", _touched, "votes", "vessels"),
    ]


def make_case(
    name: str, shape: tuple[int, int, int], members: int, dtype: str, seed: int, *, fill: float = 0.0
) -> Case:
    """A small lesion, marks and vessels that lie where they like, all in an empty volume."""
    rng = np.random.default_rng(seed)
    boxes = []
    for _ in range(3):
        low = [int(rng.integers(0, max(1, n - n // 3))) for n in shape]
        boxes.append(tuple(slice(start, start + max(1, n // 3)) for start, n in zip(low, shape, strict=True)))
    stored = np.full((members, *shape), fill * (255 if dtype == "uint8" else 1), dtype=dtype)
    scores = rng.random(stored[(slice(None), *boxes[0])].shape)
    stored[(slice(None), *boxes[0])] = np.rint(scores * 255) if dtype == "uint8" else scores
    votes, vessels = np.zeros((2, *shape), dtype=np.uint8)
    votes[boxes[1]] = rng.integers(0, 8, votes[boxes[1]].shape)
    vessels[boxes[2]] = rng.integers(0, 6, vessels[boxes[2]].shape)
    return Case(
        name=name,
        probability=stored if members > 1 else stored[0],
        raters=("ann", "bob", "cy"),
        votes=votes,
        vessels=vessels,
        geometry=Geometry(spacing_mm=SPACING),
    )


def write(path: Path, *cases: Case) -> tt.Cohort:
    writer = CohortWriter(path, [case.name for case in cases])
    for case in cases:
        writer.write_case(case)
    writer.finish()
    return open_cohort(path)


def store_again(
    folder: Path, values: npt.NDArray[Any], chunks: Sequence[int], fill: float, *, all_chunks: bool
) -> None:
    """Store an array of a case anew, without the chunks that hold nothing but the fill value unless ``all_chunks``."""
    array = zarr.create_array(
        store=str(folder),
        shape=values.shape,
        dtype=values.dtype,
        chunks=tuple(chunks),
        fill_value=values.dtype.type(fill),
        overwrite=True,
        config={"write_empty_chunks": all_chunks},
    )
    array[...] = values


def whole(case: Case, calibration: tt.CalibrationMap | None = None) -> CaseVolumes:
    """The arrays as they are; scores through a map as a whole array."""
    members = case.probability if case.probability.ndim == 4 else case.probability[np.newaxis]
    codes, valid = mean_codes(members)
    assert valid.all()
    if calibration is not None:
        mapped = calibration(case.probability, members=case.probability.ndim == 4, dtype=np.float16)
        codes = mapped.view(np.uint16)
    return CaseVolumes(codes, case.raters, case.votes, case.vessels, spacing_mm=case.geometry.spacing_mm)


def expected(case: Case, wanted: Sequence[VolumeMetric], calibration: tt.CalibrationMap | None = None) -> list[Result]:
    return [metric(whole(case, calibration)) for metric in wanted]


chunk_shapes = st.tuples(st.integers(2, 15), st.integers(4, 20), st.integers(4, 20))


@settings(max_examples=40)
@given(data=st.data(), seed=st.integers(0, 1000), fill=st.sampled_from([0.0, 0.0, 0.0625, 1.0]))
def test_any_store_gives_what_the_whole_arrays_give(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, seed: int, fill: float
) -> None:
    members = data.draw(st.integers(1, 3))
    dtype = data.draw(st.sampled_from(["float16", "float32", "uint8"]))
    case = make_case("c", (11, 17, 19), members, dtype, seed, fill=fill)
    first, last = float(case.probability.flat[0]), float(case.probability.flat[-1])
    path = tmp_path_factory.mktemp("any") / "c.zarr"
    write(path, case)
    lead = data.draw(st.sampled_from([1, members])) if members > 1 else 0
    parts = {"probability": case.probability, "votes": case.votes, "vessels": case.vessels}
    for name, values in parts.items():
        assert values is not None
        chunks = data.draw(chunk_shapes)
        store_again(
            path / "c" / name,
            values,
            (lead, *chunks) if values.ndim == 4 else chunks,
            first if name == "probability" and first == last else 0,
            all_chunks=data.draw(st.booleans()),
        )
    wanted = metrics()
    found = measure(open_cohort(path), wanted, variants(MAP), workers=data.draw(st.integers(1, 2)))
    assert list(found) == [("c", variant, metric.name) for variant in ("raw", "calibrated") for metric in wanted]
    for variant, calibration in (("raw", None), ("calibrated", MAP)):
        for metric, result in zip(wanted, expected(case, wanted, calibration), strict=True):
            value = found["c", variant, metric.name]
            if fill == 1.0 and isinstance(value, Undefined):
                assert "where nothing is written" in value.why or value == result
            elif metric.name == "centre" and fill == 1.0:
                continue  # it sees the box alone
            elif isinstance(result, float) and metric.name == "touched":
                assert value == pytest.approx(result, rel=1e-12)  # a sum, in another order
            else:
                assert value == result


def test_the_box_is_what_differs_from_the_background_and_a_voxel_around_it(tmp_path: Path) -> None:
    shape = (20, 30, 40)
    probability, votes, vessels = np.zeros(shape, np.float16), np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    probability[5, 10:12, 15] = 0.5
    votes[7, 3, 20] = 1
    vessels[0, 12, 39] = 5
    case = Case(name="c", probability=probability, raters=("ann",), votes=votes, vessels=vessels)
    stored = write(tmp_path / "c.zarr", case)["c"]
    for needs, start, size in (
        ((), (4, 9, 14), (3, 4, 3)),
        (("votes",), (4, 2, 14), (5, 11, 8)),
        (("votes", "vessels"), (0, 2, 14), (9, 12, 26)),
    ):
        volumes = read_volumes(stored, needs, on_invalid="error")
        assert (volumes.start, volumes.codes.shape, volumes.shape) == (start, size, shape)
        box = tuple(slice(low, low + n) for low, n in zip(start, size, strict=True))
        np.testing.assert_array_equal(volumes.scores(), probability[box].astype(np.float32))
        for name, values in (("votes", votes), ("vessels", vessels)):
            found = getattr(volumes, name)
            assert (found is None) == (name not in needs)
            if found is not None:
                np.testing.assert_array_equal(found, values[box])


def test_a_case_of_which_nothing_is_written(tmp_path: Path) -> None:
    empty = np.zeros((4, 5, 6), np.uint8)
    case = Case(name="c", probability=np.zeros((4, 5, 6), np.float16), raters=("ann",), votes=empty)
    cohort = write(tmp_path / "c.zarr", case)
    assert read_volumes(cohort["c"], on_invalid="error").codes.shape == (1, 1, 1)
    found = measure(cohort, metrics(), RAW)
    assert found["c", "raw", "centre"] == 0
    assert found["c", "raw", "touched"] == Undefined("there are no vessels")
    value = found["c", "raw", "hausdorff95"]
    assert isinstance(value, Undefined)
    assert "neither" in value.why


def test_unwritten_chunks_are_neither_read_nor_held(tmp_path: Path) -> None:
    # 69 billion voxels: 270 GB if they were held.
    side = 4096
    path = tmp_path / "c.zarr"
    write(path, make_case("c", (2, 2, 2), 1, "float16", seed=1))
    for name, dtype in (("probability", "float16"), ("votes", "uint8"), ("vessels", "uint8")):
        array = zarr.create_array(
            store=str(path / "c" / name), shape=(side,) * 3, chunks=(64,) * 3, dtype=dtype, fill_value=0, overwrite=True
        )
        array[1000, 2000, 3000:3004] = 1
    found = measure(open_cohort(path), metrics(), RAW)
    assert found["c", "raw", "surface_dice"] == 0.0  # one of three raters is no majority
    assert found["c", "raw", "surface_dice:0.3:2"] == 1.0
    assert found["c", "raw", "centre"] == 4 * (1000 + 200000) + 10000 * (3000 + 3001 + 3002 + 3003)
    assert found["c", "raw", "touched"] == 4


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> tt.Cohort:
    simulation = Simulation(cases=3, shape=(24, 96, 96), raters=3, members=3, seed=4)
    return tt.import_cases(simulation, tmp_path_factory.mktemp("volumes") / "c.zarr")


def test_a_map_gives_what_the_cohort_that_it_writes_gives(simulated: tt.Cohort, tmp_path: Path) -> None:
    fitted = tt.fit(tt.accumulate(simulated))
    lifted = tt.CalibrationMap(
        score=np.array([0.0, 1.0]), value=np.array([0.25, 0.75]), calibrator="identity", target="mhr"
    )
    wanted = [item for item in metrics() if item.name != "centre"]  # it sees the box, which depends on the background
    found = measure(simulated, wanted, variants({"fitted": fitted, "lifted": lifted}))
    assert len(found) == 3 * 3 * len(wanted)
    for name, calibration in (("fitted", fitted), ("lifted", lifted)):
        calibrated = tt.apply(simulated, calibration, tmp_path / f"{name}.zarr")
        written = measure(calibrated, wanted, RAW)
        for case in simulated.names:
            for item in wanted:
                assert found[case, f"calibrated:{name}", item.name] == written[case, "raw", item.name]
    raw = [found[case, "raw", "surface_dice"] for case in simulated.names]
    assert raw != [found[case, "calibrated:fitted", "surface_dice"] for case in simulated.names]


def test_the_same_bytes_whatever_the_workers_and_the_kernel(simulated: tt.Cohort) -> None:
    first = measure(simulated, metrics(), variants(MAP), workers=1, kernel="numba")
    for workers, kernel in ((2, "auto"), (3, "numba"), (1, "reference")):
        found = measure(simulated, metrics(), variants(MAP), workers=workers, kernel=kernel)
        assert list(found.items()) == list(first.items())


def test_what_a_case_lacks_makes_what_needs_it_undefined(tmp_path: Path) -> None:
    case = make_case("c", (8, 12, 12), 1, "float16", seed=3)
    bare = Case(name="bare", probability=case.probability)
    rated = Case(name="rated", probability=case.probability, raters=case.raters, votes=case.votes)
    found = measure(write(tmp_path / "c.zarr", bare, rated), metrics(), RAW)
    assert found["bare", "raw", "marks"] == Undefined("there are no raters")
    assert found["bare", "raw", "surface_dice"] == Undefined("there are no raters")
    assert found["bare", "raw", "touched"] == Undefined("there are no raters")
    assert found["rated", "raw", "touched"] == Undefined("there are no vessels")
    assert isinstance(found["rated", "raw", "marks"], float)
    assert found["bare", "raw", "centre"] == found["rated", "raw", "centre"]


def test_arrays_that_no_metric_needs_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = write(tmp_path / "c.zarr", make_case("c", (8, 12, 12), 2, "float16", seed=3))
    read = ChunkedArray.read_chunk
    seen: set[str] = set()

    def noted(self: ChunkedArray, *arguments: Any) -> bool:
        seen.add(self.folder.name)
        return read(self, *arguments)

    monkeypatch.setattr(ChunkedArray, "read_chunk", noted)
    by_name = {item.name: item for item in metrics()}
    measure(cohort, [by_name["centre"]], RAW)
    assert seen == {"probability"}
    measure(cohort, [by_name["marks"]], RAW)
    assert seen == {"probability", "votes"}
    measure(cohort, [by_name["centre"], by_name["touched"]], RAW)
    assert seen == {"probability", "votes", "vessels"}


def test_where_everything_is_written_most_tiles_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.random.default_rng(0).uniform(0.01, 1, (32, 64, 64)).astype(np.float16)
    path = tmp_path / "c.zarr"
    write(path, Case(name="c", probability=scores))
    store_again(path / "c" / "probability", scores, (8, 16, 16), 0, all_chunks=False)
    read = ChunkedArray.read_chunk
    calls: list[Any] = []

    def counted(self: ChunkedArray, *arguments: Any) -> bool:
        calls.append(arguments[0])
        return read(self, *arguments)

    monkeypatch.setattr(ChunkedArray, "read_chunk", counted)
    volumes = read_volumes(open_cohort(path)["c"], on_invalid="error")
    assert volumes.is_whole
    np.testing.assert_array_equal(volumes.codes, scores.view(np.uint16))
    assert len(calls) == 64 + 2


def test_damage_is_named_with_case_and_place(tmp_path: Path) -> None:
    path = tmp_path / "c.zarr"
    fine, broken = (make_case(name, (10, 20, 20), 2, "float32", seed=1) for name in ("fine", "broken"))
    write(path, fine, broken)
    wanted = metrics()
    scores = zarr.open_array(str(path / "broken" / "probability"), mode="r+")
    scores[1, 9, 4, 5] = 1.5  # beyond the box, in a chunk that was not written
    with pytest.raises(InvalidScoresError, match=r"Case broken, .*members 0\.0, 1\.5 at index \(9, 4, 5\)"):
        measure(open_cohort(path), wanted, RAW)
    clipped = measure(open_cohort(path), wanted, RAW, on_invalid="clip")
    assert clipped["broken", "raw", "centre"] != clipped["fine", "raw", "centre"]
    scores[1, 9, 4, 5] = np.nan
    with pytest.raises(InvalidScoresError, match=r"nan at index \(9, 4, 5\)"):
        measure(open_cohort(path), wanted, RAW, on_invalid="clip")
    scores[1, 9, 4, 5] = 0

    votes = zarr.open_array(str(path / "broken" / "votes"), mode="r+")
    votes[0, 0, 1] = 9
    with pytest.raises(InvalidVotesError, match=r"Case broken, votes: 1 of .* 9 at index \(0, 0, 1\)"):
        measure(open_cohort(path), wanted, RAW)
    votes[0, 0, 1] = 0

    vessels = zarr.open_array(str(path / "broken" / "vessels"), mode="r+")
    vessels[0, 0, 1:3] = 6
    with pytest.raises(StoreError, match=r"Case broken: its vessels hold the label 6 \(2 voxels\)"):
        measure(open_cohort(path), wanted, RAW)


def test_a_fill_value_that_no_voxel_has_is_not_looked_at(tmp_path: Path) -> None:
    case = make_case("c", (8, 12, 12), 1, "float32", seed=3)
    path = tmp_path / "c.zarr"
    write(path, case)
    store_again(path / "c" / "probability", case.probability, (4, 6, 6), np.nan, all_chunks=True)
    found = measure(open_cohort(path), metrics(), RAW)
    assert [found["c", "raw", item.name] for item in metrics()][:4] == expected(case, metrics())[:4]
    array = zarr.create_array(
        store=str(path / "c" / "probability"),
        shape=(8, 12, 12),
        chunks=(4, 6, 6),
        dtype="float32",
        fill_value=np.nan,
        overwrite=True,
    )
    array[:4] = 0.5
    with pytest.raises(InvalidScoresError, match="Case c, the fill value of probability"):
        measure(open_cohort(path), metrics(), RAW)


def test_wrong_requests_and_metrics_that_fail(simulated: tt.Cohort) -> None:
    with pytest.raises(RequestError, match="leave voxels out"):
        measure(simulated, metrics(), RAW, on_invalid="exclude")
    with pytest.raises(RequestError, match="no policy"):
        measure(simulated, metrics(), RAW, on_invalid="ignore")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="no kernel 'x'"):
        measure(simulated, metrics(), RAW, kernel="x")
    with pytest.raises(PluginError, match=r"Case case000: The metric 'bad' failed: ZeroDivisionError"):
        measure(simulated.select(["case000"]), [metric("bad", lambda _: 1 / 0)], RAW)


@pytest.mark.parametrize("workers", [1, 2])
def test_no_more_cases_are_held_than_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    cohort = write(tmp_path / "c.zarr", *(make_case(f"c{i}", (8, 12, 12), 1, "float16", seed=i) for i in range(8)))
    held: weakref.WeakSet[CaseVolumes] = weakref.WeakSet()
    lock = threading.Lock()
    most: list[int] = []

    class Watched(CaseVolumes):
        """Volumes that are known for as long as they are there."""

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.values is CODE_VALUES:  # those that are read: the copies for maps share their arrays
                with lock:
                    held.add(self)
                    most.append(len(held))

    monkeypatch.setattr(engine, "CaseVolumes", Watched)

    def wait(_: CaseVolumes) -> float:
        time.sleep(0.02)
        return 0.0

    assert len(measure(cohort, [metric("slow", wait)], {"calibrated": MAP}, workers=workers)) == 8
    assert len(most) == 8
    assert max(most) == workers
    assert not held


def test_members_are_never_held_as_a_whole(tmp_path: Path) -> None:
    # The box takes 4 bytes a voxel, its members 32 as float32; a chunk of it is a 64th of that.
    members, shape = 8, (64, 128, 128)
    scores = np.random.default_rng(0).random((members, *shape), dtype=np.float32)
    path = tmp_path / "c.zarr"
    votes = np.ones(shape, dtype=np.uint8)
    write(path, Case(name="c", probability=scores, raters=("ann",), votes=votes, vessels=votes))
    parts: list[tuple[str, npt.NDArray[Any], tuple[int, ...]]] = [
        ("probability", scores, (1, 16, 32, 32)),
        ("votes", votes, (16, 32, 32)),
        ("vessels", votes, (16, 32, 32)),
    ]
    for name, values, chunks in parts:
        store_again(path / "c" / name, values, chunks, 0, all_chunks=False)
    del scores
    cohort = open_cohort(path)
    small = metric("small", lambda volumes: float(volumes.codes[0, 0, 0] > 0), "votes", "vessels")
    measure(cohort, [small], RAW, workers=1)  # what is imported and compiled once
    tracemalloc.start()
    try:
        measure(cohort, [small], variants(MAP), workers=1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    voxels = int(np.prod(shape))
    assert 4 * voxels <= peak < 6 * voxels
