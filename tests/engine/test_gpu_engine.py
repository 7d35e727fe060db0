"""Cohorts on a real CUDA device: the same bytes as on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from twintrack_core.errors import WorkError
from twintrack_core.kernels.device import require_device

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True, scope="module")
def _device() -> None:
    try:
        require_device()
    except WorkError as error:
        pytest.skip(str(error))
    for name in ("zarr", "dask", "tqdm", "numcodecs", "scipy"):
        pytest.importorskip(name)


def tree(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("rule", ["full", "mask+5mm", "raters+20"])
@pytest.mark.parametrize("workers", [1, 4])
def test_statistics_and_stores_are_those_of_the_cpu(tmp_path: Path, rule: str, workers: int) -> None:
    import twintrack_core as tt
    from twintrack_core.simulate import Simulation

    simulation = Simulation(cases=4, shape=(96, 160, 160), raters=5, members=3, seed=1)
    cohort = tt.import_cases(simulation, tmp_path / "c.zarr")
    calibration = tt.CalibrationMap(score=np.array([0.1, 0.9]), value=np.array([0.05, 0.8]), target="mhr")
    tt.accumulate(cohort, roi=rule).save(tmp_path / "cpu")
    tt.accumulate(cohort, roi=rule, device="cuda", workers=workers).save(tmp_path / "cuda")
    assert tree(tmp_path / "cpu") == tree(tmp_path / "cuda")
    for dtype in ("float16", "float32", "uint8"):
        tt.apply(cohort, calibration, tmp_path / f"{dtype}.cpu", dtype=dtype)
        tt.apply(cohort, calibration, tmp_path / f"{dtype}.cuda", dtype=dtype, device="cuda", workers=workers)
        assert tree(tmp_path / f"{dtype}.cpu") == tree(tmp_path / f"{dtype}.cuda")
