"""The oracle: both kernels in plain NumPy, written to be read rather than to be fast."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from twintrack_core.codes import mean_codes
from twintrack_core.kernels.findings import Findings


def accumulate(
    scores: npt.NDArray[Any],
    votes: npt.NDArray[np.uint8] | None,
    region: npt.NDArray[np.uint8] | None,
    table: npt.NDArray[np.uint32],
    *,
    clip: bool = False,
) -> Findings:
    """Count voxels into ``table[region, pattern, code]``; see `twintrack_core.kernels.findings` for the contract."""
    codes, valid = mean_codes(scores, clip=clip)
    pattern = np.zeros(codes.shape, dtype=np.uint8) if votes is None else votes
    inside = np.ones(codes.shape, dtype=bool) if region is None else region != 0
    known = pattern < table.shape[1]
    counted = valid & known
    plane = np.where(inside, len(table) - 1, 0)
    cell = np.ravel_multi_index((plane[counted], pattern[counted], codes[counted]), table.shape)
    np.add.at(table.reshape(-1), cell, table.dtype.type(1))  # a 1 of another dtype takes eighty times as long
    return Findings.of(valid, known)


def relabel(scores: npt.NDArray[Any], lut: npt.NDArray[Any], out: npt.NDArray[Any], *, clip: bool = False) -> Findings:
    """Write ``lut[code]`` to ``out``; see `twintrack_core.kernels.findings` for the contract."""
    codes, valid = mean_codes(scores, clip=clip)
    out[:] = np.where(valid, lut[codes], lut[-1])
    return Findings.of(valid)
