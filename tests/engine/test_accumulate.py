"""The streamed statistics against whole arrays in memory and the oracle."""

from __future__ import annotations

import filecmp
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

import twintrack_core as tt
from twintrack_core.cohort.case import Case, Geometry
from twintrack_core.cohort.chunks import ChunkedArray
from twintrack_core.cohort.scratch import Scratch
from twintrack_core.cohort.store import open_cohort
from twintrack_core.cohort.writer import CohortWriter
from twintrack_core.engine.run import TASK_BYTES, groups, task_bytes
from twintrack_core.errors import InvalidScoresError, InvalidVotesError, RequestError

SPACING = (3.0, 1.0, 0.7)


def make_case(name: str, shape: tuple[int, int, int], members: int, raters: int, seed: int) -> Case:
    """A small lesion in an empty volume, with votes and a coarse region beside it."""
    rng = np.random.default_rng(seed)
    stored = np.zeros((members, *shape), dtype=np.float16)
    votes = np.zeros(shape, dtype=np.uint8)
    low = [int(rng.integers(0, max(1, n // 2))) for n in shape]
    box = tuple(slice(start, start + max(1, n // 3)) for start, n in zip(low, shape, strict=True))
    stored[(slice(None), *box)] = rng.random(stored[(slice(None), *box)].shape)
    votes[box] = rng.integers(0, 1 << raters, votes[box].shape)
    roi = np.zeros(shape, dtype=bool)
    roi[tuple(slice(s.start + 1, s.stop + 1) for s in box)] = True
    return Case(
        name=name,
        probability=stored if members > 1 else stored[0],
        raters=tuple(f"rater{r}" for r in range(raters)),
        votes=votes,
        roi=roi,
        geometry=Geometry(spacing_mm=SPACING),
    )


def write(path: Path, *cases: Case) -> tt.Cohort:
    writer = CohortWriter(path, [case.name for case in cases])
    for case in cases:
        writer.write_case(case)
    writer.finish()
    return open_cohort(path)


def region_of(case: Case, rule: str) -> npt.NDArray[np.bool_] | None:
    """The region by brute force."""
    assert case.votes is not None
    assert case.roi is not None
    if rule == "full":
        return None
    if rule == "mask":
        return case.roi
    if rule == "mask+3mm":
        return np.asarray(ndimage.distance_transform_edt(~case.roi, sampling=SPACING) <= 3 + 1e-9)
    marks = np.argwhere(case.votes)
    inside = np.zeros(case.votes.shape, dtype=bool)
    if len(marks):
        low, high = np.maximum(marks.min(axis=0) - 2, 0), marks.max(axis=0) + 2
        inside[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return inside


def whole(case: Case, rule: str) -> tt.JointHistogram:
    return tt.JointHistogram.from_votes(
        case.probability,
        case.votes,
        raters=case.raters,
        roi=region_of(case, rule),
        members=case.probability.ndim == 4,
        kernel="reference",
    )


@pytest.mark.parametrize("rule", ["full", "mask", "mask+3mm", "raters+2"])
@pytest.mark.parametrize("members", [1, 3])
def test_statistics_equal_the_oracle_on_whole_arrays(tmp_path: Path, rule: str, members: int) -> None:
    cases = [make_case(f"c{i}", (20 + i, 70, 90), members, 1 + i, seed=i) for i in range(3)]
    statistics = tt.accumulate(write(tmp_path / "c.zarr", *cases), roi=rule)
    assert statistics.roi == rule
    assert statistics.names == ("c0", "c1", "c2")
    for case in cases:
        assert statistics[case.name].histogram == whole(case, rule)
        assert statistics[case.name].spacing_mm == SPACING


@settings(max_examples=15)
@given(
    chunks=st.tuples(st.integers(1, 25), st.integers(5, 45), st.integers(5, 45)),
    vote_chunks=st.tuples(st.integers(1, 25), st.integers(5, 45), st.integers(5, 45)),
    shards=st.booleans(),
    codec=st.sampled_from(["blosc", "zstd", "gzip", "none", "crc32c"]),
    workers=st.integers(1, 3),
    rule=st.sampled_from(["full", "mask", "mask+3mm", "raters+2"]),
)
def test_any_chunking_codec_and_workers_give_the_same_table(
    tmp_path_factory: pytest.TempPathFactory,
    chunks: tuple[int, ...],
    vote_chunks: tuple[int, ...],
    shards: bool,
    codec: str,
    workers: int,
    rule: str,
) -> None:
    case = make_case("c", (13, 40, 44), 2, 3, seed=5)
    path = tmp_path_factory.mktemp("any") / "c.zarr"
    write(path, case)
    compressors: dict[str, Any] = {
        "blosc": zarr.codecs.BloscCodec(),
        "zstd": zarr.codecs.ZstdCodec(level=1),
        "gzip": zarr.codecs.GzipCodec(level=1),
        "none": None,
        "crc32c": zarr.codecs.Crc32cCodec(),
    }
    parts: list[tuple[str, Any, tuple[int, ...]]] = [
        ("probability", case.probability, (2, *chunks)),
        ("votes", case.votes, vote_chunks),
        ("roi", case.roi, chunks),
    ]
    for name, values, grid in parts:
        array = zarr.create_array(
            store=str(path / "c" / name),
            shape=values.shape,
            dtype=values.dtype,
            chunks=grid,
            shards=tuple(2 * n for n in grid) if shards else None,
            compressors=compressors[codec],
            fill_value=0,
            overwrite=True,
        )
        array[...] = values
    statistics = tt.accumulate(open_cohort(path), roi=rule, workers=workers)
    assert statistics["c"].histogram == whole(case, rule)


def test_the_same_bytes_whatever_the_workers_and_the_kernel(tmp_path: Path) -> None:
    cohort = write(tmp_path / "c.zarr", *(make_case(f"c{i}", (30, 80, 80), 2, 4, seed=i) for i in range(4)))
    for n, (workers, kernel) in enumerate([(1, "numba"), (2, "numba"), (4, "numba"), (2, "reference")]):
        tt.accumulate(cohort, roi="raters+2", workers=workers, kernel=kernel).save(tmp_path / f"s{n}.zarr")
        if n:
            compared = filecmp.dircmp(tmp_path / "s0.zarr", tmp_path / f"s{n}.zarr")
            assert_equal_trees(compared)


def assert_equal_trees(compared: filecmp.dircmp[str]) -> None:
    assert not compared.left_only
    assert not compared.right_only
    _, different, errors = filecmp.cmpfiles(compared.left, compared.right, compared.common_files, shallow=False)
    assert not different
    assert not errors
    for nested in compared.subdirs.values():
        assert_equal_trees(nested)


def test_unwritten_chunks_are_counted_and_never_read(tmp_path: Path) -> None:
    # 69 billion voxels of which one chunk was written: reading the rest would take minutes and 200 GB.
    side = 4096
    path = tmp_path / "c.zarr"
    write(path, make_case("c", (2, 2, 2), 1, 2, seed=1))
    for name, dtype in (("probability", "float16"), ("votes", "uint8"), ("roi", "bool")):
        array = zarr.create_array(
            store=str(path / "c" / name), shape=(side,) * 3, chunks=(64,) * 3, dtype=dtype, fill_value=0, overwrite=True
        )
        array[1000, 2000, 3000:3002] = 1
    for rule, inside in (("full", side**3), ("mask", 2), ("raters+5", 10 * 10 * 11)):
        histogram = tt.accumulate(open_cohort(path), roi=rule)["c"].histogram
        assert histogram.n_voxels == side**3
        assert histogram.n_inside == inside
        assert histogram.counts[:, -1, 1].sum() == 2


@pytest.mark.parametrize("fill", [0.25, 1.0])
def test_the_fill_value_is_the_score_of_unwritten_voxels(tmp_path: Path, fill: float) -> None:
    case = make_case("c", (20, 60, 60), 1, 2, seed=2)
    path = tmp_path / "c.zarr"
    write(path, case)
    zarr.create_array(
        store=str(path / "c" / "probability"),
        shape=case.probability.shape,
        dtype="float16",
        chunks=(10, 30, 30),
        fill_value=fill,
        overwrite=True,
    )
    filled = np.full(case.probability.shape, fill, dtype=np.float16)
    for rule in ("full", "mask", "raters+2"):
        expected = tt.JointHistogram.from_votes(
            filled, case.votes, raters=case.raters, roi=region_of(case, rule), kernel="reference"
        )
        assert tt.accumulate(open_cohort(path), roi=rule)["c"].histogram == expected


def test_a_case_without_marks_has_an_empty_raters_box(tmp_path: Path) -> None:
    case = make_case("c", (10, 20, 20), 1, 2, seed=0)
    assert case.votes is not None
    case.votes[...] = 0
    statistics = tt.accumulate(write(tmp_path / "c.zarr", case), roi="raters+20")
    assert statistics["c"].histogram.n_inside == 0
    assert statistics["c"].histogram.n_voxels == 4000


def test_damage_is_named_with_case_and_place(tmp_path: Path) -> None:
    path = tmp_path / "c.zarr"
    write(path, make_case("fine", (10, 20, 20), 1, 2, seed=0), make_case("broken", (10, 20, 20), 1, 2, seed=1))
    array = zarr.open_array(str(path / "broken" / "probability"), mode="r+")
    array[3, 4, 5] = np.nan
    with pytest.raises(InvalidScoresError, match=r"Case broken, .*nan at index \(3, 4, 5\)"):
        tt.accumulate(open_cohort(path))
    excluded = tt.accumulate(open_cohort(path), on_invalid="exclude")
    assert excluded["broken"].histogram.n_voxels == 3999
    array[3, 4, 5] = 0
    votes = zarr.open_array(str(path / "broken" / "votes"), mode="r+")
    votes[0, 0, 1] = 4
    with pytest.raises(InvalidVotesError, match=r"Case broken, .* 4 at index \(0, 0, 1\)"):
        tt.accumulate(open_cohort(path))


def test_rules_that_need_what_a_case_lacks(tmp_path: Path) -> None:
    case = make_case("bare", (6, 8, 8), 1, 1, seed=0)
    cohort = write(tmp_path / "c.zarr", Case(name="bare", probability=case.probability))
    with pytest.raises(RequestError, match="bare has no roi"):
        tt.accumulate(cohort, roi="mask")
    with pytest.raises(RequestError, match=r"No case of .* has raters"):
        tt.accumulate(cohort, roi="raters+20")
    with pytest.raises(RequestError, match="boxes"):
        tt.accumulate(cohort, roi="boxes")
    with pytest.raises(RequestError, match="workers"):
        tt.accumulate(cohort, workers=0)
    with pytest.raises(RequestError, match="Exclude"):
        tt.accumulate(cohort, on_invalid="Exclude")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="open_cohort"):
        tt.accumulate("c.zarr")  # type: ignore[arg-type]
    assert tt.accumulate(cohort)["bare"].histogram.raters == ()


def test_a_case_without_raters_has_nothing_inside_a_box_around_marks(tmp_path: Path) -> None:
    rated = make_case("rated", (6, 8, 8), 1, 1, seed=0)
    cohort = write(tmp_path / "c.zarr", rated, Case(name="bare", probability=rated.probability))
    statistics = tt.accumulate(cohort, roi="raters+2")
    assert statistics["rated"].histogram.n_inside > 0
    assert (statistics["bare"].histogram.n_inside, statistics["bare"].marks) == (0, None)
    rows = tt.evaluate(cohort, metrics=["tdsc"], roi="raters+2").rows
    assert {row.why for row in rows if row.case == "bare"} == {"there are no raters"}


def test_a_chunk_larger_than_the_tiles_is_decoded_once_for_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make_case("c", (32, 64, 64), 1, 2, seed=1)
    path = tmp_path / "c.zarr"
    write(path, case)
    parts: list[tuple[str, Any, tuple[int, ...]]] = [
        ("probability", case.probability, (8, 16, 16)),
        ("votes", case.votes, (32, 64, 64)),
    ]
    for name, values, chunks in parts:
        array = zarr.create_array(
            store=str(path / "c" / name), shape=(32, 64, 64), chunks=chunks, dtype=values.dtype, overwrite=True
        )
        array[...] = values
    read = ChunkedArray.read_chunk
    decoded: list[str] = []

    def counted(self: ChunkedArray, index: tuple[int, ...], out: npt.NDArray[Any], scratch: Scratch) -> bool:
        decoded.append(str(self.folder))
        return read(self, index, out, scratch)

    monkeypatch.setattr(ChunkedArray, "read_chunk", counted)
    assert tt.accumulate(open_cohort(path))["c"].histogram == whole(case, "full")
    assert sum(path.endswith("votes") for path in decoded) == 1
    assert len(decoded) > 2


@pytest.mark.parametrize(
    ("sizes", "workers", "expected"),
    [
        ([], 2, []),
        ([0, 0, 0], 2, [(0, 1, 2)]),
        ([5], 1, [(0,)]),
        ([1] * 8, 2, [(i,) for i in range(8)]),  # every worker has some
        ([TASK_BYTES // 2] * 40, 1, [(i, i + 1) for i in range(0, 40, 2)]),
        ([3 * TASK_BYTES, 1, 1, 3 * TASK_BYTES], 1, [(0,), (1, 2), (3,)]),
    ],
)
def test_cases_are_grouped_by_their_bytes(sizes: list[int], workers: int, expected: list[tuple[int, ...]]) -> None:
    assert groups(range(len(sizes)), sizes, task_bytes(sum(sizes), workers)) == expected
