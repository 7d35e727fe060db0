"""Scores to float16 codes and back: the one place that knows edges, rounding and validity.

A *score code* is the bit pattern of a probability rounded to float16 (to nearest, ties to even), read as an unsigned
integer. The codes 0 to 15360 cover [0, 1] in increasing order, one value each. -0.0 is 0.

A score is valid if it rounds to such a code. For float32 and float64 that is the closed interval
[-2^-25, 1 + 2^-11]: the smallest float16 above zero is 2^-24 and the next one above 1 is 1 + 2^-10, and both midpoints
round to the even neighbour, 0 and 1. So the last-bit noise of a softmax passes, and everything else is invalid.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from twintrack_core.errors import InvalidScoresError, RequestError

CODE_ONE = 0x3C00
"""Code of the score 1.0, the largest code."""

N_CODES = CODE_ONE + 1
"""Number of codes, 15361."""

CODE_NEGATIVE_ZERO = 0x8000
"""Bit pattern of -0.0, read as code 0."""

LOWEST_VALID = -(2.0**-25)
"""Smallest float that rounds to 0 (as -0.0)."""

HIGHEST_VALID = 1.0 + 2.0**-11
"""Largest float that rounds to 1."""

SCORE_DTYPES = (np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.uint8))
"""Score dtypes the kernels take. uint8 means k / 255."""

MAX_RATERS = 8
"""Raters one case can have: a voxel's marks are the bits of one byte."""

MAX_MEMBERS = 1024
"""Members one ensemble can have: the float32 sum of so many valid scores is still divided into a valid mean."""

OnInvalid = Literal["error", "clip", "exclude"]
"""What to do with invalid scores: refuse, move to the nearest end (NaN has none and is refused), or leave out."""

CODE_VALUES: npt.NDArray[np.float64] = np.arange(N_CODES, dtype=np.uint16).view(np.float16).astype(np.float64)
"""Value of each code, float64, shape (15361,), strictly increasing from 0 to 1."""
CODE_VALUES.flags.writeable = False

UINT8_SCORES: npt.NDArray[np.float32] = np.arange(256, dtype=np.float32) / np.float32(255)
"""Score of each uint8 value, float32, shape (256,)."""
UINT8_SCORES.flags.writeable = False


def as_scores(scores: npt.ArrayLike, name: str = "probability") -> npt.NDArray[Any]:
    """Return ``scores`` as an array of one of `SCORE_DTYPES`; float64 is rounded to float16 once.

    Raises
    ------
    RequestError
        For any other dtype: an integer array is a label map more often than a probability.
    """
    array = np.asarray(scores)
    if array.dtype in SCORE_DTYPES:
        return array
    if array.dtype in (np.dtype(">f2"), np.dtype(">f4")):
        return array.astype(array.dtype.newbyteorder("="))
    if array.dtype.kind == "f" and array.dtype.itemsize == 8:
        with np.errstate(over="ignore"):  # a value beyond float16 becomes infinite, and so stays invalid
            return array.astype(np.float16)
    raise wrong_dtype(array.dtype, name)


def wrong_dtype(dtype: np.dtype[Any], name: str = "probability") -> RequestError:
    """Return the error for scores of a dtype that has no meaning."""
    return RequestError(
        f"{name} has dtype {dtype}.",
        "Allowed: float16, float32 and float64 in [0, 1], or uint8 meaning k / 255.",
        "Convert it, or pass the probabilities instead of the label map.",
    )


def is_valid(scores: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """True where a score of one of `SCORE_DTYPES` rounds to a code of [0, 1]; same shape as ``scores``."""
    if scores.dtype == np.uint8:
        return np.ones(scores.shape, dtype=bool)
    values = scores.astype(np.float32, copy=False)
    return np.asarray((values >= LOWEST_VALID) & (values <= HIGHEST_VALID), dtype=bool)


def mean_codes(
    members: npt.NDArray[Any], *, clip: bool = False
) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.bool_]]:
    """Codes of the mean over the first axis, and where every member was valid.

    Several members are summed in float32 in stored order, divided by their number and rounded once.

    Parameters
    ----------
    members
        (M, ...) scores of one of `SCORE_DTYPES`, M >= 1.
    clip
        Move scores outside [0, 1], infinities included, to the nearest end first. NaN stays invalid.

    Returns
    -------
    codes
        (...) uint16, 0 where invalid.
    valid
        (...) bool.
    """
    scores = UINT8_SCORES[members] if members.dtype == np.uint8 else members.astype(np.float32, copy=False)
    if clip:
        scores = np.clip(scores, np.float32(0), np.float32(1))  # keeps NaN
    valid = np.asarray(is_valid(scores).all(axis=0), dtype=bool)
    total = np.zeros(scores.shape[1:], dtype=np.float32)
    for member in scores:
        total = total + np.where(valid, member, np.float32(0))
    mean = (total / np.float32(len(scores))).astype(np.float16)
    codes = mean.view(np.uint16)
    return np.where(codes == CODE_NEGATIVE_ZERO, np.uint16(0), codes).astype(np.uint16), valid


def encode(scores: npt.ArrayLike) -> npt.NDArray[np.uint16]:
    """Codes of ``scores``, uint16 of the same shape.

    Raises
    ------
    InvalidScoresError
        If a score is NaN, infinite or outside [0, 1].
    """
    array = as_scores(scores, "scores")
    codes, valid = mean_codes(array[np.newaxis])
    if not valid.all():
        raise invalid_scores(array, valid)
    return codes


def invalid_scores(scores: npt.NDArray[Any], valid: npt.NDArray[np.bool_], where: str = "scores") -> InvalidScoresError:
    """The error for an array of scores of which some are not ``valid`` (same shape): names value, place and count."""
    first = tuple(int(i) for i in np.argwhere(~valid)[0])
    return InvalidScoresError(
        f"{where}: {int((~valid).sum())} of {valid.size} scores are not probabilities; the first is "
        f"{float(scores[first])!r} at index {first}.",
        "Allowed: finite values in [0, 1].",
        'Pass probabilities, not logits, or choose on_invalid="clip" or "exclude".',
    )
