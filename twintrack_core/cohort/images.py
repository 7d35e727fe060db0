"""Image files on SimpleITK: NIfTI, MetaImage and NRRD to and from arrays (z, y, x) with their geometry.

What ITK does in silence is checked or undone: see `nifti` and `compressed`; and a direction that NIfTI cannot hold,
which ITK replaces, is refused. ITK sees no file before its header was checked, and is told the format: left to itself
it tries every format it knows.
"""

from __future__ import annotations

import functools
import math
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from twintrack_core.cohort import compressed, nifti
from twintrack_core.cohort.case import Geometry
from twintrack_core.cohort.headers import read_header
from twintrack_core.errors import GeometryError, ImageError, RequestError, WorkError
from twintrack_core.system import require_memory

READ_SUFFIXES = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd")
"""Endings of image files that are read."""

WRITE_SUFFIXES = (".nii.gz", ".nii", ".mha", ".nrrd")
"""Endings of image files that are written: one file each, so that it can be moved into place in one step."""

GEOMETRY_TOLERANCE = 1e-3
"""Largest difference of spacing and origin (mm) and of direction cosines between the files of a case."""


@dataclass(frozen=True)
class ImageInfo:
    """What an image file says about itself; see `read_info`.

    Attributes
    ----------
    path
        The file.
    shape
        Number of voxels in array order (z, y, x).
    dtype
        Type of a voxel when read.
    geometry
        Spacing, origin and direction.
    """

    path: Path
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    geometry: Geometry


def read_info(path: Path) -> ImageInfo:
    """Read size, voxel type and geometry of an image file, not its voxels.

    Raises
    ------
    RequestError
        If there is no such file.
    ImageError
        If it is not a readable image, or not three-dimensional with one real number per voxel.
    GeometryError
        If its spacing, origin or direction make no sense.
    """
    return _info(path, _open(path))


def read_volume(path: Path) -> tuple[npt.NDArray[Any], Geometry]:
    """Read an image file.

    Returns
    -------
    array
        (z, y, x) of the file's voxel type, after the rescaling the file asks for.
    geometry
        Spacing, origin and direction.

    Raises
    ------
    RequestError
        If there is no such file.
    ImageError
        If it is not a readable image, is cut off or damaged, or is not three-dimensional with one real number per
        voxel.
    GeometryError
        If its spacing, origin or direction make no sense.
    """
    reader = _open(path)
    info = _info(path, reader)
    places, values = _scan(info)
    try:
        with _one_at_a_time:
            image = reader.Execute()
    except (RuntimeError, MemoryError) as error:
        raise _unreadable(path, error) from error
    array = cast("npt.NDArray[Any]", _simpleitk().GetArrayFromImage(image))
    array.reshape(-1)[places] = values
    return array, info.geometry


def write_volume(path: Path, array: npt.NDArray[Any], geometry: Geometry) -> None:
    """Write an image file in the format its ending names, replacing what was there once it is complete.

    Parameters
    ----------
    path
        One of `WRITE_SUFFIXES`; its folder exists.
    array
        (z, y, x) float32 or uint8.
    geometry
        Spacing, origin and direction.

    Raises
    ------
    RequestError
        If the ending, the voxel type or the number of axes is another one.
    GeometryError
        If the format cannot hold the geometry, as NIfTI cannot hold sheared axes.
    WorkError
        If the file cannot be written completely, as on a full disk.
    """
    suffix = image_suffix(path.name)
    if suffix not in WRITE_SUFFIXES:
        raise RequestError(f"Cannot write {path}.", f"Allowed endings: {' '.join(WRITE_SUFFIXES)}.")
    if array.dtype not in (np.dtype(np.float32), np.dtype(np.uint8)) or array.ndim != 3:
        raise RequestError(
            f"Cannot write an array of {array.dtype} and shape {array.shape} to {path}.",
            "Allowed: float32 or uint8 with axes (z, y, x).",
        )
    # ITK takes the format from the ending, so the temporary name keeps it; readers skip names that start with a dot.
    partial = path.with_name(f".{path.name.removesuffix(suffix)}.partial{suffix}")
    try:
        _write(partial, path, array, geometry)
        _check_written(partial, path, array, geometry)
        partial.replace(path)
    except OSError as error:
        raise WorkError(f"Cannot write {path}: {error.strerror}.", None, _WRITE_ADVICE) from error
    finally:
        partial.unlink(missing_ok=True)


def check_geometry(case: str, reference: ImageInfo, other: ImageInfo) -> None:
    """Refuse a file that does not lie where the reference file of its case lies.

    Sizes agree exactly; spacing, origin and direction agree to `GEOMETRY_TOLERANCE`.

    Raises
    ------
    GeometryError
        With the case, both files and both values.
    """
    difference = _difference(reference, other)
    if difference is not None:
        what, expected, found = difference
        raise GeometryError(
            f"Case {case}: {what} is {found} in {other.path}, but {expected} in {reference.path}.",
            f"Allowed: the same size, and spacing, origin and direction that agree to {GEOMETRY_TOLERANCE:g}.",
            "Resample the file onto the other's grid yourself: nothing is resampled silently.",
        )


def image_suffix(name: str) -> str | None:
    """Return which of `READ_SUFFIXES` a file name ends with, or None."""
    return next((suffix for suffix in READ_SUFFIXES if name.endswith(suffix)), None)


_FORMATS = {
    ".nii.gz": "NiftiImageIO",
    ".nii": "NiftiImageIO",
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
    ".nrrd": "NrrdImageIO",
}
_ADVICE = "Copy or make the file again."
_WRITE_ADVICE = "Check that the disk has room and the folder can be written to."


def _simpleitk() -> Any:
    try:
        import SimpleITK
    except ImportError as error:
        raise WorkError("Cannot read images without SimpleITK.", None, "pip install twintrack-core[io]") from error
    _silence(SimpleITK)
    return SimpleITK


_one_at_a_time = threading.Lock()  # ITK's readers corrupt memory now and then where several threads use them


@functools.cache
def _silence(sitk: Any) -> None:
    sitk.ProcessObject.GlobalWarningDisplayOff()  # it would print them beside our errors, on stderr


def _open(path: Path) -> Any:
    """Return a SimpleITK reader that has read the file's header."""
    sitk = _simpleitk()
    if not path.is_file():
        raise RequestError(f"There is no image file {path}.")
    size = _check_header(path)
    reader = sitk.ImageFileReader()
    try:
        with _one_at_a_time:
            reader.SetFileName(str(path))
            reader.SetImageIO(_FORMATS[image_suffix(path.name) or ""])
            reader.ReadImageInformation()
    except (RuntimeError, ValueError) as error:
        raise _unreadable(path, error) from error
    if size is not None and reader.GetSize() != size:
        raise ImageError(f"{path} has the size {reader.GetSize()} to ITK, but {size} by its header.", None, _ADVICE)
    return reader


def _check_header(path: Path) -> tuple[int, ...] | None:
    """Check what a file's header announces; return the size if that is known by now, the fastest axis first."""
    suffix = image_suffix(path.name)
    if suffix is None:
        raise RequestError(f"{path} is no image file.", f"Allowed endings: {' '.join(READ_SUFFIXES)}.")
    if suffix in nifti.SUFFIXES:
        nifti.check_header(path)
        return None
    try:
        return read_header(path).size
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}.") from error


def _info(path: Path, reader: Any) -> ImageInfo:
    sitk = _simpleitk()
    dtypes = {
        sitk.sitkUInt8: np.uint8,
        sitk.sitkInt8: np.int8,
        sitk.sitkUInt16: np.uint16,
        sitk.sitkInt16: np.int16,
        sitk.sitkUInt32: np.uint32,
        sitk.sitkInt32: np.int32,
        sitk.sitkUInt64: np.uint64,
        sitk.sitkInt64: np.int64,
        sitk.sitkFloat32: np.float32,
        sitk.sitkFloat64: np.float64,
    }
    pixel = reader.GetPixelID()
    if reader.GetDimension() != 3 or pixel not in dtypes:
        raise ImageError(
            f"{path} is {reader.GetDimension()}-dimensional with voxels of {sitk.GetPixelIDValueAsString(pixel)}.",
            "Allowed: three dimensions and one real number per voxel.",
        )
    size, spacing = reader.GetSize(), reader.GetSpacing()
    try:
        # + 0.0 turns ITK's negative zeros into plain ones.
        origin, direction = (
            [value + 0.0 for value in values] for values in (reader.GetOrigin(), reader.GetDirection())
        )
        geometry = Geometry((spacing[2], spacing[1], spacing[0]), (origin[0], origin[1], origin[2]), tuple(direction))
    except GeometryError as error:
        raise GeometryError(f"{path}: {error.what}", error.allowed, error.action) from error
    info = ImageInfo(path, (size[2], size[1], size[0]), np.dtype(dtypes[pixel]), geometry)
    n_bytes = math.prod(info.shape) * info.dtype.itemsize
    require_memory(str(path), n_bytes, ImageError, "Use a machine with more memory, or crop the image.")
    return info


def _scan(info: ImageInfo) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Check that a file is whole; return the flat places and values of NaN and infinity that ITK reads as 0."""
    if info.path.name.endswith(nifti.SUFFIXES):
        return nifti.scan(info.path, math.prod(info.shape))
    compressed.check(info.path, math.prod(info.shape) * info.dtype.itemsize)
    return np.empty(0, np.int64), np.empty(0, np.float64)


def _write(partial: Path, path: Path, array: npt.NDArray[Any], geometry: Geometry) -> None:
    sitk = _simpleitk()
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(geometry.spacing_mm[::-1])
    image.SetOrigin(geometry.origin)
    try:
        image.SetDirection(geometry.direction)
    except RuntimeError as error:
        raise GeometryError(f"{path}: direction {_tuple(geometry.direction)} is not one: {_reason(error)}.") from error
    try:
        sitk.WriteImage(image, str(partial), useCompression=True)
    except RuntimeError as error:
        raise WorkError(f"Cannot write {path}: {_reason(error)}.", None, _WRITE_ADVICE) from error


def _check_written(partial: Path, path: Path, array: npt.NDArray[Any], geometry: Geometry) -> None:
    """Refuse a file that is not whole, or that came out with another geometry than asked for."""
    try:
        info = read_info(partial)
        _scan(info)
    except GeometryError:
        raise
    except ImageError as error:
        raise WorkError(f"{path} could not be written completely.", None, _WRITE_ADVICE) from error
    shape = cast("tuple[int, int, int]", array.shape)
    difference = _difference(ImageInfo(path, shape, array.dtype, geometry), info)
    if difference is not None:
        what, expected, _ = difference
        raise GeometryError(
            f"{path} cannot hold the {what} {expected}.",
            "Allowed: what the image format can express; NIfTI needs axes at right angles.",
            "Write .mha instead.",
        )


def _difference(reference: ImageInfo, other: ImageInfo) -> tuple[str, str, str] | None:
    """What differs first between two files, with both values, or None."""
    ours, theirs = reference.geometry, other.geometry
    compared = (
        ("size (z, y, x)", reference.shape, other.shape, 0.0),
        ("spacing (z, y, x) in mm", ours.spacing_mm, theirs.spacing_mm, GEOMETRY_TOLERANCE),
        ("origin (x, y, z) in mm", ours.origin, theirs.origin, GEOMETRY_TOLERANCE),
        ("direction", ours.direction, theirs.direction, GEOMETRY_TOLERANCE),
    )
    for what, expected, found, tolerance in compared:
        if np.max(np.abs(np.subtract(expected, found))) > tolerance:
            return what, _tuple(expected), _tuple(found)
    return None


def _unreadable(path: Path, error: Exception) -> ImageError:
    return ImageError(
        f"{path} cannot be read as an image: {_reason(error)}.", f"Allowed: whole files of {' '.join(READ_SUFFIXES)}."
    )


def _reason(error: Exception) -> str:
    """One sentence of an ITK exception, without source files, addresses and line breaks."""
    text = str(error).rpartition("ERROR: ")[2]
    text = re.sub(r'\w+ ?\(0x[0-9a-f]+\): | for "[^"]*"', "", text)
    return " ".join(text.split())[:200].rstrip(" .")


def _tuple(values: tuple[float, ...]) -> str:
    return f"({', '.join(f'{value:.7g}' for value in values)})"
