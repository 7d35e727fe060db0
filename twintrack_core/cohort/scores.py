"""Scores as they come in: checked block by block, and rounded to what a cohort stores."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from twintrack_core.codes import HIGHEST_VALID, LOWEST_VALID, is_valid
from twintrack_core.errors import InvalidScoresError, RequestError

Invalid = Literal["error", "clip"]
"""What an import does with scores outside [0, 1]: refuse, or move to the nearest end. NaN is always refused."""

BLOCK = 1 << 20
"""Scores worked on at a time, so that temporary arrays stay small whatever the size of a case."""

_FAR_OUTSIDE = 0.5


def block_slices(size: int) -> Iterator[slice]:
    """Cut ``range(size)`` into slices of at most `BLOCK`."""
    for start in range(0, size, BLOCK):
        yield slice(start, min(start + BLOCK, size))


def check_floor(floor: float) -> None:
    """Refuse a floor that is not a score below 1."""
    if not 0 <= floor < 1:
        raise RequestError(f"Floor {floor} is not one.", "Allowed: 0 to below 1; smaller scores are stored as 0.")


def check_on_invalid(on_invalid: str) -> None:
    """Refuse a policy that is not one of `Invalid`."""
    if on_invalid not in ("error", "clip"):
        raise RequestError(f"on_invalid is {on_invalid!r}.", 'Allowed: "error" or "clip".')


def to_float16(scores: npt.NDArray[Any], floor: float) -> npt.NDArray[np.float16]:
    """Round valid scores to float16 and set those that are then below ``floor`` to 0; same shape."""
    with np.errstate(invalid="ignore"):  # of NaN that signal, which is refused elsewhere
        rounded = scores.astype(np.float16)
        # Below the floor means the stored score is: so no score between 0 and the floor is left.
        rounded[rounded.astype(np.float32) < max(floor, 0.0)] = 0
        rounded += np.float16(0)  # -0.0 becomes 0
    return rounded


class ScoreCheck:
    """Collects what is wrong with the scores of one file while they are read in blocks.

    Parameters
    ----------
    where
        Case and file, for the message.
    shape, axes
        Shape of the whole array and the names of its axes, for the place in the message.
    on_invalid
        With ``"clip"`` scores outside [0, 1] are moved to the nearest end.
    """

    def __init__(self, where: str, shape: tuple[int, ...], axes: str, on_invalid: Invalid) -> None:
        self.where = where
        self.shape = shape
        self.axes = axes
        self.clip = on_invalid == "clip"
        self.count = 0
        self.first: tuple[int, float] = (0, math.nan)
        self.low = math.inf
        self.high = -math.inf

    def take(self, block: npt.NDArray[Any], start: int) -> npt.NDArray[np.float32]:
        """Check the block of scores that begins at flat index ``start``.

        Returns
        -------
        array
            float32 of the same shape, clipped if asked; 0 where a score is invalid.
        """
        # A float64 beyond float32 becomes infinite, and so stays invalid; NaN may signal.
        with np.errstate(over="ignore", invalid="ignore"):
            values = block.astype(np.float32, copy=False)
            if values.min() >= LOWEST_VALID and values.max() <= HIGHEST_VALID:  # False if there is a NaN
                return values
        if self.clip:
            values = np.clip(values, np.float32(0), np.float32(1))  # keeps NaN
        wrong = np.flatnonzero(~is_valid(values))
        if not len(wrong):
            return values
        bad = block[wrong]
        if not self.count:
            self.first = (start + int(wrong[0]), float(bad[0]))
        self.count += len(wrong)
        finite = bad[np.isfinite(bad)]
        if len(finite):
            self.low = min(self.low, float(finite.min()))
            self.high = max(self.high, float(finite.max()))
        return np.where(is_valid(values), values, np.float32(0))

    def close(self) -> None:
        """Raise an InvalidScoresError if there were invalid scores."""
        if not self.count:
            return
        place = tuple(int(i) for i in np.unravel_index(self.first[0], self.shape))
        what = (
            f"{self.where}: {self.count} of {math.prod(self.shape)} scores are not probabilities; the first is "
            f"{self.first[1]:g} at {self.axes} = {place}."
        )
        if self.low < -_FAR_OUTSIDE or self.high > 1 + _FAR_OUTSIDE:
            what = f"{what} They span {self.low:g} to {self.high:g}: logits?"
            raise InvalidScoresError(
                what, "Allowed: finite values in [0, 1].", "Export probabilities, after the softmax."
            )
        raise InvalidScoresError(
            what,
            "Allowed: finite values in [0, 1].",
            'Mend the file, or for small overshoots, in Python, choose on_invalid="clip".',
        )
