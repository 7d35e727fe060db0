"""What is missing to use a device; its kernels, and arrays that are on it, on a device that is made of NumPy."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import fake_cupy
import numpy as np
import numpy.typing as npt
import pytest

import twintrack_core as tt
from twintrack_core import kernels, testing
from twintrack_core.bench.contenders import resolve_kernels
from twintrack_core.cli import main
from twintrack_core.codes import N_CODES
from twintrack_core.errors import InvalidScoresError, InvalidVotesError, RequestError, WorkError
from twintrack_core.kernels import device
from twintrack_core.kernels.registry import KERNELS
from twintrack_core.plugins import Offer
from twintrack_core.testing import KernelConformance

MAP = tt.CalibrationMap(score=np.array([0.1, 0.4, 0.9]), value=np.array([0.05, 0.3, 0.8]), target="mhr")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"driver": 0, "status": 35}, "There is no NVIDIA driver.\nInstall or update NVIDIA's driver"),
        (
            {"driver": 11040, "status": 35},
            "The NVIDIA driver is too old: it is for CUDA 11.4.\nAllowed: CUDA 12.9 or newer, which this CuPy",
        ),
        (
            {"status": 100},
            "There is no CUDA device.\nAllowed: an NVIDIA GPU that this process sees.\nSee nvidia-smi and",
        ),
        ({"count": 0}, "There is no CUDA device."),
        ({"status": 803}, "CUDA cannot be used: cudaError803: as the driver says.\nInstall or update NVIDIA's driver"),
        ({"capability": (6, 1)}, "Fake GPU has compute capability 6.1.\nAllowed: 7.0 or newer.\nChoose another device"),
        ({"has_nvrtc": False}, "CuPy finds no NVRTC, which compiles the kernels.\npip install 'twintrack-core[gpu]'"),
        (
            {"capability": (7, 0), "architectures": (75, 80, 90)},
            "Fake GPU has compute capability 7.0.\nAllowed: 7.5 or newer, for which NVRTC 12.9 compiles.\nFor CUDA 12,",
        ),
        ({"version": "13.6.0"}, "CuPy 13.6.0 is too old.\nAllowed: 14 or newer.\npip install 'twintrack-core[gpu]'"),
        ({"is_hip": True}, "This CuPy was built for ROCm.\nAllowed: a CuPy for CUDA.\npip install"),
    ],
)
def test_what_is_missing(state: dict[str, Any], message: str) -> None:
    with fake_cupy.installed(**state):
        for ask in (device.require_device, lambda: kernels.get("cupy")):
            with pytest.raises(WorkError) as caught:
                ask()
            assert str(caught.value).startswith(message)


def test_no_cupy_and_a_broken_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_cupy.installed():
        monkeypatch.setattr(device, "is_installed", lambda: False)
        with pytest.raises(
            WorkError, match=r"cannot be used without CuPy.\npip install 'twintrack-core\[gpu\]' for CUDA 12"
        ):
            device.require_device()
        monkeypatch.undo()

        def fail(name: str) -> Any:
            raise ImportError("\n=====\nlibcuda.so.1: cannot open\n=====")

        with monkeypatch.context() as patch:
            patch.setattr("importlib.import_module", fail)
            with pytest.raises(
                WorkError, match=r"CuPy is installed but cannot be imported: libcuda.so.1: cannot open\n"
            ) as caught:
                device.require_device()
        assert isinstance(caught.value.__cause__, ImportError)


def test_a_usable_device() -> None:
    with fake_cupy.installed(capability=(7, 0)):
        assert device.require_device() == device.Device(0, "Fake GPU", (7, 0), 4, 227 << 10)


def offer_of_cupy() -> Offer | None:
    return next((offer for offer in KERNELS.offers() if offer.name == "cupy"), None)


def test_the_kernel_is_there_for_those_who_ask_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("twintrack_core.kernels.registry.is_installed", lambda: False)
        assert offer_of_cupy() is None
        assert kernels.get("auto") is not None
    with fake_cupy.installed():
        assert "cupy" not in kernels.names()
        offer = offer_of_cupy()
        assert offer is not None
        assert offer.problem is None
        assert kernels.get("auto") is not kernels.get("cupy")
    with fake_cupy.installed(status=100):
        assert "cupy" not in kernels.names()
        offer = offer_of_cupy()
        assert offer is not None
        assert offer.problem == "There is no CUDA device"
        assert main(["plugins", "list"]) == 0
        assert re.search(r"kernel +cupy +twintrack-core \S+ +There is no CUDA device\n", capsys.readouterr().out)


def test_a_bench_of_a_kernel_that_cannot_be_used_does_not_begin() -> None:
    with fake_cupy.installed(status=100), pytest.raises(WorkError, match="There is no CUDA device"):
        resolve_kernels(["cupy"])


def test_a_source_that_does_not_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(error: Exception) -> Callable[..., Any]:
        def fail(*_: Any, **__: Any) -> Any:
            raise error

        return fail

    with fake_cupy.installed():
        scores = fake_cupy.asarray(np.zeros(3, np.float16))
        log, no_headers = "kern.cu(7): error: what is this\n\n1 error", "Failed to find CUDA headers."
        for error, message in (
            (fake_cupy.CompileException(log), "kern.cu(7): error: what is this"),
            (RuntimeError(no_headers), no_headers),
        ):
            monkeypatch.setattr(fake_cupy, "compiling", failing(error))
            with pytest.raises(WorkError) as caught:
                MAP(scores)
            assert str(caught.value) == (
                "The kernel relabel (float16, 1, float16, False, 232448) for compute capability 9.0 cannot be compiled "
                f"and loaded: {message}\n{device.INSTALL}"
            )
        monkeypatch.setattr(fake_cupy, "compiling", failing(PermissionError(13, "Permission denied", "/cache/.cupy")))
        with pytest.raises(WorkError, match=r"'/cache/.cupy'\nName a folder that can be written with CUPY_CACHE_DIR"):
            tt.JointHistogram.from_votes(scores, None, ())


class TestConformance(KernelConformance):
    """How arguments, pieces, findings and results travel, since the arithmetic is the oracle's."""

    @pytest.fixture(autouse=True)
    def _cupy(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        with fake_cupy.installed():
            self.kernel = kernels.get("cupy")
            monkeypatch.setattr(self.kernel, "_HOST_PIECE", 7001)
            monkeypatch.setattr("twintrack_core.kernels.cuda.MAX_VOXELS", 3001)
            monkeypatch.setattr(self.kernel, "_MEMBERS_PIECE", 999)
            yield

    # These are about arithmetic alone, and take the oracle long.
    test_means: Any = None
    test_every_float16: Any = None
    test_kinds_of_volumes: Any = None
    test_any_voxels_in_any_split: Any = None
    test_large_volumes: Any = None
    test_rounding: Any = None


class Tensor:
    """What the package asks of a torch tensor on a device."""

    is_cuda = True

    def __init__(self, held: Any, dtype: str | None = None, stream: int = 0) -> None:
        self.held, self.device = held, types.SimpleNamespace(index=0, type="cuda")
        self.dtype = types.SimpleNamespace(name=dtype or held.dtype.name)
        self.shape = held.shape

    def detach(self) -> Tensor:
        return self

    def view(self, dtype: Any) -> Tensor:
        assert (self.dtype.name, dtype.name) == ("bool", "uint8")
        return Tensor(self.held.view(np.uint8))


Tensor.__module__ = "torch"


class Dtype(types.SimpleNamespace):
    def __str__(self) -> str:
        return f"torch.{self.name}"


Make = Callable[[npt.NDArray[Any]], Any]


@pytest.fixture(params=["cupy", "torch", "torch on a stream"])
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Put an array on the device, as one of a library."""
    with fake_cupy.installed():
        if request.param == "cupy":
            with fake_cupy.Stream():
                yield fake_cupy.asarray
            return
        pointer = 0 if request.param == "torch" else 77
        stream = fake_cupy.EXTERNAL[77] = fake_cupy.Stream()
        torch: Any = types.ModuleType("torch")
        for name in ("bool", "int64", "uint8", "float16", "float32", "float64"):
            setattr(torch, name, Dtype(name=name))
        torch.cuda = types.SimpleNamespace(current_stream=lambda _: types.SimpleNamespace(cuda_stream=pointer))

        def tensor(held: Any) -> Tensor:
            made = Tensor(held)
            made.dtype = getattr(torch, held.dtype.name)
            return made

        torch.empty = lambda shape, dtype, device: tensor(fake_cupy.empty(shape, dtype.name))
        monkeypatch.setitem(sys.modules, "torch", torch)

        def put(array: npt.NDArray[Any]) -> Tensor:
            with stream if pointer else fake_cupy.Stream.null:
                return tensor(fake_cupy.asarray(array))

        yield put


def fetched(array: Any) -> npt.NDArray[Any]:
    """What is in memory once the stream that it was written on is waited for."""
    if isinstance(array, Tensor):
        for stream in (fake_cupy.Stream.null, *fake_cupy.EXTERNAL.values()):
            stream.run()
        return np.array(array.held.content)
    found = array.get()
    assert isinstance(found, np.ndarray)
    return found


@functools.cache
def volume(dtype: str, members: int) -> tuple[npt.NDArray[Any], ...]:
    rng = np.random.default_rng(0)
    shape = (members, 11, 12, 13) if members > 1 else (11, 12, 13)
    scores = rng.random(shape)
    stored = (scores * 255).astype(np.uint8) if dtype == "uint8" else scores.astype(dtype)
    masks = rng.integers(0, 2, (3, 11, 12, 13)).astype(bool)
    return stored, masks, rng.random((11, 12, 13)) < 0.3


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "uint8"])
@pytest.mark.parametrize("members", [1, 3])
def test_arrays_on_a_device_are_used_in_place(
    make: Make, dtype: str, members: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, masks, roi = volume(dtype, members)
    many = members > 1
    monkeypatch.setattr("twintrack_core.kernels.cuda.MAX_VOXELS", 700)
    expected = tt.JointHistogram.from_arrays(scores, masks, roi=roi, members=many)
    votes = np.packbits(masks, axis=0, bitorder="little")[0]
    for_device = [make(array) for array in (scores, masks, roi, votes)]
    fake_cupy.MACHINE.log.clear()
    assert tt.JointHistogram.from_arrays(for_device[0], for_device[1], roi=for_device[2], members=many) == expected
    names = expected.raters
    assert (
        tt.JointHistogram.from_votes(for_device[0], for_device[3], names, roi=for_device[2], members=many) == expected
    )
    folded = tt.JointHistogram.from_votes(for_device[0], None, (), members=many)
    assert folded == tt.JointHistogram.from_votes(scores, None, (), members=many)
    log = fake_cupy.MACHINE.log
    assert len({event.stream for event in log}) == 1  # the caller's
    assert not any(event.what == "to device" for event in log)
    for out in (None, "float16", "uint8"):
        found = MAP(for_device[0], members=many, dtype=out)
        assert type(found) is type(for_device[0])
        np.testing.assert_array_equal(fetched(found), MAP(scores, members=many, dtype=out))
    assert len({event.stream for event in log}) == 1


def test_counts_beyond_32_bits(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    scores, masks, roi = volume("float16", 1)
    for_device = [make(array) for array in (scores, masks, roi)]
    import twintrack_core.kernels.cupy as backend

    monkeypatch.setattr(backend, "CAPACITY", 1000)
    monkeypatch.setattr("twintrack_core.kernels.cuda.MAX_VOXELS", 400)
    found = tt.JointHistogram.from_arrays(for_device[0], for_device[1], roi=for_device[2])
    assert found == tt.JointHistogram.from_arrays(scores, masks, roi=roi)
    assert (
        sum(event.what == "flush" for event in fake_cupy.MACHINE.log) == 2
    )  # after 800 of 1716 voxels, and at the end


def test_float64_is_rounded_once(make: Make) -> None:
    halves = np.arange(N_CODES, dtype=np.uint16).view(np.float16).astype(np.float64)
    middle = (halves[1:] + halves[:-1]) / 2
    near = np.concatenate([middle, middle * (1 + 2.0**-40), middle * (1 - 2.0**-40), [1e-300, -1e-300, 1 + 2.0**-11]])
    found = tt.JointHistogram.from_votes(make(near), None, ())
    assert found == tt.JointHistogram.from_votes(near, None, ())
    once, twice = near.astype(np.float16), near.astype(np.float32).astype(np.float16)
    assert (once != twice).any()  # or this shows nothing


def test_what_is_wrong_with_arrays_on_a_device(make: Make) -> None:
    scores, masks, roi = volume("float32", 1)
    wrong = scores.copy()
    wrong[3, 4, 5], wrong[6, 7, 8] = 2.5, np.nan
    bad_votes = np.full(scores.shape, 9, np.uint8)
    pairs: list[tuple[type[Exception], Callable[[Make], object]]] = [
        (InvalidScoresError, lambda put: tt.JointHistogram.from_arrays(put(wrong), put(masks))),
        (InvalidScoresError, lambda put: MAP(put(wrong))),
        (InvalidScoresError, lambda put: MAP(put(wrong), on_invalid="clip")),
        (InvalidVotesError, lambda put: tt.JointHistogram.from_votes(put(scores), put(bad_votes), ("a", "b"))),
        (InvalidVotesError, lambda put: tt.JointHistogram.from_arrays(put(scores), put(masks.astype(np.uint8) * 3))),
        (RequestError, lambda put: tt.JointHistogram.from_arrays(put(scores), put(masks[:, :5]))),
        (RequestError, lambda put: tt.JointHistogram.from_votes(put(scores), put(bad_votes[:5]), ("a",))),
        (RequestError, lambda put: tt.JointHistogram.from_votes(put(scores), put(masks[0]), ("a",))),
        (RequestError, lambda put: tt.JointHistogram.from_votes(put(scores), None, (), roi=put(bad_votes))),
        (RequestError, lambda put: MAP(put(scores), members=True, dtype="uint8", on_invalid="exclude")),
    ]
    for kind, work in pairs:
        with pytest.raises(kind) as on_host:
            work(lambda array: array)
        with pytest.raises(kind) as on_device:
            work(make)
        assert str(on_device.value) == str(on_host.value)
    excluded = fetched(MAP(make(wrong), on_invalid="exclude"))
    np.testing.assert_array_equal(excluded, MAP(wrong, on_invalid="exclude"))
    with pytest.raises(RequestError, match="votes is on the host"):
        tt.JointHistogram.from_votes(make(scores), bad_votes, ("a",))
    with pytest.raises(RequestError, match="raters is on the host"):
        tt.JointHistogram.from_arrays(make(scores), masks)
    with pytest.raises(RequestError, match="does not count what is on a device"):
        tt.JointHistogram.from_votes(make(scores), None, (), kernel="numba")
    with pytest.raises(RequestError, match=r"(int64|dtype)"):
        tt.JointHistogram.from_votes(make(np.zeros(3, np.int64)), None, ())
    elsewhere = make(roi)
    if not isinstance(elsewhere, Tensor):
        elsewhere.device = fake_cupy.Device(1)
        with pytest.raises(RequestError, match="probability is on cuda:0, of cupy, roi is on cuda:1, of cupy"):
            tt.JointHistogram.from_votes(make(scores), None, (), roi=elsewhere)


def test_masks_on_another_device_are_refused(make: Make) -> None:
    scores, masks, _ = volume("float32", 1)
    elsewhere = make(masks)
    if isinstance(elsewhere, Tensor):
        elsewhere.device = types.SimpleNamespace(index=1, type="cuda")
    else:
        elsewhere.device = fake_cupy.Device(1)
    with pytest.raises(RequestError, match=r"probability is on cuda:0, .*raters is on cuda:1(.|\n)*all on one device"):
        tt.JointHistogram.from_arrays(make(scores), elsewhere)


def test_libraries_are_not_mixed(make: Make) -> None:
    scores, masks, _ = volume("float32", 1)
    if isinstance(make(scores), Tensor):
        with pytest.raises(RequestError, match="probability is on cuda:0, of torch, raters is on cuda:0, of cupy"):
            tt.JointHistogram.from_arrays(make(scores), fake_cupy.asarray(masks))
        strange: Any = Tensor(fake_cupy.asarray(scores), "bfloat16")
        with pytest.raises(RequestError, match=r"cannot be used: unsupported dtype(.|\n)*Convert it"):
            tt.JointHistogram.from_votes(strange, None, ())


def test_tensors_on_the_host() -> None:
    torch = pytest.importorskip("torch")
    scores, masks, _ = volume("float32", 1)
    found = MAP(torch.from_numpy(scores))
    assert isinstance(found, torch.Tensor)
    np.testing.assert_array_equal(found.numpy(), MAP(scores))
    counted = tt.JointHistogram.from_arrays(torch.from_numpy(scores), torch.from_numpy(masks))
    assert counted == tt.JointHistogram.from_arrays(scores, masks)


def test_a_variant_is_compiled_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    module = fake_cupy.RawModule.__init__

    def counting(self: Any, *, code: str, options: tuple[str, ...]) -> None:
        made.append(code)
        module(self, code=code, options=options)

    monkeypatch.setattr(fake_cupy.RawModule, "__init__", counting)
    scores, masks, _ = volume("float16", 1)
    for _ in range(3):
        tt.JointHistogram.from_arrays(make(scores), make(masks))
        MAP(make(scores))
    assert len(made) == len(set(made)) == 2


_WITHOUT = """
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {names!r} else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = map(Without, sys.meta_path)
"""
_OTHERS = (
    "zarr",
    "dask",
    "numcodecs",
    "scipy",
    "numba",
    "tqdm",
    "hypothesis",
    "SimpleITK",
    "pytest_benchmark",
    "torch",
)


def run_without(names: tuple[str, ...], program: str) -> subprocess.CompletedProcess[str]:
    code = _WITHOUT.format(names=names) + program
    variables = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # installed ones need what is refused
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=variables)


def test_what_a_device_needs_is_imported_with_numpy_alone() -> None:
    done = run_without(
        _OTHERS,
        """
import numpy as np
import twintrack_core as tt
from twintrack_core import kernels, testing
from twintrack_core.kernels import cuda, device
from twintrack_core.testing import KernelConformance
scores, masks = np.linspace(0, 1, 50), np.ones((2, 50), bool)
histogram = tt.JointHistogram.from_arrays(scores, masks, kernel="reference")
calibration = tt.CalibrationMap(score=np.array([0, 1]), value=np.array([0, 1]))
assert histogram.relabel(calibration.codes) == histogram
assert "cupy" not in sys.modules
""",
    )
    assert done.returncode == 0, done.stderr


def test_the_tests_for_hardware_need_numpy_and_pytest_alone() -> None:
    program = """
import pytest
sys.exit(pytest.main(["-m", "gpu", "-p", "no:cacheprovider"]))
"""
    done = run_without((*_OTHERS, "cupy"), program)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "A CUDA device cannot be used without CuPy" in done.stdout
    assert "failed" not in done.stdout
    assert "No test ran on a GPU" in done.stdout  # or it would look as if they had passed


def test_a_stand_in_for_cupy_is_no_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", types.ModuleType("cupy"))
    assert offer_of_cupy() is None


def test_kits_are_modules_too() -> None:
    assert testing.kernels.KernelConformance is KernelConformance
    assert {"kernels", "readers", "check_metric"} <= set(dir(testing))
