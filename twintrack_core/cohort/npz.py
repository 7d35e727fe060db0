"""Probability arrays in .npz files, read in blocks and never trusted.

An .npz file is a zip archive of .npy files. The .npy header is read and checked before anything is allocated, and the
values are then read straight from the decompressor: no object is unpickled, and a file holds what it announces or is
refused. Only what NumPy writes is read: members as they are or deflated, whose decompressor can be asked for a block;
those of bzip2 and LZMA give a gigabyte at once.
"""

from __future__ import annotations

import io
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from twintrack_core.cohort.folders import listed
from twintrack_core.cohort.scores import block_slices
from twintrack_core.errors import ImageError, RequestError, TwinTrackError


@dataclass(frozen=True)
class ProbabilityFile:
    """Header of an array of class probabilities in an .npz file; see `open_probabilities`.

    Attributes
    ----------
    path
        The file.
    key
        Name of the array in it.
    shape
        Number of classes, then voxels along (z, y, x).
    dtype
        float16, float32 or float64, of either byte order.
    fortran
        True if the first axis runs fastest in the file.
    """

    path: Path
    key: str
    shape: tuple[int, int, int, int]
    dtype: np.dtype[Any]
    fortran: bool

    def blocks(self) -> Iterator[tuple[int, slice, npt.NDArray[Any]]]:
        """Read the values class after class, each in blocks of its flattened (z, y, x).

        Yields
        ------
        channel, where, values
            Index of the class, the slice of its flattened voxels, and the values there, (n,).

        Raises
        ------
        ImageError
            If the file is damaged or cut off.
        """
        voxels = math.prod(self.shape[1:])
        with _member(self.path, self.key) as (stream, _):
            _read_header(stream, self.path)
            if self.fortran:
                data = _read_exactly(stream, math.prod(self.shape) * self.dtype.itemsize)
                values = np.frombuffer(data, self.dtype).reshape(self.shape[::-1]).T
                for channel, volume in enumerate(values):
                    flat = volume.ravel()
                    for where in block_slices(voxels):
                        yield channel, where, flat[where]
                return
            for channel in range(self.shape[0]):
                for where in block_slices(voxels):
                    wanted = (where.stop - where.start) * self.dtype.itemsize
                    yield channel, where, np.frombuffer(_read_exactly(stream, wanted), self.dtype)
            stream.read(1)  # at its end the archive compares its checksum


def open_probabilities(path: Path, key: str = "probabilities") -> ProbabilityFile:
    """Read and check the header of the array ``key``.

    Raises
    ------
    RequestError
        If there is no such file.
    ImageError
        If the file is not an .npz file or damaged, has no such array, or the array is not one of floating-point
        numbers with axes (class, z, y, x).
    """
    if not path.is_file():
        raise RequestError(f"There is no file {path}.")
    with _member(path, key) as (stream, size):
        shape, fortran, dtype = _read_header(stream, path)
        header_bytes = stream.tell()
    if dtype.hasobject:
        raise ImageError(
            f"{path}: {key!r} holds pickled objects, which can run any code when read.",
            "Allowed: an array of floating-point numbers.",
            "Save it again as a plain array.",
        )
    if dtype.kind != "f" or dtype.itemsize > 8 or len(shape) != 4 or not all(map(_is_size, shape)):
        raise ImageError(
            f"{path}: {key!r} has dtype {dtype!s:.60} and shape {shape!s:.60}.",
            "Allowed: float16, float32 or float64 with axes (class, z, y, x).",
        )
    expected = header_bytes + math.prod(shape) * dtype.itemsize
    if size != expected:
        raise ImageError(f"{path}: {key!r} has {size} bytes, but its header announces {expected}.", None, _ADVICE)
    return ProbabilityFile(path, key, (shape[0], shape[1], shape[2], shape[3]), dtype, fortran)


_ADVICE = "Copy or make the file again."
_MAX_LIST_BYTES = 1 << 20  # some ten thousand arrays; listing them takes ten times as much memory
_MAX_RATIO = 1032  # what deflate makes of one byte at most
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    struct.error,
    NotImplementedError,
    ValueError,  # of places before the beginning, and of a name marked as UTF-8 that is not
    OverflowError,
)


class _File(io.FileIO):
    """A file that does not let `zipfile` read a whole disk into its list of contents."""

    listed = False

    def read(self, size: int | None = -1, /) -> bytes:
        if not self.listed and size is not None and size > _MAX_LIST_BYTES:
            raise zipfile.BadZipFile(f"its list of contents has more than {_MAX_LIST_BYTES} bytes")
        return super().read(-1 if size is None else size) or b""


@contextmanager
def _member(path: Path, key: str) -> Iterator[tuple[IO[bytes], int]]:
    """Open one array of an .npz file: its stream and its size in bytes. Damage found meanwhile is an ImageError."""
    try:
        with _File(path) as file, zipfile.ZipFile(file) as archive:
            file.listed = True
            entry = _find(archive, path, key)
            with archive.open(entry) as stream:
                yield stream, entry.file_size
    except TwinTrackError:
        raise
    except _DAMAGE as error:
        raise ImageError(f"{path} is cut off, damaged or not an .npz file: {error!s:.200}.", None, _ADVICE) from error
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror or error}.", None, _ADVICE) from error


def _find(archive: zipfile.ZipFile, path: Path, key: str) -> zipfile.ZipInfo:
    """Return where the one array ``key`` is, once what is said about it can be true."""
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        name = entry.filename.removesuffix(".npy")
        if name in entries:  # readers differ in which of the two they take
            raise ImageError(f"{path} holds two arrays {name!r:.80}.", "Allowed: different names.", _ADVICE)
        entries[name] = entry
    if key not in entries:
        raise ImageError(
            f"{path} holds no array {key!r}, but {listed(entries) or 'nothing'}.",
            f"Allowed: .npz files with {key!r}, as nnU-Net writes them.",
        )
    found = entries[key]
    if found.flag_bits & 1:
        raise ImageError(f"{path} is encrypted.", "Allowed: plain .npz files.")
    if found.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ImageError(
            f"{path}: {key!r} is compressed by method {found.compress_type}.",
            "Allowed: no compression, or deflate, as NumPy writes them.",
            "Save it again with numpy.savez_compressed.",
        )
    if found.file_size > _MAX_RATIO * path.stat().st_size:
        raise ImageError(
            f"{path} is damaged: {key!r} cannot have {found.file_size} bytes in a file of {path.stat().st_size}.",
            None,
            _ADVICE,
        )
    return found


def _read_header(stream: IO[bytes], path: Path) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, Fortran order and dtype. NumPy evaluates the header as a literal and bounds its length."""
    try:
        version = np.lib.format.read_magic(stream)
        if version != (1, 0):  # later ones are for headers of more than 64 KiB and names in Unicode
            raise ImageError(f"{path} holds an array in .npy version {version}.", "Allowed: version (1, 0).")
        return np.lib.format.read_array_header_1_0(stream)
    except ImageError:
        raise
    except (ValueError, TypeError, SyntaxError, tokenize.TokenError, RecursionError, MemoryError) as error:
        reason = (str(error).splitlines() or ["nonsense"])[0][:100].rstrip(" .:")
        raise ImageError(f"{path} holds an array with a damaged header: {reason}.", None, _ADVICE) from error


def _is_size(length: Any) -> bool:
    return type(length) is int and 1 <= length < 1 << 40


def _read_exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise EOFError("it ends early")
    return data
