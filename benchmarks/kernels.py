"""Kernels in memory against the floors: reading or copying the same bytes, and what NumPy users would call.

    python benchmarks/kernels.py [--gigavoxels 2.1] [--runs 5]

Whole volumes are measured with one and with all threads, peers with one. Every answer is checked before it is timed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import data
import fast_histogram
import floors
import numpy as np
import numpy.typing as npt
import timing

from twintrack_core import kernels
from twintrack_core.codes import CODE_VALUES, N_CODES
from twintrack_core.kernels.dispatch import default_threads

_EDGES = np.arange(N_CODES + 1) - 0.5
_PEER_VOXELS = 1 << 24


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigavoxels", type=float, default=2.1)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    print(f"numba kernel, float16 scores, five raters; {timing.machine()}\n")
    depth = int(arguments.gigavoxels * 1e9 / (512 * 512))
    volumes = ("volume", "threads", "Gvoxel/s", "accumulate / read", "Gvoxel/s", "apply / copy")
    timing.print_table(volumes, (row for kind in data.KINDS for row in _volume(kind, depth, arguments.runs)))
    print()
    peers = ("dense scores, one thread", "Gvoxel/s", "peer / twintrack")
    timing.print_table(peers, _peers(arguments.runs))


def _volume(kind: str, depth: int, runs: int) -> list[tuple[object, ...]]:
    case_scores, case_votes = data.volume(kind, (64, 512, 512))
    _check(case_scores[30:34], case_votes[30:34])
    tiles = -(-depth // 64)
    scores, votes = (np.concatenate([array] * tiles)[:depth] for array in (case_scores, case_votes))
    lut = np.sqrt(CODE_VALUES).astype(np.float16)
    out = np.empty_like(scores)
    rows: list[tuple[object, ...]] = []
    for threads in (1, default_threads()):
        accumulate = timing.ratio(
            partial(kernels.count, scores, votes, None, 5, threads=threads),
            partial(floors.read, [scores, votes], threads),
            runs,
        )
        apply = timing.ratio(
            partial(kernels.relabel, scores, lut, out=out, threads=threads),
            partial(floors.copy, scores, out, threads),
            runs,
        )
        gigavoxels = scores.size / 1e9
        rows.append((kind, threads, gigavoxels / accumulate.seconds, accumulate, gigavoxels / apply.seconds, apply))
    return rows


def _check(scores: npt.NDArray[Any], votes: npt.NDArray[np.uint8]) -> None:
    lut = np.sqrt(CODE_VALUES).astype(np.float16)
    expected = kernels.count(scores, votes, None, 5, kernel="reference")
    np.testing.assert_array_equal(kernels.count(scores, votes, None, 5), expected)
    np.testing.assert_array_equal(kernels.relabel(scores, lut), kernels.relabel(scores, lut, kernel="reference"))


def _peers(runs: int) -> list[tuple[object, ...]]:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, N_CODES, _PEER_VOXELS).astype(np.uint16)
    votes = rng.integers(0, 32, _PEER_VOXELS).astype(np.uint8)
    scores = codes.view(np.float16)
    ours = kernels.count(scores, votes, None, 5, threads=1)[1]
    x, y = codes.astype(np.float64), votes.astype(np.float64)
    bins, ranges = (N_CODES, 32), ((-0.5, N_CODES - 0.5), (-0.5, 31.5))
    histograms: dict[str, Callable[[], npt.NDArray[Any]]] = {
        "fast_histogram.histogram2d": lambda: fast_histogram.histogram2d(x, y, bins, ranges),
        "numpy.histogram2d": lambda: np.histogram2d(x, y, bins, ranges)[0],
        "numpy.bincount": lambda: np.bincount(codes.astype(np.int64) * 32 + votes, minlength=N_CODES * 32),
    }
    rows: list[tuple[object, ...]] = []
    for name, peer in histograms.items():
        np.testing.assert_array_equal(np.reshape(peer(), ours.shape), ours)
        ratio = timing.ratio(lambda: kernels.count(scores, votes, None, 5, threads=1), peer, runs)
        rows.append((f"accumulate, {name}", _PEER_VOXELS / ratio.seconds / 1e9, ratio.inverse()))
    lut = np.sqrt(CODE_VALUES).astype(np.float32)
    values = scores.astype(np.float32)
    maps: dict[str, Callable[[], npt.NDArray[Any]]] = {
        "numpy.take": lambda: np.take(lut, codes),
        "numpy.interp": lambda: np.interp(values, CODE_VALUES, lut),
    }
    for name, peer in maps.items():
        np.testing.assert_array_equal(peer().astype(np.float32), kernels.relabel(scores, lut, threads=1))
        ratio = timing.ratio(lambda: kernels.relabel(scores, lut, threads=1), peer, runs)
        rows.append((f"apply, {name}", _PEER_VOXELS / ratio.seconds / 1e9, ratio.inverse()))
    return rows


if __name__ == "__main__":
    main()
