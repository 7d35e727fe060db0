"""The kernels on a real CUDA device, against the oracle: ``pytest -m gpu``, with NumPy, CuPy and pytest alone."""

from __future__ import annotations

import importlib
import importlib.util
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import twintrack_core as tt
from twintrack_core import kernels
from twintrack_core.codes import N_CODES
from twintrack_core.errors import InvalidScoresError, WorkError
from twintrack_core.kernels import cuda, device
from twintrack_core.testing import KernelConformance

pytestmark = pytest.mark.gpu

MAP = tt.CalibrationMap(score=np.array([0.1, 0.4, 0.9]), value=np.array([0.05, 0.3, 0.8]), target="mhr")
BLOCK = 1 << 20  # voxels that larger volumes repeat


@pytest.fixture(autouse=True, scope="module")
def cp() -> Any:
    try:
        device.require_device()
    except WorkError as error:
        pytest.skip(str(error))
    return importlib.import_module("cupy")


@pytest.fixture
def backend(cp: Any) -> Any:
    return kernels.get("cupy")


class TestConformance(KernelConformance):
    @pytest.fixture(autouse=True)
    def _cupy(self, backend: Any) -> None:
        self.kernel = backend

    def test_any_voxels_in_any_split(self) -> None:
        if importlib.util.find_spec("hypothesis") is None:
            pytest.skip("hypothesis is not installed")
        super().test_any_voxels_in_any_split()


def voxels(n: int, *, members: int = 1, dtype: str = "float16", raters: int = 5, kind: str = "any") -> Any:
    """Scores (M, n), votes and a region: any, or mostly background."""
    rng = np.random.default_rng(n + members)
    codes = rng.integers(0, N_CODES, (members, n)).astype(np.uint16)
    votes = rng.integers(0, 1 << raters, n).astype(np.uint8)
    if kind == "background":
        codes[:, n // 10 :] = 0
        votes[n // 20 :] = 0
    scores = codes.view(np.float16)
    if dtype == "uint8":
        scores = (scores * 255).astype(np.uint8)
    return scores.astype(dtype), votes, (np.arange(n) // 1000 % 3 == 0)


def calibrated(scores: npt.NDArray[Any], out: str) -> npt.NDArray[Any]:
    """What the oracle makes of (M, n) scores."""
    return kernels.relabel(scores, MAP.table_as(out), members=True, kernel="reference")


def histogram(scores: Any, votes: Any, roi: Any, **options: Any) -> tt.JointHistogram:
    names = [f"r{i}" for i in range(5)]
    return tt.JointHistogram.from_votes(scores, votes, names, roi=roi, members=True, **options)


@pytest.mark.parametrize(("dtype", "members"), list(product(("float16", "float32", "float64", "uint8"), (1, 3, 11))))
@pytest.mark.parametrize("kind", ["any", "background"])
def test_arrays_on_the_device(cp: Any, dtype: str, members: int, kind: str) -> None:
    scores, votes, roi = voxels(300_007, members=members, dtype=dtype, kind=kind)
    for_device = [cp.asarray(array) for array in (scores, votes, roi)]
    assert histogram(*for_device) == histogram(scores, votes, roi, kernel="reference")
    assert histogram(for_device[0], None, None) == histogram(scores, None, None, kernel="reference")
    for out in ("float16", "float32", "float64", "uint8"):
        found = MAP(for_device[0], members=True, dtype=out)
        assert isinstance(found, cp.ndarray)
        np.testing.assert_array_equal(found.get(), calibrated(scores, out))


@pytest.mark.parametrize("offset", [1, 2, 3, 5, 7, 8, 15, 33])
@pytest.mark.parametrize("dtype", ["float16", "float32", "uint8"])
def test_places_in_device_memory(cp: Any, dtype: str, offset: int) -> None:
    """Slices in place: every array begins where it likes, and nothing beside them is touched."""
    scores, votes, roi = voxels(70_001, dtype=dtype)
    held = [cp.asarray(array[..., :]) for array in (scores[0], votes, roi)]
    shifted = (held[0][offset:-1], held[1][offset // 2 : offset // 2 - 1 - offset], held[2][offset:-1])
    on_host = [array.get() for array in shifted]
    assert histogram(shifted[0][None], shifted[1], shifted[2]) == histogram(
        on_host[0][None], on_host[1], on_host[2], kernel="reference"
    )
    lut = np.random.default_rng(0).random(N_CODES + 1).astype(np.float16)
    whole = cp.full(70_001 + 64, 7, np.float16)
    out = whole[offset : offset + len(shifted[0])]
    kernels.get("cupy").relabel(shifted[0][None], lut, out)
    expected = np.empty(len(shifted[0]), np.float16)
    kernels.get("reference").relabel(on_host[0][None], lut, expected)
    np.testing.assert_array_equal(out.get(), expected)
    assert bool((whole[:offset] == 7).all())
    assert bool((whole[offset + len(shifted[0]) :] == 7).all())


def test_float64_is_rounded_once(cp: Any) -> None:
    halves = np.arange(N_CODES, dtype=np.uint16).view(np.float16).astype(np.float64)
    middle = (halves[1:] + halves[:-1]) / 2
    near = np.concatenate([middle, middle * (1 + 2.0**-40), middle * (1 - 2.0**-40), [1e-300, -1e-300, 1 + 2.0**-11]])
    found = tt.JointHistogram.from_votes(cp.asarray(near), None, ())
    assert found == tt.JointHistogram.from_votes(near, None, (), kernel="reference")


def test_errors_name_the_first_place(cp: Any) -> None:
    scores = np.zeros((40, 50, 60), np.float32)
    scores[20, 3, 4] = scores[30, 2, 1] = 1.5
    messages = []
    for array in (scores, cp.asarray(scores)):
        with pytest.raises(InvalidScoresError) as caught:
            tt.JointHistogram.from_votes(array, None, (), kernel="reference" if array is scores else "auto")
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_the_callers_stream(cp: Any) -> None:
    """Work that is queued before is seen, without anybody waiting for the device."""
    stream = cp.cuda.Stream(non_blocking=True)
    slow = cp.zeros((4096, 4096), np.float32)
    with stream:
        scores = cp.zeros(1 << 22, np.float16)
        for _ in range(20):
            slow = slow @ slow
        scores.fill(0.5)
        found = tt.JointHistogram.from_votes(scores, None, ())
        calibrated = MAP(scores)
        doubled = calibrated * 2
    stream.synchronize()
    assert len(found.count) == 1
    assert float(doubled[-1]) == 2 * float(MAP.table_as(np.float16)[np.float16(0.5).view(np.uint16)])


def test_torch_tensors(cp: Any) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    scores, votes, roi = voxels(300_007, dtype="float32")
    for stream in (torch.cuda.default_stream(), torch.cuda.Stream()):
        with torch.cuda.stream(stream):
            tensors = [torch.from_numpy(array).cuda() for array in (scores, votes, roi)]
            assert histogram(*tensors) == histogram(scores, votes, roi, kernel="reference")
            found = MAP(tensors[0][0])
            assert isinstance(found, torch.Tensor)
            assert found.is_cuda
            np.testing.assert_array_equal(found.cpu().numpy(), calibrated(scores, "float32"))
            masks = torch.stack([tensors[1] >> rater & 1 for rater in range(5)]).bool()
            names = [f"r{i}" for i in range(5)]
            counted = tt.JointHistogram.from_arrays(tensors[0][0], masks, rater_names=names, roi=tensors[2])
            assert counted == histogram(scores, votes, roi, kernel="reference")


@pytest.mark.parametrize("regions", [1, 2])
@pytest.mark.parametrize("raters", range(9))
def test_every_number_of_raters(cp: Any, raters: int, regions: int) -> None:
    scores, votes, roi = voxels(50_000, raters=raters)
    names = [f"r{i}" for i in range(raters)]
    some_roi = roi if regions == 2 else None
    on_device = None if some_roi is None else cp.asarray(some_roi)
    found = tt.JointHistogram.from_votes(cp.asarray(scores[0]), cp.asarray(votes), names, roi=on_device)
    assert found == tt.JointHistogram.from_votes(scores[0], votes, names, roi=some_roi, kernel="reference")


@pytest.mark.parametrize("kind", ["any", "background"])
def test_beyond_32_bits(cp: Any, kind: str) -> None:
    """More voxels than 32 bits count, in more launches than one: a block over and over, so that the answer is known."""
    repeats = (1 << 32) // BLOCK + 3
    require(cp, repeats * BLOCK * 6)
    scores, votes, _ = voxels(BLOCK, kind=kind)
    found = histogram(cp.tile(cp.asarray(scores), repeats), cp.tile(cp.asarray(votes), repeats), None)
    one = histogram(scores, votes, None, kernel="reference")
    assert found.n_voxels == repeats * BLOCK > 1 << 32
    np.testing.assert_array_equal(found.code, one.code)
    np.testing.assert_array_equal(found.pattern, one.pattern)
    np.testing.assert_array_equal(found.count, one.count * repeats)
    values = MAP(cp.tile(cp.asarray(scores[0]), repeats))
    expected = cp.asarray(calibrated(scores, "float16"))
    assert all(bool((values[i * BLOCK : (i + 1) * BLOCK] == expected).all()) for i in (0, 2047, 2048, repeats - 1))


def test_an_invalid_score_beyond_31_bits(cp: Any) -> None:
    n = cuda.MAX_VOXELS + 1000
    require(cp, n * 4)
    scores = cp.zeros(n, np.float16)
    scores[n - 3] = np.nan
    with pytest.raises(InvalidScoresError, match=rf"1 of {n} .*nan at index \({n - 3},\)"):
        tt.JointHistogram.from_votes(scores, None, ())


def require(cp: Any, n_bytes: int) -> None:
    cp.get_default_memory_pool().free_all_blocks()
    free, _ = cp.cuda.runtime.memGetInfo()
    if free < n_bytes + (1 << 30):
        pytest.skip(f"needs {n_bytes >> 20} MiB of device memory, {free >> 20} are free")


def test_threads_of_one_device(backend: Any) -> None:
    scores, votes, _ = voxels(200_003)
    one: npt.NDArray[np.uint32] = np.zeros((1, 32, N_CODES), np.uint32)
    kernels.get("reference").accumulate(scores, votes, None, one)

    def count(_: int) -> bool:
        table = np.zeros_like(one)
        backend.accumulate(scores, votes, None, table)
        return np.array_equal(table, one)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(count, range(32)))
