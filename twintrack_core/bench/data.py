"""Volumes to measure on: what real cases look like to a kernel and to a decompressor, and the extremes."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from twintrack_core.bench.timing import version_of
from twintrack_core.codes import CODE_VALUES, N_CODES, mean_codes
from twintrack_core.errors import RequestError
from twintrack_core.maps import CalibrationMap

RATERS = ("r1", "r2", "r3", "r4", "r5")
DATA_VARIABLE = "TWINTRACK_TEST_DATA"

MAP = CalibrationMap(score=CODE_VALUES[::60], value=CODE_VALUES[::60] ** 0.75)
"""The map that is applied: 257 knots, about as many as a fit to real voxels has."""

Shape: TypeAlias = tuple[int, int, int]
Scores: TypeAlias = npt.NDArray[np.float16]
Votes: TypeAlias = npt.NDArray[np.uint8]

_BLOCK = 256  # side of the block that larger volumes are tiled from
_SHIFTS = (-0.06, -0.02, 0.0, 0.03, 0.05)  # how far each rater's border lies from the common one


@dataclass(frozen=True)
class Kind:
    """A kind of volume.

    Attributes
    ----------
    description
        What its scores and marks are.
    make
        Scores and votes of a shape, from a generator of random numbers.
    """

    description: str
    make: Callable[[Shape, np.random.Generator], tuple[Scores, Votes]]


def _unwritten(shape: Shape, rng: np.random.Generator) -> tuple[Scores, Votes]:
    scores, votes = np.zeros(shape, dtype=np.float16), np.zeros(shape, dtype=np.uint8)
    box = tuple(slice(n // 2 - min(40, n // 8), n // 2 + min(40, n // 8)) for n in shape)
    _add_lesion(scores[box], votes[box], rng)
    return scores, votes


def _region(shape: Shape, rng: np.random.Generator) -> tuple[Scores, Votes]:
    noise = np.zeros(shape, dtype=np.float16)
    side = 0.1 ** (1 / 3)
    inside = noise[tuple(slice(int(n * (0.5 - side / 2)), int(n * (0.5 + side / 2))) for n in shape)]
    inside[:] = rng.beta(0.3, 0.3, inside.shape)
    scores, votes = _unwritten(shape, rng)
    return np.where(scores > 0, scores, noise), votes


def _softmax(shape: Shape, rng: np.random.Generator) -> tuple[Scores, Votes]:
    scores, votes = _unwritten(shape, rng)
    for plane in scores:
        noise = np.minimum(10.0 ** rng.normal(-5, 1, plane.shape), 1)
        plane[:] = np.where(plane > 0, plane, noise)
    return scores, votes


def _saturated(shape: Shape, rng: np.random.Generator) -> tuple[Scores, Votes]:
    scores, votes = np.empty(shape, dtype=np.float16), np.zeros(shape, dtype=np.uint8)
    _, y, x = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in (1, *shape[1:]))]
    for plane, marks, z in zip(scores, votes, np.linspace(-1, 1, shape[0]), strict=True):
        depth = 0.8 - np.sqrt(z**2 + y[0] ** 2 + x[0] ** 2)
        plane[:] = 1 / (1 + np.exp(-(60 * depth + rng.normal(0, 4, depth.shape))))
        _mark(marks, depth, [z, y[0], x[0]])
    return scores, votes


def _uniform(shape: Shape, rng: np.random.Generator) -> tuple[Scores, Votes]:
    codes = rng.integers(0, N_CODES, shape, dtype=np.uint16)
    return codes.view(np.float16), rng.integers(0, 1 << len(RATERS), shape, dtype=np.uint8)


def _one_bin(shape: Shape, _: np.random.Generator) -> tuple[Scores, Votes]:
    return np.full(shape, 0.5, dtype=np.float16), np.full(shape, 0b00101, dtype=np.uint8)


def _cells(shape: Shape, _: np.random.Generator) -> tuple[Scores, Votes]:
    scores, votes = _real_voxels(str(_cells_folder()))
    n = math.prod(shape)
    return np.resize(scores, n).reshape(shape), np.resize(votes, n).reshape(shape)


KINDS: Mapping[str, Kind] = {
    "unwritten": Kind("zero but for a lesion, a cohort restricted to a region", _unwritten),
    "region": Kind("noise in a box of a tenth of the volume, zero elsewhere, and a lesion", _region),
    "softmax": Kind("small numbers everywhere, as a network gives them, and a lesion", _softmax),
    "saturated": Kind("nearly all scores near 0 and 1", _saturated),
    "uniform": Kind("every score code and every rater pattern alike likely", _uniform),
    "one_bin": Kind("one score and one pattern", _one_bin),
    "cells": Kind(f"real: three networks and five experts on cells, repeated (needs {DATA_VARIABLE})", _cells),
}


@dataclass(frozen=True, eq=False)
class Volume:
    """One case of five raters in memory, and the same in the forms that other libraries take.

    Attributes
    ----------
    kind
        Name of its kind.
    scores
        (z, y, x) float16.
    votes
        (z, y, x) uint8, bit r set where rater r marked the voxel.
    """

    kind: str
    scores: Scores
    votes: Votes

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        return self.scores.size

    @cached_property
    def codes(self) -> npt.NDArray[np.intp]:
        """Score code of every voxel, (n,)."""
        return self.scores.reshape(-1).view(np.uint16).astype(np.intp)

    @cached_property
    def patterns(self) -> npt.NDArray[np.intp]:
        """Rater pattern of every voxel, (n,)."""
        return self.votes.reshape(-1).astype(np.intp)

    @cached_property
    def values(self) -> npt.NDArray[np.float64]:
        """Score of every voxel, (n,)."""
        return CODE_VALUES[self.codes]

    @cached_property
    def mhr(self) -> npt.NDArray[np.float64]:
        """Mean human response of every voxel, (n,)."""
        return np.bitwise_count(self.votes.reshape(-1)) / len(RATERS)

    @cached_property
    def masks(self) -> npt.NDArray[np.uint8]:
        """The raters' masks, (R, z, y, x) of 0 and 1."""
        return np.stack([(self.votes >> np.uint8(rater)) & np.uint8(1) for rater in range(len(RATERS))])


def volume(kind: str, voxels: int, seed: int = 0) -> Volume:
    """Make a volume of about so many voxels, near-cubic blocks one behind the other; the same for the same arguments.

    Raises
    ------
    RequestError
        For an unknown kind, or real data that are not there.
    """
    side = max(8, min(_BLOCK, round(voxels ** (1 / 3) / 8) * 8))
    scores, votes = arrays(kind, (side, side, side), seed)
    if side < _BLOCK:
        return Volume(kind, scores, votes)
    depth = round(voxels / side**2)
    blocks = -(-depth // side)
    return Volume(kind, *(np.concatenate([array] * blocks)[:depth] for array in (scores, votes)))


def arrays(kind: str, shape: Shape, seed: int = 0) -> tuple[Scores, Votes]:
    """Scores and votes of one shape, not tiled; see `volume`."""
    require_kind(kind)
    require_available(kind)
    return KINDS[kind].make(shape, np.random.default_rng(seed))


def require_kind(kind: str) -> None:
    """Refuse an unknown kind."""
    if kind not in KINDS:
        raise RequestError(f"There is no kind of volume {kind!r}.", f"Allowed: {', '.join(KINDS)}.")


def require_available(kind: str) -> None:
    """Refuse real data that are not there."""
    reason = why_not(kind)
    if reason:
        raise RequestError(f"There are no {kind} data: {reason}.", f"Allowed: {', '.join(available_kinds())}.")


def why_not(kind: str) -> str | None:
    """Why volumes of a kind cannot be made here, None if they can."""
    if kind != "cells":
        return None
    if not os.environ.get(DATA_VARIABLE):
        return f"{DATA_VARIABLE} does not name a folder with cells in it"
    if not _cells_folder().is_dir():
        return f"{_cells_folder()} does not exist"
    return None if version_of("SimpleITK") else "reading them needs SimpleITK: pip install twintrack-core[io]"


def available_kinds() -> tuple[str, ...]:
    """Kinds that can be made here."""
    return tuple(kind for kind in KINDS if why_not(kind) is None)


def _cells_folder() -> Path:
    return Path(os.environ[DATA_VARIABLE]) / "cells"


@functools.cache
def _real_voxels(folder: str) -> tuple[Scores, Votes]:
    """Mean scores and votes of the calibration cases, one behind the other."""
    from twintrack_core.cohort.nnunet import NnunetReader

    root = Path(folder) / "calibration"
    reader = NnunetReader(
        members=tuple(root / f"member{number}" for number in range(3)),
        raters=tuple(root / f"rater{number}" for number in range(1, 6)),
    )
    scores: list[npt.NDArray[Any]] = []
    votes: list[npt.NDArray[Any]] = []
    for name in reader.case_names():
        case = reader.read(name)
        assert case.votes is not None  # noqa: S101 - for mypy; five raters were asked for
        codes, _valid = mean_codes(case.probability)
        scores.append(codes.view(np.float16).reshape(-1))
        votes.append(case.votes.reshape(-1))
    return np.concatenate(scores), np.concatenate(votes)


def _add_lesion(scores: Scores, votes: Votes, rng: np.random.Generator) -> None:
    axes = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in scores.shape)]
    depth = 0.7 - np.sqrt(sum(axis**2 for axis in axes))
    noisy = 12 * depth + rng.normal(0, 0.5, scores.shape)
    scores[:] = np.where(depth > -0.3, 1 / (1 + np.exp(-noisy)), scores).astype(np.float16)
    _mark(votes, depth, axes)


def _mark(votes: Votes, depth: npt.NDArray[np.float64], axes: Sequence[Any]) -> None:
    """Let every rater mark what is deep enough; borders cross, or STAPLE would hardly be determined."""
    z, y, x = axes
    for rater, shift in enumerate(_SHIFTS):
        wave = np.sin(7 * z + 2 * rater) + np.sin(5 * y + 3 * rater) + np.sin(6 * x + rater)
        votes |= (depth + shift + 0.05 * wave > 0).astype(np.uint8) << np.uint8(rater)
