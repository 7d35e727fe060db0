"""One chunk's bytes to an array and back, for the codecs most Zarr arrays use.

zarr-python enters an event loop and a thread for every read. For the plain combinations listed here (little-endian,
C order, at most one compressor) the bytes can be decoded directly instead, several times faster. Everything else is
left to zarr-python. Sizes in headers are checked against the array's metadata before anything is decoded.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_BLOSC_SHUFFLES = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}
_BLOSC_HEADER = 16


class ChunkDecodeError(Exception):
    """A chunk's bytes are not what the array's metadata say. The caller knows which chunk it was."""


@dataclass(frozen=True)
class Codec:
    """How the bytes of a chunk are compressed.

    Attributes
    ----------
    name
        "none", "blosc", "zstd" or "gzip".
    options
        The codec's configuration, as (key, value) pairs.
    """

    name: str
    options: tuple[tuple[str, Any], ...] = ()

    def decode(self, data: bytes, out: npt.NDArray[Any]) -> None:
        """Decode ``data`` into the C-contiguous array ``out``, which it must fill exactly."""
        try:
            _DECODERS[self.name](data, out.reshape(-1).view(np.uint8))
        except (ValueError, RuntimeError, zlib.error) as error:
            raise ChunkDecodeError(f"it does not decode ({error})") from error

    def encode(self, array: npt.NDArray[Any]) -> bytes:
        """Encode a C-contiguous array. Deterministic outside the main thread, where Blosc uses one thread."""
        options = dict(self.options)
        if self.name == "blosc":
            from numcodecs import blosc

            return bytes(
                blosc.compress(
                    array.reshape(-1),
                    options["cname"].encode(),
                    options["clevel"],
                    _BLOSC_SHUFFLES[options["shuffle"]],
                    options["blocksize"],
                    options["typesize"],
                )
            )
        if self.name == "zstd":
            from numcodecs import zstd

            return bytes(zstd.compress(array.reshape(-1), options["level"], options.get("checksum", False)))
        if self.name == "gzip":
            # zarr-python's gzip codec writes the time into the header; equal work must give equal bytes.
            compressor = zlib.compressobj(options["level"], wbits=31)
            return compressor.compress(array.tobytes()) + compressor.flush()
        return array.tobytes()


def codec_of(codecs: Sequence[Mapping[str, Any]], dtype: np.dtype[Any]) -> Codec | None:
    """Codec for the ``codecs`` of an array's metadata, or None where only zarr-python knows how to read it."""
    if not codecs or codecs[0].get("name") != "bytes" or len(codecs) > 2:
        return None
    endian = (codecs[0].get("configuration") or {}).get("endian", "little")
    if dtype.itemsize > 1 and endian != "little":
        return None
    if len(codecs) == 1:
        return Codec("none")
    name, options = codecs[1].get("name"), codecs[1].get("configuration") or {}
    if name == "blosc" and options.get("shuffle") in _BLOSC_SHUFFLES:
        return Codec("blosc", _frozen(options))
    if name in ("zstd", "gzip"):
        return Codec(name, _frozen(options))
    return None


def _frozen(options: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(options.items()))


def _decode_none(data: bytes, out: npt.NDArray[np.uint8]) -> None:
    _check_size(len(data), out.nbytes)
    out[:] = np.frombuffer(data, dtype=np.uint8)


def _decode_blosc(data: bytes, out: npt.NDArray[np.uint8]) -> None:
    from numcodecs import blosc

    # c-blosc trusts the header's compressed size, so a cut-off chunk would be read past its end.
    header = np.frombuffer(data[:_BLOSC_HEADER].ljust(_BLOSC_HEADER, b"\0"), dtype="<u4")
    if len(data) < _BLOSC_HEADER or int(header[3]) != len(data):
        raise ChunkDecodeError(f"it has {len(data)} bytes, its header says {int(header[3])}")
    _check_size(int(header[1]), out.nbytes)
    blosc.decompress(data, out)


def _decode_zstd(data: bytes, out: npt.NDArray[np.uint8]) -> None:
    from numcodecs import zstd

    size = _zstd_content_size(data)
    if size is not None:  # numcodecs itself refuses a frame that declares too much, or none and does not fit
        _check_size(size, out.nbytes)
    zstd.decompress(data, out)


def _decode_gzip(data: bytes, out: npt.NDArray[np.uint8]) -> None:
    decompressor = zlib.decompressobj(wbits=31)
    content = decompressor.decompress(data, out.nbytes + 1)  # one byte more tells too long from just right
    _check_size(len(content), out.nbytes)
    if not decompressor.eof:  # the checksum stands at the end
        raise ChunkDecodeError("its end is missing")
    if decompressor.unused_data:
        raise ChunkDecodeError(f"{len(decompressor.unused_data)} bytes follow its end")
    out[:] = np.frombuffer(content, dtype=np.uint8)


_DECODERS = {"none": _decode_none, "blosc": _decode_blosc, "zstd": _decode_zstd, "gzip": _decode_gzip}


def _check_size(size: int, expected: int) -> None:
    if size != expected:
        raise ChunkDecodeError(f"it holds {size} bytes, a chunk of this array has {expected}")


def _zstd_content_size(data: bytes) -> int | None:
    """Content size a Zstandard frame declares (RFC 8878, section 3.1.1.1), None if it declares none."""
    if len(data) < 6 or data[:4] != b"\x28\xb5\x2f\xfd":
        raise ChunkDecodeError("it is not a Zstandard frame")
    descriptor = data[4]
    single_segment = bool(descriptor & 0x20)
    n_bytes = (1 if single_segment else 0, 2, 4, 8)[descriptor >> 6]
    if n_bytes == 0:
        return None
    start = 5 + (0 if single_segment else 1) + (0, 1, 2, 4)[descriptor & 3]
    size = int.from_bytes(data[start : start + n_bytes], "little")
    return size + 256 if n_bytes == 2 else size
