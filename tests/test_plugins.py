"""Plugins of distributions that are really installed, as far as Python can tell."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import twintrack_core as tt
from twintrack_core import calibrators, kernels, metrics, plugins
from twintrack_core.calibrators.registry import CALIBRATORS
from twintrack_core.codes import N_CODES
from twintrack_core.cohort.registry import OURS, READERS, make_reader
from twintrack_core.engine.importing import import_cases
from twintrack_core.errors import PluginError, RequestError
from twintrack_core.histogram import CaseStatistics
from twintrack_core.kernels.registry import KERNELS
from twintrack_core.metrics.registry import METRICS
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
MORE = """
from twintrack_core.calibrators import Knots
from twintrack_core.metrics import Metric, Suite
from twintrack_core.simulate import Simulation

def flat(target):
    mean = (target.mean * target.weight).sum() / target.weight.sum()
    return Knots([0.0, 1.0], [mean, mean], {"mean": float(mean)})

def metric(name, **options):
    return Metric(name=name, function=lambda cells: float(cells.score.max()), unit="1", better="neither",
                  range=(0.0, 1.0), description="Largest score", source="here", **options)

largest, good = metric("largest", roi="raters+3"), metric("good")
def _with_argument(text):
    if text == "broken":
        raise ZeroDivisionError("no")
    return metric(f"other:{text}")

other = metric("other", argument="WORD", with_argument=_with_argument)
suite = Suite(name="suite", metrics=("largest", "brier_mhr"), description="Two")

def reader(folder, *, cases=(), seed, shape="8"):
    if seed == "broken":
        raise ZeroDivisionError("no")
    if seed == "none":
        return object()
    return Simulation(cases=1, shape=(int(shape),) * 3, raters=2, members=1, seed=int(seed))

def any_options(folder, *, cases=(), **options):
    return reader(folder, seed=options["seed"])

def failing(target):
    raise ZeroDivisionError("no")

nested = Suite(name="nested", metrics=("suite",), description="A suite of suites")
"""
MODULES = {
    "tt_good": GOOD,
    "tt_object": OBJECT,
    "tt_more": MORE,
    "tt_raising": "raise OSError('no such device')",
    "tt_leaving": "raise SystemExit(3)",
    "tt_lacking": "accumulate = print",
    "tt_clash": "raise AssertionError('never imported')",
}
REGISTRIES: dict[str, Any] = {"kernels": KERNELS, "calibrators": CALIBRATORS, "metrics": METRICS, "readers": READERS}
GROUPS = tuple(REGISTRIES)
OF_GROUP = {
    "kernels": "tt_good",
    "calibrators": "tt_more:flat",
    "metrics": "tt_more:good",
    "readers": "tt_more:reader",
}


class Site:
    """A folder on the path that distributions are installed to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for module, text in MODULES.items():
            (folder / f"{module}.py").write_text(text)

    def install(self, distribution: str, version: str, group: str = "kernels", api: str = "", **entries: str) -> None:
        groups = {f"twintrack.{group}": entries}
        if api:
            groups["twintrack.api"] = {api: "tt_good"}
        lines = []
        for name, pairs in groups.items():
            lines += [f"[{name}]\n", *(f"{key} = {value}\n" for key, value in pairs.items())]
        self.install_text(distribution, version, "".join(lines))

    def install_text(self, distribution: str, version: str, text: str) -> None:
        info = self.folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(text)
        plugins._scan.cache_clear()  # whatever the clock says of the folder


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    real = metadata.distributions
    # What else is installed here is not these tests' concern.
    monkeypatch.setattr(
        metadata, "distributions", lambda: real(path=[place for place in sys.path if place.startswith(str(tmp_path))])
    )
    _forget()
    yield Site(folder)
    _forget()


def _forget() -> None:
    plugins._scan.cache_clear()
    plugins._warned_of.clear()
    for registry in REGISTRIES.values():
        registry._loaded.clear()
        registry._failed.clear()
    for module in [name for name in sys.modules if name.startswith("tt_")]:
        del sys.modules[module]


def _imported() -> set[str]:
    return {name for name in sys.modules if name.startswith("tt_")}


@pytest.mark.parametrize("group", GROUPS)
def test_listing_imports_nothing(site: Site, group: str) -> None:
    registry = REGISTRIES[group]
    site.install("tt-fast", "1.2", group, api="v1", good=OF_GROUP[group], other="tt_clash:kernel", raising="tt_raising")
    site.install("tt-more", "3", group, lacking="tt_lacking")
    assert registry.names()[-4:] == ("good", "lacking", "other", "raising")
    offers = [offer for offer in registry.offers() if offer.value]
    assert [(offer.name, offer.source) for offer in offers] == [
        ("good", "tt-fast 1.2"), ("lacking", "tt-more 3"), ("other", "tt-fast 1.2"), ("raising", "tt-fast 1.2"),
    ]  # fmt: skip
    assert {offer.kind for offer in registry.offers()} == {group.removesuffix("s")}
    with pytest.raises(RequestError, match=r"Allowed: .*good, lacking, other, raising\.\nDid you mean 'lacking'"):
        registry.get("lakking")
    assert not _imported()


def test_listing_in_a_new_process_imports_nothing(site: Site) -> None:
    for group in GROUPS:
        site.install(f"tt-{group}", "1", group, good="tt_clash")
    program = f"""
import sys
sys.path.insert(0, {str(site.folder)!r})
from twintrack_core import calibrators, kernels
from twintrack_core.cohort.registry import READERS
assert "importlib.metadata" not in sys.modules  # which takes half as long as NumPy
from twintrack_core import metrics
for module in (kernels, calibrators, metrics, READERS):
    assert "good" in module.names()
assert "tt_clash" not in sys.modules
assert not {{"numba", "dask", "zarr"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


def test_ours_are_there_without_looking_for_plugins() -> None:
    program = """
import sys
from twintrack_core import kernels, metrics
kernels.get("auto"), metrics.resolve(None)
assert "twintrack_core.plugins" in sys.modules and not sys.modules["twintrack_core.plugins"]._scan.cache_info().misses
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_only_the_one_asked_for_is_loaded_and_only_once(site: Site) -> None:
    site.install("tt-fast", "1.2", good="tt_good", other="tt_object:kernel", raising="tt_raising")
    kernel = kernels.get("good")
    assert _imported() == {"tt_good"}
    assert kernel is sys.modules["tt_good"] is kernels.get("good")
    assert kernels.get("other") is sys.modules["tt_object"].kernel
    assert kernels.get("auto") in [kernels.get(name) for name in ("numba", "cython") if name in kernels.names()]


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


def test_third_party_calibrators_and_metrics_are_used(site: Site) -> None:
    site.install("tt-calibration", "1", "calibrators", flat="tt_more:flat")
    site.install("tt-metrics", "1", "metrics", largest="tt_more:largest", other="tt_more:other", suite="tt_more:suite")
    histogram = tt.JointHistogram.from_arrays(np.array([0.25, 0.5]), np.array([[1, 0], [1, 0]]))
    fitted = tt.fit(histogram, "flat")
    assert (fitted.calibrator, fitted.value.tolist(), fitted.parameters) == ("flat", [0.5, 0.5], {"mean": 0.5})
    statistics = tt.CohortStatistics({"a": CaseStatistics(histogram)})
    evaluation = tt.evaluate(statistics, metrics=["suite", "other:x"])
    assert [row.metric for row in evaluation.summary] == ["largest", "brier_mhr", "other:x"] * 2
    assert [metric.name for metric in metrics.resolve(["suite", "other:x"])] == ["largest", "brier_mhr", "other:x"]
    assert metrics.preferred_roi(metrics.resolve(["suite"])) == "raters+3"
    assert "largest" not in {metric.name for metric in metrics.resolve(None)}
    with pytest.raises(PluginError, match=r"'other' failed with the argument 'broken': ZeroDivisionError"):
        metrics.get("other:broken")


def test_what_fails_when_it_is_used_is_named(site: Site, tmp_path: Path) -> None:
    site.install("tt-calibration", "1", "calibrators", failing="tt_more:failing")
    site.install("tt-metrics", "1", "metrics", nested="tt_more:nested", suite="tt_more:suite")
    histogram = tt.JointHistogram.from_arrays(np.array([0.25, 0.5]), np.array([[1, 0], [1, 0]]))
    with pytest.raises(PluginError, match="calibrator 'failing' failed: ZeroDivisionError"):
        tt.fit(histogram, "failing")
    with pytest.raises(PluginError, match="suite 'nested' holds a suite"):
        metrics.resolve(["nested"])

    class Failing:
        def case_names(self) -> tuple[str, ...]:
            return ("a",)

        def read(self, name: str) -> tt.Cohort:
            raise ZeroDivisionError(name)

    with pytest.raises(PluginError, match="Case a: Failing failed to read it: ZeroDivisionError"):
        import_cases(Failing(), tmp_path / "cohort.zarr")  # type: ignore[arg-type]


def test_readers_and_their_options(site: Site, tmp_path: Path) -> None:
    site.install("tt-io", "1", "readers", made="tt_more:reader", free="tt_more:any_options")
    reader = make_reader("made", tmp_path, options={"seed": "4", "shape": "9"})
    assert reader.read("case000").probability.shape == (9, 9, 9)
    assert make_reader("free", tmp_path, options={"seed": "4", "unknown": "x"}).case_names() == ("case000",)
    for options, words in (
        ({"seed": "1", "sead": "1"}, r"takes no option 'sead'\.\nAllowed: seed, shape\."),
        ({"shape": "8"}, r"needs the option 'seed'\.\nAllowed: seed, shape\."),
    ):
        with pytest.raises(RequestError, match=words):
            make_reader("made", tmp_path, options=options)
    with pytest.raises(PluginError, match="ZeroDivisionError"):
        make_reader("made", tmp_path, options={"seed": "broken"})
    with pytest.raises(PluginError, match="made a object without case_names and read"):
        make_reader("made", tmp_path, options={"seed": "none"})
    assert {READERS.get(name).__name__ for name in OURS} == {"NnunetReader", "VolumesReader"}


@pytest.mark.parametrize(
    ("name", "value", "cause"),
    [
        ("raising", "tt_raising", OSError),
        ("leaving", "tt_leaving", SystemExit),
        ("missing", "tt_nowhere", ModuleNotFoundError),
        ("unsaid", "tt_object:nothing", AttributeError),
        ("lacking", "tt_lacking", None),
    ],
)
def test_a_broken_plugin_is_named_when_it_is_asked_for(
    site: Site, name: str, value: str, cause: type[BaseException] | None
) -> None:
    site.install("tt-fast", "1.2", **{name: value})
    site.install("tt-more", "3", good="tt_good")
    for _ in range(2):
        with pytest.raises(PluginError) as caught:
            tt.JointHistogram.from_votes(np.zeros(3), None, [], kernel=name)
        found = caught.value.__cause__
        assert isinstance(found, cause) if cause else found is None
        words = repr(found) if cause else "it has no relabel"
        assert str(caught.value).startswith(
            f"twintrack.kernels: {name!r} of tt-fast 1.2 ({value}) cannot be used: {words}.\n"
        )
        assert len(str(caught.value).splitlines()) == 3
    assert caught.value.exit_code == 1
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert kernels.get("good") is sys.modules["tt_good"]
    assert kernels.get("numba")
    # What failed is remembered.
    with pytest.warns(RuntimeWarning, match=f"'{name}' of tt-fast 1.2 is not used: ") as warned:
        names = kernels.names()
    assert len(warned) == 1
    assert "good" in names
    assert name not in names
    assert kernels.names() == names  # and no second warning


def test_what_was_repaired_works(site: Site) -> None:
    site.install("tt-fast", "1.2", repaired="tt_repaired")
    (site.folder / "tt_repaired.py").write_text("")
    with pytest.raises(PluginError):
        kernels.get("repaired")
    sys.modules["tt_repaired"].__dict__.update(accumulate=print, relabel=print)
    assert kernels.get("repaired")
    assert "repaired" in kernels.names()


WRONG_TYPES = {
    "kernels": ("tt_more:flat", "it has no accumulate and no relabel"),
    "calibrators": ("tt_more", "it is a module"),
    "metrics": ("tt_more:flat", "it is a function"),
    "readers": ("tt_more:flat", r"it does not take a folder and cases \(.*'cases'\)"),
}


@pytest.mark.parametrize("group", GROUPS)
def test_the_wrong_type(site: Site, group: str) -> None:
    value, words = WRONG_TYPES[group]
    site.install("tt-wrong", "1", group, wrong=value, module="tt_more")
    with pytest.raises(PluginError, match=rf"'wrong' of tt-wrong 1 \({value}\) cannot be used: {words}\.\nAllowed: "):
        REGISTRIES[group].get("wrong")
    with pytest.raises(PluginError, match="'module' of tt-wrong 1"):
        REGISTRIES[group].get("module")


def test_a_metric_of_another_name(site: Site) -> None:
    site.install("tt-wrong", "1", "metrics", smallest="tt_more:largest")
    with pytest.raises(PluginError, match="cannot be used: its name is 'largest'"):
        metrics.get("smallest")


PROBLEMS = {
    "an old API": ("v0", "old", "tt_clash", "it was written for plugin API v0, this is v1"),
    "a new API": ("v2", "new", "tt_clash", "it was written for plugin API v2, this is v1"),
    "no module": ("", "missing", "tt_nowhere", "there is no module 'tt_nowhere'"),
    "no module in a package": ("", "missing", "tt_package.nowhere:x", "there is no module 'tt_package.nowhere'"),
    "no module in a folder": ("", "missing", "tt_folder.nowhere", "there is no module 'tt_folder.nowhere'"),
    "no value": ("", "empty", "", "'' is not MODULE or MODULE:OBJECT"),
    "a malformed value": ("v1", "bad", "tt good:x", "'tt good:x' is not MODULE or MODULE:OBJECT"),
    "a malformed name": ("", "a:b", "tt_good", "its name is not made of letters, digits and _ . + -"),
}


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_what_cannot_be_used_is_left_out_with_one_warning(site: Site, group: str, problem: str) -> None:
    api, name, value, words = PROBLEMS[problem]
    (site.folder / "tt_package").mkdir()
    (site.folder / "tt_package" / "__init__.py").write_text("raise AssertionError('never imported')")
    (site.folder / "tt_folder").mkdir()
    site.install("tt-broken", "0.9", group, api, **{name: value})
    site.install("tt-fine", "1", group, good=OF_GROUP[group])
    registry = REGISTRIES[group]
    with pytest.warns(RuntimeWarning) as caught:
        names = registry.names()
    assert [str(warning.message) for warning in caught] == [
        f"twintrack.{group}: {name!r} of tt-broken 0.9 is not used: {words}."
    ]
    assert name not in names
    assert "good" in names
    assert registry.names() == names  # and no second warning
    (offer,) = [offer for offer in registry.offers() if offer.name == name]
    assert offer.problem == words
    assert not _imported()
    with pytest.raises(PluginError, match=r"tt-broken 0\.9"):
        registry.get(name)
    registry.get("good")


def test_what_may_be_there_is_not_said_to_be_missing(site: Site) -> None:
    package = site.folder / "tt_dynamic"
    package.mkdir()
    (package / "__init__.py").write_text("__path__.append('elsewhere')")
    site.install("tt-dynamic", "1", one="tt_dynamic.kernel", two="tt_good.kernel", three="tt_folder.inner.kernel")
    (site.folder / "tt_folder" / "inner").mkdir(parents=True)
    (site.folder / "tt_folder" / "inner" / "kernel.py").write_text(GOOD)
    assert kernels.names()[-3:] == ("one", "three", "two")
    assert kernels.get("three")


def test_entry_points_that_make_no_sense_stop_nobody(site: Site) -> None:
    site.install_text("tt-odd", "1", "no group\n[twintrack.kernels]\nodd\n; a comment\n\ngood = tt_good [extra]\n")
    info = site.folder / "nameless-1.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text("[twintrack.kernels]\nlost = tt_good\n")
    with pytest.warns(RuntimeWarning, match="'odd' of tt-odd 1 is not used: '' is not MODULE"):
        assert kernels.names()[-1] == "good"
    assert kernels.get("good") is sys.modules["tt_good"]


@pytest.mark.parametrize(
    ("group", "name"),
    [
        *(("kernels", name) for name in ("auto", "reference", "numba", "cython")),
        ("calibrators", "isotonic"),
        ("metrics", "brier_mhr"),
        ("readers", "nnunet"),
        ("readers", "volumes"),
    ],
)
def test_our_names_are_ours(site: Site, group: str, name: str) -> None:
    site.install("tt-clash", "0.9", group, **{name: "tt_clash"})
    registry = REGISTRIES[group]
    with pytest.warns(RuntimeWarning, match=f"'{name}' of tt-clash 0.9 is not used: that name belongs") as caught:
        names = registry.names()
    assert len(caught) == 1
    assert len(set(names)) == len(names)
    assert registry.names() == names  # and no second warning
    assert registry.get(name)
    assert "tt_clash" not in sys.modules


def test_asking_for_ours_by_a_name_that_clashes_warns(site: Site) -> None:
    site.install("tt-clash", "0.9", numba="tt_clash")
    with pytest.warns(RuntimeWarning, match="'numba' of tt-clash 0.9"):
        kernel = kernels.get("numba")
    assert kernel is sys.modules["twintrack_core.kernels.numba"]


@pytest.mark.parametrize("group", GROUPS)
def test_a_name_that_two_distributions_offer_is_nobodys(site: Site, group: str) -> None:
    site.install("tt-fast", "1.2", group, good=OF_GROUP[group])
    site.install("tt-more", "3", group, good="tt_object:kernel")
    registry = REGISTRIES[group]
    with pytest.warns(RuntimeWarning, match=r"'good' of tt-fast 1.2 and tt-more 3 is not used: only one") as caught:
        assert "good" not in registry.names()
    assert len(caught) == 1
    assert len([offer for offer in registry.offers() if offer.name == "good"]) == 2
    with pytest.raises(PluginError, match=r"tt-fast 1.2 and tt-more 3 both offer 'good'"):
        registry.get("good")


def test_an_outdated_distribution_takes_no_name_from_another(site: Site) -> None:
    site.install("tt-old", "0.1", api="v0", good="tt_clash")
    site.install("tt-fast", "1.2", good="tt_good")
    with pytest.warns(RuntimeWarning, match=r"'good' of tt-old 0.1 is not used: it was written for plugin API v0"):
        assert kernels.names()[-1] == "good"
    assert kernels.get("good") is sys.modules["tt_good"]


def test_a_distribution_that_is_found_twice_is_there_once(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.install("tt-fast", "1.2", old="tt_raising")
    nearer = tmp_path / "nearer"
    nearer.mkdir()
    monkeypatch.syspath_prepend(nearer)
    Site(nearer).install("tt-fast", "2.0", good="tt_good")
    assert kernels.names()[-1] == "good"
    assert "old" not in kernels.names()


TINY = {
    "setup.cfg": """
        [metadata]
        name = tt-tiny
        version = 0.3
        [options]
        py_modules = tt_tiny
        [options.entry_points]
        twintrack.calibrators =
            tiny = tt_tiny:tiny
        twintrack.api =
            v1 = tt_tiny
        """,
    "setup.py": "from setuptools import setup\nsetup()",
    "tt_tiny.py": """
        from twintrack_core.calibrators import Knots
        def tiny(target):
            return Knots([0.5], [0.25])
        """,
}


def test_a_distribution_that_pip_installs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("setuptools")
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    for name, text in TINY.items():
        (source / name).write_text(textwrap.dedent(text))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*pip, "--target", target, source], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"pip could not build: {done.stderr.splitlines()[-1:]}")
    monkeypatch.syspath_prepend(target)
    _forget()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "tiny" in calibrators.names()
        assert "tt_tiny" not in sys.modules
        histogram = tt.JointHistogram.from_arrays(np.array([0.25, 0.5]), np.array([[1, 0], [1, 0]]))
        assert tt.fit(histogram, "tiny")(np.array([0.1])).tolist() == [0.25]
    assert importlib.import_module("tt_tiny")
    _forget()
