"""Codes against NumPy's own rounding and against exact fractions."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twintrack_core import codes
from twintrack_core.errors import InvalidScoresError, RequestError

VALUES = [Fraction(float(value)) for value in codes.CODE_VALUES]


def nearest_even(score: float) -> int:
    """Code of a score by exact arithmetic: the nearest value, of two equally near ones the even code."""
    place = int(np.searchsorted(codes.CODE_VALUES, score))
    near = range(max(place - 1, 0), min(place + 2, codes.N_CODES))
    return min(near, key=lambda code: (abs(VALUES[code] - Fraction(score)), code % 2))


def test_codes_are_the_values_of_the_unit_interval_in_order() -> None:
    assert codes.N_CODES == 15361
    assert codes.CODE_VALUES[0] == 0
    assert codes.CODE_VALUES[-1] == 1
    assert (np.diff(codes.CODE_VALUES) > 0).all()
    assert codes.encode(codes.CODE_VALUES.astype(np.float16)).tolist() == list(range(codes.N_CODES))
    above_one = np.array([codes.CODE_ONE + 1], dtype=np.uint16).view(np.float16)
    assert above_one > 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_midpoints_and_their_neighbours_round_to_nearest_even(dtype: Any) -> None:
    middle = (codes.CODE_VALUES[1:] + codes.CODE_VALUES[:-1]) / 2  # exact: a midpoint has one bit more than a code
    middle = middle.astype(dtype)
    lower, upper = np.arange(codes.N_CODES - 1), np.arange(1, codes.N_CODES)
    assert (codes.encode(np.nextafter(middle, dtype(0))) == lower).all()
    assert (codes.encode(np.nextafter(middle, dtype(2))) == upper).all()
    assert (codes.encode(middle) == np.where(lower % 2 == 0, lower, upper)).all()


@given(st.floats(0, 1))
def test_float64_scores_round_as_exact_arithmetic_does(score: float) -> None:
    assert codes.encode(score) == nearest_even(score)


@given(st.floats(0, 1, width=32))
def test_float32_scores_round_as_exact_arithmetic_does(score: float) -> None:
    assert codes.encode(np.float32(score)) == nearest_even(score)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_interval_of_valid_scores_is_what_rounds_into_the_unit_interval(dtype: Any) -> None:
    lowest, highest = dtype(codes.LOWEST_VALID), dtype(codes.HIGHEST_VALID)
    assert codes.encode([lowest, highest]).tolist() == [0, codes.CODE_ONE]
    for outside in (np.nextafter(lowest, dtype(-1)), np.nextafter(highest, dtype(2))):
        with pytest.raises(InvalidScoresError):
            codes.encode(np.array([outside]))
    assert np.float16(np.nextafter(dtype(codes.HIGHEST_VALID), dtype(2))) > 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -0.1, 1.2, 1e30])
def test_invalid_scores_are_named_with_place_and_count(bad: float) -> None:
    scores = np.full((2, 3), 0.5)
    scores[1, 2] = bad
    with pytest.raises(InvalidScoresError, match=r"1 of 6 scores .* index \(1, 2\)"):
        codes.encode(scores)


def test_negative_zero_is_zero() -> None:
    assert codes.encode(np.array([-0.0], dtype=np.float16)).tolist() == [0]


def test_every_uint8_value_has_a_code_of_its_own() -> None:
    scores = codes.encode(np.arange(256, dtype=np.uint8))
    assert len(np.unique(scores)) == 256
    assert scores[0] == 0
    assert scores[255] == codes.CODE_ONE
    assert [nearest_even(float(np.float32(k) / np.float32(255))) for k in range(256)] == scores.tolist()


@given(st.lists(st.lists(st.floats(0, 1, width=16), min_size=3, max_size=3), min_size=1, max_size=5))
def test_members_are_summed_in_float32_in_order_and_rounded_once(members: list[list[float]]) -> None:
    array = np.array(members, dtype=np.float16)
    found, valid = codes.mean_codes(array)
    for voxel in range(3):
        total = np.float32(0)
        for member in array:
            total = np.float32(total + np.float32(member[voxel]))
        assert found[voxel] == nearest_even(float(total / np.float32(len(array))))
    assert valid.all()


def test_clip_moves_to_the_ends_and_nan_has_none() -> None:
    members = np.array([[-3.0, 2.0, np.nan, np.inf, -np.inf]], dtype=np.float32)
    found, valid = codes.mean_codes(members, clip=True)
    assert valid.tolist() == [True, True, False, True, True]
    assert found.tolist() == [0, codes.CODE_ONE, 0, codes.CODE_ONE, 0]


@pytest.mark.parametrize("dtype", [np.int64, np.int16, np.bool_, np.complex64, "U3"])
def test_dtypes_that_mean_something_else_are_refused(dtype: Any) -> None:
    with pytest.raises(RequestError, match="dtype"):
        codes.as_scores(np.zeros(3, dtype=dtype))


@pytest.mark.parametrize("dtype", [">f2", ">f4", ">f8"])
def test_byte_order_does_not_matter(dtype: Any) -> None:
    assert codes.encode(np.array([0.25, 1.0], dtype=dtype)).tolist() == codes.encode(np.array([0.25, 1.0])).tolist()
