"""Probability arrays in .npz files: what is read, and that nothing in a file is trusted."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twintrack_core.cohort.npz import open_probabilities
from twintrack_core.errors import ImageError, RequestError

SHAPE = (4, 6, 5)
PROBABILITIES = np.random.default_rng(0).random((2, *SHAPE), np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A good file."""
    np.savez_compressed(tmp_path / "a.npz", probabilities=PROBABILITIES)
    return tmp_path / "a.npz"


def read_all(path: Path) -> npt.NDArray[Any]:
    file = open_probabilities(path)
    values = np.full((file.shape[0], int(np.prod(file.shape[1:]))), np.nan)
    for channel, where, block in file.blocks():
        values[channel, where] = block
    return values.reshape(file.shape)


def read_or_refused(path: Path) -> npt.NDArray[Any] | None:
    """Values of a file, or None if it is refused as it should be; any other exception fails the test."""
    try:
        return read_all(path)
    except ImageError:
        return None


@pytest.mark.parametrize("dtype", ["<f2", ">f2", "<f4", ">f4", "<f8", ">f8"])
@pytest.mark.parametrize("fortran", [False, True])
@pytest.mark.parametrize("block", [7, 1000])
def test_float_types_and_orders(
    path: Path, dtype: str, fortran: bool, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twintrack_core.cohort.scores.BLOCK", block)
    values = PROBABILITIES.astype(dtype)
    np.savez(path, probabilities=np.asfortranarray(values) if fortran else values)
    file = open_probabilities(path)
    assert (file.shape, file.dtype, file.fortran) == (values.shape, np.dtype(dtype), fortran)
    np.testing.assert_array_equal(read_all(path), values)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"no file .*nope\.npz"):
        open_probabilities(tmp_path / "nope.npz")


def test_npz_without_the_key(path: Path) -> None:
    np.savez(path, softmax=PROBABILITIES, other=np.zeros(1))
    with pytest.raises(ImageError, match=r"a\.npz holds no array 'probabilities', but softmax, other"):
        read_all(path)


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("bomb_went_off",)


def test_npz_with_pickled_objects(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    np.savez(path, probabilities=np.array([Bomb()], dtype=object))
    with pytest.raises(ImageError, match="holds pickled objects"):
        read_all(path)
    assert not path.with_name("bomb_went_off").exists()


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.999])
def test_truncated_npz(path: Path, part: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(ImageError, match=r"a\.npz is cut off, damaged or not an \.npz file"):
        read_all(path)


@pytest.mark.parametrize(
    "values",
    [np.zeros((2, *SHAPE), np.int16), PROBABILITIES[0], PROBABILITIES[None], np.zeros((0, *SHAPE), np.float32)],
)
def test_npz_with_another_array(path: Path, values: npt.NDArray[Any]) -> None:
    np.savez(path, probabilities=values)
    with pytest.raises(ImageError, match=r"'probabilities' has dtype .* and shape"):
        read_all(path)


def npy(header: str, data: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    text = header.encode("latin1")
    return b"\x93NUMPY" + bytes(version) + len(text).to_bytes(2, "little") + text + data


def save_npy(path: Path, content: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("probabilities.npy", content)


GOOD_HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 4, 6, 5), }\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (npy(GOOD_HEADER, bytes(960)), None),
        (npy(GOOD_HEADER, bytes(959)), "header announces"),
        (npy(GOOD_HEADER, bytes(961)), "header announces"),
        (npy(GOOD_HEADER.replace("2,", "99999999999,"), bytes(960)), "header announces"),
        (npy(GOOD_HEADER.replace("2,", "-2,"), bytes(960)), "shape"),
        (npy(GOOD_HEADER, bytes(960), (2, 0)), r"version \(2, 0\)"),
        (npy(GOOD_HEADER.replace("<f4", "O")), "pickled"),
        (npy(GOOD_HEADER.replace("'<f4'", "[('a', 'O')]")), "pickled"),
        (npy(GOOD_HEADER.replace("<f4", "<f16")), "dtype"),
        (npy(GOOD_HEADER.replace("<f4", "<c8")), "dtype"),
        (npy(GOOD_HEADER.replace("<f4", "nonsense")), "damaged header"),
        (npy("{'descr': '<f4'}"), "damaged header"),
        (npy("(" * 5000), "damaged header"),
        (npy("{" + " " * 20_000 + GOOD_HEADER[1:]), "damaged header"),
        (npy("'''"), "damaged header"),
        (b"", "damaged header"),
        (b"\x93NUMPY\x01\x00\xff\xff{", "damaged header"),
    ],
)
def test_npy_headers(path: Path, content: bytes, words: str | None) -> None:
    save_npy(path, content)
    if words is None:
        assert open_probabilities(path).shape == (2, 4, 6, 5)
        return
    with pytest.raises(ImageError, match=words) as caught:
        open_probabilities(path)
    assert len(str(caught.value)) < 500


def test_damage_that_only_reading_shows(path: Path) -> None:
    content = io.BytesIO()
    np.lib.format.write_array(content, PROBABILITIES)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("probabilities.npy", content.getvalue())
    data = bytearray(path.read_bytes())
    data[400] ^= 1
    path.write_bytes(data)
    with pytest.raises(ImageError, match="damaged"):
        read_all(path)


def test_encrypted_npz(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(ImageError, match="encrypted"):
        read_all(path)


NPZ = io.BytesIO()
np.savez_compressed(NPZ, probabilities=PROBABILITIES)


@settings(max_examples=150, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, len(NPZ.getvalue()) - 1), st.integers(0, 255)), min_size=1, max_size=6)
)
def test_any_damage_is_one_clear_error(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(NPZ.getvalue())
    for place, value in changes:
        data[place] = value
    path = tmp_path_factory.getbasetemp() / "fuzzed.npz"
    path.write_bytes(data)
    found = read_or_refused(path)
    if found is not None:  # the archive's checksum vouches for it
        np.testing.assert_array_equal(found, PROBABILITIES)


@pytest.mark.parametrize("header", [b"PK\x01\x02", b"PK\x03\x04"])
def test_a_name_that_is_not_what_its_flags_say(path: Path, header: bytes) -> None:
    data = bytearray(path.read_bytes())
    start = data.rindex(header)
    central = header == b"PK\x01\x02"
    data[start + (9 if central else 7)] |= 8  # the name is in UTF-8
    data[start + (46 if central else 30)] = 0xFF
    path.write_bytes(data)
    with pytest.raises(ImageError, match="damaged"):
        read_all(path)


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=60).map(lambda text: npy(text.decode("latin1"))),
        st.tuples(st.integers(0, len(GOOD_HEADER) - 1), st.characters(max_codepoint=255)).map(
            lambda change: npy(GOOD_HEADER[: change[0]] + change[1] + GOOD_HEADER[change[0] + 1 :], bytes(960))
        ),
    )
)
@pytest.mark.filterwarnings("ignore:Reading `.npy`:UserWarning", "ignore::SyntaxWarning")
def test_any_header_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "header.npz"
    save_npy(path, content)
    found = read_or_refused(path)
    if found is not None:  # the archive is whole, so what the header says fits the data
        assert found.size == PROBABILITIES.size
        assert not found.any()


def test_an_undamaged_file_is_read(path: Path) -> None:
    np.testing.assert_array_equal(read_all(path), PROBABILITIES)
    save_npy(path, npy(GOOD_HEADER, PROBABILITIES.tobytes()))
    np.testing.assert_array_equal(read_all(path), PROBABILITIES)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_bombs_of_other_compressors_are_refused(path: Path, method: int) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("probabilities.npy", npy(GOOD_HEADER, bytes(960)))
    with pytest.raises(ImageError, match="compressed by method"):
        read_all(path)


def test_two_arrays_of_one_name(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("probabilities.npy", "probabilities"):
            archive.writestr(name, npy(GOOD_HEADER, bytes(960)))
    with pytest.raises(ImageError, match="two arrays 'probabilities'"):
        read_all(path)


def test_names_are_cut_and_kept_on_one_line(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(5):
            archive.writestr("\n\x1b[2J" + str(number) + "x" * 60_000, b"")
    with pytest.raises(ImageError, match="holds no array") as caught:
        read_all(path)
    assert len(caught.value.what) < 1000
    assert caught.value.what.isprintable()


def test_a_list_of_contents_that_is_too_long(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(20_000):
            archive.writestr(f"{number:020d}", b"")
    with pytest.raises(ImageError, match="list of contents has more than"):
        read_all(path)


def test_an_array_that_cannot_come_out_of_so_small_a_file(path: Path) -> None:
    size = 8 * 10**12
    header = npy(GOOD_HEADER.replace("(2, 4, 6, 5)", "(2, 10000, 10000, 10000)"))
    save_npy(path, header + bytes(100))
    data = bytearray(path.read_bytes())
    start = data.rindex(b"PK\x01\x02")
    # The size of the array, in the list of contents, as a field for large files.
    name = data[start + 46 : start + 63]
    data[start + 24 : start + 28] = b"\xff" * 4
    data[start + 30 : start + 32] = (12).to_bytes(2, "little")
    extra = b"\x01\0\x08\0" + (size + len(header)).to_bytes(8, "little")
    data[start + 46 : start + 63] = name + extra
    end = data.rindex(b"PK\x05\x06")
    data[end + 12 : end + 16] = (end - start).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(ImageError, match=f"cannot have {size + len(header)} bytes in a file of"):
        read_all(path)
