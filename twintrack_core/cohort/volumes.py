"""Reader of plain probability images: one folder per member, one file per case."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from twintrack_core.cohort.case import Case
from twintrack_core.cohort.folders import cases_with_image, check_folders, common_cases, folder_name, get_image
from twintrack_core.cohort.probabilities import read_probabilities
from twintrack_core.cohort.readers import Annotations
from twintrack_core.cohort.scores import Invalid, check_floor, check_on_invalid
from twintrack_core.errors import RequestError
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
        paths = [get_image(folder, name, "probabilities") for folder in self.probability]
        probability, reference = read_probabilities(name, paths, self.floor, self.on_invalid)
        source = {
            "reader": "volumes",
            "members": [folder_name(folder) for folder in self.probability],
            "floor": self.floor,
            "on_invalid": self.on_invalid,
        }
        return self.build_case(name, probability, reference, source)
