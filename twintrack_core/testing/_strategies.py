"""Voxels that Hypothesis makes up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from twintrack_core.codes import HIGHEST_VALID, LOWEST_VALID
from twintrack_core.testing._voxels import DTYPES, Voxels, half_midpoints, invalid_scores


def for_all_splits(check: Callable[..., None]) -> None:
    """Call ``check(voxels, cuts, clip=...)`` on voxels of any kind, and places to cut them at."""

    @settings(deadline=None)  # the first call may compile a kernel
    @given(st.data(), _voxels(), st.booleans())
    def check_all(data: Any, voxels: Voxels, clip: bool) -> None:
        cuts = data.draw(st.lists(st.integers(0, voxels.scores.shape[1]), max_size=3), "cuts")
        check(voxels, sorted(cuts), clip=clip)

    check_all()


@st.composite
def _voxels(draw: st.DrawFn) -> Voxels:
    members, size = draw(st.integers(1, 40)), draw(st.integers(0, 70))
    n_raters = draw(st.integers(0, 3))
    some_bytes = st.none() | hnp.arrays(np.uint8, size)
    scores = draw(hnp.arrays(dtype := draw(st.sampled_from(DTYPES)), (members, size), elements=_scores(dtype)))
    votes = draw(st.none() | hnp.arrays(np.uint8, size, elements=st.integers(0, 1 << n_raters)))
    return Voxels("made up", scores, votes, draw(some_bytes), n_raters)


def _scores(dtype: str) -> st.SearchStrategy[Any]:
    if dtype == "uint8":
        return st.integers(0, 255)
    special = [0.0, -0.0, 1.0, *invalid_scores(dtype).tolist()]
    if dtype == "float16":
        return st.floats(0, 1, width=16) | st.sampled_from(special)
    edges = [LOWEST_VALID, LOWEST_VALID / 2, HIGHEST_VALID, 1 + 2.0**-20]
    return st.floats(0, 1, width=32) | st.sampled_from([*special, *edges, *half_midpoints()[::97].tolist()])
