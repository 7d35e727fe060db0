"""Cohorts with known truth: lesions with an ambiguous border, an over-confident ensemble and raters who disagree.

The raters are drawn *given* the ensemble's mean score s, so the mean human response at every score is known exactly and
not estimated. Rater r marks a voxel where the latent

    z_r = a logit(s) + b_r + sqrt(rho) G + sqrt(1 - rho) G_r

is above 0. G and G_r are smooth Gaussian random fields that are N(0, 1) at every voxel and independent of s, hence
P(marked by r | s) = Phi(a logit(s) + b_r), Phi being the normal distribution function. The fields make the disagreement
smooth and, through the shared G, correlated between raters; neither touches the truth.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from twintrack_core.codes import CODE_VALUES, MAX_RATERS, encode, mean_codes
from twintrack_core.cohort.case import Case, Geometry, pack_votes
from twintrack_core.errors import RequestError

_Floats = npt.NDArray[np.float32]

_LOGISTIC_TO_PROBIT = 1.702  # the logistic curve is Phi(x / 1.702) to within 0.01 (Haley 1952)
_SCORE_FLOOR = 1e-4  # smaller scores are stored as 0, so the background is empty
_RADIUS_MM = (8.0, 25.0)
_LARGEST_RADIUS = 0.35  # of the volume's length along an axis
_SITES = ("A", "B")

# Lengths below are fractions of the lesion's radius: a small lesion is a large one seen from afar.
_BORDER = 0.07  # distance over which the well-calibrated logit changes by 1
_REACH = 1.2  # scores further outside the lesion than this are 0
_WARP = 0.15  # standard deviation of the border's departure from an ellipsoid
_WARP_SMOOTHNESS = 0.5
_NOISE_SMOOTHNESS = 0.25
_ROI_MARGIN = 0.35

# Standard deviations of the members' noise on the well-calibrated logit.
_ENSEMBLE_NOISE = 0.7
_MEMBER_NOISE = 0.7


@dataclass(frozen=True)
class Simulation:
    """A simulated cohort. Case i depends on its index and these values only, not on ``cases`` or the order of calls.

    Parameters
    ----------
    cases
        Number of cases, at least 1.
    shape
        Voxels (z, y, x) of every case.
    raters
        Raters of every case, 1 to 8. They are the same people throughout the cohort.
    members
        Members of the ensemble, at least 1.
    seed
        Seed of everything random, at least 0.
    spacing_mm
        Voxel size in mm (z, y, x).
    overconfidence
        Factor by which the ensemble inflates its logits. At 1, with ``rater_shift`` and ``rater_spread`` 0, the mean
        human response is the score to within 0.01.
    rater_shift
        Mean of the raters' biases b_r, in standard deviations of z. Below 0 they mark less than the ensemble.
    rater_spread
        Spread of the biases: they are the normal quantiles of this standard deviation, in an order drawn once.
    rater_correlation
        Correlation rho in [0, 1] between the raters given the score.

    Raises
    ------
    RequestError
        If a value is not allowed.
    """

    cases: int
    shape: tuple[int, int, int]
    raters: int = 5
    members: int = 3
    seed: int = 0
    spacing_mm: tuple[float, float, float] = (3.0, 1.0, 1.0)
    overconfidence: float = 2.0
    rater_shift: float = -0.4
    rater_spread: float = 0.3
    rater_correlation: float = 0.4

    def __post_init__(self) -> None:
        _require(_is_whole(self.cases, 1), "cases", self.cases, "a whole number of at least 1")
        shape_fits = len(self.shape) == 3 and all(_is_whole(length, 1) for length in self.shape)
        _require(shape_fits, "shape", self.shape, "three whole numbers of at least 1")
        raters_fit = _is_whole(self.raters, 1) and self.raters <= MAX_RATERS
        _require(raters_fit, "raters", self.raters, f"a whole number from 1 to {MAX_RATERS}")
        _require(_is_whole(self.members, 1), "members", self.members, "a whole number of at least 1")
        _require(_is_whole(self.seed, 0), "seed", self.seed, "a whole number of at least 0")
        lengths_fit = len(self.spacing_mm) == 3 and all(0 < length < math.inf for length in self.spacing_mm)
        _require(lengths_fit, "spacing_mm", self.spacing_mm, "three finite lengths above 0, in mm")
        _require(0 < self.overconfidence < math.inf, "overconfidence", self.overconfidence, "a finite factor above 0")
        _require(math.isfinite(self.rater_shift), "rater_shift", self.rater_shift, "a finite number")
        _require(0 <= self.rater_spread < math.inf, "rater_spread", self.rater_spread, "a finite number, 0 or more")
        _require(0 <= self.rater_correlation <= 1, "rater_correlation", self.rater_correlation, "0 to 1")

    def case_names(self) -> tuple[str, ...]:
        """Names of the cases: case000, case001, ..."""
        return tuple(_case_name(index) for index in range(self.cases))

    @property
    def rater_names(self) -> tuple[str, ...]:
        """Names of the raters in bit order: rater1, rater2, ..."""
        return tuple(f"rater{number}" for number in range(1, self.raters + 1))

    @property
    def rater_biases(self) -> npt.NDArray[np.float64]:
        """The raters' biases b_r, float64, shape (raters,), in standard deviations of z. A larger one marks more."""
        from scipy.special import ndtri

        quantiles = ndtri((np.arange(self.raters) + 0.5) / self.raters)
        order = np.random.default_rng(self.seed).permutation(self.raters)
        return np.asarray(self.rater_shift + self.rater_spread * quantiles[order], dtype=np.float64)

    def truth(self, scores: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """The true mean human response E[MHR | s], at the codes of ``scores``; float64 of the same shape.

        It is the mean over the raters of Phi(a logit(s) + b_r), with a = 1 / (1.702 overconfidence): 0 at s = 0, 1 at
        s = 1, strictly increasing.

        Raises
        ------
        InvalidScoresError
            If a score is NaN, infinite or outside [0, 1].
        RequestError
            If ``scores`` are integers other than uint8.
        """
        from scipy.special import ndtr

        latents = self._latent_of_code()[encode(scores)]
        return np.asarray(np.mean([ndtr(latents + bias) for bias in self.rater_biases], axis=0), dtype=np.float64)

    def read(self, name: str) -> Case:
        """Simulate the case of that name, as a reader reads one.

        Raises
        ------
        RequestError
            If the cohort has no such case.
        """
        names = self.case_names()
        if name not in names:
            raise RequestError(f"The cohort has no case {name!r}.", f"Allowed: {names[0]} to {names[-1]}.")
        return self.case(names.index(name))

    def case(self, index: int) -> Case:
        """Simulate case ``index``, counted from 0.

        The probability is float16, (z, y, x) from one member and (member, z, y, x) from several. The ROI is an
        ellipsoid around the lesion, as a coarse localiser would give it.

        Raises
        ------
        RequestError
            If the cohort has no such case.
        """
        if not 0 <= index < self.cases:
            raise RequestError(f"The cohort has no case {index}.", f"Allowed: 0 to {self.cases - 1}.")
        # Three streams: another number of members or raters leaves the lesion, and the rest of the case, as it was.
        streams = np.random.SeedSequence(self.seed, spawn_key=(index,)).spawn(3)
        lesion = _lesion(np.random.default_rng(streams[0]), self.shape, self.spacing_mm)
        members = self._members(np.random.default_rng(streams[1]), lesion)
        votes = self._votes(np.random.default_rng(streams[2]), lesion, mean_codes(members)[0])
        probability = _embed(members, lesion, self.shape)
        return Case(
            name=_case_name(index),
            probability=probability[0] if self.members == 1 else probability,
            raters=self.rater_names,
            votes=_embed(votes, lesion, self.shape),
            roi=_embed(lesion.roi, lesion, self.shape),
            geometry=Geometry(spacing_mm=self.spacing_mm),
            attributes={"site": _SITES[index % len(_SITES)]},
            source={"simulated": True, "seed": int(self.seed), "index": int(index)},
        )

    def __iter__(self) -> Iterator[Case]:
        return (self.case(index) for index in range(self.cases))

    def _latent_of_code(self) -> npt.NDArray[np.float64]:
        """The value of a logit(s) at every code; infinite at 0 and 1: nobody marks the one, everybody the other."""
        from scipy.special import logit

        return np.asarray(logit(CODE_VALUES) / (_LOGISTIC_TO_PROBIT * self.overconfidence), dtype=np.float64)

    def _members(self, rng: np.random.Generator, lesion: _Lesion) -> npt.NDArray[np.float16]:
        """Scores of the members in the lesion's box, (member, z, y, x)."""
        from scipy.special import expit

        scores = np.empty((self.members, *lesion.depth.shape), dtype=np.float16)
        common = lesion.depth / _BORDER + _ENSEMBLE_NOISE * lesion.noise(rng)
        for member in scores:
            score = expit(self.overconfidence * (common + _MEMBER_NOISE * lesion.noise(rng)))
            member[:] = np.where(score < _SCORE_FLOOR, 0, score)
        return scores

    def _votes(self, rng: np.random.Generator, lesion: _Lesion, codes: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint8]:
        """Packed marks in the lesion's box, given the codes of the mean score."""
        common = self._latent_of_code()[codes] + math.sqrt(self.rater_correlation) * lesion.noise(rng)
        own = math.sqrt(1 - self.rater_correlation)
        return pack_votes([common + own * lesion.noise(rng) + bias > 0 for bias in self.rater_biases])


@dataclass(frozen=True, eq=False)
class _Lesion:
    """A lesion in the box of the volume outside which all scores are 0; depth is in radii, above 0 inside."""

    box: tuple[slice, ...]
    depth: _Floats
    roi: npt.NDArray[np.bool_]
    noise_sigma: tuple[float, ...]  # in voxels

    def noise(self, rng: np.random.Generator) -> _Floats:
        """A smooth random field over the box."""
        return _unit_field(rng.standard_normal(self.depth.shape, dtype=np.float32), self.noise_sigma)


def _lesion(rng: np.random.Generator, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> _Lesion:
    """An ellipsoid of random size and place inside the volume, its surface warped by a smooth field."""
    spacing = np.asarray(spacing_mm)
    size = spacing * shape
    radii = np.minimum(rng.uniform(*_RADIUS_MM) * rng.uniform(0.8, 1.2, size=3), _LARGEST_RADIUS * size)
    centre = rng.uniform(radii, size - radii)

    reach = (1 + _REACH) * radii
    start = np.maximum(np.floor((centre - reach) / spacing), 0).astype(int)
    stop = np.minimum(np.ceil((centre + reach) / spacing), shape).astype(int)
    box = tuple(slice(int(low), int(high)) for low, high in zip(start, stop, strict=True))
    axes = [
        (((np.arange(side.start, side.stop) + 0.5) * step - middle) / radius).astype(np.float32)
        for side, step, middle, radius in zip(box, spacing, centre, radii, strict=True)
    ]
    depth = 1 - np.sqrt(sum(axis**2 for axis in np.ix_(*axes)))

    sigma = np.cbrt(radii.prod()) / spacing
    warp = _unit_field(rng.standard_normal(depth.shape, dtype=np.float32), tuple(_WARP_SMOOTHNESS * sigma))
    return _Lesion(box, depth + _WARP * warp, depth > -_ROI_MARGIN, tuple(_NOISE_SMOOTHNESS * sigma))


def _unit_field(white: _Floats, sigma: tuple[float, ...]) -> _Floats:
    """White noise smoothed over ``sigma`` voxels, still N(0, 1) at every voxel.

    It is filtered periodically and divided by the norm of the filter. Dividing by the sample's own deviation instead
    would bias the marginal, most where the field is smooth.
    """
    from scipy.ndimage import gaussian_filter, gaussian_filter1d

    norm = 1.0
    for length, width in zip(white.shape, sigma, strict=True):
        impulse = np.zeros(length)
        impulse[0] = 1
        norm *= float(np.linalg.norm(gaussian_filter1d(impulse, width, mode="wrap")))
    field = gaussian_filter(white, sigma, mode="wrap", output=np.float32)
    return np.asarray(field / np.float32(norm), dtype=np.float32)


def _embed(part: npt.NDArray[Any], lesion: _Lesion, shape: tuple[int, int, int]) -> npt.NDArray[Any]:
    """The volume that is ``part`` in the lesion's box and 0 elsewhere; leading axes are kept."""
    volume = np.zeros((*part.shape[:-3], *shape), dtype=part.dtype)
    z, y, x = lesion.box
    volume[..., z, y, x] = part
    return volume


def _case_name(index: int) -> str:
    return f"case{index:03d}"


def _is_whole(value: object, lowest: int) -> bool:
    return isinstance(value, int | np.integer) and int(value) >= lowest


def _require(fits: bool, name: str, value: object, allowed: str) -> None:
    if not fits:
        raise RequestError(f"{name} is {value!r}.", f"Allowed: {allowed}.")
