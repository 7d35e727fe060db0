"""What ITK passes over in compressed MetaImage and NRRD files.

ITK ignores the errors of zlib, the checksum among them, and so reads a damaged file as other voxels. The checksum of
MetaImage, Adler-32, is weak for tiny masks: of a few hundred voxels it misses about one flipped bit in 500. Formats:
https://itk.org/Wiki/ITK/MetaIO/Documentation and https://teem.sourceforge.net/nrrd/format.html.
"""

from __future__ import annotations

import gzip
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from twintrack_core.errors import ImageError

_READ_BYTES = 1 << 20
_MAX_HEADER_BYTES = 1 << 24
_NRRD_MAGIC = b"NRRD"
_ADVICE = "Copy or make the file again."


@dataclass(frozen=True)
class _Packed:
    """Compressed voxels: their file, where they begin in it, and how many bytes they are; None for all, in gzip."""

    path: Path
    start: int
    length: int | None


def check(path: Path, voxel_bytes: int) -> None:
    """Check that the voxels of a MetaImage or NRRD file are whole if they are compressed.

    Parameters
    ----------
    path
        The file, or the header if the voxels lie in a file beside it.
    voxel_bytes
        Bytes of all voxels once decompressed.

    Raises
    ------
    ImageError
        If the compressed voxels are damaged or are not ``voxel_bytes``, or the header gives no size of them that ITK
        needs, or says that they lie in several files or behind skipped bytes.
    """
    try:
        packed = _find(path)
        if packed is None:
            return
        with packed.path.open("rb") as stream:
            stream.seek(packed.start)
            if packed.length is None:
                size = _gunzip(stream, voxel_bytes)
            else:
                size = _inflate(stream, packed.length, voxel_bytes)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ImageError(f"{path} is cut off or damaged: {error}.", None, _ADVICE) from error
    except OSError as error:
        raise ImageError(f"{error.filename or path} cannot be read: {error.strerror}.") from error
    if size != voxel_bytes:
        raise ImageError(
            f"{path} is damaged: it does not hold the {voxel_bytes} bytes of voxels that it announces.", None, _ADVICE
        )


def _find(path: Path) -> _Packed | None:
    """Where the voxels are, or None if they are not compressed."""
    with path.open("rb") as stream:
        nrrd = stream.read(len(_NRRD_MAGIC)) == _NRRD_MAGIC
        stream.seek(0)
        return _find_nrrd(stream, path) if nrrd else _find_metaimage(stream, path)


def _find_nrrd(stream: IO[bytes], path: Path) -> _Packed | None:
    fields: dict[str, str] = {}
    while (line := _read_line(stream)).strip():  # an empty line ends the header, or the file does
        name, _, value = line.partition(":")
        fields[name.strip().lower()] = value.strip()
    if fields.get("encoding", "").lower() not in ("gzip", "gz"):
        return None
    file = fields.get("data file") or fields.get("datafile")
    _check_simple(path, file, [fields.get("line skip"), fields.get("byte skip")])
    return _Packed(path.parent / file, 0, None) if file else _Packed(path, stream.tell(), None)


def _find_metaimage(stream: IO[bytes], path: Path) -> _Packed | None:
    fields: dict[str, str] = {}
    while "ElementDataFile" not in fields and (line := _read_line(stream)):
        name, value = re.split("[:=]|$", line, maxsplit=1)
        fields[name.strip()] = value.strip()
    if not fields.get("CompressedData", "").startswith(("T", "t", "1")):
        return None
    file = fields.get("ElementDataFile", "LOCAL")
    _check_simple(path, file, [fields.get("HeaderSize")])
    size = fields.get("CompressedDataSize", "")
    if not size.isdecimal() or int(size) == 0:
        # ITK would take the header for the beginning of the voxels.
        raise ImageError(
            f"{path}: CompressedDataSize is {size!r}.",
            "Allowed: the number of bytes of the compressed voxels.",
            _ADVICE,
        )
    if file.upper() == "LOCAL":
        return _Packed(path, stream.tell(), int(size))
    return _Packed(path.parent / file, 0, int(size))


def _check_simple(path: Path, file: str | None, skips: list[str | None]) -> None:
    if any(skip not in (None, "0") for skip in skips) or re.match("LIST|.*[%\0]", file or ""):
        raise ImageError(
            f"{path} has compressed voxels in several files or behind skipped bytes.",
            "Allowed: compressed voxels that follow the header or fill one other file.",
            "Write the image again, as .mha for instance.",
        )


def _read_line(stream: IO[bytes]) -> str:
    return stream.readline(_MAX_HEADER_BYTES - stream.tell()).decode("latin1")


def _inflate(stream: IO[bytes], length: int, limit: int) -> int:
    """Decompress ``length`` bytes up to their checksum and return the size, or a larger one than ``limit``."""
    unpacker = zlib.decompressobj(wbits=47)  # zlib or gzip: ITK reads both
    size, left = 0, length
    while not unpacker.eof and size <= limit:
        block = unpacker.unconsumed_tail
        if not block:
            block = stream.read(min(_READ_BYTES, left))
            left -= len(block)
        if not block:
            raise EOFError("the compressed voxels end early")
        size += len(unpacker.decompress(block, _READ_BYTES))
    return size


def _gunzip(stream: IO[bytes], limit: int) -> int:
    """Decompress all that follows, one gzip stream or more, and return the size, or a larger one than ``limit``."""
    size = 0
    with gzip.GzipFile(fileobj=stream) as unpacked:
        while size <= limit and (block := unpacked.read(_READ_BYTES)):
            size += len(block)
    return size
