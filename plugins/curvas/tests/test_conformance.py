"""The kits that every metric and every reader must pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from twintrack_core.cohort import Geometry, Reader, write_volume
from twintrack_core.metrics import Metric, VolumeMetric
from twintrack_core.testing import MetricConformance, ReaderConformance
from twintrack_curvas.crps import CRPS_EMPIRICAL, CRPS_EXACT, CRPS_OFFICIAL
from twintrack_curvas.dice import DSC
from twintrack_curvas.ece import ECE_EXACT, ECE_OFFICIAL
from twintrack_curvas.reader import CurvasReader
from twintrack_curvas.suite import SUITE
from twintrack_curvas.vi import VI_EXACT, VI_OFFICIAL

METRICS = (DSC, ECE_OFFICIAL, ECE_EXACT, CRPS_OFFICIAL, CRPS_EXACT, CRPS_EMPIRICAL, VI_OFFICIAL, VI_EXACT)


class TestMetrics(MetricConformance):
    @pytest.fixture(autouse=True, params=METRICS, ids=[metric.name for metric in METRICS])
    def _choose(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        # Marks at random hardly determine STAPLE: some of the kit's tables take 100,000 iterations, others no end.
        monkeypatch.setattr("twintrack_core.staple._MAX_ITERATIONS", 2000)
        found = request.param
        assert isinstance(found, Metric | VolumeMetric)
        self.metric = found


class TestSuite(MetricConformance):
    metric = SUITE


class TestReader(ReaderConformance):
    @pytest.fixture
    def reader(self, tmp_path: Path) -> Reader:
        pytest.importorskip("SimpleITK", reason="it reads and writes the images")
        rng = np.random.default_rng(0)
        for case in ("a", "b"):
            folder = tmp_path / case
            folder.mkdir()
            files: dict[str, npt.NDArray[Any]] = {}
            files |= {f"annotation_{rater}": rng.integers(0, 2, (4, 6, 5)).astype(np.uint8) for rater in (1, 2, 3)}
            files |= {"vessels": rng.integers(0, 6, (4, 6, 5)).astype(np.uint8)}
            files |= {f"prediction_{member}": rng.random((4, 6, 5), np.float32) for member in (1, 2)}
            for name, array in files.items():
                write_volume(folder / f"{name}.nii.gz", array, Geometry((3.0, 0.7, 0.7)))
        return CurvasReader(tmp_path)
