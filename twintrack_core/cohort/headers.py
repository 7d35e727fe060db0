"""Headers of MetaImage and NRRD files, read and checked before ITK sees them.

ITK opens whatever file a header names, makes room for whatever size it announces, and overruns its buffers on a long
field or value of NRRD. So what is passed on is short, of fields that are known, once each, with values of their kind.
Formats:
https://itk.org/Wiki/ITK/MetaIO/Documentation and https://teem.sourceforge.net/nrrd/format.html.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from twintrack_core.errors import ImageError

MAX_RATIO = 1032
"""Bytes that deflate makes of one at most."""

ADVICE = "Copy or make the file again."
"""What to do about a damaged file."""

_MAX_HEADER_BYTES = 1 << 16
_MAX_LINE_BYTES = 1000
_MAX_VALUE = 200  # of a field that ITK reads
_NUMBER = r"[+-]?[0-9]{1,20}(\.[0-9]{0,30})?([eE](-[0-9]{1,3}|[+]?[0-9]{1,2}))?"
_BOOLEAN = "[TtFf10][A-Za-z]{0,4}"
_VECTOR = rf"\( ?{_NUMBER}( ?, ?{_NUMBER}){{2}} ?\)"


def _numbers(count: int) -> str:
    return rf"{_NUMBER}( +{_NUMBER}){{{count - 1}}}"


_WORDS = '[A-Za-z0-9 ./%^*|"_-]*'
_NRRD_FIELDS = {
    "type": "[a-z0-9_ ]+",
    "dimension": "[0-9]+",
    "sizes": "[0-9 ]+",
    "encoding": "[A-Za-z0-9]+",
    "endian": "little|big",
    "data file": ".*",
    "byte skip": "[0-9-]+",
    "line skip": "[0-9]+",
    "space": "[A-Za-z0-9-]+",
    "space dimension": "3",
    "space directions": rf"{_VECTOR}( +{_VECTOR}){{2}}",
    "space origin": _VECTOR,
    "space units": _WORDS,
    "measurement frame": rf"{_VECTOR}( +{_VECTOR}){{2}}",
    **dict.fromkeys(("spacings", "thicknesses", "axis mins", "axis maxs"), f"({_NUMBER}|nan|NaN| )+"),
    **dict.fromkeys(("kinds", "centers", "centerings", "labels", "units", "content", "sample units"), _WORDS),
    **dict.fromkeys(("min", "max", "old min", "old max", "number"), _NUMBER),
}
"""Fields of NRRD, and what their values look like."""

_METAIMAGE_FIELDS = {
    **dict.fromkeys(("DimSize", "Offset", "Position", "Origin", "CenterOfRotation"), _numbers(3)),
    **dict.fromkeys(("ElementSpacing", "ElementSize"), _numbers(3)),
    **dict.fromkeys(("TransformMatrix", "Rotation", "Orientation"), _numbers(9)),
    **dict.fromkeys(("ID", "ParentID", "NDims", "HeaderSize", "SequenceID", "CompressionLevel"), "-?[0-9]{1,9}"),
    **dict.fromkeys(("ElementMin", "ElementMax"), _NUMBER),
    **dict.fromkeys(("ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset"), _NUMBER),
    **dict.fromkeys(("BinaryData", "CompressedData"), _BOOLEAN),
    **dict.fromkeys(("BinaryDataByteOrderMSB", "ElementByteOrderMSB"), _BOOLEAN),
    "ObjectType": "Image",
    "ElementType": "[A-Z_]*",
    "AnatomicalOrientation": "[A-Za-z?]{1,9}",
}
"""Fields of MetaImage whose values look like this; others are text."""

_AFTER_NDIMS = {name for name, value in _METAIMAGE_FIELDS.items() if value in (_numbers(3), _numbers(9))}
_NRRD_MAGIC = re.compile(rb"NRRD000[1-5]\r?\n")
_METAIMAGE_BYTES = {
    "CHAR": 1, "UCHAR": 1, "SHORT": 2, "USHORT": 2, "INT": 4, "UINT": 4, "LONG": 4, "ULONG": 4,
    "LONG_LONG": 8, "ULONG_LONG": 8, "FLOAT": 4, "DOUBLE": 8,
}  # fmt: skip
_NRRD_SYNONYMS = {
    "datafile": "data file", "byteskip": "byte skip", "lineskip": "line skip", "axismins": "axis mins",
    "axismaxs": "axis maxs", "oldmin": "old min", "oldmax": "old max", "sampleunits": "sample units",
}  # fmt: skip
_NRRD_BYTES = {
    **dict.fromkeys(("signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8", "uint8_t"), 1),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), 2),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), 2),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t", "uint", "unsigned int", "uint32", "uint32_t"), 4),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "signed long long int"), 8),
    **dict.fromkeys(("int64", "int64_t", "ulonglong", "unsigned long long", "unsigned long long int"), 8),
    **dict.fromkeys(("uint64", "uint64_t", "double"), 8),
    "float": 4,
}


@dataclass(frozen=True)
class Header:
    """What matters of a header.

    Attributes
    ----------
    size
        Voxels along each axis, the fastest first.
    packed
        Whether the voxels are compressed.
    data
        The file with the voxels: the header's own, or one beside it.
    start, length
        Where compressed voxels begin in it and how many bytes they are; None for all, in gzip.
    least_bytes
        Bytes of voxels that the file has at least, if it is whole; before they are decompressed.
    """

    size: tuple[int, ...]
    packed: bool
    data: Path
    start: int
    length: int | None
    least_bytes: int


def read_header(path: Path) -> Header:
    """Read the header of a MetaImage or NRRD file, as its beginning says.

    Raises
    ------
    ImageError
        If it is none; if voxels lie outside the file's folder, in several files or behind skipped bytes; or if there
        are fewer bytes than the voxels that it announces need.
    OSError
        If the file cannot be read.
    """
    with path.open("rb") as stream:
        nrrd = _NRRD_MAGIC.fullmatch(stream.read(9).split(b"\n")[0] + b"\n") is not None
        stream.seek(0)
        header = _nrrd(stream, path) if nrrd else _metaimage(stream, path)
    if not header.data.is_file():  # a pipe would never end
        raise ImageError(f"{header.data} cannot be read: No such file.", "Allowed: a file beside its header.", ADVICE)
    check_room(path, header.data, header.start, header.least_bytes)
    return header


def check_room(path: Path, data: Path, start: int, least_bytes: int) -> None:
    """Refuse a file ``path`` whose voxels, after ``start`` in the file ``data``, cannot be as many as they should.

    Raises
    ------
    ImageError
        With both numbers.
    """
    room = max(0, data.stat().st_size - start)
    if room < least_bytes:
        raise ImageError(f"{path} is cut off: it holds {room} of {least_bytes} bytes of voxels.", None, ADVICE)


def no_image(path: Path, why: str) -> ImageError:
    """Return the error for a file whose header is none."""
    return ImageError(f"{path} cannot be read as an image: {why}.", None, ADVICE)


def _nrrd(stream: IO[bytes], path: Path) -> Header:
    _read_line(stream, path)  # the version
    fields: dict[str, str] = {}
    while (line := _read_line(stream, path)).strip():  # an empty line ends the header, or the file does
        if line.startswith("#") or ":=" in line:  # comments, and keys of the user's
            continue
        name, _, value = line.partition(":")
        name = name.strip().lower()
        _set(fields, _NRRD_SYNONYMS.get(name, name), value.strip(), _NRRD_FIELDS, path)
    packed, text = _nrrd_encoding(fields.get("encoding", ""), path)
    skip = fields.get("byte skip", "0")
    lines = fields.get("line skip", "0")
    skip = "0" if skip == "-1" and not packed else skip
    data, start = _data(path, fields.get("data file", ""), [lines, skip], stream.tell())
    size = _size(fields.get("sizes", ""), fields.get("dimension", ""), path)
    voxel_bytes = _NRRD_BYTES.get(fields.get("type", ""))
    if voxel_bytes is None:
        raise no_image(path, f"its voxels are of the type {fields.get('type')!r:.40}")
    n_bytes = math.prod(size) * (1 if text else voxel_bytes)
    return Header(size, packed, data, start, None, -(-n_bytes // MAX_RATIO) if packed else n_bytes)


def _nrrd_encoding(encoding: str, path: Path) -> tuple[bool, bool]:
    """Whether voxels are compressed, and whether they are text."""
    kinds = {"raw": (False, False), "gzip": (True, False), "gz": (True, False)}
    kinds |= dict.fromkeys(("text", "txt", "ascii", "hex"), (False, True))
    if encoding.lower() not in kinds:
        raise no_image(path, f"its encoding is {encoding!r:.40}")
    return kinds[encoding.lower()]


def _metaimage(stream: IO[bytes], path: Path) -> Header:
    fields: dict[str, str] = {}
    while "ElementDataFile" not in fields:
        line = _read_line(stream, path)
        if not line:
            raise no_image(path, "its header does not name the file of its voxels")
        if not line.strip():
            continue
        parts = re.split("[:=]", line, maxsplit=1)
        if len(parts) < 2:
            raise no_image(path, f"its header has the line {line.strip()!r:.60}")
        name, value = (part.strip() for part in parts)
        if name in _AFTER_NDIMS and "NDims" not in fields:
            raise no_image(path, f"its header has {name} before NDims")
        pattern = _METAIMAGE_FIELDS.get(name, ".*")
        _set(fields, name, value, {name: pattern}, path)
    packed = _is_true(fields.get("CompressedData", ""))
    skip = fields.get("HeaderSize", "0")
    file = fields["ElementDataFile"]
    skip = "0" if skip == "-1" and not packed else skip
    data, start = _data(path, "" if file.upper() == "LOCAL" else file, [skip], stream.tell())
    size = _size(fields.get("DimSize", ""), fields.get("NDims", ""), path)
    kind = fields.get("ElementType", "")
    channels = fields.get("ElementNumberOfChannels", "1")
    voxel_bytes = _METAIMAGE_BYTES.get(kind.removeprefix("MET_"))
    if voxel_bytes is None or not kind.startswith("MET_") or channels != "1":
        raise no_image(path, f"its voxels are {channels:.20} of the type {kind!r:.40}")
    text = "BinaryData" in fields and not _is_true(fields["BinaryData"])
    n_bytes = math.prod(size) * (1 if text else voxel_bytes)
    if not packed:
        return Header(size, packed, data, start, None, n_bytes)
    length = fields.get("CompressedDataSize", "")
    if not length.isdecimal() or len(length) > 15 or int(length) == 0:
        # ITK would take the header for the beginning of the voxels.
        raise ImageError(
            f"{path}: CompressedDataSize is {length!r:.40}.",
            "Allowed: the number of bytes of the compressed voxels.",
            ADVICE,
        )
    return Header(size, packed, data, start, int(length), -(-n_bytes // MAX_RATIO))


def _is_true(value: str) -> bool:
    return value.startswith(("T", "t", "1"))


def _data(path: Path, file: str, skips: list[str], header_bytes: int) -> tuple[Path, int]:
    """File with the voxels, and where they begin in it."""
    simple = not re.match(r"LIST|.*[%\0]|.*\s[0-9]", file)
    if not simple or any(skip != "0" for skip in skips):
        raise ImageError(
            f"{path} has voxels in several files or behind skipped bytes.",
            "Allowed: voxels that follow the header or fill one other file.",
            "Write the image again, as .mha for instance.",
        )
    if file in (".", "..") or "/" in file or "\\" in file:
        raise ImageError(
            f"{path} has its voxels in {file!r:.80}.",
            "Allowed: a file in the same folder, without a path.",
            "Write the image again, as .mha for instance.",
        )
    return (path.parent / file, 0) if file else (path, header_bytes)


def _size(sizes: str, dimension: str, path: Path) -> tuple[int, ...]:
    parts = sizes.split()
    if dimension != str(len(parts)) or not all(re.fullmatch("[0-9]{1,9}", part) and int(part) for part in parts):
        raise no_image(path, f"its size is {sizes!r:.60} in {dimension!r:.20} dimensions")
    if len(parts) != 3:
        raise ImageError(
            f"{path} is {len(parts)}-dimensional.", "Allowed: three dimensions and one real number per voxel."
        )
    return tuple(map(int, parts))


def _set(fields: dict[str, str], name: str, value: str, known: Mapping[str, str], path: Path) -> None:
    """Add a field to those found so far if it is known, is not there yet, and has a value of its kind."""
    if name not in known or not re.fullmatch(r"[\w|, .-]{1,80}", name):
        raise no_image(path, f"its header has the field {name!r:.40}")
    if name in fields:  # readers differ in which of the two they take
        raise no_image(path, f"its header has the field {name!r:.40} twice")
    if len(value) > _MAX_VALUE or not re.fullmatch(known[name], value):
        raise no_image(path, f"its header has {value!r:.60} for {name}")
    fields[name] = value


def _read_line(stream: IO[bytes], path: Path) -> str:
    """Read a line without its end, but for a blank one; "" at the end of the file."""
    line = stream.readline(_MAX_LINE_BYTES + 2)
    if len(line) > _MAX_LINE_BYTES or stream.tell() > _MAX_HEADER_BYTES:
        raise no_image(path, f"its header has lines of more than {_MAX_LINE_BYTES} bytes, or {_MAX_HEADER_BYTES} bytes")
    text = line.decode("latin1")
    if not text.rstrip("\r\n").replace("\t", " ").isprintable():
        raise no_image(path, f"its header has the line {text!r:.40}")
    return text
