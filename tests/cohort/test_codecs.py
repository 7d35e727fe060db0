"""Chunk codecs against numcodecs and the gzip module, and against bytes that are not what they should be."""

from __future__ import annotations

import gzip
import json
import struct
import sys
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import numpy.typing as npt
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, TransposeCodec, ZstdCodec

from twintrack_core.cohort.codecs import ChunkDecodeError, Codec, codec_of

Array = npt.NDArray[Any]

BLOSC = [(name, shuffle) for name in ("lz4", "zstd", "blosclz") for shuffle in ("noshuffle", "shuffle", "bitshuffle")]
SHUFFLES = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}
DTYPES = ("float16", "float32", "uint8", "bool")
GUARD = 4096


def values(dtype: str = "float16", shape: tuple[int, ...] = (6, 7, 8)) -> Array:
    """Scores with a background, so that compressors have something to do."""
    rng = np.random.default_rng(5)
    scores = rng.random(shape) * (rng.random(shape) > 0.6)
    return (
        (scores * 255).astype(dtype) if dtype == "uint8" else (scores > 0 if dtype == "bool" else scores).astype(dtype)
    )


def blosc(name: str = "lz4", shuffle: str = "bitshuffle", itemsize: int = 2) -> Codec:
    options = {"cname": name, "clevel": 5, "shuffle": shuffle, "typesize": itemsize, "blocksize": 0}
    return Codec("blosc", tuple(sorted(options.items())))


ZSTD = Codec("zstd", (("checksum", False), ("level", 3)))
ZSTD_CHECKED = Codec("zstd", (("checksum", True), ("level", 3)))
GZIP = Codec("gzip", (("level", 5),))
CODECS = {"none": Codec("none"), "blosc": blosc(), "zstd": ZSTD, "zstd checked": ZSTD_CHECKED, "gzip": GZIP}


def off_main_thread(work: Callable[..., Any], *arguments: Any) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work, *arguments).result()


def decoded(codec: Codec, data: bytes, like: Array) -> Array:
    """Decode into an array between guards, which must stay as they were."""
    buffer = np.full(like.nbytes + 2 * GUARD, 0xA5, dtype=np.uint8)
    out = buffer[GUARD:-GUARD].view(like.dtype).reshape(like.shape)
    try:
        codec.decode(data, out)
    finally:
        assert (buffer[:GUARD] == 0xA5).all()
        assert (buffer[-GUARD:] == 0xA5).all()
    return out


def assert_refused(codec: Codec, data: bytes, like: Array, words: str = ".") -> None:
    with pytest.raises(ChunkDecodeError, match=words):
        decoded(codec, data, like)


# Whole chunks


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "shuffle"), BLOSC)
def test_blosc_agrees_with_numcodecs(name: str, shuffle: str, dtype: str) -> None:
    array = values(dtype)
    codec = blosc(name, shuffle, array.itemsize)
    theirs = numcodecs.Blosc(name, 5, SHUFFLES[shuffle], 0)
    np.testing.assert_array_equal(decoded(codec, theirs.encode(array), array), array)
    back = np.frombuffer(theirs.decode(off_main_thread(codec.encode, array)), dtype=dtype).reshape(array.shape)
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("codec", [ZSTD, ZSTD_CHECKED], ids=["plain", "checked"])
def test_zstd_agrees_with_numcodecs(codec: Codec, dtype: str) -> None:
    array = values(dtype)
    theirs = numcodecs.Zstd(level=3, checksum=dict(codec.options)["checksum"])
    assert codec.encode(array) == theirs.encode(array)
    np.testing.assert_array_equal(decoded(codec, theirs.encode(array), array), array)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gzip_agrees_with_the_gzip_module(dtype: str) -> None:
    array = values(dtype)
    assert gzip.decompress(GZIP.encode(array)) == array.tobytes()
    np.testing.assert_array_equal(decoded(GZIP, gzip.compress(array.tobytes()), array), array)


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_compressor_is_the_bytes_themselves(dtype: str) -> None:
    array = values(dtype)
    assert CODECS["none"].encode(array) == array.tobytes()
    np.testing.assert_array_equal(decoded(CODECS["none"], array.tobytes(), array), array)


@pytest.mark.parametrize("name", CODECS)
def test_encoding_is_deterministic_off_the_main_thread(name: str) -> None:
    array = values("float32", (64, 64, 64))
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(lambda _: CODECS[name].encode(array), range(8)))) == 1


@settings(max_examples=30)
@given(size=st.integers(1, 5000), name=st.sampled_from(sorted(CODECS)))
def test_any_size_survives(size: int, name: str) -> None:
    array = values("float16", (size,))
    np.testing.assert_array_equal(decoded(CODECS[name], CODECS[name].encode(array), array), array)


# Metadata


BYTES = {"name": "bytes", "configuration": {"endian": "little"}}


@pytest.mark.parametrize(
    ("codecs", "dtype", "name"),
    [
        ([BYTES], "float16", "none"),
        ([{"name": "bytes"}], "uint8", "none"),
        ([{"name": "bytes", "configuration": {"endian": "big"}}], "bool", "none"),
        ([BYTES, {"name": "blosc", "configuration": {"cname": "lz4", "shuffle": "shuffle"}}], "float16", "blosc"),
        ([BYTES, {"name": "zstd", "configuration": {"level": 0, "checksum": True}}], "float32", "zstd"),
        ([BYTES, {"name": "gzip", "configuration": {"level": 5}}], "bool", "gzip"),
    ],
)
def test_plain_combinations_are_decoded_directly(codecs: list[dict[str, Any]], dtype: str, name: str) -> None:
    codec = codec_of(codecs, np.dtype(dtype))
    assert codec is not None
    assert codec.name == name


@pytest.mark.parametrize(
    "codecs",
    [
        None,
        {},
        [],
        ["bytes", "bytes"],
        [3],
        [{"name": ["bytes"]}],
        [{"name": "bytes", "configuration": {"endian": "middle"}}],
        [{"name": "bytes", "configuration": {"endian": ["little"]}}],
        [{"name": "bytes", "configuration": 3}],
        [{"name": "transpose", "configuration": {"order": [2, 1, 1]}}, BYTES],
        [{"name": "transpose", "configuration": {"order": [2, 1, True]}}, BYTES],
        [{"name": "transpose", "configuration": {"order": "F"}}, BYTES],
        [{"name": "transpose", "configuration": {"order": list(range(2000))}}, BYTES],
        [{"name": "transpose"}, BYTES],
        [BYTES, {"name": "transpose", "configuration": {"order": [2, 1, 0]}}],
        [{"name": "sharding_indexed", "configuration": {}}],
        [{"name": "crc32c"}],
        [{"name": "crc32c"}, BYTES],
        [BYTES, {"name": "crc32c"}, {"name": "zstd", "configuration": {"level": 0}}],
        [BYTES, {"name": "crc32c"}, {"name": "crc32c"}],
        [BYTES, {"name": "zstd", "configuration": {"level": 0}}, {"name": "gzip", "configuration": {"level": 0}}],
        [BYTES, {"name": "blosc", "configuration": {"cname": "lz4", "shuffle": "autoshuffle"}}],
        [BYTES, {"name": "blosc", "configuration": {"cname": ["lz4"], "shuffle": "shuffle"}}],
        [BYTES, {"name": "blosc", "configuration": {"cname": "snappy", "shuffle": "shuffle"}}],
        [BYTES, {"name": "zstd", "configuration": {"level": 0, "dictionary": "x"}}],
        [BYTES, {"name": "gzip", "configuration": {"level": 10**9}}],
        [BYTES, {"name": "lzma"}],
        [BYTES, {"name": "numcodecs.pickle"}],
    ],
)
def test_no_other_codec_is_decoded(codecs: Any) -> None:
    assert codec_of(codecs, np.dtype(np.float16)) is None


def test_a_codec_may_be_only_its_name() -> None:
    assert codec_of(["bytes", "crc32c"], np.dtype(np.uint8)) == Codec("none", checksum=True)
    assert codec_of([{"name": "bytes", "configuration": None}], np.dtype(np.float16)) == Codec("none")


# What zarr-python writes

COMPRESSORS: dict[str, Any] = {
    "none": None,
    "blosc": BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle"),
    "zstd": ZstdCodec(level=1, checksum=True),
    "gzip": GzipCodec(level=1),
}


def by_zarr(
    folder: Path, array: Array, compressor: str, order: tuple[int, ...] | None, endian: str, checksum: bool
) -> tuple[Codec, bytes]:
    """Codec and bytes of an array of one chunk that zarr-python wrote."""
    last = [codec for codec in (COMPRESSORS[compressor], Crc32cCodec() if checksum else None) if codec]
    written = zarr.create_array(
        str(folder),
        shape=array.shape,
        chunks=array.shape,
        dtype=array.dtype,
        filters=None if order is None else [TransposeCodec(order=order)],
        serializer=BytesCodec(endian=endian),
        compressors=last or None,
        fill_value=0,
    )
    written[...] = array
    metadata = json.loads((folder / "zarr.json").read_text())
    codec = codec_of(metadata["codecs"], array.dtype)
    assert codec is not None
    return codec, folder.joinpath("c", *"0" * array.ndim).read_bytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("checksum", [False, True], ids=["", "crc32c"])
@pytest.mark.parametrize("order", [None, (2, 1, 0), (1, 2, 0), (0, 1, 2)])
@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_what_zarr_wrote_is_decoded(
    tmp_path: Path, compressor: str, order: tuple[int, ...] | None, checksum: bool, dtype: str
) -> None:
    array = values(dtype)
    for endian in ("little", "big"):
        codec, data = by_zarr(tmp_path / endian, array, compressor, order, endian, checksum)
        assert (codec.name, codec.checksum) == (compressor, checksum)
        assert codec.swapped == (array.itemsize > 1 and endian != sys.byteorder)
        np.testing.assert_array_equal(decoded(codec, data, array), array)
        np.testing.assert_array_equal(decoded(codec, off_main_thread(codec.encode, array), array), array)


def test_members_in_another_order(tmp_path: Path) -> None:
    array = values(shape=(3, 4, 5, 6))
    codec, data = by_zarr(tmp_path / "a", array, "zstd", (3, 1, 0, 2), "big", True)
    np.testing.assert_array_equal(decoded(codec, data, array), array)
    assert codec.encode(array) == data
    assert_refused(codec, data, values(), "3 axes cannot be put in the order")


@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_a_checksum_finds_every_flipped_bit(tmp_path: Path, compressor: str) -> None:
    array = values(shape=(2, 3, 4))
    codec, data = by_zarr(tmp_path / "a", array, compressor, None, "little", True)
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        assert_refused(codec, bytes(damaged), array, "does not fit its checksum")
    for length in (0, 3, 4, len(data) - 1):
        assert_refused(codec, data[:length], array)


# Damage


@pytest.mark.parametrize("name", CODECS)
def test_a_chunk_cut_off_anywhere_is_refused(name: str) -> None:
    array = values()
    data = CODECS[name].encode(array)
    for length in range(len(data)):
        assert_refused(CODECS[name], data[:length], array)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("shape", [(6, 7, 7), (6, 7, 9), (1, 1, 1), (60, 70, 80)])
def test_a_chunk_of_another_shape_is_refused(name: str, shape: tuple[int, ...]) -> None:
    assert_refused(CODECS[name], CODECS[name].encode(values(shape=shape)), values())


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize(
    "garbage",
    [b"\0" * 100, b"\xff" * 100, b"not a chunk", bytes(range(256)), b"\x1f\x8b\x08"],
    ids=["zeros", "ones", "text", "counting", "gzip"],
)
def test_garbage_is_refused(name: str, garbage: bytes) -> None:
    assert_refused(CODECS[name], garbage, values())


@pytest.mark.parametrize("name", ["none", "blosc", "gzip", "zstd"])
def test_bytes_after_the_end_are_refused(name: str) -> None:
    array = values()
    for more in (b"\0", b"more", CODECS[name].encode(array)):
        assert_refused(CODECS[name], CODECS[name].encode(array) + more, array)


@pytest.mark.parametrize("claimed", [0, 1, 15, 671, 673, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1])
def test_a_blosc_header_that_lies_about_its_sizes_is_refused(claimed: int) -> None:
    array = values()
    assert array.nbytes == 672
    data = blosc().encode(array)
    assert_refused(blosc(), data[:4] + struct.pack("<I", claimed) + data[8:], array, "a chunk of this array has 672")
    assert_refused(blosc(), data[:12] + struct.pack("<I", claimed) + data[16:], array, "its header says")


def zstd_frame(*blocks: tuple[int, int, bytes]) -> bytes:
    """Make a Zstandard frame that declares no content size; blocks are (type, size, content), RFC 8878 section 3.1."""
    frame = b"\x28\xb5\x2f\xfd\x00\x50"
    for number, (kind, size, content) in enumerate(blocks, start=1):
        frame += struct.pack("<I", (number == len(blocks)) | kind << 1 | size << 3)[:3] + content
    return frame


RAW, REPEATED = 0, 1


def test_a_zstd_frame_without_a_content_size_is_read() -> None:
    array = values()
    data = array.tobytes()
    frame = zstd_frame((RAW, 600, data[:600]), (RAW, 72, data[600:]))
    np.testing.assert_array_equal(decoded(ZSTD, frame, array), array)
    np.testing.assert_array_equal(decoded(ZSTD, zstd_frame((REPEATED, 672, b"\0")), array), np.zeros_like(array))


@pytest.mark.parametrize("size", [1, 671, 673, 5000])
def test_a_zstd_frame_of_another_size_is_refused(size: int) -> None:
    array = values()
    assert_refused(ZSTD, zstd_frame((REPEATED, size, b"\0")), array)
    assert_refused(ZSTD, numcodecs.Zstd().encode(bytes(size)), array, f"holds {size} bytes")


@pytest.mark.parametrize("size", [255, 256, 65535, 65536, 65791, 65792, 100000])
def test_every_width_of_a_zstd_content_size_is_read(size: int) -> None:
    array = np.arange(size).astype(np.uint8)
    np.testing.assert_array_equal(decoded(ZSTD, numcodecs.Zstd().encode(array), array), array)


@pytest.mark.parametrize("checksum_byte", [-1, -4])
def test_checksums_are_checked(checksum_byte: int) -> None:
    array = values()
    for codec in (ZSTD_CHECKED, GZIP):
        data = bytearray(codec.encode(array))
        data[checksum_byte - (4 if codec is GZIP else 0)] ^= 1
        assert_refused(codec, bytes(data), array)


@pytest.mark.parametrize(
    ("codec", "bomb"),
    [
        (GZIP, gzip.compress(bytes(1 << 26))),
        (ZSTD, zstd_frame(*[(REPEATED, 1 << 16, b"\0")] * 1024)),
        (ZSTD, numcodecs.Zstd().encode(bytes(1 << 26))),
        (blosc(), numcodecs.Blosc("lz4", 5, 2).encode(np.zeros(1 << 25, dtype=np.float16))),
    ],
    ids=["gzip", "zstd", "zstd that says so", "blosc"],
)
def test_a_small_chunk_cannot_fill_the_memory(codec: Codec, bomb: bytes) -> None:
    assert len(bomb) < 1 << 20
    tracemalloc.start()
    try:
        assert_refused(codec, bomb, values())
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


# Fuzzing: a damaged chunk may decode to other values, but it never crashes, hangs or writes where it should not.


@st.composite
def damage(draw: st.DrawFn, *, truthful_header: bool = False) -> tuple[Codec, bytes, Array]:
    """Draw a chunk with some bits flipped and perhaps its end cut off."""
    dtype = draw(st.sampled_from(["float16", "float32", "uint8"]))
    array = values(dtype, draw(st.sampled_from([(6, 7, 8), (16, 24, 24)])))
    if truthful_header or draw(st.booleans()):
        codec = blosc(*draw(st.sampled_from(BLOSC)), itemsize=array.itemsize)
    else:
        codec = CODECS[draw(st.sampled_from(["zstd", "zstd checked", "gzip"]))]
    data = bytearray(off_main_thread(codec.encode, array))
    place = st.one_of(st.integers(0, 31), st.integers(0, len(data) - 1))
    for at, bit in draw(st.lists(st.tuples(place, st.integers(0, 7)), min_size=1, max_size=6)):
        data[min(at, len(data) - 1)] ^= 1 << bit
    if draw(st.booleans()):
        data = data[: draw(st.integers(16, len(data)))]
    if truthful_header:  # past our own checks, so that Blosc's are met
        data[4:8] = struct.pack("<I", array.nbytes)
        data[12:16] = struct.pack("<I", len(data))
    return codec, bytes(data), array


def outcome(codec: Codec, data: bytes, array: Array) -> Array | None:
    """Decoded values, or None if they are refused; any other exception fails the test."""
    try:
        return decoded(codec, data, array)
    except ChunkDecodeError:
        return None


def check_damaged(codec: Codec, data: bytes, array: Array) -> None:
    """What has a checksum is read right or refused, and a good chunk can be read afterwards in any case."""
    found = outcome(codec, data, array)
    checked = codec is GZIP or (codec is ZSTD_CHECKED and data[4] & 4)  # damage may clear the flag itself
    if found is not None and checked:
        np.testing.assert_array_equal(found, array)
    np.testing.assert_array_equal(decoded(codec, off_main_thread(codec.encode, array), array), array)


@settings(max_examples=300)
@given(damage())
def test_damaged_chunks_are_refused_or_read_without_harm(case: tuple[Codec, bytes, Array]) -> None:
    check_damaged(*case)


@settings(max_examples=300)
@given(damage(truthful_header=True), st.booleans())
def test_damaged_blosc_payloads_are_refused_or_read_without_harm(case: tuple[Codec, bytes, Array], alone: bool) -> None:
    if alone:  # Blosc uses its own threads in the main thread, and none elsewhere
        check_damaged(*case)
    else:
        off_main_thread(check_damaged, *case)


@settings(max_examples=200)
@given(st.binary(max_size=200), st.sampled_from(sorted(CODECS)))
def test_random_bytes_are_refused(data: bytes, name: str) -> None:
    assert_refused(CODECS[name], data, values())


@settings(max_examples=100)
@given(st.binary(min_size=1, max_size=100), st.integers(0, 255), st.integers(0, 255))
def test_random_payloads_behind_a_fitting_blosc_header_do_no_harm(payload: bytes, flags: int, typesize: int) -> None:
    array = values()
    header = struct.pack("<BBBBIII", 2, 1, flags, typesize, array.nbytes, array.nbytes, 16 + len(payload))
    check_damaged(blosc(), header + payload, array)
