"""Calibration maps: from score to calibrated score, with where they come from; called on arrays, kept as JSON."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from twintrack_core import kernels
from twintrack_core.array_types import array_types
from twintrack_core.codes import CODE_VALUES, OnInvalid, encode
from twintrack_core.errors import MapError, RequestError
from twintrack_core.map_json import dump_map, parse_map, read_text
from twintrack_core.paths import write_text

BOUNDS = ("lower", "upper")
"""The two bounds of a band."""

_OUTPUT_DTYPES = tuple(np.dtype(name) for name in ("float16", "float32", "float64", "uint8"))


@dataclass(frozen=True, eq=False, repr=False)
class CalibrationMap:
    """A non-decreasing function from score to calibrated score. Immutable, equal and hashed by value.

    Between knots it interpolates linearly, beyond the outermost ones it is constant, as scikit-learn's
    ``IsotonicRegression(out_of_bounds="clip")``. A score is rounded to its float16 code first.

    Attributes
    ----------
    score
        (n,) float64 knots, n >= 1, strictly increasing in [0, 1].
    value
        (n,) float64 calibrated scores at the knots, non-decreasing in [0, 1].
    calibrator, parameters
        Name of the calibrator that made the map, and what it fitted besides the knots.
    target
        What it was fitted to: "mhr", "majority", "staple" or "rater:NAME".
    roi
        Rule of the region of interest whose inside it was fitted to; None for a histogram, which has no rule.
    raters, cases
        Names of the raters and cases it was fitted to.
    skipped
        Names of the cases of the cohort that could not be read.
    voxels
        How many voxels these were.
    statistics
        SHA-256 of the statistics it was fitted to, see `CohortStatistics.digest` and `JointHistogram.digest`.
    package_version
        Version of twintrack-core that made it.
    lower, upper
        The band, where the calibrator gives one: (n,) float64 bounds at the knots, non-decreasing,
        0 <= lower <= value <= upper <= 1. What they mean is the calibrator's to say. None, both, where there is none.

    Raises
    ------
    MapError
        If the knots are no such functions, or the rest is of the wrong type.
    """

    score: npt.NDArray[np.float64]
    value: npt.NDArray[np.float64]
    calibrator: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    target: str = ""
    roi: str | None = None
    raters: tuple[str, ...] = ()
    cases: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    voxels: int = 0
    statistics: str = ""
    package_version: str = ""
    lower: npt.NDArray[np.float64] | None = None
    upper: npt.NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        if (self.lower is None) != (self.upper is None):
            there, missing = BOUNDS if self.upper is None else reversed(BOUNDS)
            raise MapError(f"The knots have {there} bounds, but no {missing} ones.", "Allowed: both, or neither.")
        columns = {"score": "score", "value": "value"}
        if self.lower is not None:
            columns |= {name: f"{name} bound" for name in BOUNDS}
        for name, words in columns.items():
            object.__setattr__(self, name, _check_numbers(getattr(self, name), words))
        _check_knots({words: getattr(self, name) for name, words in columns.items()})
        if self.lower is not None and self.upper is not None:
            _check_band(self.lower, self.value, self.upper)
        for name in ("raters", "cases", "skipped"):
            object.__setattr__(self, name, _check_names(getattr(self, name), name))
        for name in ("calibrator", "target", "statistics", "package_version"):
            if not isinstance(getattr(self, name), str):
                raise MapError(f"{name} is {getattr(self, name)!r:.80}.", "Allowed: a string.")
        if not isinstance(self.roi, str | None):
            raise MapError(f"roi is {self.roi!r:.80}.", "Allowed: a string, or null.")
        if type(self.voxels) is not int or self.voxels < 0:
            raise MapError(f"voxels is {self.voxels!r:.80}.", "Allowed: an integer, 0 or more.")
        object.__setattr__(self, "parameters", _check_parameters(self.parameters))

    def bound(self, which: Literal["lower", "upper"]) -> CalibrationMap:
        """Return the map to one bound of the band, to be used like any other.

        Parameters
        ----------
        which
            "lower" or "upper".

        Returns
        -------
        CalibrationMap
            Its value is the bound and it has no band; its parameters say so, as ``"bound"``. The rest is the same.

        Raises
        ------
        RequestError
            If there is no such bound, or the map has no band.
        """
        if which not in BOUNDS:
            raise RequestError(f"There is no bound {which!r}.", f"Allowed: {', '.join(BOUNDS)}.")
        value = self.lower if which == "lower" else self.upper
        if value is None:
            raise RequestError(
                f"The map of the calibrator {self.calibrator!r} has no band, so there is no {which} bound.",
                "Allowed: a map with a band.",
                "Fit one with a calibrator that gives bands, such as venn_abers of twintrack-venn-abers.",
            )
        return replace(self, value=value, lower=None, upper=None, parameters={**self.parameters, "bound": which})

    @cached_property
    def table(self) -> npt.NDArray[np.float64]:
        """Calibrated score of every code, (15361,) float64, read-only."""
        # Interpolation may round past the knots it lies between, by one unit in the last place.
        table = np.clip(np.interp(CODE_VALUES, self.score, self.value), self.value[0], self.value[-1])
        table.flags.writeable = False
        return table

    def table_as(self, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Calibrated score of every code, (15361,) in an output dtype.

        Parameters
        ----------
        dtype
            float16, float32, float64, or uint8 meaning k / 255; each rounds `table` once, to nearest, ties to even.

        Raises
        ------
        RequestError
            For any other dtype.
        """
        wanted = _check_dtype(dtype)
        if wanted == np.uint8:
            return np.rint(self.table * 255).astype(np.uint8)
        return self.table.astype(wanted)

    @property
    def codes(self) -> npt.NDArray[np.uint16]:
        """Score code that each code becomes, (15361,) uint16: what a calibrated float16 volume holds."""
        return encode(self.table_as(np.float16))

    def __call__(
        self,
        scores: Any,
        *,
        members: bool = False,
        dtype: npt.DTypeLike | None = None,
        threads: int | None = None,
        on_invalid: OnInvalid = "error",
    ) -> Any:
        """Calibrate scores.

        Parameters
        ----------
        scores
            (...) scores in [0, 1]: a NumPy array, a list or a number, or an array of a type that was registered with
            `array_types.register_array_type`. float16, float32, float64, or uint8 meaning k / 255.
        members
            The first axis is the ensemble's; its members are averaged first.
        dtype
            Of the result: float16, float32, float64 or uint8. By default that of ``scores``; float32 for uint8.
        threads
            For NumPy arrays; all cores by default.
        on_invalid
            What to do with invalid scores: "error", "clip", or "exclude", which makes them NaN.

        Returns
        -------
        array
            (...) of the kind that came in.

        Raises
        ------
        RequestError
            For other arrays and dtypes.
        InvalidScoresError
            For scores that are not probabilities, unless ``on_invalid`` allows them.
        """
        module = type(scores).__module__
        if module in ("numpy", "builtins"):
            return self._call_numpy(scores, members, dtype, threads, on_invalid)
        apply = array_types.get(module.partition(".")[0])
        if apply is None:
            raise RequestError(
                f"Scores cannot be of type {module}.{type(scores).__qualname__}.",
                f"Allowed: NumPy arrays, lists, numbers{''.join(f', {name} arrays' for name in sorted(array_types))}.",
                "Convert them with numpy.asarray.",
            )
        return apply(self, scores, members=members, dtype=dtype, on_invalid=on_invalid)

    def _call_numpy(
        self, scores: Any, members: bool, dtype: npt.DTypeLike | None, threads: int | None, on_invalid: OnInvalid
    ) -> Any:
        array = np.asarray(scores)
        if not isinstance(scores, np.ndarray | np.generic) and array.dtype == np.int_:
            array = array.astype(np.float64)  # 0 and 1 among Python numbers are scores
        lut = self.table_as(output_dtype(array.dtype, dtype))
        return kernels.relabel(array, lut, members=members, threads=threads, on_invalid=on_invalid)[()]

    def to_json(self) -> str:
        """Return the map as canonical JSON, one knot a line: equal maps give equal text."""
        return dump_map(self)

    @classmethod
    def from_json(cls, text: str) -> CalibrationMap:
        """Read a map from JSON. Everything in it is checked.

        Raises
        ------
        MapError
            If it is not a map of a known version.
        """
        return cls(**parse_map(text))

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the map as JSON, whole or not at all.

        Raises
        ------
        RequestError
            If ``path`` exists and ``overwrite`` is not set, or its parent folder does not exist.
        WorkError
            If writing fails, for example on a full disk.
        """
        write_text(Path(path), self.to_json(), overwrite=overwrite)

    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hexadecimal."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return self.to_json() == other.to_json() if isinstance(other, CalibrationMap) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.to_json())

    def __repr__(self) -> str:
        return (
            f"<CalibrationMap: {self.calibrator or 'unnamed'} to {self.target or 'nothing'}, "
            f"{len(self.score)} knots{'' if self.lower is None else ' with a band'}, "
            f"from {self.voxels} voxels of {len(self.cases)} cases>"
        )


def load_map(path: str | os.PathLike[str]) -> CalibrationMap:
    """Read a map that `CalibrationMap.save` wrote. Everything in it is checked.

    Raises
    ------
    RequestError
        If there is no file at ``path``.
    MapError
        If it is not a map of a known version.
    """
    try:
        return CalibrationMap.from_json(read_text(Path(path)))
    except MapError as error:
        action = error.action or "Undo the edit, or fit the map again with twintrack fit."
        raise MapError(f"{os.fspath(path)}: {error.what}", error.allowed, action) from error


def output_dtype(scores: npt.DTypeLike, dtype: npt.DTypeLike | None = None) -> np.dtype[Any]:
    """Dtype of calibrated scores: ``dtype`` if given, else that of ``scores``, but float32 for uint8.

    Raises
    ------
    RequestError
        For a dtype maps cannot produce.
    """
    if dtype is not None:
        return _check_dtype(dtype)
    own = np.dtype(scores).newbyteorder("=")
    return np.dtype(np.float32) if own == np.uint8 else _check_dtype(own)


def _check_dtype(dtype: npt.DTypeLike) -> np.dtype[Any]:
    wanted = np.dtype(dtype)
    if wanted not in _OUTPUT_DTYPES:
        raise RequestError(
            f"Calibrated scores cannot be {wanted}.",
            "Allowed: float16, float32, float64, or uint8 meaning k / 255.",
            "Convert the scores, or pass the probabilities instead of the label map.",
        )
    return wanted


def _check_numbers(values: Any, name: str) -> npt.NDArray[np.float64]:
    """Return a read-only copy of numbers in [0, 1]."""
    numbers = np.array(values, dtype=np.float64)
    if numbers.ndim != 1:
        raise MapError(f"The knots' {name}s have shape {numbers.shape}.", "Allowed: (n,).")
    wrong = np.flatnonzero(~((numbers >= 0) & (numbers <= 1)))
    if len(wrong):
        raise MapError(f"Knot {wrong[0]} has {name} {float(numbers[wrong[0]])!r}.", "Allowed: 0 to 1.")
    numbers += 0.0  # -0.0 is 0
    numbers.flags.writeable = False
    return numbers


def _check_knots(columns: Mapping[str, npt.NDArray[np.float64]]) -> None:
    """Refuse numbers that are not as many as the scores, or out of order; the scores come first."""
    n_scores = len(columns["score"])
    if not n_scores:
        raise MapError("There are 0 scores.", "Allowed: one or more.")
    for name, numbers in columns.items():
        if len(numbers) != n_scores:
            raise MapError(f"There are {n_scores} scores and {len(numbers)} {name}s.", "Allowed: as many.")
        step = np.diff(numbers)
        wrong, rule = (step <= 0, "strictly increasing") if name == "score" else (step < 0, "non-decreasing")
        if wrong.any():
            place = int(np.argmax(wrong)) + 1
            raise MapError(
                f"Knot {place} has {name} {float(numbers[place])!r} after {float(numbers[place - 1])!r}.",
                f"Allowed: {rule} {name}s.",
            )


def _check_band(lower: npt.NDArray[np.float64], value: npt.NDArray[np.float64], upper: npt.NDArray[np.float64]) -> None:
    for name, bound, wrong, side in (
        ("lower", lower, lower > value, "above"),
        ("upper", upper, upper < value, "below"),
    ):
        if wrong.any():
            place = int(np.argmax(wrong))
            raise MapError(
                f"Knot {place} has {name} bound {float(bound[place])!r} {side} its value {float(value[place])!r}.",
                "Allowed: lower bound <= value <= upper bound.",
            )


def _check_names(names: Any, name: str) -> tuple[str, ...]:
    if not isinstance(names, list | tuple) or not all(isinstance(item, str) and item for item in names):
        raise MapError(f"{name} is {names!r:.80}.", "Allowed: a list of names.")
    if len(set(names)) != len(names):
        raise MapError(f"{name} names something twice: {names!r:.80}.", "Allowed: different names.")
    return tuple(names)


def _check_parameters(parameters: Any) -> dict[str, Any]:
    """Return parameters as JSON will give them back."""
    try:
        copy = json.loads(json.dumps(dict(parameters), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise MapError(f"parameters cannot be kept: {error!s:.120}.", "Allowed: what JSON can hold.") from error
    return dict(copy)
