"""Kernels: what is done to every voxel. They know arrays only.

Each backend is a module with the same two functions, and `reference` is the oracle for both:

``accumulate(scores, votes, region, table, *, clip) -> Findings``
    Count voxels into ``table``.
``relabel(scores, lut, out, *, clip) -> Findings``
    Look every voxel's score code up in ``lut``.

``scores`` is (M, N): M members of N voxels, float16, float32 or uint8, C-contiguous. Callers use `tally_of` and
`relabel` of `twintrack_core.kernels.dispatch`, which take arrays of any shape.
"""

from twintrack_core.kernels.dispatch import cells_of, count, relabel, tally_of
from twintrack_core.kernels.findings import Findings
from twintrack_core.kernels.registry import Kernel, get, names

__all__ = ["Findings", "Kernel", "cells_of", "count", "get", "names", "relabel", "tally_of"]
