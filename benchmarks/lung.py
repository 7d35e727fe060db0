"""Cohorts as large and as empty as real ones, of which only what is not empty is ever made.

`write_lungs` makes CTs of the size of those in LIDC-IDRI (Armato et al. 2011, doi:10.1118/1.3528204): 1,018 scans, read
by four radiologists, at least one of whom marked 2,669 nodules of 3 mm or more; hence four raters and 1 to 4 nodules a
case here. Where nodules lie, how large they are (log-normal around 8 mm, from 3 to 30 mm) and what readers make of them
is made up; see `twintrack_core.simulate` for how raters disagree. `write_organ` makes one volume of 10^11 voxels, as
microscopes give.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter
from scipy.special import expit, ndtri

from twintrack_core.bench.data import Shape
from twintrack_core.codes import N_CODES
from twintrack_core.cohort.case import Geometry, pack_votes
from twintrack_core.cohort.chunks import Box
from twintrack_core.cohort.scratch import Scratch
from twintrack_core.cohort.store import DIMENSIONS, FORMAT, PART_DTYPES, VERSION, Cohort, open_cohort
from twintrack_core.cohort.writer import CohortWriter, create_array, default_chunks
from twintrack_core.kernels.dispatch import default_threads

RATERS = ("reader1", "reader2", "reader3", "reader4")
ORGAN: Shape = (6000, 4096, 4096)
ORGAN_CHUNKS: Shape = (64, 64, 64)
ORGAN_SHARDS: Shape = (512, 512, 512)

_SIDE = 512
_SLICES = (140, 220, 360)  # fewest, most frequent, most; 240 on average
_LENGTH_MM = 300.0  # of a lung: the more slices, the thinner
_PIXEL_MM = (0.6, 0.8)
_MOST_NODULES = 4
_DIAMETER_MM = (3.0, 8.0, 30.0)  # smallest, median, largest
_DIAMETER_SPREAD = 0.5  # of the logarithm
_LESION_VOXELS = (10.0, 22.0)  # radius in the organ

# Lengths are fractions of the radius, logits those of a calibrated ensemble.
_REACH = 2.2
_BORDER = 0.12  # over which the logit changes by 1
_WARP = 0.1
_ROI_MARGIN = 0.5
_OVERCONFIDENCE = 2.0
_NOISE = 0.7
_LOWEST = 1e-4  # smaller scores are 0
_BIASES = -0.3 + 0.3 * ndtri((np.arange(len(RATERS)) + 0.5) / len(RATERS))
_CORRELATION = 0.4

_Floats = npt.NDArray[np.float32]
_Index = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Lesion:
    """A lesion in the box of the volume outside which there is nothing of it: arrays of the box's shape."""

    box: Box
    probability: npt.NDArray[np.float16]
    votes: npt.NDArray[np.uint8]
    roi: npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class LungCase:
    """A CT: its size and what lies in it."""

    name: str
    shape: Shape
    spacing_mm: tuple[float, float, float]
    lesions: tuple[Lesion, ...]


def lung_case(index: int, seed: int = 0) -> LungCase:
    """Make case ``index``, counted from 0, which depends on the two numbers only."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index,)))
    slices = round(rng.triangular(*_SLICES))
    pixel = rng.uniform(*_PIXEL_MM)
    shape, spacing = (slices, _SIDE, _SIDE), (_LENGTH_MM / slices, pixel, pixel)
    smallest, median, largest = _DIAMETER_MM
    lesions = []
    for _ in range(rng.integers(1, _MOST_NODULES, endpoint=True)):
        diameter = min(max(median * rng.lognormal(0, _DIAMETER_SPREAD), smallest), largest)
        centre = rng.uniform(0.15, 0.85, 3) * shape
        lesions.append(_lesion(rng, shape, centre, diameter / 2 / np.asarray(spacing)))
    return LungCase(f"lung{index:04d}", shape, spacing, tuple(lesions))


def _lesion(rng: np.random.Generator, shape: Shape, centre: npt.NDArray[Any], radius: npt.NDArray[Any]) -> Lesion:
    """A warped ellipsoid with an ambiguous border, and raters who disagree about it; lengths in voxels."""
    radii = radius * rng.uniform(0.8, 1.2, 3)
    start = np.maximum(np.floor(centre - _REACH * radii), 0).astype(int).tolist()
    stop = np.minimum(np.ceil(centre + _REACH * radii), shape).astype(int).tolist()
    axes = [
        ((np.arange(low, high, dtype=np.float32) + 0.5 - middle) / length).astype(np.float32)
        for low, high, middle, length in zip(start, stop, centre, radii, strict=True)
    ]
    depth = 1 - np.sqrt(sum(axis**2 for axis in np.ix_(*axes)))

    def field(width: float) -> _Floats:
        """Smooth noise of mean 0 and deviation 1."""
        white = rng.standard_normal(depth.shape, dtype=np.float32)
        smooth = gaussian_filter(white, width * radius, mode="wrap", truncate=2.5)
        return np.asarray(smooth / smooth.std())

    logit = (depth + _WARP * field(0.5)) / _BORDER + _NOISE * field(0.25)
    scores = expit(_OVERCONFIDENCE * logit)
    scores[scores < _LOWEST] = 0
    common = logit / 1.7 + math.sqrt(_CORRELATION) * field(0.25)  # the logistic curve is about Phi(x / 1.7)
    own = math.sqrt(1 - _CORRELATION)
    votes = pack_votes([(common + own * field(0.25) + bias > 0) & (scores > 0) for bias in _BIASES])
    box = tuple(map(slice, start, stop))
    return Lesion(box, scores.astype(np.float16), votes, depth > -_ROI_MARGIN)


def write_lungs(
    path: Path, cases: int, *, seed: int = 0, chunks: Shape | None = None, threads: int | None = None
) -> Cohort:
    """Write a cohort of CTs, of which only chunks near nodules are made.

    Parameters
    ----------
    path
        Store to make.
    cases
        How many.
    seed
        Seed of everything random.
    chunks
        Chunk shape; None for what the package writes.
    threads
        How many threads make cases, all cores by default.
    """
    names = [f"lung{index:04d}" for index in range(cases)]
    writer = CohortWriter(path, names, source={"simulated": True, "seed": seed})
    with ThreadPoolExecutor(threads or default_threads()) as pool:
        for _ in pool.map(partial(_write_case, writer, seed, chunks), range(cases)):
            pass
    writer.finish()
    return open_cohort(path)


def _write_case(writer: CohortWriter, seed: int, chunks: Shape | None, index: int) -> None:
    case = lung_case(index, seed)
    folder = writer.begin_case(
        case.name, raters=RATERS, geometry=Geometry(case.spacing_mm), attributes={}, source={"index": index}
    )
    shape = chunks or default_chunks(case.shape)
    arrays = {
        name: create_array(folder / name, case.shape, dtype, chunks=shape)
        for name, dtype in (("probability", np.float16), ("votes", np.uint8), ("roi", np.bool_))
    }
    scratch = Scratch()
    for place, parts in _chunks(case.lesions, case.shape, shape):
        for name, values in parts.items():
            if values.any():
                arrays[name].write_chunk(place, values, scratch)
    writer.end_case(case.name)


def _chunks(
    lesions: Sequence[Lesion], shape: Sequence[int], chunks: Sequence[int]
) -> Iterator[tuple[_Index, Mapping[str, npt.NDArray[Any]]]]:
    """Chunks that lesions lie in, one after the other, each with all that is in it."""
    touching: dict[_Index, list[Lesion]] = {}
    for lesion in lesions:
        ranges = (range(s.start // n, -(-s.stop // n)) for s, n in zip(lesion.box, chunks, strict=True))
        for index in itertools.product(*ranges):
            touching.setdefault(index, []).append(lesion)
    for index, some in sorted(touching.items(), key=lambda item: item[0]):
        start = [i * n for i, n in zip(index, chunks, strict=True)]
        size = [min(n, end - low) for n, end, low in zip(chunks, shape, start, strict=True)]
        parts: dict[str, npt.NDArray[Any]] = {
            "probability": np.zeros(size, dtype=np.float16),
            "votes": np.zeros(size, dtype=np.uint8),
            "roi": np.zeros(size, dtype=np.bool_),
        }
        for lesion in some:
            common = [
                (max(s.start, low), min(s.stop, low + n)) for s, low, n in zip(lesion.box, start, size, strict=True)
            ]
            to = tuple(slice(a - low, b - low) for (a, b), low in zip(common, start, strict=True))
            of = tuple(slice(a - s.start, b - s.start) for (a, b), s in zip(common, lesion.box, strict=True))
            for name, target in parts.items():
                combine = np.maximum if name == "probability" else np.bitwise_or
                combine(target[to], getattr(lesion, name)[of], out=target[to])
        yield index, parts


@dataclass(frozen=True, eq=False)
class Organ:
    """A volume of one case, and what is known of it.

    Attributes
    ----------
    cohort
        The store.
    lesions
        What lies in it, no two in one shard.
    counts
        (codes, patterns) int64, how many voxels have each.
    """

    cohort: Cohort
    lesions: tuple[Lesion, ...]
    counts: npt.NDArray[np.int64]


def write_organ(path: Path, lesions: int, *, shape: Shape = ORGAN, seed: int = 0) -> Organ:
    """Write one large volume in shards with zarr-python, as a user would; each lesion lies in a shard of its own."""
    import zarr

    rng = np.random.default_rng(seed)
    grid = [-(-n // shard) for n, shard in zip(shape, ORGAN_SHARDS, strict=True)]
    places = np.stack(np.unravel_index(rng.choice(math.prod(grid), lesions, replace=False), grid), axis=1)
    ends = np.minimum((places + 1) * ORGAN_SHARDS, shape)
    made = tuple(
        _lesion(rng, shape, (low + high) / 2, np.full(3, rng.uniform(*_LESION_VOXELS)))
        for low, high in zip(places * ORGAN_SHARDS, ends, strict=True)
    )
    root = zarr.create_group(str(path), attributes=_attributes(format=FORMAT, version=VERSION, cases=["organ"]))
    described = {
        "raters": list(RATERS),
        "spacing_mm": [0.002] * 3,
        "geometry": {"origin": [0.0] * 3, "direction": np.eye(3).ravel().tolist()},
        "attributes": {},
        "source": {"simulated": True, "seed": seed},
    }
    case = root.create_group("organ", attributes=_attributes(**described))
    for name, dtype in {"probability": "float16", "votes": PART_DTYPES["votes"]}.items():
        array = case.create_array(
            name,
            shape=shape,
            chunks=ORGAN_CHUNKS,
            shards=ORGAN_SHARDS,
            dtype=dtype,
            fill_value=0,
            dimension_names=DIMENSIONS[3],
        )
        for lesion in made:
            array[lesion.box] = getattr(lesion, name)
    return Organ(open_cohort(path), made, _counts(made, math.prod(shape)))


def _attributes(**content: Any) -> dict[str, Any]:
    return {"twintrack": {**content, "complete": True}}


def _counts(lesions: Sequence[Lesion], voxels: int) -> npt.NDArray[np.int64]:
    patterns = 2 ** len(RATERS)
    counts = np.zeros(N_CODES * patterns, dtype=np.int64)
    for lesion in lesions:
        cells = lesion.probability.view(np.uint16).astype(np.intp) * patterns + lesion.votes
        counts += np.bincount(cells.ravel(), minlength=len(counts))
    counts[0] += voxels - counts.sum()
    return counts.reshape(N_CODES, patterns)
