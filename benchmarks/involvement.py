"""What vascular involvement costs as volumes, lesions and vessels grow, against SciPy slice by slice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage, stats

from benchmarks.sections import Section, Settings, table
from twintrack_core import metrics
from twintrack_core.bench.timing import Spread, alternate
from twintrack_core.metrics import CaseVolumes

_SHAPES = ((40, 128, 128), (80, 256, 256), (160, 512, 512))
_RADII = ((12, 6), (24, 6), (12, 16), (36, 24))
_SHAPE, _RADIUS = _SHAPES[1], _RADII[0]
_THRESHOLDS = np.linspace(0.1, 0.8, 6)
_RATERS = 5
_VESSELS = 5

Mask = npt.NDArray[np.bool_]


def involvement(settings: Settings) -> Section:
    """Time both readings of one case together; SciPy takes the exact one alone, cropped to where the vessel is."""
    cases = [*((shape, _RADIUS) for shape in _SHAPES), *((_SHAPE, radii) for radii in _RADII[1:])]
    rows = []
    for shape, (lesion, vessel) in cases:
        volumes = _case(shape, lesion, vessel)
        assert volumes.vessels is not None
        written = int(np.count_nonzero(volumes.vessels))
        works = [_ours(volumes), _scipy(volumes)]
        assert np.isclose(works[0](), works[1](), rtol=1e-9)
        ours, theirs = alternate(works, settings.runs).T
        rows.append(
            (
                " x ".join(map(str, shape)), lesion, vessel, f"{written:,}",
                Spread.of(ours).scaled(1e3), Spread.of(theirs / ours),
            )
        )  # fmt: skip
    title = f"{_VESSELS} vessels, {_RATERS} raters, {len(_THRESHOLDS)} thresholds; every voxel has a score"
    header = (
        "volume", "lesion radius", "vessel radius", "vessel voxels", "vi_exact and vi_official, ms",
        "SciPy by slices, vi_exact alone / both",
    )  # fmt: skip
    return Section(table(title, header, rows))


def _case(shape: tuple[int, int, int], lesion: float, vessel: float) -> CaseVolumes:
    """Make a ball of a lesion in the middle that raters see in different sizes, and tubes along z that touch it."""
    z, y, x = np.ogrid[tuple(slice(-(size // 2), size - size // 2) for size in shape)]
    distance = np.sqrt((z**2 + y**2 + x**2).astype(np.float32))
    votes, vessels = np.zeros(shape, dtype=np.uint8), np.zeros(shape, dtype=np.uint8)
    for rater in range(_RATERS):
        votes |= (distance < lesion + rater - _RATERS / 2).astype(np.uint8) << np.uint8(rater)
    for label in range(1, _VESSELS + 1):
        angle, away = 2 * np.pi * label / _VESSELS, lesion + 0.7 * vessel
        inside = (y - away * np.sin(angle)) ** 2 + (x - away * np.cos(angle)) ** 2 < vessel**2
        vessels[2:-2][np.broadcast_to(inside, vessels.shape)[2:-2]] = label
    scores = (1 / (1 + np.exp(np.clip(4 * (distance - lesion) / lesion, -9, 9)))).astype(np.float16)
    names = tuple(f"r{rater}" for rater in range(_RATERS))
    return CaseVolumes(codes=scores.view(np.uint16), raters=names, votes=votes, vessels=vessels, shape=shape)


def _ours(volumes: CaseVolumes) -> Callable[[], float]:
    both = metrics.resolve(["vi_exact", "vi_official"])

    def work() -> float:
        fresh = replace(volumes)  # which has nothing of an earlier run
        exact, _ = [metric(fresh) for metric in both if isinstance(metric, metrics.VolumeMetric)]
        assert isinstance(exact, float)
        return exact

    return work


def _scipy(volumes: CaseVolumes) -> Callable[[], float]:
    assert volumes.vessels is not None
    vessels = volumes.vessels
    lesions = [volumes.marked_by(rater) for rater in volumes.raters] + [volumes.above(t) for t in _THRESHOLDS.tolist()]

    def work() -> float:
        found = []
        for label, box in enumerate(ndimage.find_objects(vessels), start=1):
            wide = tuple(slice(max(0, part.start - 2), part.stop + 2) for part in box)
            for axis in range(3):
                angles = [max(_angles(vessels[wide] == label, lesion[wide], axis), default=0.0) for lesion in lesions]
                found.append(_distance(angles[:_RATERS], angles[_RATERS:]))
        return float(np.mean(found))

    return work


def _distance(one: list[float], other: list[float]) -> float:
    """1-Wasserstein distance of the normal distributions of two sets, in closed form."""
    d, s = abs(np.mean(one) - np.mean(other)), abs(np.std(one) - np.std(other))
    if s == 0:
        return float(d)
    folded = s * np.sqrt(2 / np.pi) * np.exp(-(d**2) / (2 * s**2)) + d * (1 - 2 * stats.norm.cdf(-d / s))
    return float(folded)


def _angles(vessel: Mask, lesion: Mask, axis: int) -> Iterator[float]:
    """Angles in the slices along an axis that hold both, each pixel of the edge counted once."""
    cross, square = ndimage.generate_binary_structure(2, 1), np.ones((3, 3))
    for inside, marked in zip(np.moveaxis(vessel, axis, 0), np.moveaxis(lesion, axis, 0), strict=True):
        if inside.any() and marked.any():
            edge = inside & ~ndimage.binary_erosion(inside, cross)
            dilated = ndimage.binary_dilation(marked, cross)
            touched = edge & (dilated | ndimage.binary_dilation(dilated & ~edge, square))
            yield np.count_nonzero(touched) / np.count_nonzero(edge) * 360
