"""Cohort stores to measure on, in any of the ways that others may have written theirs."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from twintrack_core.bench.data import RATERS, Shape, arrays
from twintrack_core.cohort.case import Geometry
from twintrack_core.cohort.store import DIMENSIONS, Cohort, open_cohort
from twintrack_core.cohort.writer import CohortWriter, default_chunks

CT = (320, 512, 512)
"""A large CT: 84 million voxels."""


@dataclass(frozen=True)
class Layout:
    """How the arrays of a store are written.

    Attributes
    ----------
    codec
        "blosc-lz4", "blosc-zstd", "zstd", "gzip" or "none".
    chunks
        Chunk shape; None for what the package writes.
    shard
        Chunks of a shard along each axis; None for chunks that are files of their own.
    """

    codec: str = "blosc-lz4"
    chunks: Shape | None = None
    shard: Shape | None = None


PACKAGE_LAYOUT = Layout()
"""What `cohort.writer` writes."""


def cohort(
    kind: str,
    folder: Path,
    cases: int,
    shape: Shape = CT,
    *,
    members: int = 1,
    layout: Layout = PACKAGE_LAYOUT,
) -> Cohort:
    """Make a cohort of equal cases; all but the first are hard links, so that making it is quick.

    Parameters
    ----------
    kind
        Kind of volume; see `data.KINDS`.
    folder
        Where to make the store, in a folder of its own name.
    cases, shape, members
        Number of cases, voxels (z, y, x) of each, and members of the ensemble, which are equal.
    layout
        How it is written.
    """
    path = folder / f"{kind}.zarr"
    names = [f"case{index:04d}" for index in range(cases)]
    writer = CohortWriter(path, names)
    scores, votes = arrays(kind, shape)
    writer.begin_case(names[0], raters=RATERS, geometry=Geometry(), attributes={}, source={})
    _write(path / names[0] / "probability", scores if members == 1 else np.stack([scores] * members), layout)
    _write(path / names[0] / "votes", votes, layout)
    writer.end_case(names[0])
    for name in names[1:]:
        shutil.copytree(path / names[0], path / name, copy_function=os.link)
    writer.finish()
    return open_cohort(path)


def _write(folder: Path, values: npt.NDArray[Any], layout: Layout) -> None:
    """Write an array with zarr-python, which leaves chunks of zeros unwritten."""
    import zarr

    shape = values.shape[-3:]
    chunks = layout.chunks or default_chunks(shape)
    one = (1,) * (values.ndim - 3)
    shards = layout.shard and tuple(n * chunk for n, chunk in zip(layout.shard, chunks, strict=True))
    array = zarr.create_array(
        store=str(folder),
        shape=values.shape,
        chunks=(*one, *chunks),
        shards=shards and (*one, *shards),
        dtype=values.dtype.name,
        fill_value=0,
        compressors=_compressor(layout.codec, values.dtype.itemsize),
        dimension_names=DIMENSIONS[values.ndim],
    )
    array[...] = values


def _compressor(codec: str, typesize: int) -> Any:
    from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

    if codec.startswith("blosc-"):
        name: Any = codec.removeprefix("blosc-")
        return BloscCodec(cname=name, clevel=5, shuffle="bitshuffle", typesize=typesize)
    return {"zstd": ZstdCodec(level=3), "gzip": GzipCodec(level=5), "none": None}[codec]
