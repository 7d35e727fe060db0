"""Volumes are what they say and the same every time; floors touch the bytes they should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import twintrack_core as tt
from twintrack_core.bench import data, floors, stores
from twintrack_core.bench.stores import Layout
from twintrack_core.codes import is_valid

SHAPE = (16, 32, 24)
LAYOUTS = {
    "package": Layout(),
    "blosc-zstd": Layout("blosc-zstd"),
    "zstd": Layout("zstd", (8, 8, 8)),
    "gzip": Layout("gzip", (5, 16, 24)),
    "none": Layout("none", (8, 16, 8)),
    "shards": Layout(chunks=(4, 8, 6), shard=(2, 2, 2)),
}


@pytest.mark.parametrize("kind", [kind for kind in data.KINDS if kind != "cells"])
def test_volumes(kind: str) -> None:
    volume, again = data.volume(kind, 30_000), data.volume(kind, 30_000)
    assert volume.scores.shape == volume.votes.shape == (32, 32, 32)
    assert (volume.scores.dtype.name, volume.votes.dtype.name) == ("float16", "uint8")
    assert is_valid(volume.scores).all()
    assert (volume.votes < 32).all()
    np.testing.assert_array_equal(volume.scores, again.scores)
    np.testing.assert_array_equal(volume.votes, again.votes)
    np.testing.assert_array_equal(volume.values, volume.scores.reshape(-1).astype(np.float64))
    np.testing.assert_allclose(volume.mhr, volume.masks.reshape(5, -1).mean(axis=0))


def test_what_kinds_say() -> None:
    share = {kind: (data.volume(kind, 250_000).scores == 0).mean() for kind in ("unwritten", "region", "softmax")}
    assert share["unwritten"] > 0.97 > 0.93 > share["region"] > 0.85
    assert share["softmax"] < 0.05
    saturated = data.volume("saturated", 250_000).scores
    assert ((saturated < 0.01) | (saturated > 0.99)).mean() > 0.8
    assert len(np.unique(data.volume("uniform", 250_000).codes)) > 15_000
    assert len(np.unique(data.volume("one_bin", 1_000).codes)) == 1


def test_large_volumes_are_tiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "_BLOCK", 16)
    volume = data.volume("uniform", 40 * 16 * 16)
    assert volume.scores.shape == (40, 16, 16)
    np.testing.assert_array_equal(volume.scores[:16], volume.scores[16:32])


def test_real_voxels(cells: Path) -> None:
    pytest.importorskip("SimpleITK")
    assert cells.is_dir()
    volume = data.volume("cells", 250_000)
    assert 0.02 < (volume.votes > 0).mean() < 0.5
    assert len(np.unique(volume.votes)) > 20
    assert is_valid(volume.scores).all()


@pytest.mark.parametrize("threads", [1, 3])
def test_reading_and_copying(threads: int) -> None:
    source = np.arange(1001, dtype=np.uint8)
    target = np.zeros_like(source)
    floors.read([source, source[:1000]], threads)
    floors.copy(source, target, threads)
    np.testing.assert_array_equal(target, source)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("members", [1, 2])
def test_stores_and_what_is_decoded_of_them(layout: Layout, members: int, tmp_path: Path) -> None:
    cohort = stores.cohort("region", tmp_path, 2, SHAPE, members=members, layout=layout)
    scores, votes = data.arrays("region", SHAPE)
    statistics = tt.accumulate(cohort)
    assert statistics["case0000"].histogram == statistics["case0001"].histogram
    assert statistics["case0000"].histogram == tt.JointHistogram.from_votes(scores, votes, data.RATERS)

    arrays = floors.written(cohort.path)
    assert len(arrays) == 4
    decoded = [_decode(array) for array in arrays if array.folder.name == "probability"]
    nonzero = np.sort(np.repeat(scores[scores > 0], members))
    for values in decoded:
        np.testing.assert_array_equal(np.sort(values[values > 0]), nonzero)
    assert floors.decoded_bytes(arrays) == sum(len(array) * array.chunk_bytes for array in arrays)
    into = arrays[0].compressor
    for threads in (1, 2):
        floors.decode(arrays, threads)
        floors.recode(arrays, into, threads)
        floors.rewrite(arrays[:1], into, arrays[1:2], threads, tmp_path / f"out{threads}")
        files = [path for path in (tmp_path / f"out{threads}").iterdir() if path.is_file()]
        assert len(files) == len(arrays[0])


def _decode(array: floors.Chunks) -> Any:
    chunks = []
    for path, pieces in array.files:
        content = Path(path).read_bytes()
        for offset, length in pieces:
            chunk = np.empty(array.chunk_bytes, dtype=np.uint8)
            array.compressor.decode(content[offset : offset + length], chunk)
            again = np.empty_like(chunk)
            array.compressor.decode(array.compressor.encode(chunk), again)
            np.testing.assert_array_equal(again, chunk)
            chunks.append(chunk)
    return np.concatenate(chunks).view(np.float16)
