"""The joint histograms of many cases, with what must be known of each case to use them."""

from __future__ import annotations

import hashlib
import json
import math
import operator
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from twintrack_core.errors import RequestError
from twintrack_core.histogram.cells import concatenate
from twintrack_core.histogram.joint import JointHistogram
from twintrack_core.names import check_case_name, some

_TOO_MANY = 2.0**62  # voxels of all cases together, whose counts are added as int64


@dataclass(frozen=True)
class CaseStatistics:
    """What is kept of a case.

    Attributes
    ----------
    histogram
        Its joint histogram.
    spacing_mm
        Voxel size in mm in array order (z, y, x).
    attributes
        The caller's facts about the case (site, scanner), as JSON can hold them.
    shape
        Voxels of the volume along (z, y, x); None if that is not known.
    marks
        First and last index along each axis that any rater marked, ((z, z), (y, y), (x, x)): known where the region of
        interest was made around the marks, else None. A case without a mark has none either.

    Raises
    ------
    RequestError
        For a spacing that is not three lengths above 0, attributes JSON cannot hold, a shape that does not hold
        the voxels, or marks that do not lie in it.
    """

    histogram: JointHistogram
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    shape: tuple[int, int, int] | None = None
    marks: tuple[tuple[int, int], ...] | None = None

    def __post_init__(self) -> None:
        spacing = tuple(float(length) for length in self.spacing_mm)
        if len(spacing) != 3 or not all(math.isfinite(length) and length > 0 for length in spacing):
            raise RequestError(f"Spacing {self.spacing_mm!r} is not one.", "Allowed: three lengths above 0, in mm.")
        try:
            attributes = json.loads(json.dumps(dict(self.attributes), allow_nan=False))
        except (TypeError, ValueError, RecursionError) as error:
            raise RequestError(f"The attributes cannot be kept: {error}.", "Allowed: what JSON can hold.") from error
        object.__setattr__(self, "spacing_mm", spacing)
        object.__setattr__(self, "attributes", attributes)
        shape, marks = _extent(self.shape, self.marks, self.histogram.n_voxels)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "marks", marks)

    @property
    def voxel_mm3(self) -> float:
        """Volume of a voxel in mm3."""
        return math.prod(self.spacing_mm)

    def relabel(self, codes: npt.NDArray[np.integer[Any]]) -> CaseStatistics:
        """Return the statistics of the volume that a map would write; see `JointHistogram.relabel`."""
        return replace(self, histogram=self.histogram.relabel(codes))


def _extent(shape: Any, marks: Any, n_voxels: int) -> tuple[Any, Any]:
    """Return a shape and marks as tuples of integers, if there are such; marks lie inside the shape."""
    if shape is None:
        if marks is not None:
            raise RequestError(f"The marks {marks!r:.80} lie in no volume.", "Allowed: marks with a shape.")
        return None, None
    try:
        sizes = tuple(operator.index(size) for size in shape)
        pairs = None if marks is None else tuple((operator.index(low), operator.index(high)) for low, high in marks)
    except (TypeError, ValueError) as error:
        raise RequestError(
            f"The shape is {shape!r:.80}, the marks {marks!r:.80}.", "Allowed: three integers, and three pairs of such."
        ) from error
    if len(sizes) != 3 or min(sizes) < 1 or math.prod(sizes) < n_voxels:
        raise RequestError(f"The shape {shape!r:.80} does not hold {n_voxels} voxels.", "Allowed: three sizes that do.")
    if pairs is not None and (
        len(pairs) != 3 or not all(0 <= low <= high < size for (low, high), size in zip(pairs, sizes, strict=True))
    ):
        raise RequestError(f"The marks {marks!r:.80} do not lie in {sizes}.", "Allowed: first and last index per axis.")
    return sizes, pairs


class CohortStatistics:
    """Joint histograms of the cases of a cohort, and the rule of the region of interest that made them. Immutable.

    Cases are kept sorted by name: statistics that hold the same cases are equal, and the same bytes, in whatever order
    they were made or merged. Cases may have different raters.

    Parameters
    ----------
    cases
        Name of each case and its statistics.
    roi
        Rule of the region of interest: "full", "mask", "mask+Nmm" or "raters+N".
    skipped
        Name of each case of the cohort that could not be read, and the kind of the error. It stays with what is made
        of the statistics, but does not tell them apart.

    Raises
    ------
    RequestError
        For a rule that is no text, or cases whose voxels, pooled, int64 could not count.
    StoreError
        For names that cannot be those of cases, see `check_case_name`.
    """

    def __init__(
        self, cases: Mapping[str, CaseStatistics], roi: str = "full", *, skipped: Mapping[str, str] | None = None
    ) -> None:
        if not isinstance(roi, str) or not roi:
            raise RequestError(f"The region of interest is {roi!r:.80}.", "Allowed: the rule that made the statistics.")
        for name in (*cases, *(skipped or ())):
            check_case_name(name, "Statistics")
        total = sum(float(case.histogram.count.sum(dtype=np.float64)) for case in cases.values())
        if total >= _TOO_MANY:
            raise RequestError(f"The {len(cases)} cases have {total:.3g} voxels.", "Allowed: fewer than 2^62.")
        self._cases = dict(sorted(cases.items()))
        self._roi = roi
        self._skipped = dict(sorted((skipped or {}).items()))

    @property
    def roi(self) -> str:
        """Rule of the region of interest."""
        return self._roi

    @property
    def skipped(self) -> Mapping[str, str]:
        """Cases of the cohort that could not be read, sorted by name, and the kind of the error."""
        return self._skipped

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the cases, sorted."""
        return tuple(self._cases)

    @property
    def raters(self) -> tuple[str, ...]:
        """Names of everybody who rated a case, sorted."""
        return tuple(sorted({rater for case in self._cases.values() for rater in case.histogram.raters}))

    def items(self) -> Iterable[tuple[str, CaseStatistics]]:
        """Names and statistics of the cases, sorted by name."""
        return self._cases.items()

    def select(self, names: Iterable[str]) -> CohortStatistics:
        """Return the statistics of some of the cases.

        Raises
        ------
        RequestError
            If a case is not there.
        """
        return self._with({name: self[name] for name in names})

    def rated(self) -> CohortStatistics:
        """Return the statistics of the cases that have raters."""
        return self.select(name for name, case in self._cases.items() if case.histogram.raters)

    def without(self, *names: str) -> CohortStatistics:
        """Return the statistics without some of the cases, which must be there."""
        left_out = self.select(names)
        return self.select(name for name in self.names if name not in left_out)

    def relabel(self, codes: npt.NDArray[np.integer[Any]]) -> CohortStatistics:
        """Return the statistics of the volumes that a map would write; see `JointHistogram.relabel`."""
        return self._with({name: case.relabel(codes) for name, case in self._cases.items()})

    def merge(self, *others: CohortStatistics) -> CohortStatistics:
        """Return the statistics of the cases of all, for example of several sites.

        Raises
        ------
        RequestError
            If two hold a case of the same name, or were made with different rules for the region of interest.
        """
        cases, skipped = dict(self._cases), dict(self.skipped)
        for other in others:
            self._require_same_rule(other)
            shared = [name for name in other if name in cases]
            if shared:
                raise RequestError(
                    f"Both statistics hold a case {shared[0]!r}, {len(shared)} cases in all.",
                    "Allowed: cases of different names.",
                    "Rename the cases of one, or leave out those that are there twice.",
                )
            cases.update(other.items())
            skipped.update(other.skipped)
        return CohortStatistics(cases, self.roi, skipped=skipped)

    def _with(self, cases: Mapping[str, CaseStatistics]) -> CohortStatistics:
        """Return other cases as this cohort's."""
        return CohortStatistics(cases, self.roi, skipped=self.skipped)

    def pooled(self) -> JointHistogram:
        """Return the sum of the histograms of all cases.

        Raises
        ------
        RequestError
            If there is no case, or if the cases do not share one set of raters.
        """
        if not self._cases:
            raise RequestError("Statistics without cases cannot be pooled.", "Allowed: one case or more.")
        first, *rest = self.names
        raters = self[first].histogram.raters
        for name in rest:
            others = self[name].histogram.raters
            if set(others) != set(raters):
                raise RequestError(
                    f"The cases have different raters: {first} {some(raters)}, {name} {some(others)}.",
                    "Allowed: cases with the same raters, in any order.",
                    "Pool their targets with BinnedTarget.from_statistics, or keep the raters they share.",
                )
        parts = [case.histogram.reorder_raters(raters).cells for case in self._cases.values()]
        return JointHistogram(raters, *concatenate(parts))

    def digest(self) -> str:
        """SHA-256 of the names, raters and canonical cells of the cases, in hexadecimal."""
        cases = [[name, case.histogram.digest()] for name, case in self._cases.items()]
        return hashlib.sha256(json.dumps(cases).encode()).hexdigest()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a statistics store: Zarr v3, a few kilobytes a case. Equal statistics give equal bytes.

        Raises
        ------
        RequestError
            If ``path`` exists, or its parent folder does not.
        WorkError
            If writing fails, for example on a full disk. What is left is refused by `load`.
        """
        from twintrack_core.histogram.store import write

        write(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> CohortStatistics:
        """Read a statistics store. Everything in it is checked.

        Raises
        ------
        RequestError
            If there is no store at ``path``.
        StoreError
            If the store is of another format or version, was cut off while being written, or makes no sense.
        """
        from twintrack_core.histogram.store import read

        return read(path)

    def __getitem__(self, name: str) -> CaseStatistics:
        if name not in self._cases:
            raise RequestError(f"The statistics have no case {name!r}.", f"Allowed: {some(self.names)}.")
        return self._cases[name]

    def __contains__(self, name: object) -> bool:
        return name in self._cases

    def __iter__(self) -> Iterator[str]:
        return iter(self._cases)

    def __len__(self) -> int:
        return len(self._cases)

    def __add__(self, other: CohortStatistics) -> CohortStatistics:
        """Merge; see `merge`."""
        return self.merge(other) if isinstance(other, CohortStatistics) else NotImplemented

    def __sub__(self, other: CohortStatistics) -> CohortStatistics:
        """Leave out the cases of another, which must be there and equal."""
        if not isinstance(other, CohortStatistics):
            return NotImplemented
        self._require_same_rule(other)
        changed = [name for name, case in other.items() if self[name] != case]
        if changed:
            raise RequestError(
                f"Case {changed[0]!r} is not the same in both statistics.",
                "Allowed: subtracting what was merged before.",
                "Leave it out by name with without.",
            )
        return self.without(*other)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CohortStatistics):
            return NotImplemented
        return self.roi == other.roi and self._cases == other._cases

    __hash__ = None  # type: ignore[assignment]  # equal by value, and too large to hash in passing

    def __repr__(self) -> str:
        return f"<CohortStatistics: {len(self)} cases, region of interest {self.roi!r}, raters {some(self.raters)}>"

    def _require_same_rule(self, other: CohortStatistics) -> None:
        if other.roi != self.roi:
            raise RequestError(
                f"The statistics were made with different regions of interest: {self.roi!r} and {other.roi!r}.",
                "Allowed: the same rule.",
                "Accumulate one of the cohorts again with the other's rule.",
            )
