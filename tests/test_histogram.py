from __future__ import annotations

import hashlib
import pickle
import struct
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twintrack_core import kernels
from twintrack_core.codes import CODE_ONE, N_CODES, encode
from twintrack_core.errors import InvalidScoresError, InvalidVotesError, RequestError
from twintrack_core.histogram import JointHistogram

NAMES = ("ann", "bob", "cy")

Cell = tuple[int, int, int, int]


def cells(n_raters: int = 3, max_count: int = 5) -> st.SearchStrategy[list[Cell]]:
    code = st.sampled_from([0, 1, 2, 9000, CODE_ONE])
    pattern = st.integers(0, 2**n_raters - 1)
    return st.lists(st.tuples(st.integers(0, 1), code, pattern, st.integers(0, max_count)), max_size=30)


def build(rows: list[Cell], raters: tuple[str, ...] = NAMES) -> JointHistogram:
    columns = np.array(rows, dtype=np.int64).reshape(-1, 4).T
    return JointHistogram.from_cells(columns[0], columns[1], columns[2], columns[3], raters)


def as_counter(histogram: JointHistogram) -> Counter[tuple[int, int, tuple[str, ...]]]:
    """The histogram as a plain dictionary that knows no bits: (region, code, names of who marked) -> count."""
    found: Counter[tuple[int, int, tuple[str, ...]]] = Counter()
    for region, code, pattern, count in zip(*(column.tolist() for column in histogram.cells), strict=True):
        marked = tuple(sorted(name for bit, name in enumerate(histogram.raters) if pattern >> bit & 1))
        found[region, code, marked] += count
    return found


def volume(seed: int, n_raters: int = 3) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.bool_]]:
    rng = np.random.default_rng(seed)
    shape = (3, 4, 5)
    scores = (rng.integers(0, 9, shape) / 8).astype(np.float32)
    return scores, rng.integers(0, 2, (n_raters, *shape)), rng.random(shape) < 0.4


def test_from_arrays_counts_every_voxel_where_it_belongs() -> None:
    scores, raters, roi = volume(0)
    histogram = JointHistogram.from_arrays(scores, raters, roi=roi)
    expected = np.zeros((2, N_CODES, 8), dtype=np.int64)
    for place in np.ndindex(scores.shape):
        pattern = sum(int(raters[bit][place]) << bit for bit in range(3))
        expected[int(roi[place]), encode(scores[place]), pattern] += 1
    np.testing.assert_array_equal(histogram.counts, expected)
    assert histogram.raters == ("rater1", "rater2", "rater3")
    assert histogram.n_voxels == scores.size
    assert histogram.n_inside == roi.sum()
    assert JointHistogram.from_counts(expected, histogram.raters) == histogram
    assert JointHistogram.from_cells(*histogram.cells, histogram.raters) == histogram


def test_from_votes_is_from_arrays_packed_and_members_are_averaged() -> None:
    scores, raters, roi = volume(1)
    votes = sum(raters[bit].astype(np.uint8) << bit for bit in range(3))
    members = np.stack([scores, scores[::-1]])
    one = JointHistogram.from_arrays(members, raters.astype(bool), rater_names=NAMES, roi=roi, members=True)
    assert one == JointHistogram.from_votes(members, votes.astype(np.uint8), NAMES, roi=roi, members=True)
    assert one == JointHistogram.from_arrays((scores + scores[::-1]) / 2, raters, rater_names=NAMES, roi=roi)


def test_without_a_roi_everything_is_inside_and_without_votes_nothing_is_marked() -> None:
    scores, _, _ = volume(2)
    histogram = JointHistogram.from_votes(scores, None, [])
    assert histogram.n_inside == histogram.n_voxels == scores.size
    assert histogram.pattern_counts.tolist() == [scores.size]


@pytest.mark.parametrize("kernel", kernels.names())
@pytest.mark.parametrize("threads", [1, 3])
def test_kernels_and_threads_agree(kernel: str, threads: int) -> None:
    scores, raters, roi = volume(3)
    expected = JointHistogram.from_arrays(scores, raters, roi=roi)
    assert JointHistogram.from_arrays(scores, raters, roi=roi, kernel=kernel, threads=threads) == expected


@given(cells())
def test_cells_are_canonical(rows: list[Cell]) -> None:
    histogram = build(rows)
    places = list(zip(*(column.tolist() for column in histogram.cells[:3]), strict=True))
    assert places == sorted(set(places))
    assert (histogram.count != 0).all()
    assert [column.dtype for column in histogram.cells] == [np.uint8, np.uint16, np.uint8, np.int64]
    assert not any(column.flags.writeable for column in histogram.cells)
    assert build(rows[::-1]) == histogram
    assert build(rows[::-1]).digest() == histogram.digest()
    assert JointHistogram.from_counts(histogram.counts, NAMES) == histogram


@given(cells(), cells(), cells(), st.permutations(NAMES))
def test_addition_is_a_sum_of_counts_in_any_order(
    a: list[Cell], b: list[Cell], c: list[Cell], order: list[str]
) -> None:
    one, two, three = build(a), build(b), build(c)
    assert as_counter(one + two) == as_counter(one) + as_counter(two)
    assert one + two == two + one == build(a + b)
    assert (one + two) + three == one + (two + three)
    assert one + two.reorder_raters(order) == one + two
    assert (one + two) - two.reorder_raters(order) == one
    assert one - one == build([])


@given(cells(), st.permutations(NAMES), st.integers(0, 3))
def test_raters_are_reordered_and_dropped_by_name(rows: list[Cell], order: list[str], kept: int) -> None:
    histogram = build(rows)
    reordered = histogram.reorder_raters(order)
    assert reordered.raters == tuple(order)
    assert as_counter(reordered) == as_counter(histogram)
    assert (reordered == histogram) == (tuple(order) == NAMES)

    some = histogram.keep_raters(order[:kept])
    expected: Counter[tuple[int, int, tuple[str, ...]]] = Counter()
    for (region, code, marked), count in as_counter(histogram).items():
        expected[region, code, tuple(name for name in marked if name in order[:kept])] += count
    assert as_counter(some) == expected
    assert histogram.drop_raters(order[kept:]) == some.reorder_raters([n for n in NAMES if n in order[:kept]])
    assert some.n_voxels == histogram.n_voxels


@given(cells())
def test_regions_fold_and_are_selected(rows: list[Cell]) -> None:
    histogram = build(rows)
    folded = histogram.fold_regions()
    assert folded == build([(1, *row[1:]) for row in rows])
    whole, roi = histogram.select("whole"), histogram.select("roi")
    np.testing.assert_array_equal(whole.count, folded.count)
    np.testing.assert_array_equal(whole.code, folded.code)
    np.testing.assert_array_equal(roi.pattern, histogram.pattern[histogram.region == 1])
    assert roi.count.sum() == histogram.n_inside == sum(row[3] for row in rows if row[0])
    np.testing.assert_array_equal(histogram.pattern_counts, histogram.counts.sum(axis=(0, 1)))


def test_relabel_is_what_happens_to_the_voxels() -> None:
    scores, raters, roi = volume(4)
    new = np.minimum(np.arange(N_CODES) // 700 * 900, CODE_ONE).astype(np.uint16)
    histogram = JointHistogram.from_arrays(scores, raters, roi=roi)
    moved = new[encode(scores)].view(np.float16)
    assert histogram.relabel(new) == JointHistogram.from_arrays(moved, raters, roi=roi)


@pytest.mark.parametrize("big", [2**32 + 1, 2**53 + 1, 2**62 + 1])
def test_large_counts_stay_exact(big: int) -> None:
    rows = [(1, 5, 0, big), (0, 5, 0, 3), (1, 5, 1, 2)]
    histogram = build(rows)
    assert histogram.n_voxels == big + 5
    assert histogram.n_inside == big + 2
    assert (histogram + build([(1, 5, 0, 1)])).count.max() == big + 1
    assert (histogram - build([(1, 5, 0, 1)])).count.max() == big - 1
    assert histogram.select("whole").count.tolist() == [big + 3, 2]
    assert histogram.drop_raters(["ann"]).count.tolist() == [3, big + 2]
    assert histogram.pattern_counts[0] == big + 3
    assert histogram.relabel(np.zeros(N_CODES, dtype=np.uint16)).count.max() == big
    assert build([(1, 5, 0, big // 2), (1, 5, 0, big - big // 2)]).count.tolist() == [big]


def test_equality_and_digest_see_everything() -> None:
    base = [(1, 5, 1, 2), (0, 3, 0, 1)]
    histogram = build(base)
    others = [
        build([(1, 5, 1, 3), (0, 3, 0, 1)]),
        build([(0, 5, 1, 2), (0, 3, 0, 1)]),
        build([(1, 6, 1, 2), (0, 3, 0, 1)]),
        build([(1, 5, 2, 2), (0, 3, 0, 1)]),
        build(base[:1]),
        build(base, ("ann", "bob", "di")),
        histogram.reorder_raters(("bob", "ann", "cy")),
    ]
    assert histogram == build(base[::-1])
    assert histogram.__eq__(3) is NotImplemented
    assert all(histogram != other for other in others)
    assert len({histogram.digest(), *(other.digest() for other in others)}) == 8
    content = b'[["ann", "bob", "cy"], 2]' + struct.pack("<2B2H2B2q", 0, 1, 3, 5, 0, 1, 1, 2)
    assert histogram.digest() == hashlib.sha256(content).hexdigest()
    with pytest.raises(TypeError, match="unhashable"):
        hash(histogram)


def test_it_survives_pickling_and_shows_what_it_is() -> None:
    histogram = build([(1, 5, 1, 2), (0, 3, 0, 1)])
    assert pickle.loads(pickle.dumps(histogram)) == histogram
    assert repr(histogram) == "<JointHistogram: 3 voxels, 2 inside the region, in 2 cells; raters ann, bob, cy>"
    assert "raters none" in repr(build([], ()))


def test_an_empty_histogram_works() -> None:
    empty = build([])
    assert empty.n_voxels == empty.n_inside == 0
    assert empty + empty == empty == empty.fold_regions() == JointHistogram.from_cells([], [], [], [], NAMES)
    assert JointHistogram.from_arrays(np.zeros((0, 4)), np.zeros((3, 0, 4)), rater_names=NAMES) == empty


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((2, 0, 0, 1), "region 2"),
        ((-1, 0, 0, 1), "region -1"),
        ((0, N_CODES, 0, 1), "code 15361"),
        ((0, 0, 8, 1), "pattern 8"),
        ((0, 0, 0, -1), "count -1"),
    ],
)
def test_cells_out_of_range_are_refused(row: Cell, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        build([(0, 0, 0, 1), row])


def test_columns_of_the_wrong_kind_are_refused() -> None:
    with pytest.raises(RequestError, match="one length"):
        JointHistogram.from_cells([0], [0], [0], [1, 2], NAMES)
    with pytest.raises(RequestError, match="code is float64"):
        JointHistogram.from_cells([0], [0.5], [0], [1], NAMES)
    with pytest.raises(RequestError, match="shape"):
        JointHistogram.from_counts(np.zeros((2, N_CODES, 4), dtype=np.int64), NAMES)
    with pytest.raises(RequestError, match="count is float64"):
        JointHistogram.from_counts(np.ones((2, N_CODES, 1)), [])  # type: ignore[arg-type]


@pytest.mark.parametrize("raters", [("a", "a"), ("a", ""), (1, 2), tuple("abcdefghi"), "ab"])
def test_rater_names_are_checked(raters: Any) -> None:
    with pytest.raises(RequestError, match="raters"):
        JointHistogram.from_cells([], [], [], [], raters)


def test_other_raters_cannot_be_added_and_more_cannot_be_taken_than_there_is() -> None:
    one = build([(1, 5, 1, 2)])
    with pytest.raises(RequestError, match="ann, bob, not ann, bob, cy"):
        _ = one + build([], ("ann", "bob"))
    with pytest.raises(RequestError, match="1 negative"):
        _ = one - build([(1, 5, 1, 3)])
    with pytest.raises(RequestError, match="no rater 'di'"):
        one.keep_raters(["di"])
    with pytest.raises(RequestError, match="no rater 'di'"):
        one.drop_raters(["di"])
    with pytest.raises(RequestError, match="no region"):
        one.select("inside")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        _ = one + 1  # type: ignore[operator]
    with pytest.raises(TypeError):
        _ = one - 1  # type: ignore[operator]


@pytest.mark.parametrize("codes", [np.zeros(3, dtype=int), np.zeros(N_CODES), np.full(N_CODES, N_CODES)])
def test_relabelling_needs_a_code_for_every_code(codes: npt.NDArray[Any]) -> None:
    with pytest.raises(RequestError, match="codes is"):
        build([]).relabel(codes)


def test_bad_arrays_are_refused() -> None:
    scores, raters, roi = volume(5)
    raters[1, 0, 0, :3] = 4
    with pytest.raises(InvalidVotesError, match="'bob' has 3 voxels with other values, such as 4"):
        JointHistogram.from_arrays(scores, raters, rater_names=NAMES)
    with pytest.raises(InvalidVotesError, match="nan"):
        JointHistogram.from_arrays(scores, np.where(raters == 4, np.nan, raters), rater_names=NAMES)
    raters[1] = 0
    with pytest.raises(RequestError, match="there are 2 names"):
        JointHistogram.from_arrays(scores, raters, rater_names=NAMES[:2])
    with pytest.raises(RequestError, match="raters has shape"):
        JointHistogram.from_arrays(scores[0], raters)
    with pytest.raises(RequestError, match="votes=None"):
        JointHistogram.from_arrays(scores, raters[:0])
    with pytest.raises(RequestError, match="roi"):
        JointHistogram.from_arrays(scores, raters, roi=roi[0])
    with pytest.raises(InvalidVotesError, match="raters there are not"):
        JointHistogram.from_votes(scores, np.full(scores.shape, 8, dtype=np.uint8), NAMES)
    scores[0, 0, 0] = np.nan
    with pytest.raises(InvalidScoresError, match="nan"):
        JointHistogram.from_arrays(scores, raters)
    excluded = JointHistogram.from_arrays(scores, raters, on_invalid="exclude")
    assert excluded.n_voxels == scores.size - 1


def test_counts_do_not_wrap_around() -> None:
    with pytest.raises(RequestError, match=r"2\^63"):
        JointHistogram.from_cells([0, 0], [0, 0], [0, 0], [2**63 - 1] * 2, ["ann"])
    half = JointHistogram.from_cells([0], [0], [0], [2**62], ["ann"])
    with pytest.raises(RequestError, match=r"2\^63"):
        half + half
