"""Image files: arrays and geometry against SimpleITK and nibabel, and what is refused."""

from __future__ import annotations

import gzip
import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twintrack_core import system
from twintrack_core.cohort import compressed, nifti
from twintrack_core.cohort.case import Geometry
from twintrack_core.cohort.images import ImageInfo, check_geometry, read_info, read_volume, write_volume
from twintrack_core.errors import GeometryError, ImageError, RequestError, WorkError

sitk = pytest.importorskip("SimpleITK")

RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0])


def rotation(a: float, b: float, c: float) -> npt.NDArray[np.float64]:
    """Rotation by three Euler angles."""
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return np.asarray(x @ y @ z)


def oblique() -> Geometry:
    direction = tuple(float(v) for v in rotation(0.3, -0.2, 0.5).ravel())
    return Geometry((2.5, 0.7, 0.9), (-112.5, 31.25, 900.0), direction)


def world(geometry: Geometry) -> npt.NDArray[np.float64]:
    """4 x 4 matrix from voxel indices (x, y, z) to nibabel's millimetres."""
    matrix = np.eye(4)
    matrix[:3, :3] = RAS_FROM_LPS @ np.reshape(geometry.direction, (3, 3)) @ np.diag(geometry.spacing_mm[::-1])
    matrix[:3, 3] = RAS_FROM_LPS @ np.array(geometry.origin)
    return matrix


def assert_same(found: Geometry, expected: Geometry, atol: float = 1e-5) -> None:
    np.testing.assert_allclose(found.spacing_mm, expected.spacing_mm, atol=atol)
    np.testing.assert_allclose(found.origin, expected.origin, rtol=1e-6, atol=atol)
    np.testing.assert_allclose(found.direction, expected.direction, atol=atol)


def save(path: Path, array: npt.NDArray[Any], geometry: Geometry) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(geometry.spacing_mm[::-1])
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    sitk.WriteImage(image, str(path), useCompression=True)


def ramp(dtype: str = "float32") -> npt.NDArray[Any]:
    return np.arange(2 * 3 * 4).reshape(2, 3, 4).astype(dtype)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mha", ".mhd", ".nrrd"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
def test_reads_what_simpleitk_wrote(tmp_path: Path, suffix: str, dtype: str) -> None:
    path = tmp_path / f"a{suffix}"
    save(path, ramp(dtype), oblique())
    array, geometry = read_volume(path)
    assert array.dtype == dtype
    np.testing.assert_array_equal(array, ramp(dtype))
    assert_same(geometry, oblique())
    info = read_info(path)
    assert (info.path, info.shape, info.dtype) == (path, (2, 3, 4), np.dtype(dtype))
    assert info.geometry == geometry


def test_reads_what_nibabel_wrote(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(ramp().transpose(2, 1, 0), world(oblique())), tmp_path / "a.nii.gz")
    array, geometry = read_volume(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(array, ramp())
    assert_same(geometry, oblique())


def test_big_endian_and_rescaled_nifti(tmp_path: Path) -> None:
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int16)
    header.set_slope_inter(0.5, 1.0)
    values = ramp().transpose(2, 1, 0) * 0.5 + 1.0
    nib.save(nib.Nifti1Image(values, world(oblique()), header), tmp_path / "a.nii")
    array, _ = read_volume(tmp_path / "a.nii")
    np.testing.assert_allclose(array, ramp() * 0.5 + 1.0, atol=1e-4)  # nibabel picks another scale


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mha", ".nrrd"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_simpleitk_and_nibabel_see_what_was_written(tmp_path: Path, suffix: str, dtype: str) -> None:
    path = tmp_path / f"a.b{suffix}"
    write_volume(path, ramp(dtype), oblique())
    image = sitk.ReadImage(str(path))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), ramp(dtype))
    spacing = image.GetSpacing()
    assert_same(Geometry(spacing[::-1], image.GetOrigin(), image.GetDirection()), oblique())
    if suffix.startswith(".nii"):
        volume = nib.load(path)
        assert volume.get_data_dtype() == dtype
        np.testing.assert_array_equal(np.asarray(volume.dataobj), ramp(dtype).transpose(2, 1, 0))
        np.testing.assert_allclose(volume.affine, world(oblique()), rtol=1e-6, atol=1e-4)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


angles = st.floats(-3, 3)
lengths = st.floats(0.05, 9)
places = st.floats(-500, 500)


@settings(max_examples=40, deadline=None)
@given(
    spacing=st.tuples(lengths, lengths, lengths),
    origin=st.tuples(places, places, places),
    turn=st.tuples(angles, angles, angles),
    mirrored=st.booleans(),
    suffix=st.sampled_from([".nii.gz", ".nii", ".mha", ".nrrd"]),
)
def test_geometry_comes_back(
    spacing: tuple[float, float, float],
    origin: tuple[float, float, float],
    turn: tuple[float, float, float],
    mirrored: bool,
    suffix: str,
) -> None:
    matrix = rotation(*turn)
    if mirrored:
        matrix[:, 2] *= -1
    geometry = Geometry(spacing, origin, tuple(float(v) for v in matrix.ravel()))
    with tempfile.TemporaryDirectory() as folder:
        first, second = Path(folder) / f"first{suffix}", Path(folder) / f"second{suffix}"
        write_volume(first, ramp(), geometry)
        array, read = read_volume(first)
        assert_same(read, geometry, atol=1e-4)
        write_volume(second, array, read)
        assert_same(read_volume(second)[1], read, atol=1e-6)


@pytest.mark.parametrize(
    ("array", "vector", "words"),
    [
        (np.zeros((4, 5), np.float32), False, "2-dimensional"),
        (np.zeros((2, 3, 4, 5), np.float32), False, "4-dimensional"),
        (np.zeros((2, 3, 4, 3), np.float32), True, "vector of 32-bit float"),
        (np.zeros((2, 3, 4), np.complex64), False, "complex"),
    ],
)
def test_other_dimensions_and_voxels_are_refused(
    tmp_path: Path, array: npt.NDArray[Any], vector: bool, words: str
) -> None:
    path = tmp_path / "a.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=vector), str(path))
    with pytest.raises(ImageError, match=words) as caught:
        read_volume(path)
    assert str(path) in caught.value.what
    assert "three dimensions" in str(caught.value.allowed)


def test_nifti_2_is_refused(tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(ramp(), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(ImageError, match=r"a\.nii cannot be read as an image"):
        read_info(tmp_path / "a.nii")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"no image file .*nope\.nii\.gz"):
        read_volume(tmp_path / "nope.nii.gz")


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mha", ".nrrd"])
@pytest.mark.parametrize("part", [0.0, 0.5, 0.98])
def test_cut_off_files_are_refused_in_one_line(tmp_path: Path, suffix: str, part: float) -> None:
    path = tmp_path / f"a{suffix}"
    save(path, np.random.default_rng(0).random((20, 30, 40), np.float32), oblique())
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(ImageError) as caught:
        read_volume(path)
    for noise in ("0x", ".cxx", "itk::", "\n", "  "):
        assert noise not in caught.value.what
    assert str(path) in caught.value.what
    if part and suffix != ".nii":  # compressed voxels may be as few as that
        assert read_info(path).shape == (20, 30, 40)


def test_damaged_gzip_and_junk_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    save(path, np.random.default_rng(0).random((20, 30, 40), np.float32), oblique())
    data = bytearray(path.read_bytes())
    data[-6] ^= 1  # in the checksum
    path.write_bytes(data)
    with pytest.raises(ImageError, match="damaged"):
        read_volume(path)
    path.write_bytes(b"hello")
    with pytest.raises(ImageError, match="cannot be read as an image"):
        read_volume(path)


def replaced(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("suffix", "old", "new"),
    [
        (".mha", b"DimSize = 4 3 2", b"DimSize = 400000 300000 200000"),
        (".nrrd", b"sizes: 4 3 2", b"sizes: 400000 300000 200000"),
        (".nii", struct.pack("<4h", 3, 4, 3, 2), struct.pack("<4h", 3, 32767, 32767, 32767)),
    ],
)
def test_header_that_announces_more_than_the_file_can_hold(
    tmp_path: Path, suffix: str, old: bytes, new: bytes, packed: bool
) -> None:
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(ramp()), str(path), useCompression=packed)
    replaced(path, old, new)
    if packed and suffix == ".nii":
        packed_path = tmp_path / "a.nii.gz"
        packed_path.write_bytes(gzip.compress(path.read_bytes()))
        path = packed_path
    for read in (read_info, read_volume):
        with pytest.raises(ImageError, match=r"cut off: it holds [0-9]+ of [0-9]+ bytes"):
            read(path)


def test_an_image_larger_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "a.mha", ramp(), oblique())
    monkeypatch.setattr(system, "available_memory", lambda: 64)
    with pytest.raises(ImageError, match=r"a\.mha takes 0\.0 GiB; 0\.0 GiB of memory are available"):
        read_info(tmp_path / "a.mha")


def test_itk_prints_nothing_beside_an_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.nii"
    save(path, ramp(), oblique())
    data = bytearray(path.read_bytes())
    data[252:256] = struct.pack("<2h", 0, 1)  # it has an sform alone
    data[280:296] = struct.pack("<4f", 1e3, 1e3, 1e3, 0)
    path.write_bytes(data)
    with pytest.raises(ImageError, match="orthonormal"):
        read_volume(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("file", ["../a.raw", "/etc/hostname", "sub/a.raw", "..", "..\\a.raw"])
@pytest.mark.parametrize("suffix", [".mhd", ".mha", ".nrrd"])
def test_voxels_in_another_folder_are_refused(tmp_path: Path, suffix: str, file: str) -> None:
    header = {
        ".nrrd": "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 2 2 2\nencoding: raw\ndata file: {}\n\n",
    }.get(suffix, "NDims = 3\nDimSize = 2 2 2\nElementType = MET_UCHAR\nElementDataFile = {}\n")
    path = tmp_path / "in" / f"a{suffix}"
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for place in ("a.raw", "in/a.raw", "in/sub/a.raw"):
        (tmp_path / place).write_bytes(bytes(8))
    path.write_text(header.format("a.raw"))
    assert not read_volume(path)[0].any()
    path.write_text(header.format(file))
    with pytest.raises(ImageError, match="a file in the same folder"):
        read_volume(path)


@pytest.mark.parametrize(
    ("suffix", "old", "new", "words"),
    [
        (".mha", b"NDims = 3", b"NDims = 30", "size is '4 3 2' in '30' dimensions"),
        (".mha", b"DimSize = 4 3 2", b"DimSize = 4 3 -2", "size is"),
        (".mha", b"DimSize = 4 3 2", b"DimSize = 4 3 2\nDimSize = 4 3 1", "'DimSize' twice"),
        (".mha", b"ElementType = MET_FLOAT", b"ElementType = MET_FLOAT_ARRAY", "MET_FLOAT_ARRAY"),
        (".mha", b"ElementType = MET_FLOAT", b"ElementNumberOfChannels = 9\nElementType = MET_FLOAT", "voxels are 9"),
        (".mha", b"ElementType", b"Comment = " + b"x" * 9000 + b"\nElementType", "lines of more than"),
        (".mha", b"ElementDataFile = LOCAL", b"Comment = x", "does not name the file|has the line"),
        (".mha", b"ElementDataFile = LOCAL", b"x", "has the line 'x'"),
        (".mha", b"NDims = 3\n", b"", "before NDims"),
        (".mha", b"NDims = 3", b"NDims = 3\n" + b"x" * 200 + b" = 3", "has the field 'xx"),
        (".mha", b"ElementSpacing = ", b"ElementSpacing = 1e999 ", "for ElementSpacing"),
        (".nrrd", b"space:", b"sp" + b"x" * 600 + b":", "has the field 'spxx"),  # ITK ends the process
        (".nrrd", b"endian: little", b"endian: " + b"x" * 600, "for endian"),
        (".nrrd", b"encoding: gzip", b"encoding: gzip\nkinds: " + b"x" * 600, "for kinds|'kinds' twice"),
        (".mha", b"ElementDataFile = LOCAL", b"ElementDataFile = LIST", "several files"),
        (".mha", b"ElementDataFile = LOCAL", b"ElementDataFile = a%d.raw 1 2 1", "several files"),
        (".mha", b"ElementDataFile = LOCAL", b"ElementDataFile = pipe", "pipe cannot be read"),
        (".nrrd", b"sizes: 4 3 2", b"sizes: 4 3 99999999999", "size is"),
        (".nrrd", b"sizes: 4 3 2", b"sizes: 4 3 2\nsizes: 4 3 2", "'sizes' twice"),
        (".nrrd", b"type: float", b"type: block", "'block'"),
        (".nrrd", b"encoding: gzip", b"encoding: bzip2", "'bzip2'"),
        (".nrrd", b"encoding: gzip", b"encoding: raw\ndatafile: pipe", "pipe cannot be read"),
        (".nii", b"n+1\0", b"ni1\0", "damaged NIfTI header"),
        (".nii", b"n+1\0", b"\0\0\0\0", "damaged NIfTI header"),
    ],
)
def test_headers_that_itk_should_not_see(tmp_path: Path, suffix: str, old: bytes, new: bytes, words: str) -> None:
    path = tmp_path / f"a{suffix}"
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    save(path, ramp(), oblique())
    replaced(path, old, new)
    with pytest.raises(ImageError, match=words):
        read_info(path)


@pytest.mark.parametrize("suffix", [".nii", ".mha", ".nrrd"])
def test_a_file_of_another_format_than_its_ending(tmp_path: Path, suffix: str) -> None:
    for other in (".png", ".vtk", ".nii", ".mha", ".nrrd"):
        if other != suffix:
            image = ramp("uint8")[0] if other == ".png" else ramp()
            sitk.WriteImage(sitk.GetImageFromArray(image), str(tmp_path / f"b{other}"))
            (tmp_path / f"a{suffix}").write_bytes((tmp_path / f"b{other}").read_bytes())
            with pytest.raises(ImageError):
                read_info(tmp_path / f"a{suffix}")


def test_a_name_in_a_gzip_header_may_be_long_and_streams_many(tmp_path: Path) -> None:
    save(tmp_path / "a.nii", ramp(), oblique())
    data = (tmp_path / "a.nii").read_bytes()
    named = b"\x1f\x8b\x08\x08" + bytes(6) + b"x" * (1 << 24) + b"\0" + gzip.compress(data)[10:]
    streams = gzip.compress(b"") * 100_000 + b"".join(gzip.compress(data[at : at + 7]) for at in range(0, len(data), 7))
    for content in (named, streams, gzip.compress(data) + bytes(100)):
        (tmp_path / "a.nii.gz").write_bytes(content)
        np.testing.assert_array_equal(read_volume(tmp_path / "a.nii.gz")[0], ramp())  # a reader in Python takes minutes


def test_a_bomb_behind_the_voxels(tmp_path: Path) -> None:
    save(tmp_path / "a.nii", ramp(), oblique())
    data = (tmp_path / "a.nii").read_bytes()
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(data) + gzip.compress(bytes(1 << 26)))
    with pytest.raises(ImageError, match="goes on for more than"):
        read_volume(tmp_path / "a.nii.gz")


# Compressed voxels, whose checksums ITK does not compare


def volume_and_bytes(folder: Path, suffix: str) -> tuple[npt.NDArray[np.uint8], Path, bytes]:
    """Write a compressed volume; return it, the file with its voxels, and that file's bytes."""
    rng = np.random.default_rng(1)
    # Not of 0 and 1, for which Adler-32 is too weak to find every flip.
    volume = (rng.integers(0, 256, (8, 9, 10)) * (rng.random((8, 9, 10)) > 0.5)).astype(np.uint8)
    save(folder / f"a{suffix}", volume, oblique())
    data = folder / ("a.zraw" if suffix == ".mhd" else f"a{suffix}")
    return volume, data, data.read_bytes()


@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nrrd", ".nii.gz"])
def test_damaged_compressed_voxels_are_refused_or_read_right(tmp_path: Path, suffix: str) -> None:
    volume, path, data = volume_and_bytes(tmp_path, suffix)
    start = max(0, data.find(b"LOCAL\n") + 6, data.find(b"\n\n") + 2) if suffix in (".mha", ".nrrd") else 0
    refused = 0
    rng = np.random.default_rng(2)
    places = range(start, len(data), 2)
    for place in places:
        damaged = bytearray(data)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            found = read_volume(tmp_path / f"a{suffix}")[0]
        except ImageError as error:
            assert len(str(error).splitlines()[0]) < 400  # noqa: PT017 - either outcome is right
            refused += 1
        else:
            np.testing.assert_array_equal(found, volume)
    assert refused > 0.9 * len(places)  # most of the file matters
    path.write_bytes(data)
    np.testing.assert_array_equal(read_volume(tmp_path / f"a{suffix}")[0], volume)


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_compressed_voxels_of_another_size_are_refused(tmp_path: Path, suffix: str) -> None:
    _, path, data = volume_and_bytes(tmp_path, suffix)
    for wrong in (b"10 9 7", b"10 9 9", b"1 1 1"):
        path.write_bytes(data.replace(b"10 9 8", wrong))
        with pytest.raises(ImageError, match="does not hold the"):
            read_volume(path)


def test_compressed_voxels_in_many_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for block in (1, 16):
        monkeypatch.setattr(compressed, "_READ_BYTES", block)
        for suffix in (".mha", ".mhd", ".nrrd"):
            volume, _, _ = volume_and_bytes(tmp_path, suffix)
            np.testing.assert_array_equal(read_volume(tmp_path / f"a{suffix}")[0], volume)


def test_other_ways_to_write_a_compressed_header(tmp_path: Path) -> None:
    volume, path, data = volume_and_bytes(tmp_path, ".mha")
    size = data[data.index(b"CompressedDataSize") :].splitlines(keepends=True)[0]
    for changed in (data.replace(b"ressedData = True", b"ressedData: true"), data + b"\0\0"):
        path.write_bytes(changed)
        np.testing.assert_array_equal(read_volume(path)[0], volume)
    path.write_bytes(data.replace(size, b"CompressedDataSize = 40\n"))
    with pytest.raises(ImageError, match="end early"):
        read_volume(path)
    for missing in (b"", b"CompressedDataSize = 0\n", b"CompressedDataSize = 2e2\n"):
        path.write_bytes(data.replace(size, missing))
        with pytest.raises(ImageError, match="CompressedDataSize is"):
            read_volume(path)
    volume, path, data = volume_and_bytes(tmp_path, ".nrrd")
    header, packed = data.split(b"\n\n", 1)
    voxels = gzip.decompress(packed)
    parts = gzip.compress(voxels[:100]) + gzip.compress(voxels[100:])
    for changed in (data.replace(b"encoding: gzip", b"Encoding: GZ"), header + b"\n\n" + parts):
        path.write_bytes(changed)
        np.testing.assert_array_equal(read_volume(path)[0], volume)


@pytest.mark.parametrize("field", [b"byte skip: 3", b"line skip: 1", b"data file: LIST", b"data file: a%d.gz 1 2 1"])
def test_compressed_voxels_that_cannot_be_checked_are_refused(tmp_path: Path, field: bytes) -> None:
    _, path, data = volume_and_bytes(tmp_path, ".nrrd")
    path.write_bytes(data.replace(b"encoding: gzip", b"encoding: gzip\n" + field))
    with pytest.raises(ImageError, match="several files or behind skipped bytes"):
        compressed.check(path, 720)


def test_missing_compressed_voxels(tmp_path: Path) -> None:
    volume_and_bytes(tmp_path, ".mhd")
    (tmp_path / "a.zraw").unlink()
    with pytest.raises(ImageError, match=r"a\.zraw cannot be read: No such file"):
        read_volume(tmp_path / "a.mhd")
    header = (tmp_path / "a.mhd").read_bytes()
    (tmp_path / "a.mhd").write_bytes(header.replace(b"a.zraw", b"a\0zraw"))
    with pytest.raises(ImageError, match="header has the line"):
        compressed.check(tmp_path / "a.mhd", 720)


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha", ".nrrd"])
def test_a_file_that_was_written_wrong_is_not_kept(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_and_damage(image: Any, name: str, **options: Any) -> None:
        write(image, name, **options)
        data = bytearray(Path(name).read_bytes())
        data[-12] ^= 1
        Path(name).write_bytes(data)

    write = sitk.WriteImage
    monkeypatch.setattr(sitk, "WriteImage", write_and_damage)
    with pytest.raises(WorkError, match="could not be written completely"):
        write_volume(tmp_path / f"a{suffix}", np.ones((4, 5, 6), np.uint8), oblique())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("offset", [np.nan, np.inf, -1.0, 0.0, 347.0, 2.0**24 + 2, 1e12, 1e30])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_offsets_that_make_no_sense(tmp_path: Path, offset: float, suffix: str) -> None:
    save(tmp_path / "good.nii", ramp(), oblique())
    data = bytearray((tmp_path / "good.nii").read_bytes())
    struct.pack_into("<f", data, 108, offset)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(gzip.compress(data) if suffix == ".nii.gz" else data)
    with pytest.raises(ImageError, match="vox_offset is"):
        nifti.scan(path, 24)
    with pytest.raises(ImageError):
        read_volume(path)


def test_a_nifti_offset_beyond_the_file(tmp_path: Path) -> None:
    save(tmp_path / "a.nii", ramp(), oblique())
    data = bytearray((tmp_path / "a.nii").read_bytes())
    struct.pack_into("<f", data, 108, 2.0**24)
    (tmp_path / "a.nii").write_bytes(data)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(data))
    for name in ("a.nii", "a.nii.gz"):
        with pytest.raises(ImageError, match="holds 0 of 96 bytes"):
            nifti.scan(tmp_path / name, 24)


def test_nifti_bits_that_are_not_those_of_the_voxel_type(tmp_path: Path) -> None:
    save(tmp_path / "a.nii", ramp()[:, :, :3], oblique())
    data = bytearray((tmp_path / "a.nii").read_bytes())
    struct.pack_into("<h", data, 72, 8)  # float32 of one byte
    (tmp_path / "a.nii").write_bytes(data)
    with pytest.raises(ImageError, match="damaged NIfTI header"):
        read_volume(tmp_path / "a.nii")


@pytest.mark.parametrize("content", [b"", b"x" * 400, bytes(10), struct.pack("<i", 348) + bytes(344)])
def test_scan_needs_a_nifti_header(tmp_path: Path, content: bytes) -> None:
    for name, data in (("a.nii", content), ("a.nii.gz", gzip.compress(content))):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ImageError, match="damaged NIfTI header"):
            nifti.scan(tmp_path / name, 1)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mha", ".nrrd"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_values_that_are_not_finite_are_read_as_they_are(tmp_path: Path, suffix: str, dtype: str) -> None:
    array = ramp(dtype)
    array[0, 1, 2], array[1, 0, 3], array[1, 2, 3] = np.nan, np.inf, -np.inf
    save(tmp_path / f"a{suffix}", array, oblique())
    np.testing.assert_array_equal(read_volume(tmp_path / f"a{suffix}")[0], array)


@pytest.mark.parametrize("endianness", "<>")
def test_values_that_are_not_finite_in_many_blocks(
    tmp_path: Path, endianness: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nifti, "_READ_BYTES", 16)
    array = ramp()
    array[:, 1, ::2] = np.nan
    header = nib.Nifti1Header(endianness=endianness)
    header.set_data_dtype(np.float32)
    nib.save(nib.Nifti1Image(array.transpose(2, 1, 0), None, header), tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii.gz")[0], array)


def test_sheared_nifti_is_refused(tmp_path: Path) -> None:
    affine = np.array([[1.0, 0.4, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    image = nib.Nifti1Image(ramp().transpose(2, 1, 0), affine)
    image.set_qform(None, 0)
    nib.save(image, tmp_path / "a.nii.gz")
    with pytest.raises(ImageError, match="orthonormal"):
        read_info(tmp_path / "a.nii.gz")


def info(**changes: Any) -> ImageInfo:
    base = oblique()
    parts = {"spacing_mm": base.spacing_mm, "origin": base.origin, "direction": base.direction}
    shape = changes.pop("shape", (2, 3, 4))
    return ImageInfo(Path("other.nii"), shape, np.dtype(np.uint8), Geometry(**{**parts, **changes}))


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (info(shape=(2, 3, 5)), r"size \(z, y, x\) is \(2, 3, 5\) in other.nii, but \(2, 3, 4\) in first.nii"),
        (info(spacing_mm=(2.5, 0.702, 0.9)), r"spacing .* is \(2.5, 0.702, 0.9\) .* but \(2.5, 0.7, 0.9\)"),
        (info(origin=(-112.5, 31.25, 900.01)), r"origin .* is \(-112.5, 31.25, 900.01\) .* but \(-112.5, 31.25, 900\)"),
        (info(direction=tuple(-v for v in oblique().direction)), "direction is"),
    ],
)
def test_geometry_that_differs_is_refused(other: ImageInfo, words: str) -> None:
    reference = ImageInfo(Path("first.nii"), (2, 3, 4), np.dtype(np.float32), oblique())
    with pytest.raises(GeometryError, match=f"Case B7: {words}"):
        check_geometry("B7", reference, other)


def test_geometry_may_differ_by_rounding() -> None:
    reference = ImageInfo(Path("first.nii"), (2, 3, 4), np.dtype(np.float32), oblique())
    check_geometry("B7", reference, info(spacing_mm=(2.5004, 0.7004, 0.8996), origin=(-112.5009, 31.25, 900.0)))


@pytest.mark.parametrize("name", ["a.mhd", "a.png", "a", "nii.gz"])
def test_other_endings_are_not_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError, match="Cannot write"):
        write_volume(tmp_path / name, ramp(), Geometry())


@pytest.mark.parametrize("array", [ramp("float64"), ramp("int16"), ramp()[0]])
def test_other_arrays_are_not_written(tmp_path: Path, array: npt.NDArray[Any]) -> None:
    with pytest.raises(RequestError, match="float32 or uint8"):
        write_volume(tmp_path / "a.nii", array, Geometry())


def test_geometry_that_a_format_cannot_hold(tmp_path: Path) -> None:
    sheared = Geometry(direction=(1.0, 0.4, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    with pytest.raises(GeometryError, match="cannot hold the"):
        write_volume(tmp_path / "a.nii.gz", ramp(), sheared)
    with pytest.raises(GeometryError, match="direction"):
        write_volume(tmp_path / "a.mha", ramp(), Geometry(direction=(0.0,) * 9))
    assert list(tmp_path.iterdir()) == []
    write_volume(tmp_path / "a.mha", ramp(), sheared)
    assert_same(read_volume(tmp_path / "a.mha")[1], sheared)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(WorkError, match="Cannot write"):
        write_volume(tmp_path / "nowhere" / "a.nii.gz", ramp(), Geometry())


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from twintrack_core.cohort.case import Geometry
from twintrack_core.cohort.images import write_volume
from twintrack_core.errors import WorkError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
noise = np.random.default_rng(0).random((20, 30, 40), np.float32)
for suffix in (".nii.gz", ".nii", ".mha", ".nrrd"):
    path = Path(sys.argv[1]) / f"a{suffix}"
    path.write_text("old")
    try:
        write_volume(path, noise, Geometry())
    except WorkError as error:
        assert str(path) in error.what and "\\n" not in error.what, error
        assert "disk" in error.action
    else:
        raise AssertionError(suffix)
    assert path.read_text() == "old"
assert len(list(Path(sys.argv[1]).iterdir())) == 4
"""


def test_full_disk_is_noticed_and_leaves_the_old_file(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_without_simpleitk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(WorkError, match=r"without SimpleITK(?s:.*)twintrack-core\[io\]"):
        read_info(tmp_path / "a.nii")
