"""Volumes and cohorts to measure on: what real cohorts look like to a kernel and to a decompressor."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from twintrack_core.cohort.case import Case
from twintrack_core.cohort.store import Cohort, open_cohort
from twintrack_core.cohort.writer import CohortWriter

KINDS = ("unwritten", "region", "softmax")
SHAPE = (320, 512, 512)
"""A large CT: 84 million voxels."""

RATERS = ("r1", "r2", "r3", "r4", "r5")


def volume(kind: str, shape: tuple[int, int, int], seed: int = 0) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]:
    """Scores (float16) and votes (five raters, uint8) of one case.

    - unwritten: zero but for a lesion in about 1 % of the chunks.
    - region: noise in a box of a tenth of the volume, zero elsewhere.
    - softmax: small numbers everywhere, as a network gives them, and a lesion.
    """
    rng = np.random.default_rng(seed)
    scores = np.zeros(shape, dtype=np.float16)
    votes = np.zeros(shape, dtype=np.uint8)
    if kind == "softmax":
        for plane in scores:
            plane[:] = np.minimum(10.0 ** rng.normal(-5, 1, plane.shape), 1)
    if kind == "region":
        side = 0.1 ** (1 / 3)
        box = tuple(slice(int(n * (0.5 - side / 2)), int(n * (0.5 + side / 2))) for n in shape)
        inside = scores[box]
        inside[:] = rng.beta(0.3, 0.3, inside.shape)
    lesion = tuple(slice(n // 2 - min(40, n // 8), n // 2 + min(40, n // 8)) for n in shape)
    _add_lesion(scores[lesion], votes[lesion], rng)
    return scores, votes


def _add_lesion(scores: npt.NDArray[Any], votes: npt.NDArray[np.uint8], rng: np.random.Generator) -> None:
    axes = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in scores.shape)]
    depth = 0.7 - np.sqrt(sum(axis**2 for axis in axes))
    noisy = 12 * depth + rng.normal(0, 0.5, scores.shape)
    scores[:] = np.where(depth > -0.3, 1 / (1 + np.exp(-noisy)), scores).astype(np.float16)
    for rater, shift in enumerate((-0.06, -0.02, 0.0, 0.03, 0.05)):
        votes |= (depth + shift > 0).astype(np.uint8) << np.uint8(rater)


def cohort(kind: str, folder: Path, cases: int, shape: tuple[int, int, int] = SHAPE) -> Cohort:
    """Make a cohort of equal cases; all but the first are hard links, so that making it is quick."""
    path = folder / f"{kind}-{cases}.zarr"
    names = [f"case{index:04d}" for index in range(cases)]
    writer = CohortWriter(path, names)
    scores, votes = volume(kind, shape)
    writer.write_case(Case(name=names[0], probability=scores, raters=RATERS, votes=votes))
    for name in names[1:]:
        shutil.copytree(path / names[0], path / name, copy_function=os.link)
    writer.finish()
    return open_cohort(path)
