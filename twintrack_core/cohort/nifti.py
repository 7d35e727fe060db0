"""What ITK passes over in a NIfTI file.

ITK reads a file that was cut off as if it were whole, writes one to a full disk without an error, and reads NaN and
infinity as 0. It reads version 1 of the format only, so this does too.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np
import numpy.typing as npt

from twintrack_core.errors import ImageError

SUFFIXES = (".nii.gz", ".nii")
"""Endings of NIfTI files."""

_GZIP_MAGIC = b"\x1f\x8b"
_HEADER_BYTES = 348
_MAX_OFFSET = 1 << 24  # what may stand between header and voxels is small
_READ_BYTES = 1 << 20  # a multiple of every voxel's size
_FLOATS = {16: "f4", 64: "f8"}  # datatype codes of the format
_ADVICE = "Copy or make the file again."


@dataclass(frozen=True)
class _Layout:
    """Where the voxels begin, the bytes of each, and their dtype if they are floating-point numbers."""

    offset: int
    voxel_bytes: int
    dtype: str | None


def scan(path: Path, voxels: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Check that a NIfTI file is whole and find its values that are not finite.

    Parameters
    ----------
    path
        The file, compressed or not.
    voxels
        Number of its voxels.

    Returns
    -------
    places
        (n,) indices into the flattened (z, y, x) voxels.
    values
        (n,) NaN or infinity.

    Raises
    ------
    ImageError
        If the file is cut off, or its compressed stream or its header is damaged.
    """
    try:
        with _open(path) as stream:
            layout = _layout(stream.read(_HEADER_BYTES), path)
            stream.seek(layout.offset)
            found, size = _scan_voxels(stream, voxels, layout)
            while stream.read(_READ_BYTES):  # a gzip stream compares its checksum at its end
                pass
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ImageError(f"{path} is cut off or damaged: {error}.", None, _ADVICE) from error
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}.") from error
    needed = voxels * layout.voxel_bytes
    if size < needed:
        raise ImageError(f"{path} is cut off: it holds {size} of {needed} bytes of voxels.", None, _ADVICE)
    places, values = zip(*found, strict=True) if found else ((), ())
    return np.concatenate([np.empty(0, np.int64), *places]), np.concatenate([np.empty(0, np.float64), *values])


def _open(path: Path) -> IO[bytes]:
    with path.open("rb") as plain:
        packed = plain.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
    return cast("IO[bytes]", gzip.open(path)) if packed else path.open("rb")


def _scan_voxels(
    stream: IO[bytes], voxels: int, layout: _Layout
) -> tuple[list[tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]], int]:
    """Places and values that are not finite, block by block, and the number of bytes there were."""
    found = []
    size, needed = 0, voxels * layout.voxel_bytes
    while size < needed:
        block = stream.read(min(_READ_BYTES, needed - size))
        if not block:
            break
        if layout.dtype and len(block) % layout.voxel_bytes == 0:
            values = np.frombuffer(block, layout.dtype)
            places = np.flatnonzero(~np.isfinite(values))
            if len(places):
                found.append((size // layout.voxel_bytes + places.astype(np.int64), values[places].astype(np.float64)))
        size += len(block)
    return found, size


def _layout(header: bytes, path: Path) -> _Layout:
    # https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h
    for order in "<>":
        if len(header) == _HEADER_BYTES and struct.unpack_from(f"{order}i", header)[0] == _HEADER_BYTES:
            datatype, bits = struct.unpack_from(f"{order}hh", header, 70)
            (offset,) = struct.unpack_from(f"{order}f", header, 108)
            dtype = f"{order}{_FLOATS[datatype]}" if datatype in _FLOATS else None
            if bits <= 0 or bits % 8 or (dtype and bits != 8 * np.dtype(dtype).itemsize):
                break
            if not _HEADER_BYTES <= offset <= _MAX_OFFSET:  # NaN too
                raise ImageError(
                    f"{path}: vox_offset is {offset:g}.", f"Allowed: {_HEADER_BYTES} to {_MAX_OFFSET}.", _ADVICE
                )
            return _Layout(int(offset), bits // 8, dtype)
    raise ImageError(f"{path} has a damaged NIfTI header.", None, _ADVICE)
