"""Probability images of a case's members: checked, rounded to what a cohort stores, and put together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from twintrack_core.codes import UINT8_SCORES
from twintrack_core.cohort.images import ImageInfo, check_geometry, read_info, read_volume
from twintrack_core.cohort.scores import Invalid, ScoreCheck, block_slices, check_floor, check_on_invalid, to_float16
from twintrack_core.errors import ImageError, InvalidScoresError, RequestError


def read_probabilities(
    name: str, paths: Sequence[Path], floor: float = 0.0, on_invalid: Invalid = "error"
) -> tuple[npt.NDArray[Any], ImageInfo]:
    """Read and check the foreground probabilities of a case, one image per member.

    Parameters
    ----------
    name
        Name of the case, for messages.
    paths
        One image per member, at least one: float32 or float64 in [0, 1], or uint8 meaning k / 255.
    floor
        Scores that are below it once rounded become 0.
    on_invalid
        What to do with probabilities outside [0, 1].

    Returns
    -------
    array
        uint8 if all members are, else float16; (member, z, y, x), or (z, y, x) with one member.
    info
        What the first image says about itself; the others lie where it lies.

    Raises
    ------
    RequestError
        If a file is missing or none is named, for a floor that is not one, or an unknown policy.
    ImageError
        If a file is damaged or of another voxel type.
    GeometryError
        If sizes, spacing, origin or direction differ between the members.
    InvalidScoresError
        If probabilities are not finite or not in [0, 1], or uint8 ones look like a mask: their largest is 1.
    """
    check_floor(floor)
    check_on_invalid(on_invalid)
    if not paths:
        raise RequestError(f"Case {name} has no probabilities.", "Allowed: one image or more.")
    images = [read_info(path) for path in paths]
    for image in images:
        check_geometry(name, images[0], image)
        if image.dtype.kind != "f" and image.dtype != np.uint8:
            raise ImageError(
                f"Case {name}: {image.path} has voxels of {image.dtype}.",
                "Allowed: probabilities as float32 or float64, or as uint8 meaning k / 255.",
            )
    packed = all(image.dtype == np.uint8 for image in images)
    members = [_read_member(name, image, packed, floor, on_invalid) for image in images]
    return np.stack(members) if len(members) > 1 else members[0], images[0]


def _read_member(name: str, image: ImageInfo, packed: bool, floor: float, on_invalid: Invalid) -> npt.NDArray[Any]:
    """Check one member's scores, (z, y, x), and return them as uint8 (``packed``) or float16."""
    volume = read_volume(image.path)[0]
    if volume.dtype == np.uint8 and volume.max() == 1:
        raise InvalidScoresError(
            f"Case {name}: {image.path} looks like a mask: its voxels are uint8 and the largest is 1.",
            "Allowed: uint8 probabilities of 0 to 255, meaning k / 255.",
            "If it is a rater's mask, import it as one (folders of masks are given as --rater).",
        )
    if packed:
        volume[volume < floor * 255] = 0
        return volume
    flat = volume.reshape(-1)
    out = np.empty(len(flat), np.float16)
    check = ScoreCheck(f"Case {name}: {image.path}", image.shape, "(z, y, x)", on_invalid)
    for where in block_slices(len(flat)):
        block = UINT8_SCORES[flat[where]] if flat.dtype == np.uint8 else flat[where]
        check.take(block, where.start)
        # The block itself is rounded, not the float32 that was checked: float64 goes to float16 in one step.
        out[where] = to_float16(np.clip(block, 0, 1), floor)
    check.close()
    return out.reshape(image.shape)
