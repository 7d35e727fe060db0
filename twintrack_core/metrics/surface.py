"""How far the predicted border lies from the raters', in mm: of {p > t} and {m > t}, p the score and m the MHR.

A border is made of voxels: those of a set that have a face in common with a voxel outside it, or with the outside of
the volume. Distances are Euclidean, between the centres of border voxels. Where the score of what was never written
is itself above t, most of the border would be the volume's own: both metrics are undefined then.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from twintrack_core.errors import FitError, RequestError
from twintrack_core.metrics.metric import Result, Undefined, VolumeMetric
from twintrack_core.metrics.volumes import CaseVolumes, extent

_THRESHOLD = 0.5
_TOLERANCE_MM = 1.0
_ROUNDING = 1 + 1e-9  # a distance of exactly N mm is within N mm, whatever the rounding of the spacing

_THRESHOLD_ALLOWED = "a threshold of at least 0 and below 1"
_NUMBER = r"[0-9]{1,6}(?:\.[0-9]{1,16})?|\.[0-9]{1,16}"


class BorderDistances(NamedTuple):
    """Distances between two borders in mm.

    Attributes
    ----------
    predicted
        (n,) float64, from each voxel of the predicted border to the raters' border.
    marked
        (k,) float64, from each voxel of the raters' border to the predicted border.
    """

    predicted: npt.NDArray[np.float64]
    marked: npt.NDArray[np.float64]


def surface_dice(volumes: CaseVolumes, threshold: float = _THRESHOLD, tolerance_mm: float = _TOLERANCE_MM) -> float:
    """Fraction of the two borders, taken together, that lies within a tolerance of the other one.

    The voxel form of the surface Dice of Nikolov et al. 2021: (voxels of the predicted border within the tolerance of
    the raters' + voxels of the raters' border within it of the predicted) / voxels of both borders. 0 where one of the
    sets is empty; undefined where both are.
    """
    found = _distances(volumes, threshold)
    if found is None:
        return 0.0
    near = sum(int((side <= tolerance_mm * _ROUNDING).sum()) for side in found)
    return near / (len(found.predicted) + len(found.marked))


def hausdorff95(volumes: CaseVolumes, threshold: float = _THRESHOLD) -> Result:
    """Larger of the two 95th percentiles of the distances from one border to the other, in mm.

    The percentile is taken per direction, and linear between two distances, as MONAI does; MedPy takes one percentile
    of the distances of both directions. Undefined where a set is empty.
    """
    found = _distances(volumes, threshold)
    if found is None:
        return Undefined(f"only one of score and mean human response is above {threshold:g} anywhere")
    return float(max(np.percentile(side, 95) for side in found))


def _distances(volumes: CaseVolumes, threshold: float) -> BorderDistances | None:
    """Distances between the borders of {p > t} and {m > t}; None where one of the sets is empty, an error for both."""
    if not volumes.is_whole and volumes.background > threshold:
        raise FitError(
            f"the score where nothing is written is {volumes.background:g}, above {threshold:g}: the border is the "
            "volume's"
        )
    return volumes.once((__name__, threshold), lambda: _measure(volumes, threshold))


def _measure(volumes: CaseVolumes, threshold: float) -> BorderDistances | None:
    predicted, marked = volumes.above(threshold), volumes.mhr_above(threshold)
    boxes = [box for box in map(extent, (predicted, marked)) if box is not None]
    if not boxes:
        raise FitError(f"neither score nor mean human response is above {threshold:g} anywhere")
    if len(boxes) == 1:
        return None
    # Coordinates count from the sets' own box: how a case was cropped does not show in the last bit of a distance.
    box = tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(*boxes, strict=True))
    return border_distances(predicted[box], marked[box], volumes.spacing_mm)


def border_distances(
    predicted: npt.NDArray[np.bool_], marked: npt.NDArray[np.bool_], spacing_mm: tuple[float, float, float]
) -> BorderDistances:
    """Distances between the borders of two (z, y, x) masks, neither of them empty; beyond them nothing is set."""
    ours, theirs = _border(predicted), _border(marked)
    return BorderDistances(_to_nearest(ours, theirs, spacing_mm), _to_nearest(theirs, ours, spacing_mm))


def _to_nearest(
    own: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_], spacing_mm: tuple[float, float, float]
) -> npt.NDArray[np.float64]:
    """Distance in mm from each voxel of a mask to the nearest one of another, (n,) float64."""
    from scipy.spatial import cKDTree

    distances = np.zeros(np.count_nonzero(own))
    apart = own & ~other  # a voxel of both needs no search
    if apart.any():
        # Voxels fill space evenly, so a tree need not be balanced.
        tree = cKDTree(_centres(other, spacing_mm), balanced_tree=False, compact_nodes=False)
        distances[apart[own]] = tree.query(_centres(apart, spacing_mm))[0]
    return distances


def _centres(mask: npt.NDArray[np.bool_], spacing_mm: tuple[float, float, float]) -> npt.NDArray[np.float64]:
    """Return where the voxels of a mask are, (n, 3) float64 in mm."""
    places = np.unravel_index(np.flatnonzero(mask), mask.shape)  # several times as quick as np.argwhere
    return np.asarray(np.stack(places, axis=1) * np.asarray(spacing_mm), dtype=np.float64)


def _border(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return a mask without its erosion by the cross of six neighbours; what lies beyond the array is not set."""
    inner = mask.copy()
    for axis in range(3):
        along = inner.swapaxes(0, axis)
        source = mask.swapaxes(0, axis)
        along[1:] &= source[:-1]
        along[:-1] &= source[1:]
        along[[0, -1]] = False
    return mask & ~inner


def _surface_dice_at(argument: str) -> VolumeMetric:
    numbers = re.fullmatch(rf"({_NUMBER})(?::({_NUMBER}))?", argument)
    if numbers is None or float(numbers[1]) >= 1:
        raise RequestError(
            f"surface_dice cannot be taken at {argument!r}.",
            f"Allowed: surface_dice:T or surface_dice:T:MM, with {_THRESHOLD_ALLOWED} and a tolerance in mm.",
        )
    return _surface_dice(f"surface_dice:{argument}", float(numbers[1]), float(numbers[2] or _TOLERANCE_MM))


def _hausdorff95_at(argument: str) -> VolumeMetric:
    number = re.fullmatch(_NUMBER, argument)
    if number is None or float(argument) >= 1:
        raise RequestError(
            f"hausdorff95 cannot be taken at {argument!r}.", f"Allowed: hausdorff95:T, with {_THRESHOLD_ALLOWED}."
        )
    return _hausdorff95(f"hausdorff95:{argument}", float(argument))


def _surface_dice(
    name: str, threshold: float, tolerance_mm: float, with_argument: Callable[[str], VolumeMetric] | None = None
) -> VolumeMetric:
    return VolumeMetric(
        name=name,
        function=partial(surface_dice, threshold=threshold, tolerance_mm=tolerance_mm),
        unit="1",
        better="higher",
        range=(0.0, 1.0),
        description=f"Part of the borders of score and MHR above {threshold:g} within {tolerance_mm:g} mm of the other",
        source="Nikolov et al., JMIR 2021, on voxels",
        argument="T[:MM]" if with_argument else None,
        with_argument=with_argument,
    )


def _hausdorff95(
    name: str, threshold: float, with_argument: Callable[[str], VolumeMetric] | None = None
) -> VolumeMetric:
    return VolumeMetric(
        name=name,
        function=partial(hausdorff95, threshold=threshold),
        unit="mm",
        better="lower",
        range=(0.0, math.inf),
        description=f"95th percentile of the distances between the borders of score and MHR above {threshold:g}",
        source="Huttenlocher et al. 1993, with a percentile per direction as in MONAI",
        argument="T" if with_argument else None,
        with_argument=with_argument,
    )


METRICS = (
    _surface_dice("surface_dice", _THRESHOLD, _TOLERANCE_MM, _surface_dice_at),
    _hausdorff95("hausdorff95", _THRESHOLD, _hausdorff95_at),
)
