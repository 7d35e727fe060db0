"""What ITK passes over in a NIfTI file.

ITK reads a file that was cut off as if it were whole, writes one to a full disk without an error, and reads NaN and
infinity as 0. It reads version 1 of the format only, so this does too.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from twintrack_core.cohort.compressed import Gunzipped
from twintrack_core.cohort.headers import ADVICE, MAX_RATIO, check_room, no_image
from twintrack_core.errors import ImageError

SUFFIXES = (".nii.gz", ".nii")
"""Endings of NIfTI files."""

_GZIP_MAGIC = b"\x1f\x8b"
_HEADER_BYTES = 348
_MAX_OFFSET = 1 << 24  # what may stand between header and voxels is small
_READ_BYTES = 1 << 20  # a multiple of every voxel's size
_FLOATS = {16: "f4", 64: "f8"}  # datatype codes of the format
_BITS = {
    2: 8, 4: 16, 8: 32, 16: 32, 32: 64, 64: 64, 128: 24, 256: 8, 512: 16, 768: 32, 1024: 64, 1280: 64, 1536: 128,
    1792: 128, 2048: 256, 2304: 32,
}  # fmt: skip


@dataclass(frozen=True)
class _Layout:
    """Where the voxels begin, how many there are, the bytes of each, and their dtype if they are floating-point."""

    offset: int
    voxels: int
    voxel_bytes: int
    dtype: str | None


def check_header(path: Path) -> None:
    """Check, before ITK reads a header, that it is one and that the file can hold the voxels that it announces.

    Raises
    ------
    ImageError
        If it is none, or the file is too small.
    """
    try:
        with _open(path) as stream:
            layout = _layout(stream.read(_HEADER_BYTES), path)
            packed = not isinstance(stream.raw, io.FileIO)
        n_bytes = layout.voxels * layout.voxel_bytes
        check_room(path, path, 0 if packed else layout.offset, -(-n_bytes // MAX_RATIO) if packed else n_bytes)
    except (EOFError, zlib.error) as error:
        raise ImageError(f"{path} is cut off or damaged: {error}.", None, ADVICE) from error
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}.") from error


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
            stream.read(layout.offset - _HEADER_BYTES)
            found, size = _scan_voxels(stream, voxels, layout)
            rest = 0
            while (block := stream.read(_READ_BYTES)) and rest <= _MAX_OFFSET:
                rest += len(block)  # a gzip stream compares its checksum at its end
            if rest > _MAX_OFFSET:
                raise ImageError(f"{path} goes on for more than {_MAX_OFFSET} bytes after its voxels.", None, ADVICE)
    except (EOFError, zlib.error) as error:
        raise ImageError(f"{path} is cut off or damaged: {error}.", None, ADVICE) from error
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}.") from error
    needed = voxels * layout.voxel_bytes
    if size < needed:
        raise ImageError(f"{path} is cut off: it holds {size} of {needed} bytes of voxels.", None, ADVICE)
    places, values = zip(*found, strict=True) if found else ((), ())
    return np.concatenate([np.empty(0, np.int64), *places]), np.concatenate([np.empty(0, np.float64), *values])


def _open(path: Path) -> io.BufferedReader:
    with path.open("rb") as plain:
        packed = plain.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
    file = path.open("rb")
    return io.BufferedReader(Gunzipped(file), _READ_BYTES) if packed else file


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
                with np.errstate(invalid="ignore"):  # of NaN that signal
                    wide = values[places].astype(np.float64)
                found.append((size // layout.voxel_bytes + places.astype(np.int64), wide))
        size += len(block)
    return found, size


def _is_placed(header: bytes, order: str) -> bool:
    """Whether the numbers that say where the voxels lie are finite; ITK prints a matrix of others."""
    qform, sform = struct.unpack_from(f"{order}2h", header, 252)
    numbers = list(struct.unpack_from(f"{order}4f", header, 76))
    numbers += struct.unpack_from(f"{order}6f", header, 256) if qform > 0 else ()
    numbers += struct.unpack_from(f"{order}12f", header, 280) if sform > 0 else ()
    return all(map(math.isfinite, numbers))


def _layout(header: bytes, path: Path) -> _Layout:
    # https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h
    for order in "<>":
        if len(header) == _HEADER_BYTES and struct.unpack_from(f"{order}i", header)[0] == _HEADER_BYTES:
            datatype, bits = struct.unpack_from(f"{order}hh", header, 70)
            (offset,) = struct.unpack_from(f"{order}f", header, 108)
            dtype = f"{order}{_FLOATS[datatype]}" if datatype in _FLOATS else None
            axes, *size = struct.unpack_from(f"{order}8h", header, 40)
            if bits != _BITS.get(datatype) or not _is_placed(header, order):
                break
            # Another magic says that the voxels lie in another file.
            if header[-4:] != b"n+1\0" or not 1 <= axes <= 7 or min(size[:axes]) < 1:
                break
            if not _HEADER_BYTES <= offset <= _MAX_OFFSET:  # NaN too
                raise ImageError(
                    f"{path}: vox_offset is {offset:g}.", f"Allowed: {_HEADER_BYTES} to {_MAX_OFFSET}.", ADVICE
                )
            return _Layout(int(offset), math.prod(size[:axes]), bits // 8, dtype)
    raise no_image(path, "it has no NIfTI header of version 1, or a damaged NIfTI header")
