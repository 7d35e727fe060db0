"""One chunk's bytes to an array and back, for the codecs Zarr v3 writers use.

zarr-python imports the code of whatever codec a store names, and enters an event loop and a thread for every read. The
chains listed here are decoded directly instead, several times faster, and no others: a transposition, the bytes in
either order, one compressor, a checksum, each but the bytes optional. Sizes in headers are checked against the array's
metadata before anything is decoded.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

ALLOWED = "transpose, bytes, then one of blosc, zstd and gzip, then crc32c; each but bytes may be left out"
"""The chains of codecs that are decoded, in words."""

_BLOSC_SHUFFLES = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}
_BLOSC_HEADER = 16
_CHECKSUM_BYTES = 4


class ChunkDecodeError(Exception):
    """A chunk's bytes are not what the array's metadata say. The caller knows which chunk it was."""


@dataclass(frozen=True)
class Codec:
    """How a chunk becomes bytes.

    Attributes
    ----------
    name
        The compressor: "none", "blosc", "zstd" or "gzip".
    options
        The compressor's configuration, as (key, value) pairs.
    order
        Order in which the axes of a chunk are stored, or None for C order.
    swapped
        Whether numbers are stored in the byte order that this machine does not use.
    checksum
        Whether a CRC-32C follows the bytes.
    """

    name: str
    options: tuple[tuple[str, Any], ...] = ()
    order: tuple[int, ...] | None = None
    swapped: bool = False
    checksum: bool = False

    def decode(self, data: bytes, out: npt.NDArray[Any]) -> None:
        """Decode ``data`` into the C-contiguous array ``out``, which it must fill exactly."""
        try:
            if self.checksum:
                data = _without_checksum(data)
            stored = out if self.order is None else self._stored(out)
            _DECODERS[self.name](data, stored.reshape(-1).view(np.uint8))
        except (ValueError, RuntimeError, MemoryError, zlib.error) as error:
            raise ChunkDecodeError(f"it does not decode ({error})") from error
        if self.swapped:
            stored.byteswap(inplace=True)
        if self.order is not None:
            out[...] = stored.transpose(np.argsort(self.order))

    def _stored(self, out: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return an array for the values in the order in which they are stored."""
        assert self.order is not None  # noqa: S101 - for mypy; decode is the only caller
        if len(self.order) != out.ndim:
            raise ValueError(f"its {out.ndim} axes cannot be put in the order {self.order}")
        return np.empty([out.shape[axis] for axis in self.order], out.dtype)

    def encode(self, array: npt.NDArray[Any]) -> bytes:
        """Encode a C-contiguous array. Deterministic outside the main thread, where Blosc uses one thread."""
        if self.order is not None:
            array = np.ascontiguousarray(array.transpose(self.order))
        data = self._compressed(array.byteswap() if self.swapped else array)
        return data + _crc32c(data) if self.checksum else data

    def _compressed(self, array: npt.NDArray[Any]) -> bytes:
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


def codec_of(codecs: Any, dtype: np.dtype[Any]) -> Codec | None:
    """Codec for the ``codecs`` of an array's metadata, or None where a chain is not one of `ALLOWED`.

    A `Codec.order` may still have more or fewer axes than the array, which is found when a chunk is decoded.
    """
    chain = [_named(codec) for codec in codecs] if isinstance(codecs, list | tuple) else []
    order = None
    if chain and chain[0][0] == "transpose":
        order = _order(chain.pop(0)[1])
        if order is None:
            return None
    checksum = len(chain) > 1 and chain[-1] == ("crc32c", {})
    if checksum:
        chain.pop()
    if not chain or chain[0][0] != "bytes" or len(chain) > 2:
        return None
    endian = chain[0][1].get("endian", "little")
    if chain[0][1].keys() - {"endian"} or endian not in ("little", "big"):
        return None
    swapped = dtype.itemsize > 1 and endian != sys.byteorder
    name, options = chain[1] if len(chain) == 2 else ("none", {})
    if name not in _OPTIONS or not _are_options(name, options):
        return None
    if order == tuple(range(len(order or ()))):
        order = None  # as stored
    return Codec(name, tuple(sorted(options.items())), order, swapped, checksum)


def _named(codec: Any) -> tuple[str, dict[str, Any]]:
    """Name and configuration of one codec; the name is "" for what is none."""
    if isinstance(codec, str):  # a codec without a configuration may be only its name
        return codec, {}
    if not isinstance(codec, Mapping) or not isinstance(codec.get("name"), str):
        return "", {}
    options = codec.get("configuration")
    if options is None:
        options = {}
    return (codec["name"], dict(options)) if isinstance(options, Mapping) else ("", {})


def _order(options: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Order of the axes in a transposition's configuration, or None if it is none."""
    order = options.get("order")
    if not isinstance(order, list | tuple) or len(order) > _MOST_AXES or options.keys() != {"order"}:
        return None
    if not all(type(axis) is int for axis in order) or sorted(order) != list(range(len(order))):
        return None
    return tuple(order)


_MOST_AXES = 8

_OPTIONS: dict[str, dict[str, Callable[[Any], bool]]] = {
    "none": {},
    "blosc": {
        "cname": lambda name: name in ("blosclz", "lz4", "lz4hc", "zlib", "zstd"),
        "clevel": lambda level: type(level) is int and 0 <= level <= 9,
        "shuffle": lambda shuffle: shuffle in tuple(_BLOSC_SHUFFLES),
        "typesize": lambda size: type(size) is int and 1 <= size <= 255,
        "blocksize": lambda size: type(size) is int and 0 <= size < 1 << 31,
    },
    "zstd": {
        "level": lambda level: type(level) is int and abs(level) < 1 << 31,
        "checksum": lambda checksum: type(checksum) is bool,
    },
    "gzip": {"level": lambda level: type(level) is int and 0 <= level <= 9},
}


def _are_options(name: str, options: Mapping[str, Any]) -> bool:
    allowed = _OPTIONS[name]
    return all(key in allowed and allowed[key](value) for key, value in options.items())


def _crc32c(data: bytes) -> bytes:
    from numcodecs.checksum32 import CRC32C  # of whichever library the installed zarr-python brings

    return int(CRC32C.checksum(data, 0)).to_bytes(_CHECKSUM_BYTES, "little")


def _without_checksum(data: bytes) -> bytes:
    data, checksum = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
    if _crc32c(data) != checksum:
        raise ChunkDecodeError("it does not fit its checksum")
    return data


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
