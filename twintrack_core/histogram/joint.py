"""The joint histogram of one case: how often each score code met each rater pattern, outside and inside a region."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from twintrack_core import kernels
from twintrack_core.codes import MAX_RATERS, N_CODES, OnInvalid
from twintrack_core.errors import InvalidVotesError, RequestError
from twintrack_core.histogram.cells import Cells, bit_table, concatenate, freeze, merge
from twintrack_core.kernels.device import are_on_device, as_array, stream_of
from twintrack_core.names import some

RegionName = Literal["whole", "roi"]
"""What to look at: every voxel, or those inside the region of interest."""


@dataclass(frozen=True)
class RegionCells:
    """The cells of a region, sorted by (code, pattern), three columns of one length."""

    code: npt.NDArray[np.uint16]
    pattern: npt.NDArray[np.uint8]
    count: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False, repr=False)
class JointHistogram:
    """Joint counts of score codes and rater patterns, outside and inside a region of interest. Immutable.

    Make one with `from_arrays`, `from_votes`, `from_counts` or `from_cells`. Two are equal if they have the same raters
    in the same order and the same cells; with raters in another order, see `reorder_raters`.

    Attributes
    ----------
    raters
        Names of the R raters, 0 to 8, in bit order.
    region
        (n,) uint8, 0 outside and 1 inside the region of interest.
    code
        (n,) uint16 score code; see `twintrack_core.codes`.
    pattern
        (n,) uint8, bit r set where ``raters[r]`` marked.
    count
        (n,) int64 voxels, above 0. The cells are sorted by (region, code, pattern), each place occurring once.
    """

    raters: tuple[str, ...]
    region: npt.NDArray[np.uint8]
    code: npt.NDArray[np.uint16]
    pattern: npt.NDArray[np.uint8]
    count: npt.NDArray[np.int64]

    @classmethod
    def from_counts(cls, counts: npt.NDArray[np.integer[Any]], raters: Sequence[str]) -> JointHistogram:
        """Take a dense table.

        Parameters
        ----------
        counts
            (2, 15361, 2**R) integers: [outside / inside, code, pattern].
        raters
            R names in bit order.

        Raises
        ------
        RequestError
            For another shape, fractions, negative counts or rater names that are not 0 to 8 different ones.
        """
        names = check_raters(raters)
        table = np.asarray(counts)
        shape = (2, N_CODES, 1 << len(names))
        if table.shape != shape:
            raise RequestError(f"counts has shape {table.shape}.", f"Allowed: {shape} for {len(names)} raters.")
        region, code, pattern = np.nonzero(table)
        return cls.from_cells(region, code, pattern, table[region, code, pattern], names)

    @classmethod
    def from_cells(
        cls,
        region: npt.ArrayLike,
        code: npt.ArrayLike,
        pattern: npt.ArrayLike,
        count: npt.ArrayLike,
        raters: Sequence[str],
    ) -> JointHistogram:
        """Take cells in any order; the counts of cells at one place are added, those of 0 dropped.

        Parameters
        ----------
        region, code, pattern, count
            (n,) integers each; see the attributes.
        raters
            R names in bit order.

        Raises
        ------
        RequestError
            For columns of different lengths, values out of range, or rater names that are not 0 to 8 different ones.
        """
        names = check_raters(raters)
        limits = {"region": 1, "code": N_CODES - 1, "pattern": (1 << len(names)) - 1, "count": 2**63 - 1}
        columns = [
            _check_column(column, name, limit)
            for (name, limit), column in zip(limits.items(), (region, code, pattern, count), strict=True)
        ]
        lengths = {len(column) for column in columns}
        if len(lengths) != 1:
            raise RequestError(f"The columns have {sorted(lengths)} cells.", "Allowed: columns of one length.")
        regions, codes, patterns, counts = columns
        return cls(names, *merge(regions, codes, patterns, counts.astype(np.int64)))

    @classmethod
    def from_votes(
        cls,
        probability: npt.ArrayLike,
        votes: npt.NDArray[np.uint8] | None,
        raters: Sequence[str],
        *,
        roi: npt.NDArray[np.bool_] | None = None,
        members: bool = False,
        kernel: str = "auto",
        threads: int | None = None,
        on_invalid: OnInvalid = "error",
    ) -> JointHistogram:
        """Count the voxels of arrays whose raters are packed into bits.

        Parameters
        ----------
        probability
            (z, y, x) scores in [0, 1] of any number of spatial axes, or (member, z, y, x) with ``members=True``:
            float16, float32, float64, or uint8 meaning k / 255. A CuPy array, or a torch tensor on a CUDA device, is
            counted there, in place and on the caller's stream; votes and roi must then be of the same library.
        votes
            (z, y, x) uint8, bit r set where ``raters[r]`` marked the voxel; None for no marks.
        raters
            R names, 0 to 8.
        roi
            (z, y, x) bool, True inside the region of interest; by default everything is inside.
        members
            The first axis of ``probability`` is the ensemble's; its members are averaged.
        kernel
            Name of the kernel.
        threads
            Threads to count with, all cores by default; nothing to arrays on a device.
        on_invalid
            What to do with invalid scores: "error", "clip" or "exclude"; see `codes.OnInvalid`.

        Raises
        ------
        RequestError
            For shapes that differ, dtypes that mean something else, or rater names that are not 0 to 8 different ones.
        InvalidScoresError, InvalidVotesError
            For scores that are not probabilities, and marks of raters there are not.
        """
        names = check_raters(raters)
        columns = kernels.cells_of(
            probability, votes, roi, len(names), members=members, kernel=kernel, threads=threads, on_invalid=on_invalid
        )
        return cls(names, *freeze(columns))

    @classmethod
    def from_arrays(
        cls,
        probability: npt.ArrayLike,
        raters: npt.ArrayLike,
        *,
        rater_names: Sequence[str] | None = None,
        roi: npt.NDArray[np.bool_] | None = None,
        members: bool = False,
        kernel: str = "auto",
        threads: int | None = None,
        on_invalid: OnInvalid = "error",
    ) -> JointHistogram:
        """Count the voxels of arrays.

        Parameters
        ----------
        raters
            (R, z, y, x) of 0/1 or bool: one mask a rater, 1 to 8 of them.
        rater_names
            R names, by default "rater1" to "raterR".
        probability, roi, members, kernel, threads, on_invalid
            As in `from_votes`.

        Raises
        ------
        RequestError
            For shapes that differ, dtypes that mean something else, or rater names that are not 1 to 8 different ones.
        InvalidScoresError, InvalidVotesError
            For scores that are not probabilities, and masks with values other than 0 and 1.
        """
        are_on_device(probability=probability, raters=raters, roi=roi)  # all, or none
        with stream_of(probability):
            scores, masks = as_array(probability), as_array(raters)
            spatial = scores.shape[1:] if members else scores.shape
            if masks.ndim and masks.shape[1:] != spatial:
                raise RequestError(
                    f"raters has shape {masks.shape}, probability {scores.shape}{' with members' * members}.",
                    f"Allowed: raters of shape (R, {', '.join(map(str, spatial))}).",
                    "For one rater pass raters[None]; for an ensemble pass members=True.",
                )
            default = [f"rater{number}" for number in range(1, len(masks) + 1)] if masks.ndim else []
            names = check_raters(default if rater_names is None else rater_names)
            return cls.from_votes(
                scores,
                _pack(masks, names),
                names,
                roi=None if roi is None else as_array(roi),
                members=members,
                kernel=kernel,
                threads=threads,
                on_invalid=on_invalid,
            )

    @property
    def cells(self) -> Cells:
        """The four columns together."""
        return self.region, self.code, self.pattern, self.count

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """The dense table, (2, 15361, 2**R) int64: [outside / inside, code, pattern]."""
        table = np.zeros((2, N_CODES, 1 << len(self.raters)), dtype=np.int64)
        table[self.region, self.code, self.pattern] = self.count
        return table

    @property
    def n_voxels(self) -> int:
        """Voxels counted."""
        return int(self.count.sum())

    @property
    def n_inside(self) -> int:
        """Voxels counted inside the region of interest."""
        return int(self.count[self.region == 1].sum())

    @property
    def pattern_counts(self) -> npt.NDArray[np.int64]:
        """Voxels of each rater pattern over the whole volume, (2**R,) int64."""
        totals = np.zeros(1 << len(self.raters), dtype=np.int64)
        np.add.at(totals, self.pattern, self.count)
        return totals

    def select(self, region: RegionName) -> RegionCells:
        """Return the cells of a region; "whole" is the sum of outside and inside."""
        if region == "roi":
            inside = self.region == 1
            return RegionCells(self.code[inside], self.pattern[inside], self.count[inside])
        if region == "whole":
            _, code, pattern, count = self.fold_regions().cells
            return RegionCells(code, pattern, count)
        raise RequestError(f"There is no region {region!r}.", "Allowed: whole, roi.")

    def fold_regions(self) -> JointHistogram:
        """Return the same voxels with all of them inside the region."""
        return self._with_cells(merge(np.ones_like(self.region), self.code, self.pattern, self.count))

    def keep_raters(self, names: Sequence[str]) -> JointHistogram:
        """Return the histogram of some of its raters, in the order of ``names``; no voxel is lost."""
        kept = check_raters(names)
        unknown = [name for name in kept if name not in self.raters]
        if unknown:
            raise RequestError(f"There is no rater {unknown[0]!r}.", f"Allowed: {', '.join(self.raters) or 'none'}.")
        table = bit_table([self.raters.index(name) for name in kept])
        return JointHistogram(kept, *merge(self.region, self.code, table[self.pattern], self.count))

    def drop_raters(self, names: Iterable[str]) -> JointHistogram:
        """Return the histogram without some of its raters; no voxel is lost."""
        dropped = tuple(names)
        self.keep_raters(dropped)  # refuses those it does not have
        return self.keep_raters([name for name in self.raters if name not in dropped])

    def reorder_raters(self, names: Sequence[str]) -> JointHistogram:
        """Return the same histogram with its raters in the order of ``names``, which are all of them."""
        if sorted(names) != sorted(self.raters):
            raise RequestError(
                f"The raters are {some(self.raters)}, not {some(names)}.",
                "Allowed: the same raters in any order.",
                "Keep the raters that both have with keep_raters.",
            )
        return self if tuple(names) == self.raters else self.keep_raters(names)

    def relabel(self, codes: npt.NDArray[np.integer[Any]]) -> JointHistogram:
        """Return the histogram of the volume in which every score of code c has become ``codes[c]``.

        Parameters
        ----------
        codes
            (15361,) score codes, for example `CalibrationMap.codes`.
        """
        new = np.asarray(codes)
        if new.shape != (N_CODES,) or new.dtype.kind not in "iu" or new.min() < 0 or new.max() >= N_CODES:
            raise RequestError(
                f"codes is {new.dtype} of shape {new.shape}.",
                f"Allowed: ({N_CODES},) integers from 0 to {N_CODES - 1}.",
            )
        return self._with_cells(merge(self.region, new[self.code], self.pattern, self.count))

    def digest(self) -> str:
        """SHA-256 of the raters and the canonical cells, in hexadecimal; the same on every machine."""
        sha = hashlib.sha256(json.dumps([list(self.raters), len(self.count)]).encode())
        for column in self.cells:
            sha.update(column.astype(column.dtype.newbyteorder("<")).tobytes())
        return sha.hexdigest()

    def __add__(self, other: JointHistogram) -> JointHistogram:
        """Add a histogram of the same raters, in any order; the sum has this one's order."""
        if not isinstance(other, JointHistogram):
            return NotImplemented
        return self._with_cells(concatenate([self.cells, other.reorder_raters(self.raters).cells]))

    def __sub__(self, other: JointHistogram) -> JointHistogram:
        """Take away a histogram of the same raters, in any order, that is part of this one."""
        if not isinstance(other, JointHistogram):
            return NotImplemented
        region, code, pattern, count = other.reorder_raters(self.raters).cells
        rest = concatenate([self.cells, (region, code, pattern, -count)])
        negative = int((rest[3] < 0).sum())
        if negative:
            raise RequestError(
                f"The difference has {negative} negative counts.",
                "Allowed: subtracting what was added before.",
            )
        return self._with_cells(rest)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, JointHistogram):
            return NotImplemented
        return (
            self.raters == other.raters
            and np.array_equal(self.region, other.region)
            and np.array_equal(self.code, other.code)
            and np.array_equal(self.pattern, other.pattern)
            and np.array_equal(self.count, other.count)
        )

    __hash__ = None  # type: ignore[assignment]  # equal by value, and too large to hash in passing

    def __repr__(self) -> str:
        return (
            f"<JointHistogram: {self.n_voxels} voxels, {self.n_inside} inside the region, in {len(self.count)} cells; "
            f"raters {some(self.raters)}>"
        )

    def _with_cells(self, cells: Cells) -> JointHistogram:
        return JointHistogram(self.raters, *cells)


def check_raters(names: Sequence[str]) -> tuple[str, ...]:
    """Return rater names as a tuple.

    Raises
    ------
    RequestError
        If they are not 0 to 8 different, non-empty strings.
    """
    raters = tuple(names)
    named = not isinstance(names, str) and all(isinstance(name, str) and name for name in raters)
    if not named or len(set(raters)) != len(raters) or len(raters) > MAX_RATERS:
        raise RequestError(
            f"The {len(raters)} raters are named {names!r:.200}.",
            f"Allowed: 0 to {MAX_RATERS} different, non-empty names.",
        )
    return raters


def _check_column(values: npt.ArrayLike, name: str, limit: int) -> npt.NDArray[np.integer[Any]]:
    column = np.asarray(values)
    if column.ndim != 1 or (column.dtype.kind not in "iu" and column.size):
        raise RequestError(f"{name} is {column.dtype} of shape {column.shape}.", "Allowed: (n,) integers.")
    if column.size and (column.min() < 0 or column.max() > limit):
        wrong = column[(column < 0) | (column > limit)][0]
        raise RequestError(f"A cell has {name} {wrong}.", f"Allowed: 0 to {limit}.")
    return column


def _pack(masks: npt.NDArray[Any], names: Sequence[str]) -> npt.NDArray[np.uint8]:
    """Pack (R, ...) masks of 0 and 1 into bits."""
    if masks.ndim < 1 or len(masks) != len(names) or not names:
        raise RequestError(
            f"raters has shape {masks.shape}; there are {len(names)} names.",
            "Allowed: (R, ...) masks, one a name.",
            "Without raters, use from_votes with votes=None.",
        )
    votes = np.zeros_like(masks, dtype=np.uint8, shape=masks.shape[1:])  # where the masks are
    for bit, (mask, name) in enumerate(zip(masks, names, strict=True)):
        marked = mask == 1
        other = ~(marked | (mask == 0))
        if other.any():
            raise InvalidVotesError(
                f"Rater {name!r} has {int(other.sum())} voxels with other values, such as {mask[other][0]!s:.40}.",
                "Allowed: 0 and 1, or bool.",
                "Compare the label map with the label that counts as marked first.",
            )
        votes |= marked.astype(np.uint8) << np.uint8(bit)
    return votes
