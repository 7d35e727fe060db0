"""Tiles: which chunks of an array belong to some of a case's tiles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr

import twintrack_core as tt
from twintrack_core.cohort.case import Case
from twintrack_core.cohort.writer import CohortWriter
from twintrack_core.engine.tiles import Listing

SHAPE = (8, 16, 16)


def write(path: Path, chunks: tuple[int, ...]) -> tt.Cohort:
    """A case with tiles of 4 x 4 x 4 and a mask of other chunks, all written."""
    arrays = {"probability": np.full(SHAPE, 0.5, dtype=np.float16), "roi": np.ones(SHAPE, dtype=bool)}
    writer = CohortWriter(path, ["c"])
    writer.write_case(Case("c", **arrays))  # type: ignore[arg-type]
    for name, sides in (("probability", (4, 4, 4)), ("roi", chunks)):
        place, dtype = str(path / "c" / name), arrays[name].dtype
        zarr.create_array(place, shape=SHAPE, chunks=sides, dtype=dtype, overwrite=True)[:] = arrays[name]
    writer.finish()
    return tt.open_cohort(path)


@pytest.mark.parametrize(
    ("chunks", "halo", "expected"),
    [
        ((4, 4, 4), (0, 0, 0), {(0, 0, 0), (0, 0, 2)}),
        ((4, 4, 4), (0, 1, 0), {(0, y, x) for y in (0, 1) for x in (0, 1, 2)}),
        ((8, 8, 8), (0, 0, 0), {(0, 0, 0), (0, 0, 1)}),
        ((2, 2, 6), (0, 0, 0), {(z, y, x) for z in (0, 1) for y in (0, 1) for x in (0, 1)}),
        ((2, 2, 6), (0, 0, 1), {(z, y, x) for z in (0, 1) for y in (0, 1) for x in (0, 1, 2)}),
        ((2, 2, 6), (3, 0, 0), {(z, y, x) for z in (0, 1, 2, 3) for y in (0, 1) for x in (0, 1)}),
    ],
)
def test_only_the_chunks_around_some_tiles_belong_to_them(
    tmp_path: Path, chunks: tuple[int, ...], halo: tuple[int, ...], expected: set[tuple[int, ...]]
) -> None:
    case = write(tmp_path / "c.zarr", chunks)["c"]
    listing = Listing(case, case.parts["roi"])
    tiles = np.array([[0, 0, 0], [0, 0, 2]])
    ((folder, found),) = listing.within(tiles, halo)
    assert folder == case.parts["roi"].folder
    assert set(map(tuple, found.tolist())) == expected
    ((_, none),) = listing.within(tiles[:0], halo)
    assert none.shape == (0, 3)


def test_members_of_a_tile_belong_to_it(tmp_path: Path) -> None:
    writer = CohortWriter(tmp_path / "c.zarr", ["c"])
    scores = np.full((3, *SHAPE), 0.5, dtype=np.float16)
    writer.write_case(Case("c", scores))
    place = str(tmp_path / "c.zarr" / "c" / "probability")
    zarr.create_array(place, shape=scores.shape, chunks=(1, 4, 4, 4), dtype="float16", overwrite=True)[:] = scores
    writer.finish()
    case = tt.open_cohort(tmp_path / "c.zarr")["c"]
    ((_, found),) = Listing(case, case.probability).within(np.array([[1, 2, 3]]))
    assert found.tolist() == [[0, 1, 2, 3], [1, 1, 2, 3], [2, 1, 2, 3]]
