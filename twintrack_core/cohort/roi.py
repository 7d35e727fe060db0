"""Regions of interest: the rules a cohort is counted under, and what they mean for a box of voxels.

- ``full``: everything is inside.
- ``mask``: the case's roi array.
- ``mask+5mm``: voxels whose centre lies within 5 mm of one of the mask's, Euclidean, as TwinTrack (MIDL 2026) dilates
  its coarse localisation.
- ``raters+20``: per axis [min - 20, max + 20) of all raters' marks, clamped to the volume: the box that the
  CURVAS-PDACVI challenge scores. Empty without a mark.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from twintrack_core.cohort.chunks import Box, ChunkedArray
from twintrack_core.cohort.scratch import Scratch
from twintrack_core.cohort.store import StoredCase
from twintrack_core.errors import RequestError

ALLOWED = 'Allowed: "full", "mask", "mask+Nmm" (as mask+5mm) or "raters+N" (as raters+20).'

Bounds: TypeAlias = Sequence[tuple[int, int]]
"""First and last voxel along each axis."""

_RULE = re.compile(
    r"full|mask|mask\+(?P<mm>[0-9]{1,6}(\.[0-9]{1,6})?)mm|raters\+(?P<voxels>[0-9]{1,6})"
)  # few digits, so that the canonical text parses to the same number
_TOLERANCE = 1 + 1e-9  # a distance of exactly N mm is inside, whatever the rounding of the spacing


@dataclass(frozen=True)
class RoiRule:
    """A parsed rule; ``str(rule)`` is its canonical text.

    Attributes
    ----------
    kind
        "full", "mask" or "raters".
    margin
        Millimetres for "mask", voxels for "raters".
    """

    kind: str
    margin: float = 0

    def __str__(self) -> str:
        if self.kind == "raters":
            return f"raters+{int(self.margin)}"
        return self.kind if not self.margin else f"{self.kind}+{np.format_float_positional(self.margin, trim='-')}mm"


def parse_roi(text: str) -> RoiRule:
    """Parse a rule.

    Raises
    ------
    RequestError
        If it is none.
    """
    match = _RULE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise RequestError(f"{text!r:.80} is no rule for a region of interest.", ALLOWED)
    if match["voxels"]:
        return RoiRule("raters", int(match["voxels"]))
    return RoiRule(text.partition("+")[0], float(match["mm"] or 0))


@dataclass(frozen=True)
class BoxRegion:
    """Everything in a box is inside; the whole volume for "full", an empty box for nothing.

    Attributes
    ----------
    start, stop
        Half-open box.
    marks
        First and last marked index per axis that the box was made around; None for "full" and without a mark.
    """

    start: tuple[int, ...]
    stop: tuple[int, ...]
    marks: tuple[tuple[int, int], ...] | None = None

    def inside(self, box: Box, scratch: Scratch) -> bool | npt.NDArray[np.uint8]:
        """Whether all or none of a box of voxels is inside, or a uint8 mask of its shape."""
        common = [
            slice(max(s.start, lo) - s.start, min(s.stop, hi) - s.start)
            for s, lo, hi in zip(box, self.start, self.stop, strict=True)
        ]
        if any(part.stop <= part.start for part in common):
            return False
        shape = tuple(s.stop - s.start for s in box)
        if all(part.stop - part.start == size for part, size in zip(common, shape, strict=True)):
            return True
        mask = scratch.array("region", shape, np.uint8)
        mask[...] = 0
        mask[tuple(common)] = 1
        return mask

    def expect(self, boxes: Iterable[Box], scratch: Scratch) -> None:
        """Say where `inside` will be asked for; nothing is read for it."""

    @property
    def size(self) -> int:
        """Voxels inside."""
        return math.prod(max(0, stop - start) for start, stop in zip(self.start, self.stop, strict=True))

    def overlap(self, starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]) -> int:
        """Voxels inside of (n, ndim) half-open boxes, together."""
        lengths = np.minimum(stops, self.stop) - np.maximum(starts, self.start)
        return int(np.maximum(lengths, 0).prod(axis=1, dtype=np.int64).sum())


@dataclass(frozen=True)
class MaskRegion:
    """Voxels of a mask, or within ``margin_mm`` of one, are inside."""

    mask: ChunkedArray
    margin_mm: float
    spacing_mm: tuple[float, ...]

    @property
    def halo(self) -> tuple[int, ...]:
        """How far, in voxels per axis, a voxel of the mask can reach."""
        return tuple(int(self.margin_mm * _TOLERANCE / spacing) for spacing in self.spacing_mm)

    def inside(self, box: Box, scratch: Scratch) -> bool | npt.NDArray[np.uint8]:
        """Whether all or none of a box of voxels is inside, or a uint8 mask of its shape."""
        wide = self._wide(box)
        mask = scratch.array("region", tuple(s.stop - s.start for s in wide), bool)
        self.mask.read(wide, mask, scratch)
        if not mask.any():
            return False
        if self.margin_mm == 0:
            return mask.view(np.uint8)
        core = tuple(slice(b.start - w.start, b.stop - w.start) for b, w in zip(box, wide, strict=True))
        return np.ascontiguousarray(_dilated(mask, self.margin_mm, self.spacing_mm)[core]).view(np.uint8)

    def _wide(self, box: Box) -> Box:
        """All voxels of the mask that reach a box."""
        return tuple(
            slice(max(0, s.start - halo), min(size, s.stop + halo))
            for s, halo, size in zip(box, self.halo, self.mask.shape, strict=True)
        )

    def expect(self, boxes: Iterable[Box], scratch: Scratch) -> None:
        """Say where `inside` will be asked for; see `ChunkedArray.expect`."""
        self.mask.expect(map(self._wide, boxes), scratch)


Region = BoxRegion | MaskRegion


def region_of(case: StoredCase, rule: RoiRule) -> Region:
    """Return the region a rule gives a case.

    Raises
    ------
    RequestError
        If the case lacks the roi array that the rule needs.
    """
    shape = case.shape
    if rule.kind == "full":
        return BoxRegion((0,) * len(shape), shape)
    if rule.kind == "mask":
        if "roi" not in case.parts:
            raise RequestError(
                f"Case {case.name} has no roi array, which the rule {str(rule)!r} needs.",
                ALLOWED,
                "Import the cohort with --roi DIR, or choose another rule.",
            )
        return MaskRegion(case.parts["roi"], rule.margin, case.geometry.spacing_mm)
    bounds = marked_bounds(case.parts["votes"]) if "votes" in case.parts else None
    if bounds is None:
        return BoxRegion((0,) * len(shape), (0,) * len(shape))
    margin = int(rule.margin)
    # The challenge's box is [min - N, max + N): it ends N - 1 voxels after the last mark.
    start = tuple(max(0, low - margin) for low, _ in bounds)
    stop = tuple(min(size, high + margin) for (_, high), size in zip(bounds, shape, strict=True))
    return BoxRegion(start, stop, tuple(bounds))


def marked_bounds(votes: ChunkedArray) -> list[tuple[int, int]] | None:
    """First and last index per axis that any rater marked, None without a mark. Reads written chunks only."""
    scratch = Scratch()
    bounds: list[tuple[int, int]] | None = None
    listed = votes.listed()
    scratch.require([] if listed is None else [(votes.folder, listed)])
    boxes = [votes.box(tuple(index)) for index in (votes.written() if listed is None else listed).tolist()]
    votes.expect(boxes, scratch)
    for box in boxes:
        if bounds is not None and contains(bounds, box):
            continue
        chunk = scratch.array("votes", tuple(s.stop - s.start for s in box), np.uint8)
        votes.read(box, chunk, scratch)
        found = _bounds(chunk, box)
        if found is not None:
            bounds = found if bounds is None else joined([bounds, found])
    return bounds


def contains(bounds: Bounds, box: Box) -> bool:
    """Whether a box of voxels lies within bounds."""
    return all(low <= side.start and side.stop - 1 <= high for (low, high), side in zip(bounds, box, strict=True))


def joined(found: Sequence[Bounds]) -> list[tuple[int, int]]:
    """Return the bounds of all of some bounds, at least one."""
    return [(min(low for low, _ in along), max(high for _, high in along)) for along in zip(*found, strict=True)]


def _bounds(votes: npt.NDArray[np.uint8], box: Box) -> list[tuple[int, int]] | None:
    bounds = []
    for axis, part in enumerate(box):
        marked = np.flatnonzero(votes.any(axis=tuple(other for other in range(votes.ndim) if other != axis)))
        if not len(marked):
            return None
        bounds.append((part.start + int(marked[0]), part.start + int(marked[-1])))
    return bounds


def _dilated(mask: npt.NDArray[np.bool_], margin_mm: float, spacing_mm: tuple[float, ...]) -> npt.NDArray[np.bool_]:
    from scipy import ndimage

    distance: npt.NDArray[Any] = ndimage.distance_transform_edt(~mask, sampling=spacing_mm)
    return np.asarray(distance <= margin_mm * _TOLERANCE)
