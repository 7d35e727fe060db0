"""The calibrated store against the map on whole arrays, and what happens when it is cut off."""

from __future__ import annotations

import filecmp
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import zarr

import twintrack_core as tt
from twintrack_core.cohort.case import Case, Geometry
from twintrack_core.cohort.store import open_cohort
from twintrack_core.cohort.writer import CohortWriter
from twintrack_core.errors import InvalidScoresError, RequestError, StoreError, WorkError
from twintrack_core.simulate import Simulation
from twintrack_core.storage.local import LocalFolder


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> tt.Cohort:
    simulation = Simulation(cases=3, shape=(48, 160, 160), raters=3, members=2, seed=1)
    return tt.import_cases(simulation, tmp_path_factory.mktemp("apply") / "c.zarr")


@pytest.fixture(scope="module")
def fitted(cohort: tt.Cohort) -> tt.CalibrationMap:
    return tt.fit(tt.accumulate(cohort, roi="raters+20"))


def tree(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def by_hand(members: npt.NDArray[Any], fitted: tt.CalibrationMap) -> npt.NDArray[np.float64]:
    """The map of the members' mean in plain NumPy."""
    total = np.zeros(members.shape[1:], dtype=np.float32)
    for member in members:
        total += member.astype(np.float32)
    mean = (total / np.float32(len(members))).astype(np.float16)
    return np.interp(mean.astype(np.float64), fitted.score, fitted.value)


@pytest.mark.parametrize("dtype", ["float16", "float32", "uint8"])
def test_voxels_are_those_of_the_map(cohort: tt.Cohort, fitted: tt.CalibrationMap, tmp_path: Path, dtype: str) -> None:
    calibrated = tt.apply(cohort, fitted, tmp_path / "out.zarr", dtype=dtype)
    for case in cohort:
        values = by_hand(case.read().probability, fitted)
        expected = np.rint(values * 255).astype(np.uint8) if dtype == "uint8" else values.astype(dtype)
        found = calibrated[case.name].read()
        np.testing.assert_array_equal(found.probability, expected)
        np.testing.assert_array_equal(zarr.open_array(f"{calibrated.path}/{case.name}/probability")[:], expected)
        original = case.read()
        for part in ("votes", "roi", "raters", "geometry", "attributes"):
            np.testing.assert_array_equal(getattr(found, part), getattr(original, part))
        assert found.source["map"] == fitted.digest()


def test_unwritten_chunks_stay_unwritten(cohort: tt.Cohort, fitted: tt.CalibrationMap, tmp_path: Path) -> None:
    calibrated = tt.apply(cohort, fitted, tmp_path / "out.zarr")
    for case in cohort:
        members = case.probability.written()
        expected = {tuple(index) for index in members[:, 1:].tolist()}
        assert {tuple(index) for index in calibrated[case.name].probability.written().tolist()} == expected
        assert len(expected) < np.prod(calibrated[case.name].probability.grid)
        assert calibrated[case.name].probability.fill == np.float16(fitted(0.0))


def test_a_map_that_lifts_zero_lifts_the_background(cohort: tt.Cohort, tmp_path: Path) -> None:
    lifted = tt.CalibrationMap(
        score=np.array([0.0, 1.0]), value=np.array([0.25, 0.75]), calibrator="identity", target="mhr"
    )
    calibrated = tt.apply(cohort, lifted, tmp_path / "out.zarr")
    for case in cohort:
        expected = lifted(case.read().probability, members=True, dtype="float16")
        np.testing.assert_array_equal(calibrated[case.name].read().probability, expected)


def test_statistics_of_a_calibrated_store_are_the_relabelled_ones(
    cohort: tt.Cohort, fitted: tt.CalibrationMap, tmp_path: Path
) -> None:
    raw = tt.accumulate(cohort, roi="raters+20")
    found = tt.accumulate(tt.apply(cohort, fitted, tmp_path / "out.zarr"), roi="raters+20")
    for name in cohort.names:
        assert found[name].histogram == raw[name].histogram.relabel(fitted.codes)


def test_the_same_bytes_whatever_the_workers_and_when_resumed(
    cohort: tt.Cohort, fitted: tt.CalibrationMap, tmp_path: Path
) -> None:
    tt.apply(cohort, fitted, tmp_path / "one.zarr", workers=1)
    expected = tree(tmp_path / "one.zarr")
    tt.apply(cohort, fitted, tmp_path / "two.zarr", workers=3, resume=True)  # nothing to resume: it starts
    assert tree(tmp_path / "two.zarr") == expected

    # As if killed after the first case and in the middle of the second.
    cut = tmp_path / "two.zarr"
    _mark_incomplete(cut)
    _mark_incomplete(cut / "case001")
    for chunk in [p for p in (cut / "case001" / "votes").rglob("*") if p.is_file()][:2]:
        chunk.unlink()
    (cut / "case002" / "zarr.json").unlink()
    with pytest.raises(StoreError, match="incomplete"):
        open_cohort(cut)
    with pytest.raises(RequestError, match="exists"):
        tt.apply(cohort, fitted, cut)
    tt.apply(cohort, fitted, cut, resume=True)
    assert tree(cut) == expected
    tt.apply(cohort, fitted, cut, resume=True)  # nothing left to do
    assert tree(cut) == expected


def _mark_incomplete(folder: Path) -> None:
    group = zarr.open_group(str(folder), mode="r+")
    group.attrs["twintrack"] = {**dict(group.attrs["twintrack"]), "complete": False}  # type: ignore[arg-type]


def test_runs_do_not_mix(cohort: tt.Cohort, fitted: tt.CalibrationMap, tmp_path: Path) -> None:
    tt.apply(cohort, fitted, tmp_path / "out.zarr")
    other = tt.fit(tt.accumulate(cohort, roi="raters+20"), "identity")
    before = tree(tmp_path / "out.zarr")
    with pytest.raises(RequestError, match="another run"):
        tt.apply(cohort, other, tmp_path / "out.zarr", resume=True)
    with pytest.raises(RequestError, match="another run"):
        tt.apply(cohort, fitted, tmp_path / "out.zarr", resume=True, on_invalid="clip")
    another = tt.import_cases(
        Simulation(cases=3, shape=(48, 160, 160), raters=3, members=2, seed=2), tmp_path / "another.zarr"
    )
    assert another.names == cohort.names
    with pytest.raises(RequestError, match="another run"):
        tt.apply(another, fitted, tmp_path / "out.zarr", resume=True)
    with pytest.raises(RequestError, match="another run"):
        tt.apply(cohort.select(["case000"]), fitted, tmp_path / "out.zarr", resume=True)
    assert tree(tmp_path / "out.zarr") == before


def test_inputs_are_left_alone(cohort: tt.Cohort, fitted: tt.CalibrationMap, tmp_path: Path) -> None:
    before = tree(cohort.path)
    tt.apply(cohort, fitted, tmp_path / "out.zarr")
    with pytest.raises(RequestError, match="lies in the cohort"):
        tt.apply(cohort, fitted, cohort.path / "out.zarr")
    assert tree(cohort.path) == before
    assert not filecmp.dircmp(cohort.path, tmp_path / "out.zarr").left_only


def test_invalid_scores_stop_the_run_and_leave_it_incomplete(fitted: tt.CalibrationMap, tmp_path: Path) -> None:
    scores = np.full((4, 6, 6), 0.5, dtype=np.float32)
    scores[1, 2, 3] = 1.2
    writer = CohortWriter(tmp_path / "c.zarr", ["bad"])
    writer.write_case(Case(name="bad", probability=scores, geometry=Geometry()))
    writer.finish()
    bad = open_cohort(tmp_path / "c.zarr")
    with pytest.raises(InvalidScoresError, match=r"Case bad, .*1\.2.* at index \(1, 2, 3\)"):
        tt.apply(bad, fitted, tmp_path / "out.zarr")
    with pytest.raises(StoreError, match="incomplete"):
        open_cohort(tmp_path / "out.zarr")
    clipped = tt.apply(bad, fitted, tmp_path / "clipped.zarr", on_invalid="clip")
    assert clipped["bad"].read().probability[1, 2, 3] == np.float16(fitted(1.0))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"dtype": "int32"}, "int32"), ({"on_invalid": "exclude"}, "leave voxels out"), ({"kernel": "x"}, "kernel")],
)
def test_wrong_requests(
    cohort: tt.Cohort, fitted: tt.CalibrationMap, tmp_path: Path, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(RequestError, match=words):
        tt.apply(cohort, fitted, tmp_path / "out.zarr", **arguments)
    assert not (tmp_path / "out.zarr").exists()


def test_a_full_disk_is_named_and_can_be_resumed(
    cohort: tt.Cohort, fitted: tt.CalibrationMap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = LocalFolder.write
    written: list[str] = []

    def full(self: LocalFolder, key: str, data: bytes) -> None:
        if self.name == "probability" and key.startswith("c/") and len(written) > 1:
            raise OSError(28, "No space left on device", f"{self}/{key}")
        written.append(key)
        real(self, key, data)

    monkeypatch.setattr(LocalFolder, "write", full)
    with pytest.raises(WorkError, match="No space left"):
        tt.apply(cohort, fitted, tmp_path / "out.zarr")
    monkeypatch.undo()
    with pytest.raises(StoreError, match="incomplete"):
        open_cohort(tmp_path / "out.zarr")
    tt.apply(cohort, fitted, tmp_path / "whole.zarr")
    tt.apply(cohort, fitted, tmp_path / "out.zarr", resume=True)
    assert tree(tmp_path / "out.zarr") == tree(tmp_path / "whole.zarr")


def test_a_fill_value_that_no_voxel_has_is_not_looked_at(fitted: tt.CalibrationMap, tmp_path: Path) -> None:
    # xarray writes NaN as the fill value of floats.
    writer = CohortWriter(tmp_path / "c.zarr", ["full", "gap"])
    scores = np.full((4, 6, 6), 0.5, dtype=np.float32)
    for name in writer.names:
        writer.write_case(Case(name=name, probability=scores))
        array = zarr.create_array(
            store=str(tmp_path / "c.zarr" / name / "probability"),
            shape=scores.shape,
            chunks=(2, 6, 6),
            dtype="float32",
            fill_value=np.nan,
            overwrite=True,
        )
        array[: 4 if name == "full" else 2] = 0.5
    writer.finish()
    cohort = open_cohort(tmp_path / "c.zarr")
    calibrated = tt.apply(cohort.select(["full"]), fitted, tmp_path / "full.zarr")
    np.testing.assert_array_equal(calibrated["full"].read().probability, np.float16(fitted(0.5)))
    with pytest.raises(InvalidScoresError, match="Case gap, the fill value"):
        tt.apply(cohort.select(["gap"]), fitted, tmp_path / "gap.zarr")


def test_a_read_only_input_gives_a_writable_output(fitted: tt.CalibrationMap, tmp_path: Path) -> None:
    simulation = Simulation(cases=1, shape=(16, 32, 32), raters=2, members=1)
    cohort = tt.import_cases(simulation, tmp_path / "c.zarr")
    for path in cohort.path.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        tt.apply(cohort, fitted, tmp_path / "out.zarr")
    finally:
        for path in cohort.path.rglob("*"):
            path.chmod(0o755)
    assert all(path.stat().st_mode & 0o200 for path in (tmp_path / "out.zarr").rglob("*"))


def test_scores_are_not_calibrated_twice(cohort: tt.Cohort, fitted: tt.CalibrationMap, tmp_path: Path) -> None:
    calibrated = tt.apply(cohort, fitted, tmp_path / "once.zarr")
    with pytest.raises(RequestError, match="calibrated already"):
        tt.apply(calibrated, fitted, tmp_path / "twice.zarr")
    assert not (tmp_path / "twice.zarr").exists()


def test_cases_of_which_nothing_is_written(fitted: tt.CalibrationMap, tmp_path: Path) -> None:
    shape = (4, 5, 6)
    empty = [
        Case(name=f"c{i}", probability=np.zeros(shape, np.float16), raters=("r",), votes=np.zeros(shape, np.uint8))
        for i in range(3)
    ]
    writer = CohortWriter(tmp_path / "c.zarr", [case.name for case in empty])
    for case in empty:
        writer.write_case(case)
    writer.finish()
    cohort = open_cohort(tmp_path / "c.zarr")
    statistics = tt.accumulate(cohort)
    calibrated = tt.apply(cohort, fitted, tmp_path / "out.zarr")
    for name in cohort.names:
        histogram = statistics[name].histogram
        assert (histogram.n_voxels, len(histogram.count)) == (120, 1)
        np.testing.assert_array_equal(calibrated[name].read().probability, np.float16(fitted(0.0)))


@pytest.mark.parametrize("damage", ["missing", "incomplete", "metadata"])
def test_input_that_must_be_mended_leaves_no_output(
    cohort: tt.Cohort, fitted: tt.CalibrationMap, tmp_path: Path, damage: str
) -> None:
    shutil.copytree(cohort.path, tmp_path / "c.zarr")
    case = tmp_path / "c.zarr" / cohort.names[1]
    if damage == "missing":
        shutil.rmtree(case)
    elif damage == "incomplete":
        (case / "zarr.json").write_text(
            (case / "zarr.json").read_text().replace('"complete": true', '"complete": false')
        )
    else:
        (case / "probability" / "zarr.json").unlink()
    with pytest.raises(StoreError, match=r"missing|incomplete"):
        tt.apply(open_cohort(tmp_path / "c.zarr"), fitted, tmp_path / "out.zarr")
    assert not (tmp_path / "out.zarr").exists()
