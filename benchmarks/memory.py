"""Peak memory of whole processes for 1, 10 and 100 cases.

python benchmarks/memory.py [--workers 2] [--folder DIR]
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import data
import timing

import twintrack_core as tt

_CASES = (1, 10, 100)
_SHAPE = (160, 256, 256)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    arguments = parser.parse_args()
    print(f"cases of {' x '.join(map(str, _SHAPE))}, {arguments.workers} workers; {timing.machine()}\n")
    header = ("cohort", "cases", "accumulate MB", "seconds", "apply MB", "seconds")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        timing.print_table(
            header, (row for kind in data.KINDS for row in _cohorts(kind, Path(folder), arguments.workers))
        )


def _cohorts(kind: str, folder: Path, workers: int) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for cases in _CASES:
        cohort = data.cohort(kind, folder, cases, _SHAPE)
        calibration = folder / "map.json"
        if not calibration.exists():
            tt.fit(tt.accumulate(cohort)).save(calibration)
        statistics, output = folder / "statistics.zarr", folder / "calibrated.zarr"
        common = ["--workers", str(workers)]
        accumulate = _peak(["accumulate", str(cohort.path), "-o", str(statistics), *common])
        apply = _peak(["apply", str(cohort.path), str(calibration), "-o", str(output), *common])
        rows.append((kind, cases, *accumulate, *apply))
        for path in (statistics, output, cohort.path):
            shutil.rmtree(path)
    return rows


def _peak(command: list[str]) -> tuple[float, float]:
    """Peak resident memory in MB of ``twintrack`` run as its own process, as the kernel accounts it, and seconds."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; from twintrack_core.cli import main; sys.exit(main())", *command],
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"twintrack {' '.join(command)} ended with status {status}")
    return usage.ru_maxrss / 1024, time.perf_counter() - start


if __name__ == "__main__":
    main()
