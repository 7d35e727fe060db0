"""Plugins of distributions that are really installed, as far as Python can tell."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import twintrack_core as tt
from twintrack_core import kernels, plugins
from twintrack_core.codes import N_CODES
from twintrack_core.engine.importing import import_cases
from twintrack_core.errors import PluginError, RequestError
from twintrack_core.kernels import registry
from twintrack_core.simulate import Simulation

GOOD = """
from twintrack_core.kernels import reference

calls = []

def accumulate(*arguments, **options):
    calls.append("accumulate")
    return reference.accumulate(*arguments, **options)

def relabel(*arguments, **options):
    calls.append("relabel")
    return reference.relabel(*arguments, **options)
"""
OBJECT = """
from twintrack_core.kernels import reference

class Kernel:
    accumulate = staticmethod(reference.accumulate)
    relabel = staticmethod(reference.relabel)

kernel = Kernel()
"""
MODULES = {
    "tt_good": GOOD,
    "tt_object": OBJECT,
    "tt_raising": "raise OSError('no such device')",
    "tt_lacking": "accumulate = print",
    "tt_clash": "raise AssertionError('never imported')",
}


class Site:
    """A folder on the path that distributions are installed to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for module, text in MODULES.items():
            (folder / f"{module}.py").write_text(text)

    def install(self, distribution: str, version: str, **kernels: str) -> None:
        info = self.folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        lines = [f"{name} = {value}\n" for name, value in kernels.items()]
        (info / "entry_points.txt").write_text("".join(["[twintrack.kernels]\n", *lines]))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.syspath_prepend(tmp_path)
    _forget()
    yield Site(tmp_path)
    _forget()


def _forget() -> None:
    registry._resolve.cache_clear()
    plugins._warn_of_clash.cache_clear()
    for module in MODULES:
        sys.modules.pop(module, None)


def test_listing_imports_nothing(site: Site) -> None:
    site.install("tt-fast", "1.2", good="tt_good", other="tt_object:kernel", raising="tt_raising")
    site.install("tt-more", "3", lacking="tt_lacking", missing="tt_nowhere")
    assert kernels.names()[-5:] == ("good", "lacking", "missing", "other", "raising")
    with pytest.raises(RequestError, match=r"Allowed: auto, .*numba.* good, lacking, missing, other, raising"):
        kernels.get("none")
    assert not set(MODULES) & set(sys.modules)
    assert kernels.get("auto") in [kernels.get(name) for name in ("numba", "cython") if name in kernels.names()]
    assert not set(MODULES) & set(sys.modules)


def test_only_the_one_asked_for_is_loaded_and_only_once(site: Site) -> None:
    site.install("tt-fast", "1.2", good="tt_good", other="tt_object:kernel", raising="tt_raising")
    kernel = kernels.get("good")
    assert set(MODULES) & set(sys.modules) == {"tt_good"}
    assert kernel is sys.modules["tt_good"] is kernels.get("good")
    assert kernels.get("other") is sys.modules["tt_object"].kernel


def test_a_third_party_kernel_counts(site: Site, tmp_path: Path) -> None:
    site.install("tt-fast", "1.2", good="tt_good")
    rng = np.random.default_rng(0)
    scores, votes = rng.random((20, 30)).astype(np.float32), rng.integers(0, 4, (20, 30), np.uint8)
    expected = tt.JointHistogram.from_votes(scores, votes, ["a", "b"])
    assert tt.JointHistogram.from_votes(scores, votes, ["a", "b"], kernel="good") == expected
    calls = sys.modules["tt_good"].calls
    assert calls == ["accumulate"]
    lut = rng.random(N_CODES)
    np.testing.assert_array_equal(kernels.relabel(scores, lut, kernel="good"), kernels.relabel(scores, lut))
    assert calls == ["accumulate", "relabel"]

    import_cases(Simulation(cases=2, shape=(12, 14, 16), raters=3, members=2, seed=1), tmp_path / "cohort.zarr")
    cohort = tt.open_cohort(tmp_path / "cohort.zarr")
    assert tt.accumulate(cohort, kernel="good") == tt.accumulate(cohort)
    assert calls.count("accumulate") > 2


@pytest.mark.parametrize(
    ("name", "value", "cause"),
    [
        ("raising", "tt_raising", OSError),
        ("lacking", "tt_lacking", AttributeError),
        ("missing", "tt_nowhere", ModuleNotFoundError),
        ("unsaid", "tt_object:nothing", AttributeError),
    ],
)
def test_a_broken_plugin_is_named_when_it_is_asked_for(
    site: Site, name: str, value: str, cause: type[Exception]
) -> None:
    site.install("tt-fast", "1.2", **{name: value})
    site.install("tt-more", "3", good="tt_good")
    for _ in range(2):
        with pytest.raises(PluginError) as caught:
            tt.JointHistogram.from_votes(np.zeros(3), None, [], kernel=name)
        assert isinstance(caught.value.__cause__, cause)
        assert str(caught.value).startswith(
            f"twintrack.kernels: {name!r} of tt-fast 1.2 ({value}) cannot be used: {caught.value.__cause__!r}.\n"
        )
        assert len(str(caught.value).splitlines()) == 3
    assert caught.value.exit_code == 1
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert kernels.get("good") is sys.modules["tt_good"]
    assert kernels.get("numba")


@pytest.mark.parametrize("name", ["auto", "reference", "numba", "cython"])
def test_our_names_are_ours(site: Site, name: str) -> None:
    ours = kernels.get("reference")
    site.install("tt-clash", "0.9", **{name: "tt_clash"})
    _forget()
    with pytest.warns(RuntimeWarning, match=f"'{name}' of tt-clash 0.9 is not used") as caught:
        names = kernels.names()
    assert len(caught) == 1
    assert len(set(names)) == len(names)
    assert kernels.names() == names  # and no second warning
    assert kernels.get("reference") is ours
    assert "tt_clash" not in sys.modules


def test_asking_for_ours_by_a_name_that_clashes_warns(site: Site) -> None:
    site.install("tt-clash", "0.9", numba="tt_clash")
    with pytest.warns(RuntimeWarning, match="'numba' of tt-clash 0.9"):
        kernel = kernels.get("numba")
    assert kernel is sys.modules["twintrack_core.kernels.numba"]


def test_a_name_that_two_distributions_offer_is_nobodys(site: Site) -> None:
    site.install("tt-fast", "1.2", good="tt_good")
    site.install("tt-more", "3", good="tt_object:kernel")
    assert kernels.names().count("good") == 1
    with pytest.raises(PluginError, match=r"tt-fast 1.2 and tt-more 3 both offer 'good'"):
        kernels.get("good")


def test_nothing_is_looked_for_before_a_name_is_asked_for() -> None:
    program = """
import sys
import twintrack_core.kernels
assert "importlib.metadata" not in sys.modules  # which takes half as long as NumPy
"""
    subprocess.run([sys.executable, "-c", program], check=True)
