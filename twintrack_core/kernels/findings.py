"""The contract every kernel keeps, and what it reports.

``accumulate(scores, votes, region, table, *, clip)``

- ``scores``: (M, N) float16, float32 or uint8 (k / 255), 1 to 1024 members. They are averaged as
  `codes.mean_codes` does.
- ``votes``: (N,) uint8 rater patterns, or None for a pattern of 0 everywhere.
- ``region``: (N,) uint8, non-zero inside, or None for everything in the last plane of ``table``.
- ``table``: (2, P, N_CODES) uint32, or (1, P, N_CODES) with ``region=None``; counts are added to it. P is a power of
  two. Patterns come before codes because nearly all voxels share one or two patterns: their counts then lie together
  in the cache. 32 bits make the table half as large, which counts where it does not fit a cache; callers see to it
  that no count reaches 2^32 (`twintrack_core.kernels.tally.Tally` does).
- ``clip``: scores outside [0, 1] are moved to the nearest end; NaN has none and stays invalid.

``relabel(scores, lut, out, *, clip)``

- ``lut``: (N_CODES + 1,) values of ``out``'s dtype; the last one is what an invalid score becomes.
- ``out``: (N,) float16, float32, float64 or uint8.

Arrays are C-contiguous and aligned to their items, not more; nobody changes them meanwhile, and ``out`` overlaps none.

Voxels with an invalid score, or with a pattern of P or more, are not counted; how many there were, and where the
first one is, is reported. No input may make a kernel write outside ``table`` or ``out``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt


class Findings(NamedTuple):
    """What a kernel found wrong with its input. Places are indices into the N voxels, -1 for none."""

    invalid_scores: int = 0
    first_invalid_score: int = -1
    invalid_votes: int = 0
    first_invalid_vote: int = -1

    @classmethod
    def of(cls, valid: npt.NDArray[np.bool_], known: npt.NDArray[np.bool_] | None = None) -> Findings:
        """Return the findings for masks of (N,) valid scores and known patterns."""
        return cls(*_misses(valid), *(_misses(known) if known is not None else (0, -1)))

    def shifted(self, offset: int) -> Findings:
        """Return the same findings with places counted from ``offset`` voxels earlier."""
        first_score = self.first_invalid_score + offset if self.invalid_scores else -1
        first_vote = self.first_invalid_vote + offset if self.invalid_votes else -1
        return Findings(self.invalid_scores, first_score, self.invalid_votes, first_vote)

    def __add__(self, other: Any) -> Findings:
        """Add the findings of a later stretch of voxels."""
        return Findings(
            self.invalid_scores + other.invalid_scores,
            self.first_invalid_score if self.invalid_scores else other.first_invalid_score,
            self.invalid_votes + other.invalid_votes,
            self.first_invalid_vote if self.invalid_votes else other.first_invalid_vote,
        )


def _misses(mask: npt.NDArray[np.bool_]) -> tuple[int, int]:
    places = np.flatnonzero(~mask)
    return len(places), int(places[0]) if len(places) else -1
