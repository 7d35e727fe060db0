"""Metadata of a Zarr v3 array, of which nothing is trusted, to the `ChunkedArray` that they describe."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np

from twintrack_core.cohort.chunks import ChunkedArray, ChunkNames
from twintrack_core.cohort.codecs import ALLOWED as ALLOWED_CODECS
from twintrack_core.cohort.codecs import codec_of
from twintrack_core.cohort.shards import sharding_of
from twintrack_core.errors import StoreError
from twintrack_core.names import shown
from twintrack_core.storage import Folder, open_folder, read_json

_DTYPES = ("float16", "float32", "uint8", "bool")
_MAX_CHUNK_BYTES = 1 << 30  # what a few bytes of metadata can make a reader allocate; Blosc holds twice that
_MAX_CHUNKS = 1 << 24  # each is a step for a reader, whether or not there is a file
_MAX_AXES = 4


def open_array(place: str | os.PathLike[str] | Folder) -> ChunkedArray:
    """Describe the array in a folder from its metadata.

    Raises
    ------
    StoreError
        If the metadata are not those of a Zarr v3 array this package can read.
    """
    folder = open_folder(place)
    return describe_array(folder, read_json(folder))


def describe_array(folder: Folder, metadata: dict[str, Any]) -> ChunkedArray:
    """Describe an array as `open_array` does, from metadata that were read."""
    try:
        if metadata["node_type"] != "array" or metadata["zarr_format"] != 3:
            raise ValueError("it is not a Zarr v3 array")
        if metadata["chunk_grid"]["name"] != "regular":
            raise ValueError(f"its chunk grid is {metadata['chunk_grid']['name']!r:.80}, not regular")
        dtype = metadata["data_type"]
        if dtype not in _DTYPES:
            raise ValueError(f"its data type is {dtype!r:.80}, not one of {', '.join(_DTYPES)}")
        shape = _sizes(metadata["shape"], minimum=1)
        chunks = _sizes(metadata["chunk_grid"]["configuration"]["chunk_shape"], minimum=1)
        if len(shape) != len(chunks):
            raise ValueError(f"its shape {shape} and chunks {chunks} differ in length")
        fill = _fill(metadata["fill_value"], dtype)
        names = _chunk_names(metadata["chunk_key_encoding"])
        codecs = metadata["codecs"]
        codec, sharding = codec_of(codecs, np.dtype(dtype)), None
        if shards := sharding_of(codecs, chunks, np.dtype(dtype)):
            sharding, chunks, codec = shards
        if codec is None:  # what a store names must not choose what code is run
            raise ValueError(f"its codecs are {_codec_names(codecs)}, which are not read")
        if codec.order is not None and len(codec.order) != len(shape):
            raise ValueError(f"its {len(shape)} axes cannot be stored in the order {codec.order}")
        if math.prod(chunks) * np.dtype(dtype).itemsize > _MAX_CHUNK_BYTES:
            raise ValueError(f"its chunks of {chunks} voxels have more than {_MAX_CHUNK_BYTES} bytes")
        found = ChunkedArray(folder, shape, chunks, dtype, fill, codec, names, sharding)
        if math.prod(found.grid) > _MAX_CHUNKS:
            raise ValueError(f"it has {math.prod(found.grid)} chunks, more than {_MAX_CHUNKS}")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        why = f"it lacks {error!s:.80}" if isinstance(error, KeyError) else f"{error!s:.500}"
        raise StoreError(f"{folder}/zarr.json: {why}.", f"Allowed: {_ALLOWED}") from error
    return found


_ALLOWED = (
    f"Zarr v3 arrays of 1 to {_MAX_AXES} axes and a regular chunk grid. Codecs: {ALLOWED_CODECS}; or shards of "
    "chunks of such codecs."
)


def _codec_names(codecs: Any) -> str:
    """Names of codecs, and in brackets those that one of them has."""
    names = []
    for codec in codecs:
        if isinstance(codec, str):
            names.append(shown(codec))
            continue
        options = codec.get("configuration") or {}
        inner = [_codec_names(options[key]) for key in ("codecs", "index_codecs") if options.get(key)]
        plain = [f"{key} {options[key]!r:.20}" for key in ("endian", "order", "shuffle") if key in options]
        names.append(shown(codec.get("name")) + (f" ({'; '.join(inner + plain)})" if inner + plain else ""))
    return f"{', '.join(names) or 'none':.300}"


def _sizes(values: Any, minimum: int) -> tuple[int, ...]:
    sizes = tuple(values)
    if (
        not 0 < len(sizes) <= _MAX_AXES
        or not all(type(size) is int and minimum <= size < 2**48 for size in sizes)
        or math.prod(sizes) >= 2**48
    ):
        raise ValueError(f"{values!r:.80} are no sizes of 1 to {_MAX_AXES} axes")
    return sizes


def _fill(value: Any, dtype: str) -> float:
    """Return the fill value as the array's dtype holds it."""
    fill = float(value)
    largest = {"uint8": 255, "bool": 1}.get(dtype)
    if largest is not None and not (fill.is_integer() and 0 <= fill <= largest):
        raise ValueError(f"its fill value {value!r:.40} is no {dtype}")
    with np.errstate(over="ignore"):
        return float(np.dtype(dtype).type(fill))


def _chunk_names(encoding: Any) -> ChunkNames:
    name = encoding["name"]
    if name not in ("default", "v2"):
        raise ValueError(f"its chunks are named by the encoding {name!r:.80}, not default or v2")
    separator = (encoding.get("configuration") or {}).get("separator", "/" if name == "default" else ".")
    if separator not in ("/", "."):
        raise ValueError(f"the names of its chunks have the separator {separator!r:.80}, not / or .")
    return ChunkNames("c" if name == "default" else "", separator)
