"""Attributes in CSV files, names of folders, and scores that are no numbers: what is read, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from twintrack_core.cohort.attributes import read_attributes
from twintrack_core.cohort.folders import folder_name, listed
from twintrack_core.cohort.masks import _unexpected
from twintrack_core.cohort.scores import ScoreCheck, to_float16
from twintrack_core.errors import InvalidScoresError, RequestError


def test_values_of_attributes(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbfcase, site ,age\r\n\r\nx,"A, B",61\r\nb,,-1.5e3\r\na,007,1e999\r\n')
    found = read_attributes(path, ["a", "b"])
    assert found == {"a": {"site": "007", "age": "1e999"}, "b": {"site": None, "age": -1500.0}}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "has the columns"),
        (b"case,case\n", "different columns"),
        (b"case," + b",".join(b"%d" % number for number in range(1000)) + b"\n", "at most 1000 different columns"),
        (b"case,b\na,\0\n", "line 2: the field 'b' is '.x00'"),
        (b"case,b\0\na,1\n", "line 2: the field 'b.x00'"),
        (b"case,b\na," + b"x" * 10_001 + b"\n", "of 10001 characters"),
        (b"case,b\na," + b"x" * 200_000 + b"\n", "field larger than field limit"),
        (b'case,b\na,"x\n', "unexpected end of data"),
        (b"case,b\na,1,2\n", "line 2 has 3 fields"),
        (b"case,b\na,1\na,2\n", "line 3: case a has a second row"),
        (b"case,b\na,\xff\n", "utf-8"),
        (b"case,b\nb,1\n", "no row for a"),
        (b"x" * 100_000 + b"\n", "has the columns x{100}[.]{3}[.]"),
    ],
)
def test_attributes_that_are_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(RequestError, match=words) as caught:
        read_attributes(path, ["a"])
    assert len(caught.value.what) < 500


def test_attributes_that_are_no_file_or_a_huge_one(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 40)
    for name in ("pipe", "huge"):
        with pytest.raises(RequestError, match="at most 67108864 bytes"):
            read_attributes(tmp_path / name, ["a"])
    with pytest.raises(RequestError, match="No such file"):
        read_attributes(tmp_path / "nothing", ["a"])


def test_names_in_a_message_are_short_and_on_one_line() -> None:
    assert listed(["a", "b\n\x1b[2J", "x" * 200]) == f"a, 'b\\n\\x1b[2J', {'x' * 100}..."


@pytest.mark.skipif(os.name != "posix", reason="names of files are Unicode there")
def test_a_folder_whose_name_is_no_unicode() -> None:
    assert folder_name(Path("é")) == "é"
    with pytest.raises(RequestError, match=r"r.udcff' is not Unicode"):
        folder_name(Path(os.fsdecode(b"r\xff")))


@pytest.mark.parametrize(
    ("dtype", "kind", "bits"), [("f2", "u2", 0x7C01), ("f4", "u4", 0x7F800001), ("f8", "u8", 0x7FF0000000000001)]
)
def test_nan_that_signals_is_nan(dtype: str, kind: str, bits: int) -> None:
    scores = np.full(5, 0.25, dtype)
    scores.view(kind)[3] = bits
    assert np.isnan(to_float16(scores, 0.1)[3])
    assert _unexpected(scores, None) == "0.25 (4 voxels), nan (1 voxels)"
    for policy in ("error", "clip"):
        check = ScoreCheck("a", (5,), "(x)", policy)
        assert check.take(scores, 0).tolist() == [0.25, 0.25, 0.25, 0, 0.25]
        with pytest.raises(InvalidScoresError, match=r"1 of 5 scores .* nan at \(x\) = \(3,\)"):
            check.close()
