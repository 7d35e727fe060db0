"""Reader of plain probability images: one folder per member, one file per case."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from twintrack_core.codes import UINT8_SCORES
from twintrack_core.cohort.case import Case
from twintrack_core.cohort.folders import cases_with_image, check_folders, common_cases, folder_name, get_image
from twintrack_core.cohort.images import ImageInfo, check_geometry, read_info, read_volume
from twintrack_core.cohort.readers import Annotations
from twintrack_core.cohort.scores import Invalid, ScoreCheck, block_slices, check_floor, check_on_invalid, to_float16
from twintrack_core.errors import ImageError, InvalidScoresError, RequestError
from twintrack_core.names import check_case_name, matching


@dataclass(frozen=True)
class VolumesReader(Annotations):
    """Cases whose foreground probabilities are images: CASE.nii.gz (or .nii, .mha, .mhd, .nrrd) in each folder.

    Attributes
    ----------
    probability
        One folder of probability images per member: float32 or float64 in [0, 1], or uint8 meaning k / 255.
    floor
        Scores that are below it once rounded are stored as 0.
    on_invalid
        What to do with probabilities outside [0, 1].
    """

    probability: tuple[Path, ...]
    floor: float = 0.0
    on_invalid: Invalid = "error"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.probability:
            raise RequestError("No folder of probabilities is given.", "Allowed: one folder or more.")
        check_floor(self.floor)
        check_on_invalid(self.on_invalid)

    def case_names(self) -> tuple[str, ...]:
        """Return the names of the cases, sorted.

        Raises
        ------
        RequestError
            If a folder is missing or empty, or lacks a file of a case, or a case has more than 8 raters.
        StoreError
            If a name cannot be the name of a case.
        """
        check_folders(self.probability, "probability")
        cases = common_cases(
            [(folder, matching(cases_with_image(folder), self.cases, folder)) for folder in self.probability],
            ".nii.gz",
        )
        self.check_annotations(cases)
        return cases

    def read(self, name: str) -> Case:
        """Read and check one case.

        Returns
        -------
        Case
            ``probability`` is uint8 if all members are, else float16; (member, z, y, x), or (z, y, x) with one member.

        Raises
        ------
        RequestError
            If a file is missing.
        ImageError
            If a file is damaged, or a probability image is of another voxel type.
        GeometryError
            If sizes, spacing, origin or direction differ between the files of the case.
        InvalidScoresError
            If probabilities are not finite or not in [0, 1], or uint8 ones look like a mask: their largest is 1.
        InvalidVotesError
            If a rater's file holds values without a meaning.
        """
        check_case_name(name, "The request")
        images = [read_info(get_image(folder, name, "probabilities")) for folder in self.probability]
        reference = images[0]
        for image in images:
            check_geometry(name, reference, image)
            if image.dtype.kind != "f" and image.dtype != np.uint8:
                raise ImageError(
                    f"Case {name}: {image.path} has voxels of {image.dtype}.",
                    "Allowed: probabilities as float32 or float64, or as uint8 meaning k / 255.",
                )
        packed = all(image.dtype == np.uint8 for image in images)
        members = [self._read_member(name, image, packed) for image in images]
        probability = np.stack(members) if len(members) > 1 else members[0]
        source = {
            "reader": "volumes",
            "members": [folder_name(folder) for folder in self.probability],
            "floor": self.floor,
            "on_invalid": self.on_invalid,
        }
        return self.build_case(name, probability, reference, source)

    def _read_member(self, name: str, image: ImageInfo, packed: bool) -> npt.NDArray[Any]:
        """Check one member's scores, (z, y, x), and return them as uint8 (``packed``) or float16."""
        volume = read_volume(image.path)[0]
        if volume.dtype == np.uint8 and volume.max() == 1:
            raise InvalidScoresError(
                f"Case {name}: {image.path} looks like a mask: its voxels are uint8 and the largest is 1.",
                "Allowed: uint8 probabilities of 0 to 255, meaning k / 255.",
                "If it is a rater's mask, give its folder as --rater.",
            )
        if packed:
            volume[volume < self.floor * 255] = 0
            return volume
        flat = volume.reshape(-1)
        out = np.empty(len(flat), np.float16)
        check = ScoreCheck(f"Case {name}: {image.path}", image.shape, "(z, y, x)", self.on_invalid)
        for where in block_slices(len(flat)):
            block = UINT8_SCORES[flat[where]] if flat.dtype == np.uint8 else flat[where]
            check.take(block, where.start)
            # The block itself is rounded, not the float32 that was checked: float64 goes to float16 in one step.
            out[where] = to_float16(np.clip(block, 0, 1), self.floor)
        check.close()
        return out.reshape(image.shape)
