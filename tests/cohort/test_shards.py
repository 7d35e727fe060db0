"""Shards: what zarr-python packs into them is found chunk by chunk, and nothing they say of themselves is believed."""

from __future__ import annotations

import errno
import json
import os
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import checksum32
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, ShardingCodec, ZstdCodec

from twintrack_core.cohort.array_metadata import open_array
from twintrack_core.cohort.chunks import Box, ChunkedArray
from twintrack_core.cohort.codecs import Codec
from twintrack_core.cohort.scratch import Scratch
from twintrack_core.cohort.shards import KnownShards, ShardIndex, Sharding, sharding_of
from twintrack_core.errors import StoreError

Array = npt.NDArray[Any]

COMPRESSORS: dict[str, Any] = {
    "none": None,
    "lz4": BloscCodec(cname="lz4", shuffle="bitshuffle"),
    "zstd": ZstdCodec(checksum=True),
    "gzip": GzipCodec(),
}
LAYOUTS = [(first, checksum) for first in (False, True) for checksum in (True, False)]
LAYOUT_NAMES = [
    f"index {'first' if first else 'last'}{' with checksum' if checksum else ''}" for first, checksum in LAYOUTS
]
NOWHERE = 2**64 - 1


def create(
    path: Path,
    shape: tuple[int, ...],
    shards: tuple[int, ...],
    chunks: tuple[int, ...],
    *,
    dtype: str = "float16",
    compressor: str = "none",
    first: bool = False,
    checksum: bool = True,
    **options: Any,
) -> Any:
    codec = COMPRESSORS[compressor]
    serializer = ShardingCodec(
        chunk_shape=chunks,
        codecs=[BytesCodec(), *([codec] if codec else [])],
        index_codecs=[BytesCodec(), Crc32cCodec()] if checksum else [BytesCodec()],
        index_location="start" if first else "end",
    )
    return zarr.create_array(
        store=str(path), shape=shape, chunks=shards, dtype=dtype, serializer=serializer, compressors=None, **options
    )


def random_values(shape: tuple[int, ...], seed: int = 0) -> Array:
    return np.random.default_rng(seed).random(shape).astype(np.float16)


def read(array: ChunkedArray, box: Box, scratch: Scratch | None = None) -> Array:
    out = np.full(tuple(s.stop - s.start for s in box), 99, dtype=array.dtype)
    array.read(box, out, scratch or Scratch())
    return out


def first_shard(path: Path) -> Path:
    return path / "c" / "0" / "0" / "0"


class Reads:
    """What is read with `os.pread`: (offset, length) in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, most: int = 1 << 40) -> None:
        self.made: list[tuple[int, int]] = []
        pread = os.pread

        def counted(descriptor: int, length: int, offset: int) -> bytes:
            self.made.append((offset, length))
            return pread(descriptor, min(length, most), offset)

        monkeypatch.setattr(os, "pread", counted)


# A shard made by hand: 2 x 1 x 2 chunks of 2 x 2 x 2 float16 values, of which the third was never written

PIECES = [bytes([n]) * 16 for n in (1, 2, 3)]
SHARDING = {layout: Sharding((2, 1, 2), *layout) for layout in LAYOUTS}


def made_by_hand(path: Path, first: bool, checksum: bool) -> ChunkedArray:
    create(path, (4, 2, 4), (4, 2, 4), (2, 2, 2), first=first, checksum=checksum)
    first_shard(path).parent.mkdir(parents=True)
    first_shard(path).write_bytes(shard(first, checksum, entries(first, checksum)))
    return open_array(path)


def entries(first: bool, checksum: bool) -> list[tuple[int, int]]:
    """Offset and length of each chunk: in no order, and with a gap."""
    start = (64 + 4 * checksum) if first else 0
    return [(start + 40, 16), (start, 16), (NOWHERE, NOWHERE), (start + 16, 16)]


def shard(first: bool, checksum: bool, index: list[tuple[int, int]]) -> bytes:
    data = np.array(index, dtype="<u8").tobytes()
    if checksum:
        data = checksum32.CRC32C().encode(data).tobytes()
    pieces = PIECES[1] + PIECES[2] + b"gap " * 2 + PIECES[0]
    return data + pieces if first else pieces + data


@pytest.mark.parametrize(("first", "checksum"), LAYOUTS, ids=LAYOUT_NAMES)
def test_chunks_may_lie_in_any_order_and_apart(tmp_path: Path, first: bool, checksum: bool) -> None:
    array = made_by_hand(tmp_path / "a", first, checksum)
    assert array.sharding == SHARDING[first, checksum]
    assert array.sharding.index_bytes == 64 + 4 * checksum
    assert array.written().tolist() == [[0, 0, 0], [0, 0, 1], [1, 0, 1]]
    expected = np.asarray(zarr.open_array(str(tmp_path / "a"), mode="r")[:])
    assert expected[::2, 0, ::2].copy().view(np.uint8)[:, ::2].tolist() == [[1, 2], [0, 3]]
    np.testing.assert_array_equal(array.read_all(), expected)


# What zarr-python wrote; any shape, fill value and box are in test_chunks


@pytest.mark.parametrize("compressor", COMPRESSORS)
@pytest.mark.parametrize(("first", "checksum"), LAYOUTS, ids=LAYOUT_NAMES)
def test_every_layout_is_read_directly(tmp_path: Path, first: bool, checksum: bool, compressor: str) -> None:
    values = random_values((9, 10, 11))
    options: dict[str, Any] = {"first": first, "checksum": checksum, "compressor": compressor}
    create(tmp_path / "a", values.shape, (4, 8, 6), (2, 4, 3), **options)[:] = values
    array = open_array(tmp_path / "a")
    assert array.sharding == Sharding((2, 2, 2), first, checksum)
    assert (array.chunks, array.grid, array.chunk_bytes) == ((2, 4, 3), (5, 3, 4), 48)
    assert array.codec is not None
    assert array.codec.name == ("blosc" if compressor == "lz4" else compressor)
    assert pickle.loads(pickle.dumps(array)) == array
    np.testing.assert_array_equal(array.read_all(), values)
    np.testing.assert_array_equal(read(array, np.s_[1:9, 3:10, 2:11]), values[1:9, 3:10, 2:11])
    chunk = np.empty((2, 4, 3), dtype=np.float16)
    assert array.read_chunk((1, 1, 2), chunk)
    np.testing.assert_array_equal(chunk, values[array.box((1, 1, 2))])


def test_the_store_of_zarrs_own_shards_option_is_read_directly(tmp_path: Path) -> None:
    values = random_values((8, 8, 8))
    zarr.create_array(store=str(tmp_path / "a"), shape=(8, 8, 8), chunks=(2, 2, 2), shards=(4, 8, 8), dtype="float16")[
        :
    ] = values
    array = open_array(tmp_path / "a")
    assert array.sharding == Sharding((2, 4, 4), index_first=False, checksum=True)
    np.testing.assert_array_equal(array.read_all(), values)


@pytest.mark.parametrize("members", [1, 3], ids=["a shard per member", "shards across members"])
def test_members_may_have_shards_of_their_own_or_share_them(tmp_path: Path, members: int) -> None:
    values = random_values((5, 6, 7, 8))
    create(tmp_path / "a", values.shape, (members, 4, 4, 8), (1, 2, 4, 4), compressor="lz4")[:] = values
    array = open_array(tmp_path / "a")
    assert array.grid == (5, 3, 2, 2)
    assert len(array.written()) == 5 * 12
    scratch = Scratch()
    for box in (np.s_[0:5, 2:4, 0:4, 0:4], np.s_[0:5, 4:6, 4:7, 4:8], np.s_[1:4, 1:5, 2:7, 0:8]):
        np.testing.assert_array_equal(read(array, box, scratch), values[box])


@pytest.mark.parametrize("separator", ["/", "."])
@pytest.mark.parametrize("first", [False, True])
def test_only_chunks_that_were_written_are_listed(tmp_path: Path, separator: str, first: bool) -> None:
    encoding = {"name": "default", "separator": separator}
    stored = create(
        tmp_path / "a", (9, 9, 9), (4, 4, 8), (2, 2, 2), first=first, fill_value=0.5, chunk_key_encoding=encoding
    )
    array = open_array(tmp_path / "a")
    assert array.written().shape == (0, 3)
    stored[8, 0, 8] = 0.25  # at the border
    stored[2:4, 2, 2] = 0.25
    stored[4:6, 4:6, 0:5] = 0.25
    assert array.written().tolist() == [[1, 1, 1], [2, 2, 0], [2, 2, 1], [2, 2, 2], [4, 0, 4]]
    assert array.written().dtype == np.int64
    np.testing.assert_array_equal(array.read_all(), stored[:])
    chunk = np.empty((2, 2, 2), dtype=np.float16)
    assert not array.read_chunk((0, 0, 0), chunk)  # in a shard
    assert not array.read_chunk((0, 4, 0), chunk)  # in none


def test_chunks_past_the_border_of_the_array_are_none(tmp_path: Path) -> None:
    config: Any = {"write_empty_chunks": True}
    stored = create(tmp_path / "a", (3, 5, 5), (4, 4, 4), (2, 2, 2), config=config)
    stored[:] = 0
    array = open_array(tmp_path / "a")
    assert list(map(tuple, array.written().tolist())) == list(np.ndindex(2, 3, 3))
    np.testing.assert_array_equal(array.read_all(), 0)


@pytest.mark.parametrize("separator", ["/", "."])
def test_files_past_the_border_are_no_shards(tmp_path: Path, separator: str) -> None:
    path = tmp_path / "a"
    encoding = {"name": "default", "separator": separator}
    create(path, (4, 4, 4), (4, 4, 4), (2, 2, 2), chunk_key_encoding=encoding)[:] = 0.5
    for key in (("0", "0", "1"), ("1", "0", "0")):  # chunks of that number there are, but they lie in the first shard
        stray = path / ("c" + separator + separator.join(key))
        stray.parent.mkdir(parents=True, exist_ok=True)
        stray.write_bytes(b"stray")
    assert list(map(tuple, open_array(path).written().tolist())) == list(np.ndindex(2, 2, 2))


def test_a_folder_in_the_place_of_a_shard_and_a_file_for_a_folder_hold_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a"
    create(path, (2, 4, 4), (1, 4, 4), (1, 2, 2))
    first_shard(path).mkdir(parents=True)
    (path / "c" / "1").write_bytes(b"")
    array = open_array(path)
    assert array.sharding is not None
    assert len(array.written()) == 0
    assert len(array.sharding.written(array.folder, "c/0/0/0", array.chunk_bytes)) == 0  # gone since it was listed
    np.testing.assert_array_equal(array.read_all(), 0)


def test_shards_are_never_written(tmp_path: Path) -> None:
    path = tmp_path / "a"
    create(path, (4, 4, 4), (4, 4, 4), (2, 2, 2))[:] = 0.5
    before = first_shard(path).read_bytes()
    with pytest.raises(StoreError, match="only read"):
        open_array(path).write_chunk((0, 0, 0), np.zeros((2, 2, 2), dtype=np.float16), Scratch())
    assert first_shard(path).read_bytes() == before


# How little is read


@pytest.mark.parametrize(("first", "checksum"), LAYOUTS, ids=LAYOUT_NAMES)
def test_of_a_large_shard_only_the_index_and_the_chunk_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool, checksum: bool
) -> None:
    path = tmp_path / "a"
    values = random_values((64, 64, 64))
    create(path, values.shape, values.shape, (8, 8, 8), first=first, checksum=checksum)[:] = values
    array = open_array(path)
    reads = Reads(monkeypatch)
    tracemalloc.start()
    try:
        np.testing.assert_array_equal(read(array, np.s_[16:24, 8:16, 32:40]), values[16:24, 8:16, 32:40])
        assert tracemalloc.get_traced_memory()[1] < first_shard(path).stat().st_size // 4
    finally:
        tracemalloc.stop()
    index_bytes = 16 * 512 + 4 * checksum
    assert [length for _, length in reads.made] == [index_bytes, 1024]
    reads.made.clear()
    assert len(array.written()) == 512
    assert [length for _, length in reads.made] == [index_bytes]


def test_an_index_is_read_once_until_it_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = random_values((8, 8, 8))
    create(tmp_path / "a", values.shape, (4, 8, 8), (2, 2, 2))[:] = values
    array = open_array(tmp_path / "a")
    index_bytes = 16 * 32 + 4
    reads, scratch, chunk = Reads(monkeypatch), Scratch(), np.empty((2, 2, 2), dtype=np.float16)
    for _ in range(2):
        for z, y in ((0, 0), (2, 1), (1, 3), (3, 2)):
            assert array.read_chunk((z, y, 0), chunk, scratch)
            np.testing.assert_array_equal(read(array, np.s_[0:8, 1:8, 3:8], scratch), values[:, 1:, 3:])
        assert sum(length == index_bytes for _, length in reads.made) == 2
        scratch.forget()
        reads.made.clear()


def test_an_index_is_read_again_when_its_shard_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a"
    array = made_by_hand(path, first=False, checksum=True)
    scratch = Scratch()
    before = read(array, np.s_[0:4, 0:2, 0:4], scratch)
    new = path / "new"
    new.write_bytes(shard(False, True, [(16, 16), (40, 16), (0, 16), (NOWHERE, NOWHERE)]))
    new.replace(first_shard(path))
    after = read(array, np.s_[0:4, 0:2, 0:4], scratch)
    assert not np.array_equal(before, after)
    np.testing.assert_array_equal(after, zarr.open_array(str(path), mode="r")[:])


def test_known_shards_have_bounded_memory_and_the_last_ones_stay() -> None:
    known = KnownShards()
    version = (1, 2, 3)
    tracemalloc.start()
    try:
        for number in range(100):
            known.keep(str(number), ShardIndex(version, np.zeros((1 << 16, 2), dtype=np.int64)))  # 1 MiB
            assert known.get("0", version) is not None  # asked for, so kept
        assert tracemalloc.get_traced_memory()[0] < 10 << 20
        known.keep("large", ShardIndex(version, np.zeros((1 << 20, 2), dtype=np.int64)))
        assert known.get("large", version) is not None
        assert known.get("0", version) is None
        assert known.get("large", (0, 0, 0)) is None
        known.forget()
        assert known.get("large", version) is None
        for number in range(60_000):
            known.keep(str(number), ShardIndex(version, np.zeros((1, 2), dtype=np.int64)))
        assert tracemalloc.get_traced_memory()[0] < 12 << 20
    finally:
        tracemalloc.stop()


def test_a_read_that_returns_less_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = random_values((8, 8, 8))
    create(tmp_path / "a", values.shape, (8, 8, 8), (4, 4, 4), compressor="lz4")[:] = values
    Reads(monkeypatch, most=100)
    np.testing.assert_array_equal(open_array(tmp_path / "a").read_all(), values)


# Damage

INDEX_DAMAGE: dict[str, Callable[[list[tuple[int, int]], int], tuple[int, int]]] = {
    "a byte past the room for chunks": lambda index, size: (index[1][0] + 56 - 15, 16),
    "at the file's end": lambda index, size: (size, 16),
    "outside the file": lambda index, size: (1 << 40, 16),
    "at the last offset": lambda index, size: (NOWHERE - 1, 16),
    "an end that wraps around": lambda index, size: (NOWHERE - 7, 16),
    "no offset but a length": lambda index, size: (NOWHERE, 16),
    "an offset but no length": lambda index, size: (index[1][0], NOWHERE),
    "a length that wraps around": lambda index, size: (index[1][0] + 1, NOWHERE - 1),
    "longer than the file": lambda index, size: (index[1][0], size + 1),
    "empty": lambda index, size: (index[1][0], 0),
    "all zeros": lambda index, size: (0, 0),
}


def assert_refused(array: ChunkedArray, words: str, *, listed: bool = False) -> None:
    """Reading any chunk names the shard, and so does listing."""
    path = first_shard(Path(str(array.folder)))
    for box in (np.s_[0:2, 0:2, 0:2], np.s_[3:4, 0:1, 3:4]):
        with pytest.raises(StoreError, match=words) as caught:
            read(array, box)
        assert str(path) in caught.value.what
    if listed:
        with pytest.raises(StoreError, match=words):
            array.written()


@pytest.mark.parametrize("damage", INDEX_DAMAGE)
@pytest.mark.parametrize(("first", "checksum"), LAYOUTS, ids=LAYOUT_NAMES)
def test_an_index_that_points_elsewhere_is_refused(tmp_path: Path, first: bool, checksum: bool, damage: str) -> None:
    array = made_by_hand(tmp_path / "a", first, checksum)
    index = entries(first, checksum)
    index[3] = INDEX_DAMAGE[damage](index, first_shard(tmp_path / "a").stat().st_size)
    first_shard(tmp_path / "a").write_bytes(shard(first, checksum, index))
    assert_refused(array, r"shard is damaged: its index has .* for its chunk \(1, 0, 1\), in a file of", listed=True)


@pytest.mark.parametrize("checksum", [True, False])
def test_an_index_is_no_chunk(tmp_path: Path, checksum: bool) -> None:
    for first in (False, True):
        array = made_by_hand(tmp_path / f"{first}", first, checksum)
        index = entries(first, checksum)
        index[0] = (0, 16) if first else (56, 16)
        first_shard(tmp_path / f"{first}").write_bytes(shard(first, checksum, index))
        assert_refused(array, "its index has", listed=True)


def test_a_length_that_no_codec_makes_of_a_chunk_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a"
    create(path, (4, 2, 4), (4, 2, 4), (2, 2, 2), compressor="gzip")[:] = 0.5
    array = open_array(path)
    for size, words in ((4128, "chunk .* in it is damaged"), (4129, "its index has 4129 bytes at 0")):
        index = [(0, size), (NOWHERE, NOWHERE), (NOWHERE, NOWHERE), (0, size)]
        first_shard(path).write_bytes(bytes(1 << 20) + shard(False, True, index)[-68:])
        assert_refused(array, words)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("byte", [0, 7, 20, 47, 63, 64, 67])
def test_the_checksum_of_an_index_is_checked(tmp_path: Path, first: bool, byte: int) -> None:
    array = made_by_hand(tmp_path / "a", first, checksum=True)
    file = first_shard(tmp_path / "a")
    data = bytearray(file.read_bytes())
    data[byte if first else byte - 68] ^= 1
    file.write_bytes(data)
    assert_refused(array, "shard is damaged: its index does not fit its checksum", listed=True)


@pytest.mark.parametrize(("first", "checksum"), LAYOUTS, ids=LAYOUT_NAMES)
def test_a_shard_cut_off_anywhere_is_refused(tmp_path: Path, first: bool, checksum: bool) -> None:
    array = made_by_hand(tmp_path / "a", first, checksum)
    file = first_shard(tmp_path / "a")
    data = file.read_bytes()
    for length in range(len(data)):
        file.write_bytes(data[:length])
        words = f"it has {length} bytes, its index alone has" if length < 64 + 4 * checksum else "is damaged"
        assert_refused(array, words, listed=True)


@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_a_damaged_chunk_of_a_shard_is_named_and_the_others_are_read(tmp_path: Path, compressor: str) -> None:
    path = tmp_path / "a"
    values = random_values((4, 4, 16))
    create(path, values.shape, (4, 4, 8), (2, 4, 4), compressor=compressor)[:] = values
    file = path / "c" / "0" / "0" / "1"
    data = bytearray(file.read_bytes())
    index = np.frombuffer(data[-68:-4], dtype="<u8").reshape(-1, 2).copy()
    index[3, 1] -= 1
    data[-68:] = checksum32.CRC32C().encode(index).tobytes()
    file.write_bytes(data)
    array = open_array(path)
    scratch = Scratch()
    with pytest.raises(StoreError, match=r"chunk \(1, 0, 3\) in it is damaged: it") as caught:
        read(array, np.s_[0:4, 0:4, 0:16], scratch)
    assert str(file) in caught.value.what
    np.testing.assert_array_equal(read(array, np.s_[0:4, 0:4, 0:12], scratch), values[:, :, :12])
    assert len(array.written()) == 8


def test_a_shard_that_shrinks_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = made_by_hand(tmp_path / "a", first=False, checksum=True)
    monkeypatch.setattr(os, "pread", lambda descriptor, length, offset: b"")
    assert_refused(array, "shard is damaged: it ended at 56 bytes while it was read", listed=True)


def test_a_shard_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = made_by_hand(tmp_path / "a", first=False, checksum=True)

    def broken(descriptor: int, length: int, offset: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", broken)
    with pytest.raises(StoreError, match="the chunk cannot be read: Input/output error"):
        array.read_all()
    with pytest.raises(StoreError, match="the shard cannot be read: Input/output error"):
        array.written()


@pytest.mark.parametrize("first", [False, True])
def test_a_large_file_of_nothing_takes_no_memory(tmp_path: Path, first: bool) -> None:
    array = made_by_hand(tmp_path / "a", first, checksum=False)
    os.truncate(first_shard(tmp_path / "a"), 1 << 40)
    if first:  # its index is still there, and says that one chunk is most of the file
        with first_shard(tmp_path / "a").open("r+b") as file:
            file.write(np.array([64, 1 << 39], dtype="<u8").tobytes())
    tracemalloc.start()
    try:
        assert_refused(array, "its index has", listed=True)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are not listed here")
def test_no_file_is_left_open(tmp_path: Path) -> None:
    array = made_by_hand(tmp_path / "a", first=False, checksum=True)
    opened = Path("/proc/self/fd")
    before = len([*opened.iterdir()])
    array.read_all()
    array.written()
    first_shard(tmp_path / "a").write_bytes(b"damaged")
    assert_refused(array, "is damaged", listed=True)
    first_shard(tmp_path / "a").unlink()
    first_shard(tmp_path / "a").mkdir()
    array.read_all()
    assert len([*opened.iterdir()]) == before


@settings(max_examples=300)
@given(data=st.data())
def test_damaged_shards_are_refused_or_read_without_harm(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    first, checksum = data.draw(st.sampled_from(LAYOUTS))
    path = tmp_path_factory.mktemp("damaged") / "a"
    array = made_by_hand(path, first, checksum)
    expected = array.read_all()
    damaged = bytearray(first_shard(path).read_bytes())
    for at, bit in data.draw(st.lists(st.tuples(st.integers(0, len(damaged) - 1), st.integers(0, 7)), max_size=3)):
        damaged[at] ^= 1 << bit
    cut = data.draw(st.just(0) | st.integers(0, len(damaged)))
    first_shard(path).write_bytes(damaged[: len(damaged) - cut])
    try:
        found = array.read_all()
        assert len(array.written()) <= 4
    except StoreError:
        return
    if checksum:  # chunks lie where they lay
        np.testing.assert_array_equal(found[2:, :, :2], expected[2:, :, :2])


# Metadata

BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
BIG = {"name": "bytes", "configuration": {"endian": "big"}}
CRC32C = {"name": "crc32c"}


def metadata(**changes: Any) -> list[dict[str, Any]]:
    options = {"chunk_shape": [2, 2, 2], "codecs": [BYTES], "index_codecs": [BYTES, CRC32C], **changes}
    return [{"name": "sharding_indexed", "configuration": {key: v for key, v in options.items() if v is not None}}]


def layout(codecs: list[dict[str, Any]]) -> Any:
    return sharding_of(codecs, (4, 4, 8), np.dtype(np.float16))


@pytest.mark.parametrize(
    ("changes", "first", "checksum"),
    [
        ({}, False, True),
        ({"index_location": "end"}, False, True),
        ({"index_location": "start"}, True, True),
        ({"index_codecs": [BYTES]}, False, False),
        ({"index_codecs": [BYTES, {"name": "crc32c", "configuration": {}}]}, False, True),
    ],
)
def test_layouts_that_are_read_directly(changes: dict[str, Any], first: bool, checksum: bool) -> None:
    assert layout(metadata(**changes)) == (Sharding((2, 2, 4), first, checksum), (2, 2, 2), Codec("none"))


@pytest.mark.parametrize(
    "codecs",
    [
        [],
        [BYTES],
        [{"name": "transpose", "configuration": {"order": [2, 1, 0]}}, *metadata()],
        [*metadata(), {"name": "zstd", "configuration": {"level": 0}}],
        [*metadata(), CRC32C],
        metadata(codecs=metadata()),
        metadata(codecs=[]),
        metadata(index_codecs=[]),
        metadata(index_codecs=[CRC32C]),
        metadata(index_codecs=[BIG, CRC32C]),
        metadata(index_codecs=[BYTES, CRC32C, CRC32C]),
        metadata(index_codecs=[BYTES, {"name": "zstd", "configuration": {"level": 0}}]),
        metadata(index_location="middle"),
    ],
)
def test_every_other_layout_is_refused(codecs: list[dict[str, Any]]) -> None:
    assert layout(codecs) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"chunk_shape": [2, 2]}, "cannot be divided"),
        ({"chunk_shape": [2, 2, 3]}, "cannot be divided"),
        ({"chunk_shape": [2, 2, 16]}, "cannot be divided"),
        ({"chunk_shape": [2, 2, 0]}, "cannot be divided"),
        ({"chunk_shape": [2, 2, -2]}, "cannot be divided"),
        ({"chunk_shape": [2, 2, 2.0]}, "cannot be divided"),
        ({"chunk_shape": [2, 2, True]}, "cannot be divided"),
        ({"chunk_shape": [2, 2, "2"]}, "cannot be divided"),
        ({"chunk_shape": 2}, "iterable"),
        ({"chunk_shape": None}, "chunk_shape"),
        ({"codecs": None}, "codecs"),
        ({"codecs": [1]}, "attribute"),
        ({"index_codecs": None}, "index_codecs"),
        ({"index_codecs": [BYTES, 1]}, "attribute"),
        ({"index_codecs": 1}, "iterable"),
    ],
)
def test_metadata_that_make_no_sense_are_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    file = tmp_path / "a" / "zarr.json"
    create(tmp_path / "a", (8, 8, 8), (4, 4, 8), (2, 2, 2))
    file.write_text(json.dumps({**json.loads(file.read_text()), "codecs": metadata(**changes)}))
    with pytest.raises(StoreError, match=words) as caught:
        open_array(tmp_path / "a")
    assert str(file) in caught.value.what


@pytest.mark.parametrize(
    ("chunk", "words"),
    [([1, 1, 1], "4194305 chunks, more than"), ([1 << 15, 1 << 15, 2], "more than 1073741824 bytes")],
)
def test_shards_of_too_many_or_too_large_chunks_are_refused(tmp_path: Path, chunk: list[int], words: str) -> None:
    file = tmp_path / "a" / "zarr.json"
    create(tmp_path / "a", (8, 8, 8), (4, 4, 8), (2, 2, 2))
    found = json.loads(file.read_text())
    found["codecs"] = metadata(chunk_shape=chunk)
    found["chunk_grid"]["configuration"]["chunk_shape"] = [1, 5, 838861] if chunk[0] == 1 else chunk
    file.write_text(json.dumps(found))
    with pytest.raises(StoreError, match=words):
        open_array(tmp_path / "a")
