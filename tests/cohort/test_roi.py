"""Regions of interest, tile by tile, against brute force over the whole volume."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from twintrack_core.cohort.array_metadata import open_array
from twintrack_core.cohort.case import Case, Geometry
from twintrack_core.cohort.chunks import Box, ChunkedArray
from twintrack_core.cohort.roi import BoxRegion, MaskRegion, Region, RoiRule, marked_bounds, parse_roi, region_of
from twintrack_core.cohort.scratch import Scratch
from twintrack_core.cohort.store import StoredCase, open_cohort
from twintrack_core.cohort.writer import CohortWriter
from twintrack_core.errors import RequestError, StoreError

Bools = npt.NDArray[np.bool_]
Shape = tuple[int, int, int]

SHAPES = st.tuples(st.integers(1, 7), st.integers(1, 8), st.integers(1, 9))
SIZES = st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 9))


def stored_array(
    path: Path, values: npt.NDArray[Any], chunks: tuple[int, ...], *, sharded: bool = False
) -> ChunkedArray:
    options: dict[str, Any] = {"shards": chunks} if sharded else {}
    array = zarr.create_array(
        store=str(path), shape=values.shape, chunks=chunks, dtype=values.dtype.name, compressors=None, **options
    )
    array[:] = values
    return open_array(path)


def tiles(shape: tuple[int, ...], size: tuple[int, ...]) -> Iterator[Box]:
    starts = (range(0, n, step) for n, step in zip(shape, size, strict=True))
    for start in itertools.product(*starts):
        yield tuple(slice(s, min(s + step, n)) for s, step, n in zip(start, size, shape, strict=True))


def by_tiles(region: Region, shape: tuple[int, ...], size: tuple[int, ...]) -> Bools:
    """Put a region together from what it says of each tile."""
    whole = np.empty(shape, dtype=np.uint8)
    scratch = Scratch()
    for box in tiles(shape, size):
        inside = region.inside(box, scratch)
        if not isinstance(inside, bool):
            assert inside.dtype == np.uint8
            assert inside.flags.c_contiguous
            assert inside.shape == whole[box].shape
        whole[box] = inside
    assert whole.max(initial=0) <= 1
    return whole.astype(bool)


def within(mask: Bools, margin: int, spacing: tuple[int, ...]) -> Bools:
    """Voxels within a margin of a mask by all distances, in integers (tenths of a millimetre), so without rounding."""
    marked = np.argwhere(mask) * np.array(spacing)
    everything = np.argwhere(np.ones_like(mask)) * np.array(spacing)
    squares = ((everything[:, np.newaxis] - marked) ** 2).sum(axis=2)
    return np.asarray((squares <= margin**2).any(axis=1).reshape(mask.shape))


def random_mask(seed: int, shape: tuple[int, ...], density: float) -> Bools:
    return np.random.default_rng(seed).random(shape) < density


@pytest.fixture
def case(tmp_path: Path) -> StoredCase:
    """A case of five raters, two of whom marked three voxels, with a mask of two."""
    votes = np.zeros((30, 40, 50), dtype=np.uint8)
    votes[10, 5, 44] = 1
    votes[12, 8, 30] = 16
    votes[11, 30, 31] = 17
    roi = np.zeros(votes.shape, dtype=bool)
    roi[3, 4, 5:7] = True
    writer = CohortWriter(tmp_path / "cohort.zarr", ["c"])
    writer.write_case(
        Case("c", np.zeros(votes.shape, np.float16), tuple("abcde"), votes, roi, geometry=Geometry((2.0, 0.5, 0.25)))
    )
    writer.finish()
    return open_cohort(tmp_path / "cohort.zarr")["c"]


# Rules


@pytest.mark.parametrize(
    ("text", "kind", "margin", "canonical"),
    [
        ("full", "full", 0, "full"),
        ("mask", "mask", 0, "mask"),
        ("mask+0mm", "mask", 0, "mask"),
        ("mask+0.0mm", "mask", 0, "mask"),
        ("mask+5mm", "mask", 5, "mask+5mm"),
        ("mask+5.0mm", "mask", 5, "mask+5mm"),
        ("mask+05.50mm", "mask", 5.5, "mask+5.5mm"),
        ("mask+0.1mm", "mask", 0.1, "mask+0.1mm"),
        ("mask+0.000001mm", "mask", 0.000001, "mask+0.000001mm"),
        ("mask+2.123456mm", "mask", 2.123456, "mask+2.123456mm"),
        ("mask+999999mm", "mask", 999999, "mask+999999mm"),
        ("mask+123456.654321mm", "mask", 123456.654321, "mask+123456.654321mm"),
        ("raters+0", "raters", 0, "raters+0"),
        ("raters+20", "raters", 20, "raters+20"),
        ("raters+020", "raters", 20, "raters+20"),
        ("raters+999999", "raters", 999999, "raters+999999"),
    ],
)
def test_rules_are_parsed(text: str, kind: str, margin: float, canonical: str) -> None:
    rule = parse_roi(text)
    assert rule == RoiRule(kind, margin)
    assert str(rule) == canonical
    assert parse_roi(canonical) == rule


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Full",
        " full",
        "full ",
        "full\n",
        "full+5",
        "full+5mm",
        "mask+5",
        "mask+5 mm",
        "mask +5mm",
        "mask5mm",
        "mask-5mm",
        "mask+-5mm",
        "mask+5cm",
        "mask+5.mm",
        "mask+.5mm",
        "mask+5,5mm",
        "mask+1e3mm",
        "mask+infmm",
        "mask+nanmm",
        "mask+mm",
        "mask+5mm+5mm",
        "mask+٥mm",
        "mask+1000000mm",
        "mask+0.0000001mm",
        "mask+" + "9" * 400 + "mm",
        "raters",
        "raters+",
        "raters+20mm",
        "raters+2.5",
        "raters-20",
        "raters+-20",
        "raters+1000000",
        "raters+２０",
        "raters+20\n",
        "voxels+3",
    ],
)
def test_what_is_no_rule_is_a_wrong_request(text: str) -> None:
    with pytest.raises(RequestError, match=r'Allowed: "full", "mask", "mask\+Nmm"') as caught:
        parse_roi(text)
    assert repr(text)[:80] in caught.value.what
    assert len(caught.value.what) < 130


@settings(max_examples=40)
@given(st.from_regex(r"mask\+[0-9]{1,6}(\.[0-9]{1,6})?mm|raters\+[0-9]{1,6}", fullmatch=True))
def test_the_canonical_text_is_the_same_rule(text: str) -> None:
    rule = parse_roi(text)
    assert rule.margin == float(text.partition("+")[2].removesuffix("mm"))
    assert parse_roi(str(rule)) == rule
    assert str(parse_roi(str(rule))) == str(rule)


# Boxes


@settings(max_examples=150)
@given(data=st.data())
def test_a_box_is_what_it_is_by_brute_force(data: st.DataObject) -> None:
    shape = data.draw(SHAPES)
    ends = [sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in shape]
    region = BoxRegion(tuple(low for low, _ in ends), tuple(high for _, high in ends))
    expected = np.zeros(shape, dtype=bool)
    expected[tuple(slice(low, high) for low, high in ends)] = True
    size = data.draw(SIZES)
    np.testing.assert_array_equal(by_tiles(region, shape, size), expected)
    assert region.size == expected.sum()
    for box in tiles(shape, size):
        starts, stops = np.array([[side.start for side in box]]), np.array([[side.stop for side in box]])
        assert region.overlap(starts, stops) == expected[box].sum()
        # A tile on one side of the box's edges costs no mask.
        if expected[box].all() or not expected[box].any():
            assert isinstance(region.inside(box, Scratch()), bool)


# Masks


@settings(max_examples=150)
@given(data=st.data())
def test_a_mask_with_a_margin_is_what_all_distances_say(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    shape = data.draw(SHAPES)
    mask = random_mask(data.draw(st.integers(0, 99)), shape, data.draw(st.sampled_from([0, 0.005, 0.02, 0.2, 1])))
    spacing = data.draw(st.tuples(*[st.sampled_from([3, 5, 7, 10, 24, 50])] * 3))
    margin = data.draw(st.sampled_from([0, 1, 3, 7, 10, 14, 21, 25, 50, 72, 10000]))
    array = stored_array(
        tmp_path_factory.mktemp("mask") / "roi", mask, data.draw(SIZES), sharded=data.draw(st.integers(0, 9)) == 0
    )
    region = MaskRegion(array, margin / 10, tuple(s / 10 for s in spacing))
    np.testing.assert_array_equal(by_tiles(region, shape, data.draw(SIZES)), within(mask, margin, spacing))
    assert region.halo == tuple(margin // s for s in spacing)


@pytest.mark.parametrize("margin", [0.8, 2.4, 5.0])
def test_a_large_mask_agrees_with_a_search_tree(tmp_path: Path, margin: float) -> None:
    shape, spacing = (20, 48, 40), (2.5, 0.78, 0.83)
    mask = random_mask(3, shape, 0.0003)
    tree = cKDTree(np.argwhere(mask) * spacing)
    distances, _ = tree.query(np.argwhere(np.ones(shape)) * spacing)
    region = MaskRegion(stored_array(tmp_path / "roi", mask, (8, 16, 16)), margin, spacing)
    expected = distances.reshape(shape) <= margin
    assert expected.sum() > mask.sum()
    np.testing.assert_array_equal(by_tiles(region, shape, (10, 12, 40)), expected)


@pytest.mark.parametrize(
    ("spacing", "margin", "reach"),
    [
        (0.1, 0.3, 3),  # 3 * 0.1 is a bit more than 0.3
        (0.7, 2.1, 3),  # and 3 * 0.7 a bit less than 2.1
        (1.1, 3.3, 3),
        (0.8, 5, 6),
        (5.0, 5, 1),
        (5.000001, 5, 0),
        (4.999999, 5, 1),
        (2.5, 0, 0),
        (2.5, 2.499999, 0),
    ],
)
@pytest.mark.parametrize("tile", [1, 4, 15])
def test_exactly_the_margin_is_inside(tmp_path: Path, spacing: float, margin: float, reach: int, tile: int) -> None:
    for axis in range(3):
        shape = tuple(15 if axis == other else 1 for other in range(3))
        mask = np.zeros(15, dtype=bool)
        mask[7] = True
        array = stored_array(tmp_path / f"roi{axis}", mask.reshape(shape), shape)
        region = MaskRegion(array, margin, tuple(spacing if axis == other else 9.0 for other in range(3)))
        found = np.flatnonzero(by_tiles(region, shape, (tile,) * 3))
        np.testing.assert_array_equal(found, np.arange(7 - reach, 8 + reach))


def test_a_diagonal_of_exactly_the_margin_is_inside(tmp_path: Path) -> None:
    mask = np.zeros((3, 3, 3), dtype=bool)
    mask[0, 0, 0] = True
    array = stored_array(tmp_path / "roi", mask, (2, 2, 2))
    for margin in (0.5, 0.499999, 0.7, 0.4, 0.3, 0.2):
        region = MaskRegion(array, margin, (9.0, 0.3, 0.4))
        inside = by_tiles(region, mask.shape, (1, 2, 3))[0, :2, :2]
        np.testing.assert_array_equal(inside, np.array([[0.0, 0.4], [0.3, 0.5]]) <= margin)


def test_a_mask_far_away_costs_no_mask(tmp_path: Path) -> None:
    mask = np.zeros((4, 4, 20), dtype=bool)
    mask[0, 0, 0] = True
    region = MaskRegion(stored_array(tmp_path / "roi", mask, (4, 4, 5)), 3.0, (1.0, 1.0, 1.0))
    assert region.inside(np.s_[0:4, 0:4, 4:20], Scratch()) is False


def test_a_damaged_mask_is_refused(tmp_path: Path) -> None:
    array = stored_array(tmp_path / "roi", np.ones((4, 4, 4), dtype=bool), (2, 2, 2))
    (tmp_path / "roi" / "c" / "1" / "0" / "0").write_bytes(b"")
    near, far = np.s_[0:1, 0:2, 0:2], np.s_[0:1, 2:4, 2:4]
    MaskRegion(array, 1.0, (1.0, 1.0, 1.0)).inside(near, Scratch())
    MaskRegion(array, 2.0, (1.0, 1.0, 3.0)).inside(far, Scratch())
    with pytest.raises(StoreError, match="roi/c/1/0/0"):
        MaskRegion(array, 2.0, (1.0, 1.0, 1.0)).inside(near, Scratch())


# Raters


@settings(max_examples=100)
@given(data=st.data())
def test_marked_bounds_are_those_of_the_marks(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    shape = data.draw(SHAPES)
    marked = random_mask(data.draw(st.integers(0, 99)), shape, data.draw(st.sampled_from([0, 0.01, 0.05, 0.5])))
    votes = marked * np.random.default_rng(1).integers(1, 256, shape).astype(np.uint8)
    sharded = data.draw(st.integers(0, 9)) == 0
    array = stored_array(tmp_path_factory.mktemp("votes") / "votes", votes, data.draw(SIZES), sharded=sharded)
    found = np.argwhere(votes)
    expected = list(zip(found.min(axis=0), found.max(axis=0), strict=True)) if len(found) else None
    assert marked_bounds(array) == expected


@pytest.mark.parametrize(
    ("n", "start", "stop"),
    [
        (0, (10, 5, 30), (12, 30, 44)),
        (1, (9, 4, 29), (13, 31, 45)),
        (4, (6, 1, 26), (16, 34, 48)),
        (5, (5, 0, 25), (17, 35, 49)),
        (6, (4, 0, 24), (18, 36, 50)),
        (20, (0, 0, 10), (30, 40, 50)),
        (999999, (0, 0, 0), (30, 40, 50)),
    ],
)
def test_the_raters_box_ends_before_the_last_mark_plus_n(case: StoredCase, n: int, start: Shape, stop: Shape) -> None:
    region = region_of(case, parse_roi(f"raters+{n}"))
    assert region == BoxRegion(start, stop, ((10, 12), (5, 30), (30, 44)))


def test_one_mark_without_a_margin_is_an_empty_box(tmp_path: Path, case: StoredCase) -> None:
    votes = np.zeros(case.shape, dtype=np.uint8)
    votes[3, 4, 5] = 128
    marked = replace(case, parts={"votes": stored_array(tmp_path / "votes", votes, (8, 8, 8))})
    region = region_of(marked, parse_roi("raters+0"))
    assert isinstance(region, BoxRegion)
    assert region.size == 0
    assert not by_tiles(region, case.shape, (8, 8, 8)).any()
    one = region_of(marked, parse_roi("raters+1"))
    assert np.argwhere(by_tiles(one, case.shape, (8, 8, 8))).tolist() == [
        list(at) for at in itertools.product((2, 3), (3, 4), (4, 5))
    ]


def test_without_a_mark_nothing_is_inside(tmp_path: Path, case: StoredCase) -> None:
    unmarked = stored_array(tmp_path / "votes", np.zeros(case.shape, dtype=np.uint8), (8, 8, 8))
    region = region_of(replace(case, parts={"votes": unmarked}), parse_roi("raters+20"))
    assert isinstance(region, BoxRegion)
    assert region.size == 0
    assert not by_tiles(region, case.shape, (8, 16, 50)).any()


# Cases


def test_full_is_everything(case: StoredCase) -> None:
    region = region_of(replace(case, parts={}), parse_roi("full"))
    assert region == BoxRegion((0, 0, 0), (30, 40, 50))
    assert by_tiles(region, case.shape, (30, 16, 16)).all()


@pytest.mark.parametrize("text", ["mask", "mask+1mm", "mask+2.5mm"])
def test_the_mask_is_the_cases_in_its_spacing(case: StoredCase, text: str) -> None:
    region = region_of(case, parse_roi(text))
    mask = case.parts["roi"].read_all()
    margin = {"mask": 0, "mask+1mm": 100, "mask+2.5mm": 250}[text]
    np.testing.assert_array_equal(by_tiles(region, case.shape, (7, 11, 50)), within(mask, margin, (200, 50, 25)))


@pytest.mark.parametrize(("part", "rule"), [("roi", "mask"), ("roi", "mask+5mm")])
def test_a_rule_that_needs_what_a_case_lacks_is_a_wrong_request(case: StoredCase, part: str, rule: str) -> None:
    lacking = replace(case, parts={name: array for name, array in case.parts.items() if name != part})
    with pytest.raises(RequestError, match="Case c has no") as caught:
        region_of(lacking, parse_roi(rule))
    assert repr(rule) in caught.value.what
