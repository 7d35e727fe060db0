"""Contact of lesions with a vessel, slice by slice in the three planes, for all lesions of a case at once.

A lesion is a bit of one word per voxel, so that a pass over the voxels dilates the marks of every rater and the
prediction at every threshold together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from twintrack_core.errors import FitError
from twintrack_core.metrics import CaseVolumes, extent

THRESHOLDS = np.linspace(0.1, 0.8, 6)
"""Scores above which the prediction is taken as a lesion: those of the thresholded Dice."""

_REACH = 2  # a lesion that is further away than this, dilated once, meets no neighbour of the vessel

_Words: TypeAlias = npt.NDArray[np.uint16]
"""Bit r is set where rater r marked, bit R + k where the score is above threshold k; up to 14 bits for 8 raters."""

Box: TypeAlias = tuple[slice, slice, slice]
"""Part of an array."""


def vessel_boxes(vessels: npt.NDArray[np.uint8]) -> dict[int, Box]:
    """Return where each vessel lies that there is, by its label."""
    around = extent(vessels != 0)
    if around is None:
        return {}
    boxes: dict[int, Box] = {}
    # The search for each label takes time for every voxel, and most of them are of no vessel.
    for label, box in enumerate(ndimage.find_objects(vessels[around]), start=1):
        if box is not None:
            z, y, x = (slice(a.start + b.start, a.start + b.stop) for a, b in zip(around, box, strict=True))
            boxes[label] = (z, y, x)
    return boxes


@dataclass(frozen=True, eq=False)
class Angles:
    """Angles at which lesions touch a vessel in degrees, in both readings; see `contact_angles`.

    Attributes
    ----------
    official, exact
        (3, R + 6) float64: the planes of axes z, y, x; the R raters' lesions, then the prediction above each threshold.
    """

    official: npt.NDArray[np.float64]
    exact: npt.NDArray[np.float64]


def contact_angles(volumes: CaseVolumes, label: int, box: Box) -> Angles:
    """Angle at which each lesion touches a vessel, in degrees, in each of the three planes.

    The plane of an axis is cut into slices along it. In a slice, the edge of the vessel is what its erosion by the
    cross of four neighbours takes away, where beyond the volume nothing is vessel; the lesion is dilated once by the
    same cross. The angle is contact / edge pixels * 360, the plane's the largest over its slices. Pixels of the edge
    under the dilated lesion are contact. So are others, by their neighbours that are dilated lesion and not edge:

    - official: one for each of right, below, below right, and right or below; so a pixel may count up to four times,
      and an angle can pass 360. Right is the next index of the last axis, below that of the first.
    - exact: a pixel that has one among its eight neighbours counts once.

    Parameters
    ----------
    volumes
        Arrays of a case with R raters and vessels.
    label
        Label of the vessel.
    box
        Where all of it lies in the arrays.
    """
    vessel, lesions = _around(volumes, label, box)
    n_lesions = len(volumes.raters) + len(THRESHOLDS)
    official, exact = zip(*(_plane_angles(vessel, lesions, axis, n_lesions) for axis in range(3)), strict=True)
    return Angles(np.array(official), np.array(exact))


def _around(volumes: CaseVolumes, label: int, box: Box) -> tuple[npt.NDArray[np.bool_], _Words]:
    """Cut out a vessel and the lesions within reach of it, with a frame of one voxel of nothing.

    The arrays may end within that reach while the volume goes on: there is the background's score, and no mark.
    """
    if volumes.votes is None or volumes.vessels is None or volumes.shape is None:
        raise FitError("there are no raters or no vessels")
    offset = np.array(volumes.start)
    low, high = (np.array([getattr(part, end) for part in box]) + offset for end in ("start", "stop"))
    low = np.maximum(low - _REACH, 0)
    high = np.minimum(high + _REACH, volumes.shape)
    first = np.maximum(low, offset)
    last = np.minimum(high, offset + volumes.vessels.shape)
    source = tuple(map(slice, first - offset, last - offset))
    target = tuple(map(slice, first - low + 1, last - low + 1))

    vessel = np.zeros(high - low + 2, dtype=bool)
    vessel[target] = volumes.vessels[source] == label
    bits = _score_bits(volumes)
    lesions = np.zeros(vessel.shape, dtype=np.uint16)
    _core(lesions)[...] = bits[volumes.background_code]
    lesions[target] = bits[volumes.codes[source]] | volumes.votes[source]
    return vessel, lesions


def _score_bits(volumes: CaseVolumes) -> _Words:
    """Bits that the score of each code sets; thresholds are compared in float64."""
    bits = np.zeros(len(volumes.values), dtype=np.uint16)
    for place, threshold in enumerate(THRESHOLDS, start=len(volumes.raters)):
        bits |= (volumes.values > threshold).astype(np.uint16) << np.uint16(place)
    return bits


def _plane_angles(
    vessel: npt.NDArray[np.bool_], lesions: _Words, axis: int, n_lesions: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Official and exact angles in the slices along an axis."""
    below, right = (other for other in range(3) if other != axis)
    cross = [(along, step) for along in (below, right) for step in (-1, 1)]
    edge = np.zeros_like(vessel)
    np.logical_and.reduce([_core(vessel, *place) for place in cross], out=_core(edge))
    np.greater(_core(vessel), _core(edge), out=_core(edge))
    dilated = np.zeros_like(lesions)  # it does not grow into the frame, which may lie beyond the volume
    _core(dilated)[...] = _core(lesions)
    for place in cross:
        _core(dilated)[...] |= _core(lesions, *place)

    # From here on only the pixels of the edge matter, as places in the flat arrays.
    places = np.flatnonzero(edge)
    slices = places // _stride(edge, axis) % edge.shape[axis]
    under = dilated.reshape(-1)[places]
    off_edge = np.where(edge, np.uint16(0), dilated).reshape(-1)
    around = {
        (down, across): off_edge[places + (down * _stride(edge, below) + across * _stride(edge, right))]
        for down in (-1, 0, 1)
        for across in (-1, 0, 1)
    }
    to_right, to_below = around[0, 1], around[1, 0]
    others = (to_right, to_below, around[1, 1], to_right | to_below)
    official = [under, *(other & ~under for other in others)]
    exact = [under | np.bitwise_or.reduce(list(around.values()))]

    pixels = np.maximum(np.bincount(slices, minlength=edge.shape[axis]), 1)  # without an edge there is no contact
    official_angles, exact_angles = (
        (_per_slice(slices, words, edge.shape[axis], n_lesions) / pixels * 360).max(axis=1)
        for words in (official, exact)
    )
    return official_angles, exact_angles


def _per_slice(
    slices: npt.NDArray[np.intp], words: list[_Words], n_slices: int, n_lesions: int
) -> npt.NDArray[np.int64]:
    """Count the bits of words in each slice, (n_lesions, n_slices)."""
    contact = np.zeros((n_lesions, n_slices), dtype=np.int64)
    for word in words:
        touched = np.flatnonzero(word)
        for lesion in range(n_lesions):
            marked = touched[(word[touched] >> np.uint16(lesion) & 1).astype(bool)]
            contact[lesion] += np.bincount(slices[marked], minlength=n_slices)
    return contact


def _core(framed: npt.NDArray[Any], along: int = 0, step: int = 0) -> npt.NDArray[Any]:
    """View of what lies ``step`` along an axis from each voxel within the frame."""
    steps = [step if axis == along else 0 for axis in range(3)]
    return framed[tuple(slice(1 + s, size - 1 + s) for s, size in zip(steps, framed.shape, strict=True))]


def _stride(array: npt.NDArray[Any], axis: int) -> int:
    """Distance of neighbours along an axis in the flat array."""
    return array.strides[axis] // array.itemsize
