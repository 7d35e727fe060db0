"""Ways to spoil a file that was good: fields of JSON, lines and numbers of text, bytes of anything.

Every choice is drawn from the ``random.Random`` that is passed, so an input can be made again, and hypothesis can
shrink it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

MAX_BYTES = 1 << 14
"""Longest input made here; deep and huge ones are tests of their own."""


class Raw(str):
    """Text to stand in JSON as it is, such as a number that Python would not write."""

    __slots__ = ()


@dataclass
class Fields:
    """An object of JSON as its fields in order, of which two may have one name."""

    pairs: list[tuple[Any, Any]]


RAW = [
    "NaN", "-Infinity", "1e999", "-1e999", "1E400", "-0", "-0.0", "1e-400", "9" * 400, "-" + "9" * 5000, "0.1e1",
    '"\\ud800"', '"\\u0000"', '"\\u001b[2J"', "[" * 100 + "]" * 100, "[" * 3000 + "]" * 3000,
    '{"a":' * 80 + "1" + "}" * 80,
]  # fmt: skip
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 7, 8, 9, 255, 256, 65536, 2**31 - 1, 2**31, 2**40, 2**47, 2**48, 2**63, 2**64,
    0.5, 1.5, -0.5, 1e-300, 1e300, "", "a", "..", "../a", "/etc/passwd", "a/b", "a\\b", "\0", "é", "\u202e", "a" * 300,
    "x\ny", [], {}, [[]], [None], [0] * 3, [1] * 3, [1, 2, 0], [2**40] * 3, [0.5] * 9, ["a", "a"], {"a": 1}, [[0, 0]],
    "NaN", "Infinity", "-Infinity", "0x7e00", "float16", "float32", "float64", "uint8", "bool", "int64", "object", "r8",
    "bytes", "zstd", "gzip", "blosc", "crc32c", "transpose", "sharding_indexed", "numcodecs.pickle", "numcodecs.lzma",
    "vlen-utf8", "lz4", "snappy", "shuffle", "little", "big", "start", "end", "default", "v2", "regular", ".", "/",
    {"name": "bytes", "configuration": {"endian": "big"}}, {"name": "crc32c"},
    {"name": "gzip", "configuration": {"level": 1}},
    {"name": "transpose", "configuration": {"order": [2, 1, 0]}}, {"name": "numcodecs.zfpy", "configuration": {}},
    {"name": "sharding_indexed", "configuration": {"chunk_shape": [1, 1, 1], "codecs": [{"name": "bytes"}],
     "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}], "index_location": "end"}},
    "cohort", "statistics", "calibration-map", "full", "mask+5mm", "raters+20", "mhr", "rater:a",
]  # fmt: skip
NUMBERS = [
    "0", "-1", "1", "2", "255", "32767", "65535", "2147483647", "4294967296", "18446744073709551616", "1e999", "nan",
    "inf", "-0", "9" * 40, "9" * 5000, "0x10", "1.5", "", " ", "1 1", "10000000000000",
]  # fmt: skip
WORDS = [
    b"\0", b"\xff\xfe", b"\n", b"\r\n", b'"', b"'", b",", b";", b"\xef\xbb\xbf", b"..", b"/", b"%d", b"LIST", b"LOCAL",
    b"NaN", b"\x1b[2J", b"*", b"[", b"[!", b"?" * 50, b"*a" * 50, b"a" * 5000, b"PK\x01\x02", b"PK\x05\x06",
    b"\x1f\x8b\x08",
    b"True", b"False", b"encoding: raw\n", b"encoding: gzip\n", b"HeaderSize = -1\n", b"byte skip: -1\n",
    b"CompressedData = True\n", b"ElementDataFile = a.raw\n", b"data file: a.raw\n",
    b"full", b"mask", b"raters", b"+", b"mm",
]  # fmt: skip
INTEGERS = [
    0,
    1,
    -1,
    2,
    16,
    127,
    128,
    255,
    256,
    32767,
    -32768,
    65535,
    2**31 - 1,
    -(2**31),
    2**32 - 1,
    2**63 - 1,
    2**64 - 1,
]


def spoil_json(data: bytes, random: Random) -> bytes:
    """Change a few values or fields of some JSON; bytes of what is no JSON."""
    try:
        document = json.loads(data, object_pairs_hook=Fields)
        for _ in range(random.choice((1, 1, 1, 2, 3))):
            document = _spoil_value(document, random)
        return _dumped(document).encode("utf-8", "surrogatepass")[:MAX_BYTES]
    except (ValueError, RecursionError):  # it was spoiled so before
        return spoil_bytes(data, random)


def _spoil_value(document: Any, random: Random) -> Any:
    places = list(_places(document))
    if not places:
        return Raw(random.choice(RAW))
    holder, place = random.choice(places)
    items = holder.pairs if isinstance(holder, Fields) else holder
    value = items[place][1] if isinstance(holder, Fields) else items[place]
    what = random.randrange(9)
    if what == 0:
        del items[place]
        return document
    if what == 1:  # twice
        items.insert(random.randrange(len(items) + 1), items[place])
        return document
    if what == 2 and isinstance(holder, Fields):  # under another name
        other = random.choice([str(item[0]) for item in items] + ["a", "__proto__", ""])
        items[place] = (other, value)
        return document
    if what == 3:  # deeper
        value = [value] if random.random() < 0.5 else Fields([("a", value)])
    elif what == 4:
        value = Raw(random.choice(RAW))
    elif what == 5:  # what stands elsewhere
        there, index = random.choice(places)
        value = there.pairs[index][1] if isinstance(there, Fields) else there[index]
        value = json.loads(_dumped(value), object_pairs_hook=Fields) if not _has_raw(value) else value
    elif what == 6 and type(value) in (int, float):
        value = random.choice([value + 1, value - 1, -value, value * 2**20, value // 3])
    elif what == 7 and isinstance(value, list):
        value = value * random.choice((0, 2, 50))
    else:
        value = _plain(random.choice(VALUES))
    items[place] = (items[place][0], value) if isinstance(holder, Fields) else value
    return document


def _has_raw(value: Any) -> bool:
    return isinstance(value, Raw) or any(
        _has_raw(part)
        for part in (
            value if isinstance(value, list) else [v for _, v in value.pairs] if isinstance(value, Fields) else ()
        )
    )


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value), object_pairs_hook=Fields)


def _places(value: Any) -> Any:
    """Every list or object within a value, with every index of it."""
    if isinstance(value, Fields | list):
        parts = [part for _, part in value.pairs] if isinstance(value, Fields) else value
        for index, part in enumerate(parts):
            yield value, index
            yield from _places(part)


def _dumped(value: Any) -> str:
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, Fields):
        return "{" + ",".join(f"{json.dumps(name)}:{_dumped(part)}" for name, part in value.pairs) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_dumped, value)) + "]"
    return json.dumps(value)


def spoil_text(data: bytes, random: Random) -> bytes:
    """Change lines, numbers or words of some text."""
    what = random.randrange(6)
    if what < 2 and (numbers := list(re.finditer(rb"[0-9.eE+-]*[0-9]", data[:2000]))):
        number = random.choice(numbers)
        data = data[: number.start()] + random.choice(NUMBERS).encode() + data[number.end() :]
    elif what == 2 and len(lines := data.split(b"\n")) > 1:
        line = random.choice(lines)
        lines.insert(random.randrange(len(lines)), line)
        data = b"\n".join(lines)
    elif what == 3 and len(lines := data.split(b"\n")) > 1:
        del lines[random.randrange(len(lines))]
        data = b"\n".join(lines)
    elif what == 4:
        at = random.randrange(min(len(data), 500) + 1)
        data = data[:at] + random.choice(WORDS) + data[at + random.choice((0, 0, 1, 4)) :]
    else:
        data = spoil_bytes(data, random)
    return data[:MAX_BYTES]


def spoil_bytes(data: bytes, random: Random) -> bytes:
    """Flip, set, cut, repeat and insert bytes, more often among the first and the last, where headers are."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 3, 6))):
        at = _place(len(changed), random)
        what = random.randrange(7)
        if what == 0 and at < len(changed):
            changed[at] ^= 1 << random.randrange(8)
        elif what == 1 and at < len(changed):
            changed[at] = random.choice((0, 1, 127, 128, 255, random.randrange(256)))
        elif what == 2:
            width = random.choice((1, 2, 4, 8))
            number = random.choice(INTEGERS) % (1 << (8 * width))
            changed[at : at + width] = number.to_bytes(width, random.choice(("little", "big")))
        elif what == 3:
            del changed[at : at + random.choice((1, 2, 4, 16, len(changed)))]
        elif what == 4:
            end = _place(len(changed), random)
            changed[at:at] = changed[min(at, end) : max(at, end)][:1000]
        elif what == 5:
            changed[at:at] = random.choice(WORDS)
        else:
            changed[at : at + 4] = len(changed).to_bytes(4, "little")
    return bytes(changed[:MAX_BYTES])


def _place(length: int, random: Random) -> int:
    near = min(length, 64)
    return random.choice(
        (random.randrange(length + 1), random.randrange(near + 1), length - random.randrange(near + 1))
    )


Spoil = Callable[[bytes, Random], bytes]
