"""Chunked arrays against zarr-python: what it writes is read alike, and what we write it reads alike."""

from __future__ import annotations

import errno
import itertools
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, ShardingCodec, ZstdCodec

from twintrack_core.cohort.array_metadata import open_array
from twintrack_core.cohort.chunks import Box, ChunkedArray
from twintrack_core.cohort.codecs import ALLOWED
from twintrack_core.cohort.scratch import Scratch
from twintrack_core.errors import StoreError
from twintrack_core.storage import open_folder, read_json, retry
from twintrack_core.storage.local import LocalFolder

Array = npt.NDArray[Any]

DTYPES = ("float16", "float32", "uint8", "bool")
COMPRESSORS: dict[str, Any] = {
    "none": None,
    "zstd": ZstdCodec(level=3, checksum=False),
    "zstd checked": ZstdCodec(level=3, checksum=True),
    "gzip": GzipCodec(level=5),
    **{
        f"{name} {shuffle}": BloscCodec(cname=name, clevel=5, shuffle=shuffle)
        for name in ("lz4", "zstd", "blosclz")
        for shuffle in ("noshuffle", "shuffle", "bitshuffle")
    },
}
FILLS = {
    "float16": (0.0, 0.5, 0.1, float("nan"), float("inf")),
    "float32": (0.0, 1.0, 0.1, float("nan")),
    "uint8": (0, 7, 255),
    "bool": (False, True),
}


def sharding(chunks: tuple[int, ...], *codecs: Any, checksum: bool = True, first: bool = False) -> Any:
    """Make what puts chunks into shards; the array's own chunks are the shards then."""
    return ShardingCodec(
        chunk_shape=chunks,
        codecs=[codec for codec in (codecs or (BytesCodec(),)) if codec is not None],
        index_codecs=[BytesCodec(), Crc32cCodec()] if checksum else [BytesCodec()],
        index_location="start" if first else "end",
    )


# What only zarr-python reads
OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "shards in shards": (
        {"serializer": sharding((4, 4, 2), sharding((2, 2, 2), BytesCodec(), ZstdCodec()))},
        r"sharding_indexed \(sharding_indexed",
    ),
    "compressed shards": (
        {"serializer": sharding((2, 2, 2)), "compressors": [ZstdCodec()]},
        "sharding_indexed .*, zstd",
    ),
    "compressed index": (
        {"serializer": ShardingCodec(chunk_shape=(2, 2, 2), index_codecs=[BytesCodec(), ZstdCodec(), Crc32cCodec()])},
        "bytes .*, zstd, crc32c",
    ),
}
NAMES: dict[str, dict[str, Any]] = {
    "default /": {"name": "default", "separator": "/"},
    "default .": {"name": "default", "separator": "."},
    "version 2 .": {"name": "v2", "separator": "."},
    "version 2 /": {"name": "v2", "separator": "/"},
}


def create(path: Path, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: str = "float16", **options: Any) -> Any:
    separator = options.pop("separator", "/")
    options = {"chunk_key_encoding": {"name": "default", "separator": separator}, "compressors": None, **options}
    return zarr.create_array(store=str(path), shape=shape, chunks=chunks, dtype=dtype, **options)


def random_values(dtype: str, shape: tuple[int, ...], seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    return rng.random(shape).astype(dtype) if dtype.startswith("float") else rng.integers(0, 2, shape).astype(dtype)


def read(array: ChunkedArray, box: Box) -> Array:
    out = np.full(tuple(s.stop - s.start for s in box), 99).astype(array.dtype)
    array.read(box, out, Scratch())
    return out


def off_main_thread(work: Callable[..., Any], *arguments: Any) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work, *arguments).result()


def first_chunk(path: Path) -> Path:
    return path / "c" / "0" / "0" / "0"


@st.composite
def boxes(draw: st.DrawFn, shape: tuple[int, ...]) -> Box:
    ends = [sorted(draw(st.tuples(st.integers(0, n - 1), st.integers(1, n)))) for n in shape]
    return tuple(slice(start, max(stop, start + 1)) for start, stop in ends)


# Reading what zarr-python wrote


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_every_plain_combination_is_read_directly(tmp_path: Path, compressor: str, dtype: str) -> None:
    values = random_values(dtype, (5, 7, 9))
    create(tmp_path / "a", values.shape, (3, 3, 4), dtype, compressors=COMPRESSORS[compressor])[:] = values
    array = open_array(tmp_path / "a")
    assert array.codec is not None
    assert (array.shape, array.chunks, array.dtype, array.grid) == (values.shape, (3, 3, 4), dtype, (2, 3, 3))
    assert array.chunk_bytes == 36 * values.itemsize
    read_back = array.read_all()
    assert read_back.dtype == values.dtype
    np.testing.assert_array_equal(read_back, values)


@settings(max_examples=80)
@given(data=st.data())
def test_any_array_reads_as_zarr_reads_it(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("any")
    dtype = data.draw(st.sampled_from(DTYPES))
    ndim = data.draw(st.sampled_from([3, 4]))
    shape = data.draw(st.tuples(*[st.integers(1, 7)] * ndim))
    chunks = data.draw(st.tuples(*[st.integers(1, 5)] * ndim))
    fill = data.draw(st.sampled_from(FILLS[dtype]))
    compressor = COMPRESSORS[data.draw(st.sampled_from(sorted(COMPRESSORS)))]
    separator = data.draw(st.sampled_from(["/", "."]))
    options: dict[str, Any] = {"separator": separator, "fill_value": fill}
    per_shard = data.draw(st.none() | st.tuples(*[st.integers(1, 3)] * ndim))
    if per_shard is None:
        stored = create(path / "a", shape, chunks, dtype, compressors=compressor, **options)
    else:
        checksum, first = data.draw(st.booleans()), data.draw(st.booleans())
        options["serializer"] = sharding(chunks, BytesCodec(), compressor, checksum=checksum, first=first)
        shards = tuple(n * chunk for n, chunk in zip(per_shard, chunks, strict=True))
        stored = create(path / "a", shape, shards, dtype, **options)
    expected = np.full(shape, fill, dtype=dtype)
    for number, box in enumerate(data.draw(st.lists(boxes(shape), max_size=3))):
        values = random_values(dtype, tuple(s.stop - s.start for s in box), number)
        stored[box] = expected[box] = values

    array = open_array(path / "a")
    assert array.codec is not None
    assert array.chunks == chunks
    assert (array.sharding and array.sharding.chunks) == per_shard
    np.testing.assert_array_equal(array.fill, np.array(fill, dtype=dtype).astype(float))
    scratch = Scratch()  # one for all reads: what an earlier one left must not show
    for box in [tuple(slice(0, n) for n in shape), *data.draw(st.lists(boxes(shape), min_size=1, max_size=4))]:
        out = np.full(expected[box].shape, 99).astype(dtype)
        array.read(box, out, scratch)
        np.testing.assert_array_equal(out, expected[box])
        np.testing.assert_array_equal(out, stored[box])

    # zarr-python leaves out the chunks that hold nothing but the fill value.
    differs = ~((expected == fill) | (np.isnan(expected) & np.isnan(fill)))
    written = [index for index in np.ndindex(array.grid) if differs[array.box(index)].any()]
    assert list(map(tuple, array.written().tolist())) == written


@pytest.mark.filterwarnings("ignore:Combining a `sharding_indexed` codec")
@pytest.mark.parametrize("name", OTHERS)
def test_other_arrays_are_refused(tmp_path: Path, name: str) -> None:
    options, words = OTHERS[name]
    create(tmp_path / "a", (9, 10, 11), (4, 4, 4), **options)
    with pytest.raises(StoreError, match=f"its codecs are .*{words}.*, which are not read.*\nAllowed: .*blosc, zstd"):
        open_array(tmp_path / "a")


def test_a_store_does_not_choose_what_code_is_run(tmp_path: Path) -> None:
    codecs = [{"name": "numcodecs.pickle"}, {"name": "bytes", "configuration": {"endian": "little"}}]
    with pytest.raises(StoreError, match=r"its codecs are numcodecs\.pickle, bytes .*, which are not read"):
        open_array(edited(tmp_path / "a", codecs=codecs))


@pytest.mark.parametrize("shards", [None, (4, 4, 4)])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ndim", [3, 4])
def test_chunks_are_found_by_whatever_name(
    tmp_path: Path, name: str, ndim: int, shards: tuple[int, ...] | None
) -> None:
    shape = (9, 10, 11) if ndim == 3 else (3, 9, 10, 11)
    one = (1,) * (ndim - 3)
    expected = np.zeros(shape, dtype=np.float16)
    stored = create(
        tmp_path / "a", shape, (*one, 2, 2, 2), chunk_key_encoding=NAMES[name], shards=shards and (*one, *shards)
    )
    for box in (np.s_[..., 0:3, 2:4, 0:11], np.s_[..., 8:9, 9:10, 9:11]):
        stored[box] = expected[box] = random_values("float16", expected[box].shape)
    array = open_array(tmp_path / "a")
    np.testing.assert_array_equal(array.read_all(), expected)
    marked = {tuple(int(i) // c for i, c in zip(at, array.chunks, strict=True)) for at in np.argwhere(expected)}
    assert set(map(tuple, array.written().tolist())) == marked
    if shards is None:
        chunk = np.full((*one, 2, 2, 2), 0.5, dtype=np.float16)
        array.write_chunk((*(0,) * len(one), 2, 0, 1), chunk, Scratch())
        np.testing.assert_array_equal(stored[..., 4:6, 0:2, 2:4][(0,) * len(one)], chunk[(0,) * len(one)])


@pytest.mark.parametrize(
    ("encoding", "words"),
    [
        ({"name": "suffix"}, "named by the encoding 'suffix', not default or v2"),
        ({"name": "default", "configuration": {"separator": ""}}, "the separator '', not / or ."),
        ({"name": "v2", "configuration": {"separator": "/../"}}, "the separator '/../'"),
    ],
)
def test_other_names_of_chunks_are_refused(tmp_path: Path, encoding: dict[str, Any], words: str) -> None:
    with pytest.raises(StoreError, match=words):
        open_array(edited(tmp_path / "a", chunk_key_encoding=encoding))


@pytest.mark.parametrize("separator", ["/", "."])
@pytest.mark.parametrize("ndim", [3, 4])
def test_empty_chunks_that_were_written_count(tmp_path: Path, separator: str, ndim: int) -> None:
    options: dict[str, Any] = {"separator": separator, "config": {"write_empty_chunks": True}}
    stored = create(tmp_path / "a", (5,) * ndim, (2,) * ndim, **options)
    array = open_array(tmp_path / "a")
    assert array.written().shape == (0, ndim)
    stored[(slice(2, 5),) * ndim] = 0
    assert list(map(tuple, array.written())) == list(itertools.product((1, 2), repeat=ndim))
    assert array.written().dtype == np.int64


@pytest.mark.parametrize("separator", ["/", "."])
def test_stray_files_are_no_chunks(tmp_path: Path, separator: str) -> None:
    path = tmp_path / "a"
    values = random_values("float16", (12, 4, 4))
    create(path, values.shape, (1, 4, 4), separator=separator)[:] = values
    array = open_array(path)
    everything = [(i, 0, 0) for i in range(12)]
    for stray in (".DS_Store", "0.4711.partial", "01", "-1", "12", "+1", "1_0", "٣", "x", "1" * 15, "9" * 400, ""):
        for key in ((stray, "0", "0"), ("0", stray, "0"), ("0", "0", stray), ("0", "0", "0", stray), ("0", stray)):
            file = path / ("c" + separator + separator.join(key))
            if len(stray) < 256 and not file.exists() and not any(parent.is_file() for parent in file.parents):
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(b"stray")
    (path / "c.0.0.0.partial").write_bytes(b"stray")
    (path / "README").write_bytes(b"stray")
    assert list(map(tuple, array.written().tolist())) == everything
    np.testing.assert_array_equal(array.read_all(), values)


def test_a_file_for_a_folder_and_a_folder_for_a_file_hold_no_chunk_as_in_zarr(tmp_path: Path) -> None:
    path = tmp_path / "a"
    stored = create(path, (2, 4, 4), (1, 4, 4))
    first_chunk(path).mkdir(parents=True)
    (path / "c" / "1").write_bytes(b"")
    array = open_array(path)
    assert len(array.written()) == 0
    np.testing.assert_array_equal(array.read_all(), stored[:])


# Writing what zarr-python reads


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_written_chunks_are_the_bytes_zarr_writes(tmp_path: Path, compressor: str, dtype: str) -> None:
    values = random_values(dtype, (3, 5, 7))
    options: dict[str, Any] = {"compressors": COMPRESSORS[compressor], "fill_value": FILLS[dtype][1]}
    create(tmp_path / "theirs", values.shape, (2, 5, 4), dtype, **options)[:] = values
    ours = create(tmp_path / "ours", values.shape, (2, 5, 4), dtype, **options)
    array = open_array(tmp_path / "ours")
    scratch = Scratch()
    for index in np.ndindex(array.grid):
        off_main_thread(array.write_chunk, index, values[array.box(index)], scratch)
    np.testing.assert_array_equal(ours[:], values)
    files = {p.relative_to(tmp_path / "ours") for p in (tmp_path / "ours").rglob("*") if p.is_file()}
    assert len(files) == 5
    for file in files:
        header = 10 if compressor == "gzip" and file.name != "zarr.json" else 0  # theirs holds the time
        ours_bytes, their_bytes = ((tmp_path / folder / file).read_bytes()[header:] for folder in ("ours", "theirs"))
        assert ours_bytes == their_bytes


@pytest.mark.parametrize("separator", ["/", "."])
def test_borders_are_padded_with_the_fill_value(tmp_path: Path, separator: str) -> None:
    create(tmp_path / "a", (3, 3, 3), (2, 2, 2), "uint8", fill_value=7, separator=separator)
    array = open_array(tmp_path / "a")
    scratch = Scratch()
    scratch.array("padded", (2, 2, 2), np.uint8)[...] = 99
    array.write_chunk((1, 0, 1), np.array([[[1], [2]]], dtype=np.uint8), scratch)
    chunk = np.empty((2, 2, 2), dtype=np.uint8)
    assert array.read_chunk((1, 0, 1), chunk)
    np.testing.assert_array_equal(chunk, [[[1, 7], [2, 7]], [[7, 7], [7, 7]]])
    assert not array.read_chunk((0, 0, 0), chunk)
    assert array.written().tolist() == [[1, 0, 1]]


@pytest.mark.parametrize(
    "values",
    [
        np.arange(8, dtype=np.float64).reshape(2, 2, 2),
        np.arange(8, dtype=">f2").reshape(2, 2, 2),
        np.arange(8, dtype=np.float16).reshape(2, 2, 2).transpose(2, 0, 1),
        np.arange(16, dtype=np.float16).reshape(2, 2, 4)[..., ::2],
        np.arange(8, dtype=np.float16).reshape(2, 2, 2)[::-1],
    ],
    ids=["double", "big-endian", "transposed", "strided", "reversed"],
)
def test_values_in_any_memory_layout_are_written_as_they_are(tmp_path: Path, values: Array) -> None:
    stored = create(tmp_path / "a", (2, 2, 2), (2, 2, 2))
    open_array(tmp_path / "a").write_chunk((0, 0, 0), values, Scratch())
    np.testing.assert_array_equal(stored[:], values)


# Damage


@pytest.mark.parametrize("compressor", ["none", "zstd", "gzip", "lz4 bitshuffle"])
@pytest.mark.parametrize("damage", ["empty", "truncated", "garbage", "another shape"])
def test_a_damaged_chunk_is_named(tmp_path: Path, compressor: str, damage: str) -> None:
    path = tmp_path / "a"
    create(path, (4, 4, 4), (4, 4, 4), compressors=COMPRESSORS[compressor])[:] = 0.25
    create(tmp_path / "b", (4, 4, 4), (4, 4, 3), compressors=COMPRESSORS[compressor])[:] = 0.25
    file = first_chunk(path)
    data = {
        "empty": b"",
        "truncated": file.read_bytes()[:-1],
        "garbage": b"garbage" * 10,
        "another shape": first_chunk(tmp_path / "b").read_bytes(),
    }[damage]
    file.write_bytes(data)
    for box in (np.s_[0:4, 0:4, 0:4], np.s_[1:2, 1:2, 1:2]):
        with pytest.raises(StoreError, match="is damaged: it") as caught:
            read(open_array(path), box)
        assert str(file) in caught.value.what


def test_a_chunk_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    create(tmp_path / "a", (4, 4, 4), (4, 4, 4))
    file = first_chunk(tmp_path / "a")
    file.parent.mkdir(parents=True)
    file.symlink_to(file)  # a loop
    array = open_array(tmp_path / "a")
    with pytest.raises(StoreError, match="is a symbolic link") as caught:
        array.read_all()
    assert str(file) in caught.value.what
    with pytest.raises(StoreError, match="is a symbolic link"):
        array.written()


def test_a_chunk_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    create(tmp_path / "a", (4, 4, 4), (4, 4, 4))[:] = 0.5
    for size, words in (
        (2 * 128 + 4096, "is damaged: it holds"),
        (2 * 128 + 4097, "cannot be read: it has more than 4352"),
    ):
        os.truncate(first_chunk(tmp_path / "a"), size)
        with pytest.raises(StoreError, match=words) as caught:
            open_array(tmp_path / "a").read_all()
        assert caught.value.action == "Make the store anew from its source, or restore the file."


class Faulty:
    """Reading that fails or gives garbage a number of times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *faults: OSError | bytes) -> None:
        self.left = list(faults)
        real = LocalFolder.read

        def read(folder: LocalFolder, key: str, *, limit: int | None = None) -> bytes | None:
            if self.left and key != "zarr.json":
                fault = self.left.pop(0)
                if isinstance(fault, OSError):
                    raise fault
                return fault
            return real(folder, key, limit=limit)

        monkeypatch.setattr(LocalFolder, "read", read)


def fault(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN])
def test_what_may_pass_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    create(tmp_path / "a", (4, 4, 4), (4, 4, 4), compressors=GzipCodec())[:] = 0.5
    array = open_array(tmp_path / "a")
    Faulty(monkeypatch, fault(number), b"garbage")
    np.testing.assert_array_equal(array.read_all(), np.float16(0.5))
    faulty = Faulty(monkeypatch, fault(number), fault(number), fault(number), fault(number))
    with pytest.raises(StoreError, match="c/0/0/0: the chunk cannot be read: "):
        array.read_all()
    assert len(faulty.left) == 1


def test_damage_of_a_file_is_looked_at_twice_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(tmp_path / "a", (4, 4, 4), (4, 4, 4), compressors=GzipCodec())[:] = 0.5
    waited: list[float] = []
    monkeypatch.setattr(retry, "WAITS", (1.0, 2.0))
    monkeypatch.setattr(time, "sleep", waited.append)
    faulty = Faulty(monkeypatch, b"garbage", b"garbage", b"garbage")
    with pytest.raises(StoreError, match="is damaged"):
        open_array(tmp_path / "a").read_all()
    assert len(faulty.left) == 1
    assert sum(waited) == 0


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENAMETOOLONG, errno.EMFILE])
def test_what_will_not_pass_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    create(tmp_path / "a", (4, 4, 4), (4, 4, 4), compressors=GzipCodec())[:] = 0.5
    faulty = Faulty(monkeypatch, fault(number), fault(number))
    with pytest.raises(StoreError, match="the chunk cannot be read: "):
        open_array(tmp_path / "a").read_all()
    assert len(faulty.left) == 1


# Metadata


def edited(path: Path, **changes: Any) -> Path:
    """Make an array whose metadata are changed: keys are joined by "__", a value of None removes the key."""
    create(path, (4, 4, 4), (2, 2, 2))
    metadata = json.loads((path / "zarr.json").read_text())
    for key, value in changes.items():
        *folders, last = key.split("__")
        place = metadata
        for folder in folders:
            place = place[folder]
        place[last] = value
        if value is None:
            del place[last]
    (path / "zarr.json").write_text(json.dumps(metadata))
    return path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"node_type": "group"}, "not a Zarr v3 array"),
        ({"zarr_format": 2}, "not a Zarr v3 array"),
        ({"shape": None}, "shape"),
        ({"shape": []}, "no sizes"),
        ({"shape": [4, 4]}, "differ in length"),
        ({"shape": [4, 4, -4]}, "no sizes"),
        ({"shape": [4, 4, 0]}, "no sizes"),
        ({"shape": [4, 4, 4.0]}, "no sizes"),
        ({"shape": [4, 4, True]}, "no sizes"),
        ({"shape": [4, 4, "4"]}, "no sizes"),
        ({"shape": [1 << 30, 1 << 30, 1 << 30]}, "no sizes"),
        ({"shape": [1] * 5}, "no sizes of 1 to 4 axes"),
        ({"shape": [1] * 1_000_000}, "no sizes"),
        ({"shape": [513, 512, 512]}, "it has 16842752 chunks, more than 16777216"),
        ({"shape": 4}, "iterable"),
        ({"chunk_grid__configuration__chunk_shape": [2, 2, 0]}, "no sizes"),
        ({"chunk_grid__configuration__chunk_shape": [1 << 15, 1 << 14, 2]}, "more than 1073741824 bytes"),
        ({"chunk_grid__name": "rectilinear"}, "rectilinear"),
        ({"chunk_grid": None}, "chunk_grid"),
        ({"data_type": "float64"}, "float64"),
        ({"data_type": {"name": "float16"}}, "data type"),
        ({"fill_value": "zero"}, "zero"),
        ({"fill_value": [0]}, "float"),
        ({"fill_value": None}, "fill_value"),
        ({"fill_value": 10**400}, "too large"),
        ({"data_type": "uint8", "fill_value": 256}, "256"),
        ({"data_type": "uint8", "fill_value": 0.5}, "0.5"),
        ({"data_type": "uint8", "fill_value": -1}, "-1"),
        ({"data_type": "uint8", "fill_value": "NaN"}, "NaN"),
        ({"data_type": "bool", "fill_value": 2}, "2"),
        ({"codecs": None}, "codecs"),
        ({"codecs": [1]}, "attribute"),
        ({"codecs": ["bytes", "x\x1b" + "y" * 500]}, r"its codecs are bytes, 'x\\x1by{50,100}\.\.\., which"),
        (
            {"codecs": [{"name": "transpose", "configuration": {"order": [1, 0]}}, "bytes"]},
            r"its 3 axes .* order \(1, 0",
        ),
        ({"fill_value": "x" * 5000}, r"could not convert .{400,500}\.\nAllowed"),
        ({"codecs": {"name": "bytes"}}, "0"),
        ({"codecs": 1}, "int"),
        ({"chunk_key_encoding": None}, "chunk_key_encoding"),
        ({"chunk_key_encoding": "default"}, "indices"),
    ],
)
def test_metadata_that_make_no_sense_are_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(StoreError, match=words) as caught:
        open_array(edited(tmp_path / "a", **changes))
    assert str(tmp_path / "a" / "zarr.json") in caught.value.what


def test_codecs_may_be_names_alone(tmp_path: Path) -> None:
    assert open_array(edited(tmp_path / "a", codecs=["bytes"])).codec.name == "none"


def test_what_is_allowed_is_what_is_read(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=rf"1 to 4 axes.* Codecs: {ALLOWED}"):
        open_array(edited(tmp_path / "a", codecs=[]))


def test_an_array_that_does_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = open_array(edited(tmp_path / "a", shape=[1 << 14] * 3, chunk_grid__configuration__chunk_shape=[256] * 3))
    with pytest.raises(
        StoreError, match=r"a takes 8192\.0 GiB; .* GiB of memory are available.*\nAllowed: .*\nUse a machine"
    ):
        array.read_all()
    assert len(array.written()) == 0

    def empty(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(np, "empty", empty)
    with pytest.raises(StoreError, match="does not fit into the memory that is left"):
        open_array(edited(tmp_path / "b")).read_all()


def test_a_fill_value_is_what_the_dtype_holds(tmp_path: Path) -> None:
    assert open_array(edited(tmp_path / "a", fill_value=0.1)).fill == float(np.float16(0.1))
    assert open_array(edited(tmp_path / "b", fill_value=1e30)).fill == np.inf
    assert np.isnan(open_array(edited(tmp_path / "c", fill_value="NaN")).fill)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'"text"', b"\xff\xfe", b"[" * 100_000, b'{"a": ' + b"1" * 5000 + b"}"],
    ids=["empty", "open", "list", "null", "text", "bytes", "deep", "long"],
)
def test_files_that_are_no_json_object_are_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "zarr.json"
    file.write_bytes(content)
    with pytest.raises(StoreError, match="cannot be read") as caught:
        read_json(open_folder(tmp_path))
    assert str(file) in caught.value.what


def test_json_has_a_limit_and_must_be_a_file(tmp_path: Path) -> None:
    file = tmp_path / "zarr.json"
    with pytest.raises(StoreError, match="missing"):
        read_json(open_folder(tmp_path))
    file.write_text('{"a": 1}')
    assert read_json(open_folder(tmp_path), limit=8) == {"a": 1}
    with pytest.raises(StoreError, match="more than 7 bytes"):
        read_json(open_folder(tmp_path), limit=7)
    with pytest.raises(StoreError, match="missing"):
        read_json(open_folder(tmp_path.parent), tmp_path.name)
