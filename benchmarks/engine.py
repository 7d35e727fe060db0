"""The engine on local stores against the floors: decoding, and decoding and encoding, the written chunks.

    python benchmarks/engine.py [--cases 25] [--runs 5] [--folder DIR]

A case has 84 million voxels. Stores are read from the page cache. Statistics are checked against the oracle first.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from functools import partial
from pathlib import Path

import data
import floors
import numpy as np
import timing

import twintrack_core as tt
from twintrack_core.kernels.dispatch import default_threads


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=25)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    arguments = parser.parse_args()
    print(f"{arguments.cases} cases of {' x '.join(map(str, data.SHAPE))}, float16, five raters; {timing.machine()}\n")
    header = (
        "cohort", "voxels", "decoded MB", "threads",
        "Gvoxel/s", "accumulate / decode", "Gvoxel/s", "apply / decode + encode", "apply / decode + encode + write",
    )  # fmt: skip
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        timing.print_table(
            header,
            (row for kind in data.KINDS for row in _cohort(kind, Path(folder), arguments.cases, arguments.runs)),
        )


def _cohort(kind: str, folder: Path, cases: int, runs: int) -> list[tuple[object, ...]]:
    cohort = data.cohort(kind, folder, cases)
    _check(cohort)
    calibration = tt.fit(tt.accumulate(cohort))
    output = folder / "calibrated.zarr"

    def clear() -> None:
        shutil.rmtree(output, ignore_errors=True)

    rows: list[tuple[object, ...]] = []
    voxels = floors.voxels(cohort)
    for threads in (1, default_threads()):
        accumulate = timing.ratio(
            partial(tt.accumulate, cohort, workers=threads), partial(floors.decode, cohort, threads), runs
        )
        apply = partial(tt.apply, cohort, calibration, output, workers=threads)
        encode = partial(floors.decode, cohort, threads, parts=False, encode=True)
        applied = timing.ratio(apply, encode, runs, before=clear)
        # What a calibrated store takes besides: new files, and the votes in them.
        written = timing.ratio(apply, partial(floors.rewrite, cohort, threads, output), runs, before=clear)
        rows.append(
            (
                kind, voxels, floors.decoded_bytes(cohort) / 1e6, threads,
                voxels / accumulate.seconds / 1e9, accumulate, voxels / applied.seconds / 1e9, applied, written,
            )
        )  # fmt: skip
    shutil.rmtree(output, ignore_errors=True)
    shutil.rmtree(cohort.path)
    return rows


def _check(cohort: tt.Cohort) -> None:
    case = next(iter(cohort))
    stored = case.read()
    expected = tt.JointHistogram.from_votes(stored.probability, stored.votes, raters=case.raters, kernel="reference")
    found = tt.accumulate(cohort.select([case.name]))[case.name].histogram
    if found != expected:
        raise AssertionError(f"{cohort.path}: the statistics of {case.name} are not the oracle's")
    assert expected.n_voxels == np.prod(case.shape)


if __name__ == "__main__":
    main()
