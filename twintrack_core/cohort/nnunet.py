"""Reader of nnU-Net's prediction folders: CASE.npz with class probabilities, and the segmentation beside it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from twintrack_core.cohort.case import Case
from twintrack_core.cohort.folders import (
    cases_with_image,
    cases_with_suffix,
    check_complete,
    check_folders,
    common_cases,
    folder_name,
    get_image,
)
from twintrack_core.cohort.images import ImageInfo, check_geometry, read_info, read_volume
from twintrack_core.cohort.npz import ProbabilityFile, open_probabilities
from twintrack_core.cohort.readers import Annotations
from twintrack_core.cohort.scores import Invalid, ScoreCheck, block_slices, check_floor, check_on_invalid, to_float16
from twintrack_core.errors import GeometryError, ImageError, InvalidScoresError, RequestError
from twintrack_core.names import check_case_name, matching

SUM_TOLERANCE = 5e-3
"""How far the classes of a voxel may sum from 1: float16 members stay well within."""

ROUNDING = 2.0**-10
"""How far past 1 rounding may carry a sum of classes, and how much it may change which class is largest."""

MIN_AGREEMENT = 0.999
"""Part of the voxels whose largest probability must be that of the member's own segmentation."""

MIN_FOREGROUND_AGREEMENT = 0.9
"""The same among foreground voxels: a flipped lesion of less than 0.1 % of the volume would pass otherwise."""


@dataclass(frozen=True)
class NnunetReader(Annotations):
    """Cases of an ensemble whose members were exported by nnU-Net with ``--save_probabilities``.

    Each member's folder holds CASE.npz, an array ``probabilities`` with axes (class, z, y, x), and beside it the
    member's segmentation CASE.nii.gz (or .nii, .mha, .mhd, .nrrd), which carries the geometry. Other files, the .pkl
    ones among them, are never opened.

    The score of a voxel is the float32 sum of the chosen classes in ascending order, rounded to float16.

    Attributes
    ----------
    members
        One folder per member.
    classes
        The classes whose probabilities are summed into the foreground; 0 is the background, and None means class 1
        where it is the only one. With ``regions`` the one region, counted from 0 as in the array, which has no
        background then; it must be given.
    regions
        The model is region-based: its channels are independent, so they need not sum to 1.
    check_argmax
        Refuse probabilities whose largest class is not the one of the member's segmentation.
    floor
        Scores that are below it once rounded are stored as 0.
    on_invalid
        What to do with probabilities outside [0, 1].
    """

    members: tuple[Path, ...]
    classes: tuple[int, ...] | None = None
    regions: bool = False
    check_argmax: bool = True
    floor: float = 0.0
    on_invalid: Invalid = "error"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.members:
            raise RequestError("No member is given.", "Allowed: one folder or more.")
        check_floor(self.floor)
        check_on_invalid(self.on_invalid)
        if self.regions and self.classes is None:
            raise RequestError(
                "No region is chosen.", "Allowed: one region; regions count from 0.", "Say which region with --class."
            )
        lowest, classes = 0 if self.regions else 1, self._classes
        if not classes or len(set(classes)) < len(classes) or min(classes) < lowest:
            raise RequestError(
                f"Classes {list(classes)} do not make a foreground.",
                "Allowed: different classes from 1 on; 0 is the background.",
            )
        if self.regions and len(classes) > 1:
            raise RequestError(
                f"Regions {list(classes)} cannot be summed: regions overlap.", "Allowed: one region at a time."
            )

    @property
    def _classes(self) -> tuple[int, ...]:
        """The classes that are summed, or the one region."""
        return (1,) if self.classes is None else self.classes

    def case_names(self) -> tuple[str, ...]:
        """Return the names of the cases, sorted.

        Raises
        ------
        RequestError
            If a folder is missing or empty, or lacks a file of a case, or a case has more than 8 raters.
        StoreError
            If a name cannot be the name of a case.
        """
        check_folders(self.members, "member")
        cases = common_cases(
            [(folder, matching(cases_with_suffix(folder, ".npz"), self.cases, folder)) for folder in self.members],
            ".npz",
        )
        for folder in self.members:
            check_complete(cases, cases_with_image(folder), folder, "segmentation", "CASE.nii.gz")
        self.check_annotations(cases)
        return cases

    def read(self, name: str) -> Case:
        """Read and check one case.

        Returns
        -------
        Case
            ``probability`` is float16, (member, z, y, x), or (z, y, x) with one member.

        Raises
        ------
        RequestError
            If a file is missing, or there is no such class.
        ImageError
            If a file is damaged, does not fit the others, or the segmentation is not the arg-max of the probabilities.
        GeometryError
            If sizes, spacing, origin or direction differ between the files of the case.
        InvalidScoresError
            If probabilities are not finite, not in [0, 1], or do not sum to 1.
        InvalidVotesError
            If a rater's file holds values without a meaning.
        """
        check_case_name(name, "The request")
        segmentations = [read_info(get_image(folder, name, "segmentation")) for folder in self.members]
        files = [open_probabilities(folder / f"{name}.npz") for folder in self.members]
        reference = segmentations[0]
        for segmentation, file in zip(segmentations, files, strict=True):
            check_geometry(name, reference, segmentation)
            self._check_shape(name, file, files[0], reference)
        probability = np.empty((len(files), *reference.shape), np.float16)
        for score, segmentation, file in zip(probability, segmentations, files, strict=True):
            self._read_member(name, file, segmentation, score.reshape(-1))
        source = {
            "reader": "nnunet",
            "members": [folder_name(folder) for folder in self.members],
            "classes": list(self._classes),
            "regions": self.regions,
            "check_argmax": self.check_argmax,
            "floor": self.floor,
            "on_invalid": self.on_invalid,
        }
        return self.build_case(name, probability if len(files) > 1 else probability[0], reference, source)

    def _check_shape(self, name: str, file: ProbabilityFile, first: ProbabilityFile, reference: ImageInfo) -> None:
        channels = file.shape[0]
        if file.shape[1:] != reference.shape:
            raise GeometryError(
                f"Case {name}: {file.path} has shape {file.shape}, but {reference.path} has {reference.shape}.",
                "Allowed: axes (class, z, y, x) over the voxels of the segmentation.",
            )
        if channels != first.shape[0]:
            raise ImageError(
                f"Case {name}: {file.path} has {channels} classes, but {first.path} has {first.shape[0]}.",
                "Allowed: members of one model, with the same classes.",
            )
        if self.classes is None and channels > 2:
            # Which one is meant cannot be guessed, and the wrong organ would look like a result.
            raise RequestError(
                f"Case {name}: {file.path} has {channels} classes, and none was chosen.",
                f"Allowed: classes 1 to {channels - 1}; several are summed.",
                "Choose with --class.",
            )
        if max(self._classes) >= channels:
            raise RequestError(
                f"Case {name}: {file.path} has {channels} classes and no class {max(self._classes)}.",
                f"Allowed: classes {0 if self.regions else 1} to {channels - 1}.",
            )

    def _read_member(self, name: str, file: ProbabilityFile, segmentation: ImageInfo, out: npt.NDArray[Any]) -> None:
        """Check one member's probabilities and write its scores to ``out``, flat float16.

        Classes come one after another, so four float32 volumes are held, whatever their number.
        """
        check = ScoreCheck(f"Case {name}: {file.path}", file.shape, "(class, z, y, x)", self.on_invalid)
        voxels = math.prod(file.shape[1:])
        foreground = np.zeros(voxels, np.float32)
        total = None if self.regions else np.zeros(voxels, np.float32)
        argmax = _ArgMax(segmentation, self.regions) if self.check_argmax else None
        for channel, where, block in file.blocks():
            values = check.take(block, channel * voxels + where.start)
            if channel in self._classes:
                foreground[where] += values
            if total is not None:
                total[where] += values
            if argmax is not None:
                argmax.take(channel, where, values)
        check.close()
        if total is not None:
            _check_sums(name, file, total)
        if argmax is not None:
            argmax.close(name, file)
        self._store(name, file, foreground, out)

    def _store(
        self, name: str, file: ProbabilityFile, foreground: npt.NDArray[np.float32], out: npt.NDArray[Any]
    ) -> None:
        """Round the sums of the chosen classes; rounding may have carried them past 1."""
        highest = int(np.argmax(foreground))
        if foreground[highest] > 1 + ROUNDING and self.on_invalid == "error":
            raise InvalidScoresError(
                f"Case {name}: {file.path}: classes {list(self._classes)} sum to {foreground[highest]:g} at "
                f"(z, y, x) = {_place(highest, file)}.",
                "Allowed: sums up to 1 + 2^-10.",
            )
        for where in block_slices(len(foreground)):
            out[where] = to_float16(np.clip(foreground[where], np.float32(0), np.float32(1)), self.floor)


class _ArgMax:
    """Compares the class of the largest probability with a member's segmentation.

    Classes whose probabilities differ by no more than `ROUNDING` count as equal. For regions any channel above 0.5
    stands for foreground.
    """

    def __init__(self, segmentation: ImageInfo, regions: bool) -> None:
        self.path = segmentation.path
        self.regions = regions
        self.labels = read_volume(segmentation.path)[0].reshape(-1)
        self.best = np.zeros(len(self.labels), np.float32)
        self.own = None if regions else np.full(len(self.labels), -1, np.float32)

    def take(self, channel: int, where: slice, values: npt.NDArray[np.float32]) -> None:
        best = self.best[where]
        np.maximum(best, values, out=best)
        if self.own is not None:
            np.copyto(self.own[where], values, where=self.labels[where] == channel)

    def close(self, name: str, file: ProbabilityFile) -> None:
        """Raise an ImageError if too few voxels agree, among all or among the foreground."""
        agreeing = foreground = foreground_agreeing = 0
        for where in block_slices(len(self.labels)):
            marked = self.labels[where] != 0
            if self.own is None:
                best = self.best[where]
                agree = np.where(marked, best >= 0.5 - ROUNDING, best <= 0.5 + ROUNDING)
            else:
                agree = self.own[where] >= self.best[where] - np.float32(ROUNDING)
            agreeing += int(np.count_nonzero(agree))
            foreground += int(np.count_nonzero(marked | ~agree))
            foreground_agreeing += int(np.count_nonzero(marked & agree))
        voxels = len(self.labels)
        if agreeing >= MIN_AGREEMENT * voxels and foreground_agreeing >= MIN_FOREGROUND_AGREEMENT * foreground:
            return
        raise ImageError(
            f"Case {name}: the arg-max of {file.path} agrees with {self.path} in {_percent(agreeing, voxels)} of all "
            f"voxels and {_percent(foreground_agreeing, foreground)} of the foreground.",
            f"Allowed: at least {MIN_AGREEMENT:.1%} and {MIN_FOREGROUND_AGREEMENT:.0%}.",
            "The axes may be flipped; for segmentations that were post-processed choose --no-check-argmax.",
        )


def _check_sums(name: str, file: ProbabilityFile, total: npt.NDArray[np.float32]) -> None:
    total -= 1
    np.abs(total, out=total)
    wrong = np.flatnonzero(total > SUM_TOLERANCE)
    if len(wrong):
        raise InvalidScoresError(
            f"Case {name}: {file.path}: the classes of {len(wrong)} of {len(total)} voxels do not sum to 1; the "
            f"first is off by {total[wrong[0]]:g} at (z, y, x) = {_place(wrong[0], file)}.",
            f"Allowed: sums within {SUM_TOLERANCE:g} of 1.",
            "For a region-based model, whose channels are independent, choose --regions.",
        )


def _place(index: Any, file: ProbabilityFile) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(index, file.shape[1:]))


def _percent(part: int, whole: int) -> str:
    return f"{math.floor(1e5 * part / max(whole, 1)) / 1e3:.3f} %"
