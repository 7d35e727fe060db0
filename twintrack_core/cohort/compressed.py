"""What ITK passes over in compressed MetaImage and NRRD files, and gzip that is unpacked in blocks.

ITK ignores the errors of zlib, the checksum among them, and so reads a damaged file as other voxels. The checksum of
MetaImage, Adler-32, is weak for tiny masks: of a few hundred voxels it misses about one flipped bit in 500.
"""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import IO, Any

from twintrack_core.cohort.headers import ADVICE, read_header
from twintrack_core.errors import ImageError

_READ_BYTES = 1 << 20
_PACKED_BYTES = 1 << 14  # what is left of a block is copied for each of the streams in it, so blocks are small


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
        If the compressed voxels are damaged or are not ``voxel_bytes``, or the header is none; see `read_header`.
    """
    try:
        header = read_header(path)
        if not header.packed:
            return
        with header.data.open("rb") as stream:
            stream.seek(header.start)
            if header.length is None:
                size = _gunzip(stream, voxel_bytes)
            else:
                size = _inflate(stream, header.length, voxel_bytes)
    except (EOFError, zlib.error) as error:
        raise ImageError(f"{path} is cut off or damaged: {error}.", None, ADVICE) from error
    except OSError as error:
        raise ImageError(f"{error.filename or path} cannot be read: {error.strerror}.") from error
    if size != voxel_bytes:
        raise ImageError(
            f"{path} is damaged: it does not hold the {voxel_bytes} bytes of voxels that it announces.", None, ADVICE
        )


class Gunzipped(io.RawIOBase):
    """What gzip streams after each other hold; zlib.error or EOFError where they are damaged.

    Unlike `gzip.GzipFile` it reads headers at the speed of C, however long the names in them are.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._data = b""
        self._unpacker: Any = None

    def readable(self) -> bool:
        """Say that this can be read."""
        return True

    def close(self) -> None:
        """Close the file too."""
        self._stream.close()
        super().close()

    def readinto(self, out: Any) -> int:
        """Unpack some bytes; 0 at the end."""
        while True:
            self._data = self._data or self._stream.read(_PACKED_BYTES)
            if self._unpacker is None:
                self._data = self._data.lstrip(b"\0")  # the padding that gzip allows after a stream
                if not self._data:
                    if not (more := self._stream.read(_PACKED_BYTES)):
                        return 0
                    self._data = more
                    continue
                self._unpacker = zlib.decompressobj(wbits=31)
            elif not self._data:
                raise EOFError("the compressed voxels end early")
            block = self._unpacker.decompress(self._data, len(out))
            self._data = self._unpacker.unconsumed_tail
            if self._unpacker.eof:
                self._data, self._unpacker = self._unpacker.unused_data, None
            if block:
                out[: len(block)] = block
                return len(block)


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
    with io.BufferedReader(Gunzipped(stream), _READ_BYTES) as unpacked:
        while size <= limit and (block := unpacked.read(_READ_BYTES)):
            size += len(block)
    return size
