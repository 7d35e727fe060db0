"""The oracle against its definition, what dispatch adds to a kernel, tallies, and the choice of a kernel."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest

from twintrack_core import kernels
from twintrack_core.codes import CODE_VALUES, N_CODES, UINT8_SCORES
from twintrack_core.errors import InvalidScoresError, InvalidVotesError, RequestError
from twintrack_core.kernels import reference, registry
from twintrack_core.kernels.tally import Tally


@pytest.mark.parametrize("dtype", ["float16", "float32", "uint8"])
def test_the_oracle_counts_and_looks_up_as_a_loop_does(dtype: str) -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 256, 500).astype(np.uint8) if dtype == "uint8" else rng.random(500).astype(dtype)
    votes, region = rng.integers(0, 4, 500, np.uint8), rng.integers(0, 3, 500, np.uint8)
    table = np.ones((2, 4, N_CODES), np.uint32)
    reference.accumulate(scores[np.newaxis], votes, region, table)
    out = np.empty(500)
    lut = rng.random(N_CODES + 1)
    reference.relabel(scores[np.newaxis], lut, out)
    values = UINT8_SCORES[scores] if dtype == "uint8" else scores
    codes = np.abs(CODE_VALUES - values[:, np.newaxis].astype(np.float64)).argmin(axis=1)
    counts = Counter(zip(np.sign(region).tolist(), votes.tolist(), codes.tolist(), strict=True))
    assert (table > 1).sum() == len(counts)
    for cell, n in counts.items():
        assert table[cell] == 1 + n
    np.testing.assert_array_equal(out, lut[codes])


def test_every_float16_bit_pattern() -> None:
    patterns = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    valid = (np.arange(1 << 16) < N_CODES) | (np.arange(1 << 16) == 0x8000)
    counts = kernels.count(patterns, None, None, 0, kernel="reference", on_invalid="exclude")
    assert counts[1, 0, 0] == 2  # 0 and -0
    np.testing.assert_array_equal(counts[1, 1:, 0], 1)
    assert counts.sum() == valid.sum()


@pytest.mark.parametrize("members", [1, 3])
def test_any_number_of_threads_and_any_strides(members: int) -> None:
    rng = np.random.default_rng(3)
    shape = (members, 96, 96, 96)
    volume = np.where(rng.random(shape) < 0.7, 0, rng.random(shape)).astype(np.float16)
    votes = rng.integers(0, 32, shape[1:]).astype(np.uint8)
    roi = rng.random(shape[1:]) < 0.2
    lut = rng.random(N_CODES)
    expected = kernels.count(volume, votes, roi, 5, members=True, kernel="reference")
    values = kernels.relabel(volume, lut, members=True, kernel="reference")
    for threads in (1, 2, 3, None):
        found = kernels.count(volume, votes, roi, 5, members=True, threads=threads)
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(kernels.relabel(volume, lut, members=True, threads=threads), values)
    volume.flags.writeable = False
    views: list[Any] = [array[..., ::-1, :].swapaxes(-1, -3) for array in (volume, votes, roi)]
    np.testing.assert_array_equal(kernels.count(views[0], views[1], views[2], 5, members=True), expected)
    np.testing.assert_array_equal(kernels.relabel(views[0], lut, members=True), values[..., ::-1, :].swapaxes(-1, -3))


def test_where_to_write() -> None:
    scores, lut = np.linspace(0, 1, 24).reshape(2, 3, 4), np.linspace(1, 0, N_CODES)
    out = np.empty((2, 3, 4))
    assert kernels.relabel(scores, lut, out=out) is out
    np.testing.assert_array_equal(out, kernels.relabel(scores, lut, kernel="reference"))
    for wrong in (np.empty((2, 3, 5)), np.empty((2, 3, 4), np.float32), np.empty((4, 3, 2)).T):
        with pytest.raises(RequestError, match="out is"):
            kernels.relabel(scores, lut, out=wrong)
    with pytest.raises(RequestError, match="look-up table"):
        kernels.relabel(scores, lut[:-1])


def test_a_tally_counts_beyond_32_bits_and_beyond_float64() -> None:
    scores = np.zeros((1, 5000), dtype=np.float16)
    scores[0, 4990:] = 1
    tally = Tally(1)
    tally._moved = np.full(tally._table.shape, 2**53 + 1, dtype=np.int64)
    tally._table[:] = 2**32 - 4990
    tally._room = 4989  # one voxel less than fits
    tally.add(reference, scores, None, True)
    counts = tally.counts()
    assert counts[1, 0, 0] == 2**53 + 1 + 2**32
    assert counts[1, 0, -1] == 2**53 + 1 + 2**32 - 4990 + 10
    assert counts[0, 1, 7] == 2**53 + 1 + 2**32 - 4990
    tally.add(reference, scores, None, False)
    assert tally.counts()[0, 0, 0] == 2**53 + 1 + 2**32


def test_places_are_found_in_any_piece_of_any_thread() -> None:
    scores = np.zeros((2, 3, 1 << 19), np.float16)
    votes = np.zeros((3, 1 << 19), np.uint8)
    scores[1, 2, 400_000:] = 2
    for threads in (1, 3):
        with pytest.raises(InvalidScoresError, match=r"124288 of 1572864 .* index \(2, 400000\)"):
            kernels.count(scores, votes, None, 1, members=True, threads=threads)
        with pytest.raises(InvalidScoresError, match=r"index \(2, 400000\)"):
            kernels.relabel(scores, np.zeros(N_CODES), members=True, threads=threads)
    votes[1, 300_000] = 2
    with pytest.raises(InvalidVotesError, match=r"1 of 1572864 .* index \(1, 300000\)"):
        kernels.count(scores, votes, None, 1, members=True, threads=2)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.1, 1.2, 3.7])
def test_what_is_no_probability_is_named_with_place_and_count(value: float) -> None:
    scores = np.full((2, 30, 40), 0.25, dtype=np.float32)
    scores[1, 3, 7] = value
    scores[1, 3, 9] = value
    with pytest.raises(InvalidScoresError, match=r"2 of 2400 .* index \(1, 3, 7\)"):
        kernels.count(scores, None, None, 0)
    with pytest.raises(InvalidScoresError, match=r"index \(1, 3, 7\)"):
        kernels.relabel(scores, np.zeros(N_CODES))


def test_policies_for_invalid_scores() -> None:
    scores = np.array([0.5, -3, 7, np.inf, -np.inf, 0.25], dtype=np.float32)
    clipped = kernels.count(scores, None, None, 0, on_invalid="clip")
    np.testing.assert_array_equal(
        clipped, kernels.count(np.array([0.5, 0, 1, 1, 0, 0.25]), None, None, 0, kernel="reference")
    )
    excluded = kernels.count(scores, None, None, 0, on_invalid="exclude")
    assert excluded.sum() == 2
    with pytest.raises(InvalidScoresError, match="nan"):
        kernels.count(np.array([0.1, np.nan]), None, None, 0, on_invalid="clip")
    lut = np.linspace(0, 1, N_CODES)
    np.testing.assert_array_equal(np.isnan(kernels.relabel(scores, lut, on_invalid="exclude")), [0, 1, 1, 1, 1, 0])
    with pytest.raises(RequestError, match="NaN"):
        kernels.relabel(scores, lut.astype(np.uint8), on_invalid="exclude")


def test_marks_of_raters_there_are_not() -> None:
    votes = np.zeros((4, 500), dtype=np.uint8)
    votes[2, 17] = 8
    with pytest.raises(InvalidVotesError, match=r"1 of 2000 .* 8 at index \(2, 17\)"):
        kernels.count(np.zeros((4, 500), dtype=np.float16), votes, None, 3)


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
        ({"probability": np.zeros((1025, 5), np.float16), "members": True}, "1 to 1024 members"),
        ({"probability": np.zeros((0, 5), np.float16), "members": True}, "1 to 1024 members"),
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


@pytest.fixture
def _without_cython(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_is_built", lambda name: name != "cython")
    _forget()
    yield
    _forget()


def _forget() -> None:
    registry._fastest.cache_clear()
    registry.KERNELS._loaded.clear()


def test_names_and_the_fastest() -> None:
    built = registry._is_built("cython")
    assert kernels.names()[: 2 + built] == ("reference", "numba", "cython")[: 2 + built]
    assert kernels.get() is kernels.get("auto") is kernels.get("cython" if built else "numba")


@pytest.mark.usefixtures("_without_cython")
def test_a_kernel_that_was_not_built() -> None:
    assert "cython" not in kernels.names()
    assert kernels.get("auto") is kernels.get("numba")
    with pytest.raises(RequestError, match=r"'cython' was not built (.|\n)*C compiler, or choose numba"):
        kernels.get("cython")


def test_a_list_of_names_imports_no_kernel() -> None:
    program = """
import sys
from twintrack_core import kernels
assert "numba" in kernels.names()
assert not {"numba", "twintrack_core.kernels.numba", "twintrack_core.kernels.cython"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("kernel", kernels.names())
def test_scores_at_odd_addresses(kernel: str) -> None:
    aligned = np.random.default_rng(0).random(3000).astype(np.float16)
    odd = np.zeros(aligned.nbytes + 1, dtype=np.uint8)[1:].view(np.float16)
    odd[:] = aligned
    assert not odd.flags.aligned
    expected = kernels.count(aligned, None, None, 0, kernel="reference")
    np.testing.assert_array_equal(kernels.count(odd, None, None, 0, kernel=kernel), expected)
    with pytest.raises(RequestError, match="aligned"):
        kernels.relabel(aligned, np.zeros(N_CODES, dtype=np.float16), out=odd, kernel=kernel)


def test_tallies_add_up_whatever_they_hold() -> None:
    def half_full(room: int, moved: bool) -> Tally:
        tally = Tally(1)
        tally.add(kernels.get("reference"), np.array([[0, 0, 1]], dtype=np.float16), None, True)
        tally._room = room
        if moved:
            tally._move()
        return tally

    for room, first, second in product((2**32 - 4, 1), (False, True), (False, True)):
        total = half_full(room, first)
        total.absorb(half_full(2**32 - 4, second))
        region, code, pattern, count = total.drain()
        np.testing.assert_array_equal(np.stack([region, code, pattern, count]), [[1, 1], [0, 0x3C00], [0, 0], [4, 2]])
        assert not total.counts().any()


@pytest.mark.parametrize("kernel", kernels.names())
@pytest.mark.parametrize(("dtype", "size"), [("float64", (1 << 21) + 77), ("uint8", (1 << 24) + 77)])
def test_results_that_no_cache_holds(kernel: str, dtype: str, size: int) -> None:
    codes = np.random.default_rng(0).integers(0, N_CODES, size).astype(np.uint16)
    codes[size // 3 : size // 2] = 0
    lut = (np.random.default_rng(1).random(N_CODES + 1) * 255).astype(dtype)
    whole = np.full(size + 2, 7, dtype=dtype)
    out = whole[1:-1]  # aligned to its items only
    kernels.get(kernel).relabel(codes.view(np.float16)[np.newaxis], lut, out)
    np.testing.assert_array_equal(out, lut[codes])
    np.testing.assert_array_equal(whole[[0, -1]], 7)
