"""What it takes to begin: imports, --help, and the first call of every kernel in a new process."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import partial

from benchmarks.kernels import fast_kernels
from benchmarks.sections import Goal, Section, Settings, table
from twintrack_core.bench.timing import Spread, alternate

_STARTS = {
    "python": "pass",
    "import numpy": "import numpy",
    "import twintrack_core": "import twintrack_core",
    "twintrack --help": "from twintrack_core.cli import main; main(['--help'])",
}
_FIRST_CALL = """
import sys, time, warnings
import numpy as np
from twintrack_core import kernels
if sys.argv[2] == "nowhere":
    from numba.core import caching
    def refuse(self): raise OSError("read-only")
    caching._CacheLocator.ensure_cache_path = refuse
warnings.simplefilter("ignore")
scores, votes = np.full(1000, 0.5, np.float16), np.ones(1000, np.uint8)
lut = np.zeros(15361, np.float16)
start = time.perf_counter()
kernels.count(scores, votes, None, 5, kernel=sys.argv[1])
kernels.relabel(scores, lut, kernel=sys.argv[1])
print(time.perf_counter() - start)
"""


def cold_start(settings: Settings) -> Section:
    """Imports in turn, then first calls with an empty cache, a filled one, and no place for one."""
    runs = max(7, settings.runs)
    works = [partial(_python, code) for code in _STARTS.values()]
    for work in works:
        work()
    taken = alternate(works, runs)
    python, numpy, package, help_ = taken.T
    rows = [
        (name, Spread.of(column).scaled(1e3), Spread.of(column / numpy), Spread.of((column - python) * 1e3))
        for name, column in zip(_STARTS, taken.T, strict=True)
    ]
    header = ("process", "ms", "/ import numpy", "ms more than python")
    imports = table(f"New processes, {runs} runs in turn", header, rows)
    how = f"whole processes, {runs} runs in turn"
    goals = (
        Goal("import twintrack_core / import numpy", "", 1.5, Spread.of(package / numpy), at_least=False, how=how),
        Goal("twintrack --help, seconds", "", 0.3, Spread.of(help_), at_least=False, how=how),
    )
    return Section(f"{imports}\n\n{_first_calls(min(2, settings.runs))}", goals)


def _first_calls(runs: int) -> str:
    rows = []
    for kernel in fast_kernels():
        cells: list[object] = [kernel]
        with tempfile.TemporaryDirectory() as filled:
            cold = []
            for run in range(runs):
                with tempfile.TemporaryDirectory() as empty:
                    cold.append(_first_call(kernel, {"NUMBA_CACHE_DIR": filled if run == 0 else empty}))
            warm = [_first_call(kernel, {"NUMBA_CACHE_DIR": filled}) for _ in range(runs)]
        none = [_first_call(kernel, {}, "nowhere") for _ in range(runs)]
        cells += [Spread.of(found).scaled(1e3) for found in (cold, warm, none)]
        rows.append(cells)
    header = ("kernel", "empty cache, ms", "filled cache, ms", "no place for a cache, ms")
    return table(f"First count and first relabelling of 1,000 voxels in a new process, {runs} runs", header, rows)


def _python(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def _first_call(kernel: str, variables: Mapping[str, str], cache: str = "anywhere") -> float:
    command = [sys.executable, "-c", _FIRST_CALL, kernel, cache]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **variables})
    return float(done.stdout)
