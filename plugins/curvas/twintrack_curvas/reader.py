"""Reader of the challenge's folders: one per case, with the raters' annotations and the predictions beside them."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from twintrack_core.cohort import (
    Case,
    ImageInfo,
    check_case_name,
    check_geometry,
    matching,
    pack_votes,
    read_info,
    read_probabilities,
    read_rater,
    read_vessels,
)
from twintrack_core.errors import RequestError

_VESSELS = "vessels.nii.gz"
_IMAGE = "image.nii.gz"
_ANNOTATION = re.compile(r"(annotation_([0-9]{1,6}))\.nii\.gz")
_MAX_RATERS = 8
_LAYOUT = "CASE/annotation_1.nii.gz and so on, with CASE/{} beside them"


@dataclass(frozen=True)
class CurvasReader:
    """Cases as CURVAS publishes them, with predictions put beside the annotations.

    ::

        FOLDER/CASE/image.nii.gz          optional: every other file must lie where it lies
                    annotation_1.nii.gz   a mask per rater, up to 8, whose name is the rater's
                    annotation_2.nii.gz
                    prediction.nii.gz     probabilities; several files are members of an ensemble
                    vessels.nii.gz        optional: labels 1 portal vein, 2 SMV, 3 aorta, 4 celiac trunk, 5 SMA

    All options are texts, as they come from a command line.

    Attributes
    ----------
    folder
        The folder of the cases; what starts with a dot is ignored.
    cases
        Shell patterns of the cases to read; all of them if empty.
    prediction
        Shell pattern of the names of the probability images.
    vessels
        Name of the vessel map.
    label
        Values of the annotations that count as marked, as in "1,2"; if empty the files hold 0 and 1 only.
    missing_rater
        "error", or "allow" if the cases may have different raters.
    """

    folder: Path
    cases: tuple[str, ...] = field(default=(), kw_only=True)
    prediction: str = field(default="prediction*.nii.gz", kw_only=True)
    vessels: str = field(default=_VESSELS, kw_only=True)
    label: str = field(default="", kw_only=True)
    missing_rater: str = field(default="error", kw_only=True)

    def __post_init__(self) -> None:
        for option in ("prediction", "vessels"):
            name = getattr(self, option)
            if not name or "/" in name or "\\" in name:
                raise RequestError(
                    f"{option} is {name!r:.80}.", f"Allowed: the name of a file in a case's folder, as in {_IMAGE}."
                )
        if self.missing_rater not in ("error", "allow"):
            raise RequestError(f"missing_rater is {self.missing_rater!r:.80}.", "Allowed: error or allow.")
        self._labels()

    def case_names(self) -> tuple[str, ...]:
        """Return the names of the cases, sorted.

        Raises
        ------
        RequestError
            If the folder is missing or holds no case, a pattern matches none, a case lacks its prediction, has more
            than 8 raters or lacks one that another case has.
        StoreError
            If a name cannot be the name of a case.
        """
        if not self.folder.is_dir():
            raise RequestError(f"There is no folder {self.folder}.", f"Allowed: {self._layout()}.")
        folders = sorted(path.name for path in self.folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        if not folders:
            raise RequestError(f"There are no cases in {self.folder}.", f"Allowed: {self._layout()}.")
        names = matching(folders, self.cases, self.folder)
        raters: dict[str, list[str]] = {}
        for name in names:
            check_case_name(name, str(self.folder))
            raters[name] = [rater for rater, _ in self._annotations(name)]
            self._predictions(name)
        if self.missing_rater == "error":
            self._check_raters(raters)
        # The usual name may be missing; one that was asked for is not there by mistake.
        if self.vessels != _VESSELS and not any((self.folder / name / self.vessels).is_file() for name in names):
            raise RequestError(
                f"No case in {self.folder} has a vessel map {self.vessels}.",
                "Allowed: a file that a case has.",
            )
        return names

    def read(self, name: str) -> Case:
        """Read and check one case.

        Raises
        ------
        RequestError
            If a file is missing, or the case has more than 8 raters.
        ImageError
            If a file is damaged, or the vessel map holds another label than 0 to 5.
        GeometryError
            If sizes, spacing, origin or direction differ between the files of the case.
        InvalidScoresError
            If a prediction is not of probabilities.
        InvalidVotesError
            If an annotation holds values without a meaning.
        """
        folder = self.folder / check_case_name(name, "The request")
        annotations, predictions = self._annotations(name), self._predictions(name)
        reference = self._reference(name, predictions)
        probability, _ = read_probabilities(name, predictions)
        labels = self._labels()
        masks = [read_rater(path, name, reference, labels) for _, path in annotations]
        vessels = folder / self.vessels
        return Case(
            name=name,
            probability=probability,
            raters=tuple(rater for rater, _ in annotations),
            votes=pack_votes(masks) if masks else None,
            vessels=read_vessels(vessels, name, reference) if vessels.is_file() else None,
            geometry=reference.geometry,
            source={
                "reader": "curvas",
                "members": [path.name for path in predictions],
                "labels": None if labels is None else list(labels),
            },
        )

    def _reference(self, name: str, predictions: Sequence[Path]) -> ImageInfo:
        """Return what says where the case lies, after checking that the predictions lie there."""
        image = self.folder / name / _IMAGE
        infos = [read_info(path) for path in predictions]
        reference = read_info(image) if image.is_file() else infos[0]
        for info in infos:
            check_geometry(name, reference, info)
        return reference

    def _annotations(self, name: str) -> list[tuple[str, Path]]:
        """Names of the raters and their files, in natural order."""
        found = []
        for file in self._files(name):
            match = _ANNOTATION.fullmatch(file.name)
            if match:
                found.append((int(match[2]), match[1], file))
        if len(found) > _MAX_RATERS:
            raise RequestError(
                f"Case {name} has {len(found)} annotations in {self.folder / name}.",
                f"Allowed: at most {_MAX_RATERS}.",
                "Move the others away.",
            )
        return [(rater, file) for _, rater, file in sorted(found)]

    def _predictions(self, name: str) -> list[Path]:
        found = [file for file in self._files(name) if fnmatch.fnmatchcase(file.name, self.prediction)]
        if found:
            return found
        if not self._annotations(name):
            raise RequestError(
                f"The folder {self.folder / name} is no case: it holds no annotation and no prediction.",
                f"Allowed: {self._layout()}.",
                "Move it away, or choose the cases to read.",
            )
        raise RequestError(
            f"Case {name} has no prediction in {self.folder / name}.",
            f"Allowed: {self.prediction}, one file per member of the ensemble.",
            "Put it there, or say what it is called with --option prediction=NAME.",
        )

    def _files(self, name: str) -> list[Path]:
        folder = self.folder / name
        if not folder.is_dir():
            raise RequestError(f"There is no folder {folder} of case {name}.", f"Allowed: {self._layout()}.")
        return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))

    def _check_raters(self, raters: dict[str, list[str]]) -> None:
        everybody = {rater for found in raters.values() for rater in found}
        for name, found in raters.items():
            absent = sorted(everybody - set(found))
            if absent:
                raise RequestError(
                    f"Case {name} has no {absent[0]}.nii.gz in {self.folder / name}, which other cases have.",
                    "Allowed: the same raters in every case.",
                    "Add it, or choose --option missing_rater=allow to leave the rater out of that case.",
                )

    def _labels(self) -> tuple[int, ...] | None:
        if not self.label:
            return None
        try:
            labels = tuple(int(part) for part in self.label.split(","))
        except ValueError:
            labels = (0,)
        if 0 in labels:
            raise RequestError(
                f"label is {self.label!r:.80}.", "Allowed: whole numbers other than 0, as in --option label=1,2."
            )
        return labels

    def _layout(self) -> str:
        return _LAYOUT.format(self.prediction)
