"""Every kernel against the oracle, and the oracle against its definition."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from twintrack_core import kernels
from twintrack_core.codes import N_CODES
from twintrack_core.errors import InvalidScoresError, InvalidVotesError, RequestError
from twintrack_core.kernels import reference
from twintrack_core.kernels.tally import Tally

FAST = [name for name in kernels.names() if name != "reference"]
DTYPES = ["float16", "float32", "uint8"]
STRETCH = 4096  # sizes around a multiple of a kernel's inner length are where mistakes live
SIZES = [0, 1, 63, 255, 256, 257, STRETCH - 1, STRETCH, STRETCH + 1, 3 * STRETCH + 17]

Arrays = tuple[npt.NDArray[Any], npt.NDArray[np.uint8], npt.NDArray[np.bool_]]


def arrays(dtype: str, members: int, size: int, raters: int, seed: int = 0) -> Arrays:
    """Scores with runs of background, votes and a region."""
    rng = np.random.default_rng([seed, size])
    scores = rng.random((members, size))
    votes = rng.integers(0, 1 << raters, size).astype(np.uint8)
    for start in range(0, size, 300):
        if rng.random() < 0.5:
            scores[:, start : start + 300] = 0
            votes[start : start + 300] = 0
    region = np.repeat(rng.random(size // 200 + 1) < 0.5, 200)[:size]
    stored = np.round(scores * 255).astype(np.uint8) if dtype == "uint8" else scores.astype(dtype)
    return stored, votes, region


def special_scores() -> Iterator[float]:
    """Scores at which rounding, validity or sign could go wrong."""
    yield from (0.0, -0.0, 1.0, 2.0**-24, 2.0**-25, -(2.0**-25), -(2.0**-24), 1 + 2.0**-11, 1 + 2.0**-10, 0.5)
    yield from (np.nan, np.inf, -np.inf, -0.1, 1.2, 65504.0, 1e-45, np.nextafter(np.float32(1), np.float32(2)))


@pytest.mark.parametrize("kernel", FAST)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("members", [1, 2, 5])
@pytest.mark.parametrize("size", SIZES)
def test_counts_equal_the_oracle(kernel: str, dtype: str, members: int, size: int) -> None:
    for raters in (0, 1, 5, 8):
        scores, votes, region = arrays(dtype, members, size, raters)
        for v, roi in product((votes, None), (region, None)):
            expected = kernels.count(scores, v, roi, raters, members=True, kernel="reference")
            found = kernels.count(scores, v, roi, raters, members=True, kernel=kernel, threads=1)
            np.testing.assert_array_equal(found, expected)
            assert found.sum() == size


@pytest.mark.parametrize("kernel", FAST)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("out", ["float16", "float32", "float64", "uint8"])
def test_relabelled_values_equal_the_oracle(kernel: str, dtype: str, members: int, out: str) -> None:
    lut = (np.random.default_rng(1).random(N_CODES) * 255).astype(out)
    for size in SIZES:
        scores, _, _ = arrays(dtype, members, size, 1)
        expected = kernels.relabel(scores, lut, members=True, kernel="reference")
        np.testing.assert_array_equal(kernels.relabel(scores, lut, members=True, kernel=kernel), expected)
        result = np.empty_like(expected)
        assert kernels.relabel(scores, lut, members=True, kernel=kernel, out=result) is result
        np.testing.assert_array_equal(result, expected)
    with pytest.raises(RequestError, match="out"):
        kernels.relabel(scores, lut, members=True, out=np.empty(3, dtype=out))


@pytest.mark.parametrize("kernel", FAST)
@given(
    scores=hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40),
        elements=st.one_of(st.sampled_from(list(special_scores())), st.floats(0, 1, width=32)),
    ),
    dtype=st.sampled_from(["float16", "float32"]),
    clip=st.booleans(),
    seed=st.integers(0, 9),
)
def test_any_scores_are_counted_and_found_as_by_the_oracle(
    kernel: str, scores: npt.NDArray[Any], dtype: str, clip: bool, seed: int
) -> None:
    with np.errstate(over="ignore"):
        scores = np.ascontiguousarray(scores.astype(dtype))
    rng = np.random.default_rng(seed)
    votes = rng.integers(0, 9, (scores.shape[1],)).astype(np.uint8)  # patterns of 8 and more are invalid for 3 raters
    region = rng.integers(0, 3, (scores.shape[1],)).astype(np.uint8)
    tables = [np.zeros((2, 8, N_CODES), dtype=np.uint32) for _ in range(2)]
    found = kernels.get(kernel).accumulate(scores, votes, region, tables[0], clip=clip)
    assert found == reference.accumulate(scores, votes, region, tables[1], clip=clip)
    np.testing.assert_array_equal(tables[0], tables[1])
    lut = np.append(np.linspace(0, 1, N_CODES, dtype=np.float32), np.float32(np.nan))
    outs = [np.empty(scores.shape[1], dtype=np.float32) for _ in range(2)]
    found = kernels.get(kernel).relabel(scores, lut, outs[0], clip=clip)
    assert found == reference.relabel(scores, lut, outs[1], clip=clip)
    np.testing.assert_array_equal(outs[0], outs[1])


@pytest.mark.parametrize("kernel", kernels.names())
def test_every_float16_bit_pattern(kernel: str) -> None:
    patterns = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    valid = (np.arange(1 << 16) < N_CODES) | (np.arange(1 << 16) == 0x8000)
    counts = kernels.count(patterns, None, None, 0, kernel=kernel, on_invalid="exclude")
    assert counts[1, 0, 0] == 2  # 0 and -0
    np.testing.assert_array_equal(counts[1, 1:, 0], 1)
    assert counts.sum() == valid.sum()


@pytest.mark.parametrize("kernel", kernels.names())
def test_counts_up_to_32_bits(kernel: str) -> None:
    scores = np.zeros((1, 5000), dtype=np.float16)
    scores[0, 4990:] = 1
    for start in (2**31 - 3, 2**32 - 1 - 4990):
        table = np.full((1, 2, N_CODES), start, dtype=np.uint32)
        kernels.get(kernel).accumulate(scores, None, None, table)
        assert table[0, 0, 0] == start + 4990
        assert table[0, 0, -1] == start + 10
        assert table[0, 1, 0] == start


@pytest.mark.parametrize("kernel", kernels.names())
def test_a_tally_counts_beyond_32_bits_and_beyond_float64(kernel: str) -> None:
    scores = np.zeros((1, 5000), dtype=np.float16)
    scores[0, 4990:] = 1
    tally = Tally(1)
    tally._moved = np.full(tally._table.shape, 2**53 + 1, dtype=np.int64)
    tally._table[:] = 2**32 - 4990
    tally._room = 4989  # one voxel less than fits
    tally.add(kernels.get(kernel), scores, None, True)
    counts = tally.counts()
    assert counts[1, 0, 0] == 2**53 + 1 + 2**32
    assert counts[1, 0, -1] == 2**53 + 1 + 2**32 - 4990 + 10
    assert counts[0, 1, 7] == 2**53 + 1 + 2**32 - 4990
    tally.add(kernels.get(kernel), scores, None, False)
    assert tally.counts()[0, 0, 0] == 2**53 + 1 + 2**32


@pytest.mark.parametrize("kernel", FAST)
def test_one_plane_takes_everything(kernel: str) -> None:
    scores, votes, _ = arrays("float16", 1, 2000, 3)
    table = np.zeros((1, 8, N_CODES), dtype=np.uint32)
    kernels.get(kernel).accumulate(scores, votes, None, table)
    np.testing.assert_array_equal(table[0].T, kernels.count(scores[0], votes, None, 3, kernel="reference")[1])


@pytest.mark.parametrize("kernel", FAST)
def test_region_bytes_other_than_1_are_inside(kernel: str) -> None:
    scores, votes, _ = arrays("float16", 1, 3000, 2)
    region = np.where(np.arange(3000) % 7, np.uint8(255), np.uint8(0))
    table = np.zeros((2, 4, N_CODES), dtype=np.uint32)
    kernels.get(kernel).accumulate(scores, votes, region, table)
    assert table[0].sum() == (region == 0).sum()


@pytest.mark.parametrize("kernel", FAST)
def test_any_number_of_threads_and_any_strides(kernel: str) -> None:
    rng = np.random.default_rng(3)
    volume = np.where(rng.random((3, 96, 96, 96)) < 0.7, 0, rng.random((3, 96, 96, 96))).astype(np.float16)
    votes = rng.integers(0, 32, (96, 96, 96)).astype(np.uint8)
    roi = rng.random((96, 96, 96)) < 0.2
    expected = kernels.count(volume, votes, roi, 5, members=True, kernel="reference")
    for threads in (1, 2, 3):
        np.testing.assert_array_equal(
            kernels.count(volume, votes, roi, 5, members=True, kernel=kernel, threads=threads), expected
        )
    views: list[Any] = [array[..., ::-1, :].swapaxes(-1, -3) for array in (volume, votes, roi)]
    np.testing.assert_array_equal(kernels.count(views[0], views[1], views[2], 5, members=True, kernel=kernel), expected)
    volume.flags.writeable = False
    np.testing.assert_array_equal(kernels.count(volume, votes, roi, 5, members=True, kernel=kernel), expected)


@pytest.mark.parametrize("kernel", FAST)
def test_concurrent_calls_do_not_disturb_each_other(kernel: str) -> None:
    scores, votes, region = arrays("float16", 2, 50_000, 4)
    expected = kernels.count(scores, votes, region, 4, members=True, kernel="reference")
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(kernels.count, scores, votes, region, 4, members=True, kernel=kernel) for _ in range(16)]
    for call in calls:
        np.testing.assert_array_equal(call.result(), expected)


@pytest.mark.parametrize("kernel", kernels.names())
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.1, 1.2, 3.7])
def test_what_is_no_probability_is_named_with_place_and_count(kernel: str, value: float) -> None:
    scores = np.full((2, 30, 40), 0.25, dtype=np.float32)
    scores[1, 3, 7] = value
    scores[1, 3, 9] = value
    with pytest.raises(InvalidScoresError, match=r"2 of 2400 .* index \(1, 3, 7\)"):
        kernels.count(scores, None, None, 0, kernel=kernel)
    with pytest.raises(InvalidScoresError, match=r"index \(1, 3, 7\)"):
        kernels.relabel(scores, np.zeros(N_CODES), kernel=kernel)


@pytest.mark.parametrize("kernel", kernels.names())
def test_policies_for_invalid_scores(kernel: str) -> None:
    scores = np.array([0.5, -3, 7, np.inf, -np.inf, 0.25], dtype=np.float32)
    clipped = kernels.count(scores, None, None, 0, kernel=kernel, on_invalid="clip")
    np.testing.assert_array_equal(
        clipped, kernels.count(np.array([0.5, 0, 1, 1, 0, 0.25]), None, None, 0, kernel="reference")
    )
    excluded = kernels.count(scores, None, None, 0, kernel=kernel, on_invalid="exclude")
    assert excluded.sum() == 2
    with pytest.raises(InvalidScoresError, match="nan"):
        kernels.count(np.array([0.1, np.nan]), None, None, 0, kernel=kernel, on_invalid="clip")
    lut = np.linspace(0, 1, N_CODES)
    np.testing.assert_array_equal(
        np.isnan(kernels.relabel(scores, lut, kernel=kernel, on_invalid="exclude")), [0, 1, 1, 1, 1, 0]
    )
    with pytest.raises(RequestError, match="NaN"):
        kernels.relabel(scores, lut.astype(np.uint8), kernel=kernel, on_invalid="exclude")


@pytest.mark.parametrize("kernel", kernels.names())
def test_marks_of_raters_there_are_not(kernel: str) -> None:
    votes = np.zeros((4, 500), dtype=np.uint8)
    votes[2, 17] = 8
    with pytest.raises(InvalidVotesError, match=r"1 of 2000 .* 8 at index \(2, 17\)"):
        kernels.count(np.zeros((4, 500), dtype=np.float16), votes, None, 3, kernel=kernel)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"votes": np.zeros(4, np.uint8)}, "shape"),
        ({"votes": np.zeros(5, np.int64)}, "dtype"),
        ({"roi": np.zeros(5, np.uint8)}, "dtype"),
        ({"probability": np.zeros(5, np.int32)}, "dtype"),
        ({"n_raters": 9}, "raters"),
        ({"kernel": "fortran"}, "fortran"),
        ({"threads": 0}, "threads"),
        ({"on_invalid": "ignore"}, "ignore"),
    ],
)
def test_wrong_requests(arguments: dict[str, Any], words: str) -> None:
    request = {"probability": np.zeros(5), "votes": None, "roi": None, "n_raters": 2, **arguments}
    with pytest.raises(RequestError, match=words):
        kernels.count(**request)


@pytest.mark.parametrize("error", [RuntimeError("cannot cache function"), OSError(28, "No space left on device")])
def test_without_a_place_for_its_cache_numba_compiles_anyway(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    import numba

    from twintrack_core.kernels import numba as backend

    real = numba.njit

    def njit(*arguments: Any, cache: bool = False, **options: Any) -> Any:
        if cache:
            raise error
        return real(*arguments, **options)

    monkeypatch.setattr(numba, "njit", njit)
    backend._accumulate.cache_clear()
    scores = np.array([[0, 128, 255]], dtype=np.uint8)
    tables = [np.zeros((1, 1, N_CODES), dtype=np.uint32) for _ in range(2)]
    with pytest.warns(RuntimeWarning, match="NUMBA_CACHE_DIR"):
        backend.accumulate(scores, None, None, tables[0])
    backend._accumulate.cache_clear()
    reference.accumulate(scores, None, None, tables[1])
    np.testing.assert_array_equal(tables[0], tables[1])
