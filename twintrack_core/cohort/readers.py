"""What every reader of cases offers, and the part that readers of image folders share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from twintrack_core.codes import MAX_RATERS
from twintrack_core.cohort.attributes import read_attributes
from twintrack_core.cohort.case import Case
from twintrack_core.cohort.folders import (
    cases_with_image,
    check_complete,
    check_folders,
    find_image,
    folder_name,
    get_image,
    listed,
    missing,
)
from twintrack_core.cohort.images import ImageInfo
from twintrack_core.cohort.masks import read_rater, read_roi, read_vessels
from twintrack_core.errors import RequestError

MissingRater = Literal["error", "allow"]
"""What to do when a rater has no file for a case: refuse, or leave the rater out of that case."""

_RATER_ADVICE = "Add it, or choose --missing-rater allow to leave the rater out of those cases."


class Reader(Protocol):
    """Source of cases. A reader is small and can be pickled; `read` may be called from several threads."""

    def case_names(self) -> tuple[str, ...]:
        """Return the names of the cases, sorted, after checking that the files of each are there."""

    def read(self, name: str) -> Case:
        """Read and check one case."""


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """Folders beside the probabilities, with one image file per case, CASE.nii.gz for instance.

    Attributes
    ----------
    raters
        One folder per rater with masks or label maps; the folder's name is the rater's.
    labels
        Values of the raters' files that count as marked; None if the files hold 0 and 1 only.
    missing_rater
        Whether a rater may lack cases.
    roi
        Folder with regions of interest, 0 and 1.
    vessels
        Folder with vessel maps, labels 0 to 5.
    attributes
        CSV file with facts about the cases; see `attributes.read_attributes`.
    cases
        Shell patterns of the cases to read; all of them if empty.
    """

    raters: tuple[Path, ...] = ()
    labels: tuple[int, ...] | None = None
    missing_rater: MissingRater = "error"
    roi: Path | None = None
    vessels: Path | None = None
    attributes: Path | None = None
    cases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.labels is not None and (not self.labels or 0 in self.labels):
            raise RequestError(f"Labels {self.labels} do not say what is marked.", "Allowed: labels other than 0.")
        names = [folder_name(folder) for folder in self.raters]
        if len(set(names)) < len(names):
            raise RequestError(
                f"Raters {listed(names)} are not told apart by their names.",
                "Allowed: folders with different last names; a folder's name is the rater's.",
                "Rename or link the folders.",
            )
        if self.missing_rater not in ("error", "allow"):
            raise RequestError(f"missing_rater is {self.missing_rater!r}.", 'Allowed: "error" or "allow".')

    def check_annotations(self, cases: Sequence[str]) -> None:
        """Check that the files of ``cases`` are there.

        Raises
        ------
        RequestError
            If a folder, a file or a row is missing, or a case has more than 8 raters.
        """
        check_folders(self.raters, "rater")
        present = [set(cases_with_image(folder)) for folder in self.raters]
        if self.missing_rater == "error":
            for folder, names in zip(self.raters, present, strict=True):
                check_complete(cases, names, folder, "rater's mask", "CASE.nii.gz", _RATER_ADVICE)
        for case in cases:
            count = sum(case in names for names in present)
            if count > MAX_RATERS:
                raise RequestError(
                    f"Case {case} has {count} raters.", f"Allowed: at most {MAX_RATERS}.", "Leave some out."
                )
        for image_folder, what in ((self.roi, "region of interest"), (self.vessels, "vessel map")):
            if image_folder is not None:
                check_folders([image_folder], what)
                check_complete(cases, cases_with_image(image_folder), image_folder, what, "CASE.nii.gz")
        if self.attributes is not None:
            read_attributes(self.attributes, cases)

    def build_case(
        self, name: str, probability: npt.NDArray[Any], reference: ImageInfo, source: Mapping[str, Any]
    ) -> Case:
        """Read the annotations of a case and put it together.

        Parameters
        ----------
        name
            Name of the case.
        probability
            (z, y, x) or (member, z, y, x) scores.
        reference
            The file whose geometry is the case's.
        source
            What the reader has to say about the origin of ``probability``.
        """
        raters, votes = self._read_votes(name, reference)
        return Case(
            name=name,
            probability=probability,
            raters=raters,
            votes=votes,
            roi=read_roi(get_image(self.roi, name, "region of interest"), name, reference) if self.roi else None,
            vessels=read_vessels(get_image(self.vessels, name, "vessel map"), name, reference)
            if self.vessels
            else None,
            geometry=reference.geometry,
            attributes=read_attributes(self.attributes, [name])[name] if self.attributes else {},
            source={**source, "labels": None if self.labels is None else list(self.labels)},
        )

    def _read_votes(self, name: str, reference: ImageInfo) -> tuple[tuple[str, ...], npt.NDArray[np.uint8] | None]:
        """Names of the raters who have a file for the case, and their packed marks."""
        raters: list[str] = []
        votes: npt.NDArray[np.uint8] | None = None
        for folder in self.raters:
            path = find_image(folder, name)
            if path is not None:
                if votes is None:
                    votes = np.zeros(reference.shape, np.uint8)
                votes |= read_rater(path, name, reference, self.labels).astype(np.uint8) << np.uint8(len(raters))
                raters.append(folder_name(folder))
            elif self.missing_rater == "error":
                raise missing([name], folder, "rater's mask", f"{name}.nii.gz", _RATER_ADVICE)
        return tuple(raters), votes
