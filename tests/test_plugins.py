"""Plugins of distributions that are really installed, as far as Python can tell."""

from __future__ import annotations

import contextlib
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
from twintrack_core.errors import ImageError, PluginError, RequestError, TwinTrackError, WorkError
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
nothing = metric("nothing", argument="WORD", with_argument=lambda text: None)
renamed = metric("renamed", argument="WORD", with_argument=lambda text: metric(text))
suite = Suite(name="suite", metrics=("largest", "brier_mhr"), description="Two")

def reader(folder, *, cases=(), seed, shape="8"):
    if seed == "broken":
        raise ZeroDivisionError("no")
    if seed == "leaving":
        raise SystemExit(0)
    if seed == "faulty":
        return Faulty(shape)
    if seed == "none":
        return object()
    return Simulation(cases=1, shape=(int(shape),) * 3, raters=2, members=1, seed=int(seed))

def any_options(folder, *, cases=(), **options):
    return reader(folder, seed=options["seed"])

def failing(target):
    raise ZeroDivisionError("no")

def leaving(target):
    raise SystemExit(0)

def returns_none(target):
    pass

def falls(target):
    return Knots([0.0, 1.0], [1.0, 0.0])

def wordy(target):
    raise ValueError("a long\\nstory " * 100)

class Faulty:
    def __init__(self, what):
        self.what = what

    def case_names(self):
        if self.what == "raises":
            raise ZeroDivisionError("no")
        if self.what == "leaves":
            raise SystemExit(0)
        return {"none": None, "no": (), "numbers": (1, 2)}.get(self.what, ("a",))

    def read(self, name):
        if self.what == "missing":
            return open("/no/such/file")
        if self.what == "bare":
            raise OSError("the disk has gone")
        if self.what == "exits":
            raise SystemExit(0)
        return None if self.what == "no case" else Simulation(cases=1, shape=(8,) * 3, raters=2).read("case000")

lost = Suite(name="lost", metrics=("largest", "there_is_not"), description="A suite of what there is not")
empty = Suite(name="empty", metrics=(), description="A suite of nothing")
word = Suite(name="word", metrics="largest", description="A suite of a word")
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
    with pytest.raises(PluginError, match=r"'other' of tt-metrics 1 failed with the argument 'broken': Zero"):
        metrics.get("other:broken")


def test_what_fails_when_it_is_used_is_named(site: Site, tmp_path: Path) -> None:
    site.install("tt-calibration", "1", "calibrators", failing="tt_more:failing")
    site.install("tt-metrics", "1", "metrics", nested="tt_more:nested", suite="tt_more:suite")
    histogram = tt.JointHistogram.from_arrays(np.array([0.25, 0.5]), np.array([[1, 0], [1, 0]]))
    with pytest.raises(PluginError, match="calibrator 'failing' of tt-calibration 1 failed: ZeroDivisionError"):
        tt.fit(histogram, "failing")
    with pytest.raises(PluginError, match="suite 'nested' of tt-metrics 1 holds the suite 'suite'"):
        metrics.resolve(["nested"])

    class Failing:
        def case_names(self) -> tuple[str, ...]:
            return ("a",)

        def read(self, name: str) -> tt.Cohort:
            raise ZeroDivisionError(name)

    with pytest.raises(PluginError, match="Failing failed to read case a: ZeroDivisionError"):
        import_cases(Failing(), tmp_path / "cohort.zarr")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("failing", r"failed: ZeroDivisionError\('no'\)"),
        ("leaving", r"failed: SystemExit\(0\)"),
        ("returns_none", "returned what is of type NoneType, not Knots"),
        ("falls", r"returned knots that make no map: Knot 1 has value 0\.0 after 1\.0"),
        ("wordy", r"failed: ValueError\('a long.{150,190}\.\.\."),
    ],
)
def test_a_calibrator_that_fails_is_named(site: Site, name: str, words: str) -> None:
    site.install("tt-calibration", "1", "calibrators", **{name: f"tt_more:{name}"})
    histogram = tt.JointHistogram.from_arrays(np.array([0.25, 0.5]), np.array([[1, 0], [1, 0]]))
    with pytest.raises(
        PluginError, match=rf"^The calibrator '{name}' of tt-calibration 1 {words}\.\n(Allowed: .*\n)?Choose"
    ):
        tt.fit(histogram, name)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("other:broken", r"The metric 'other' of tt-metrics 1 failed with the argument 'broken': Zero"),
        ("nothing:x", r"The metric 'nothing' of tt-metrics 1 made None of the argument 'x', not a metric 'nothing:x'"),
        ("renamed:x", r"The metric 'renamed' of tt-metrics 1 made 'x' of the argument 'x', not a metric 'renamed:x'"),
        ("nested", "The suite 'nested' of tt-metrics 1 holds the suite 'suite'"),
        ("lost", "The suite 'lost' of tt-metrics 1 holds 'there_is_not': There is no metric 'there_is_not'"),
        (
            "empty",
            r"'empty' of tt-metrics 1 \(tt_more:empty\) cannot be used: its metrics are \(\), not a tuple of",
        ),
        ("word", r"'word' of tt-metrics 1 \(tt_more:word\) cannot be used: its metrics are 'largest', not a tuple of"),
    ],
)
def test_a_metric_or_suite_that_makes_no_sense_is_named(site: Site, name: str, words: str) -> None:
    offered = ("largest", "suite", name.partition(":")[0])
    site.install("tt-metrics", "1", "metrics", **{name: f"tt_more:{name}" for name in offered})
    with pytest.raises(PluginError, match=words) as caught:
        metrics.resolve([name])
    assert len(str(caught.value).splitlines()) <= 3


@pytest.mark.parametrize(
    ("what", "error", "words"),
    [
        ("raises", PluginError, r"^Faulty of tt-io 1 failed to name the cases: ZeroDivisionError\('no'\)\."),
        ("leaves", PluginError, r"^Faulty of tt-io 1 failed to name the cases: SystemExit\(0\)\."),
        ("none", PluginError, "^Faulty of tt-io 1 named the cases None, not a tuple"),
        ("no", PluginError, r"^Faulty of tt-io 1 named the cases \(\), not a tuple"),
        ("numbers", PluginError, r"^Faulty of tt-io 1 named the cases \(1, 2\), not a tuple"),
        ("exits", PluginError, r"^Faulty of tt-io 1 failed to read case a: SystemExit\(0\)\."),
        ("no case", PluginError, "^Faulty of tt-io 1 read case a as what is of type NoneType, not Case"),
        ("another", PluginError, "^Faulty of tt-io 1 read case a as 'case000'"),
        ("missing", ImageError, r"^Case a cannot be read: No such file or directory \(/no/such/file\)\.\nRepair"),
        ("bare", ImageError, r"^Case a cannot be read: the disk has gone\.\nRepair"),
    ],
)
def test_a_reader_that_fails_is_told_from_a_store_that_cannot_be_written(
    site: Site, tmp_path: Path, what: str, error: type[TwinTrackError], words: str
) -> None:
    site.install("tt-io", "1", "readers", made="tt_more:reader")
    reader = make_reader("made", tmp_path, options={"seed": "faulty", "shape": what})
    with pytest.raises(error, match=words) as caught:
        import_cases(reader, tmp_path / "cohort.zarr", workers=1)
    assert caught.value.exit_code == 1


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
    for seed, cause in (("broken", "ZeroDivisionError"), ("leaving", "SystemExit")):
        with pytest.raises(PluginError, match=rf"^The reader 'made' of tt-io 1 failed for {tmp_path}: {cause}"):
            make_reader("made", tmp_path, options={"seed": seed})
    with pytest.raises(RequestError, match=r"nowhere is no folder\.\nAllowed: a folder with what the reader"):
        make_reader("made", tmp_path / "nowhere", options={"seed": "1"})
    with pytest.raises(PluginError, match="'made' of tt-io 1 made what is of type object, without case_names and read"):
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
    "calibrators": ("tt_more", "it is of type module"),
    "metrics": ("tt_more:flat", "it is of type function"),
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
    "no package": ("", "missing", "tt_nowhere.inner:x", "there is no module 'tt_nowhere'"),
    "no value": ("", "empty", "", "'' is not MODULE or MODULE:OBJECT"),
    "a malformed value": ("v1", "bad", "tt good:x", "'tt good:x' is not MODULE or MODULE:OBJECT"),
    "a malformed name": ("", "a:b", "tt_good", "its name is not made of letters, digits and _ . + -"),
}


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_what_cannot_be_used_is_left_out_with_one_warning(site: Site, group: str, problem: str) -> None:
    api, name, value, words = PROBLEMS[problem]
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


def test_what_is_inside_a_package_is_left_to_the_import(site: Site) -> None:
    (site.folder / "tt_folder" / "inner").mkdir(parents=True)
    (site.folder / "tt_folder" / "inner" / "kernel.py").write_text(GOOD)
    site.install("tt-inner", "1", here="tt_folder.inner.kernel", lost="tt_folder.inner.nothing")
    assert kernels.names()[-2:] == ("here", "lost")
    assert kernels.get("here")
    with pytest.raises(PluginError, match=r"No module named 'tt_folder\.inner\.nothing'"):
        kernels.get("lost")


def test_entry_points_that_make_no_sense_are_lost_and_nobody_elses(site: Site) -> None:
    site.install_text("tt-odd", "1", "[twintrack.kernels]\nodd\nlost = tt_good\n")
    site.install_text("tt-other", "1", "not for us, and makes no sense\n")
    site.install_text("tt-fine", "1", "# a comment\n\n[twintrack.kernels]\ngood = tt_good [extra]\n")
    with pytest.warns(RuntimeWarning) as caught:
        assert kernels.names()[-1] == "good"
    (message,) = [str(warning.message) for warning in caught]
    assert message.startswith(
        "twintrack.kernels: 'entry_points.txt' of tt-odd 1 is not used: it is not made of lines ["
    )
    assert "lost" not in kernels.names()
    assert kernels.get("good") is sys.modules["tt_good"]


def test_damaged_metadata_stop_nobody(site: Site) -> None:
    text = "[twintrack.kernels]\nlost = tt_good\n"
    for folder, metadata_text in (
        ("nameless-1.dist-info", None),
        ("no_name-1.dist-info", "Metadata-Version: 2.1\n"),
        ("tt_versionless.dist-info", "Metadata-Version: 2.1\nName: tt-versionless\n"),
        ("~t_gone-0.9.dist-info", "Metadata-Version: 2.1\nName: tt-gone\nVersion: 0.9\n"),
        ("tt_one_name-2.dist-info", "Metadata-Version: 2.1\nName: tt-other-name\nVersion: 2\n"),
    ):
        info = site.folder / folder
        info.mkdir()
        (info / "entry_points.txt").write_text(text.replace("lost", f"lost{info.name[-11]}"))
        if metadata_text:
            (info / "METADATA").write_text(metadata_text)
    (site.folder / "binary-1.dist-info").mkdir()
    (site.folder / "binary-1.dist-info" / "entry_points.txt").write_bytes(b"[twintrack.kernels]\nx = \xff\xfe\n")
    site.install("tt-fine", "1", good="tt_good")
    assert "good" in kernels.names()
    assert {offer.source for offer in KERNELS.others()} == {
        "tt-fine 1",
        "tt-gone 0.9",
        "tt-other-name 2",
        "tt-versionless ?",
    }
    assert kernels.get("good") is sys.modules["tt_good"]


def test_what_an_interrupted_installation_left_takes_nothing_from_what_is_there(site: Site) -> None:
    site.install("tt-fast", "1.0", good="tt_good")
    left = site.folder / "~t_fast-0.9.dist-info"
    left.mkdir()
    (left / "METADATA").write_text("Metadata-Version: 2.1\nName: tt-fast\nVersion: 0.9\n")
    (left / "entry_points.txt").write_text("[twintrack.kernels]\nold = tt_clash\n")
    for version in ("0.1", "0.2", "0.3", "3.0"):
        (site.folder / f"tt_fast-{version}.dist-info").mkdir()
    assert [(offer.name, offer.source) for offer in KERNELS.others()] == [("good", "tt-fast 1.0")]


@pytest.mark.parametrize(
    ("group", "name"),
    [
        *(("kernels", name) for name in ("auto", "reference", "numba", "cython", "cupy")),
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
    with contextlib.suppress(WorkError):  # of the device that cupy needs
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
    with pytest.raises(PluginError, match=r"'good' is offered by tt-fast 1.2 and tt-more 3\."):
        registry.get("good")


def test_a_name_that_three_distributions_offer(site: Site) -> None:
    for name in ("tt-a", "tt-b", "tt-c"):
        site.install(name, "1", good="tt_good")
    with pytest.raises(PluginError, match=r"'good' is offered by tt-a 1 and tt-b 1 and tt-c 1\.\n.*\n"):
        kernels.get("good")


def test_what_a_plugin_prints_when_it_is_imported_is_no_result(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    (site.folder / "tt_talking.py").write_text(f"print('Welcome!')\n{GOOD}")
    site.install("tt-talking", "1", talking="tt_talking")
    assert kernels.get("talking")
    assert capsys.readouterr() == ("", "Welcome!\n")


def test_auto_is_no_kernel_but_can_be_asked_for(site: Site) -> None:
    assert "auto" not in kernels.names()
    assert "auto" not in {offer.name for offer in KERNELS.offers()}
    with pytest.raises(RequestError, match="Allowed: auto, reference"):
        kernels.get("fast")


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
    Site(nearer).install("TT_Tools", "2.0", tool="tt_good")
    site.install("tt-tools", "1.0", tool="tt_raising")
    assert kernels.get("tool") is sys.modules["tt_good"]
    site.install("tt-gave-up", "1.0", given_up="tt_good")
    (nearer / "tt_gave_up-2.0.dist-info").mkdir()
    (nearer / "tt_gave_up-2.0.dist-info" / "METADATA").write_text("Name: tt-gave-up\nVersion: 2.0\n")
    plugins._scan.cache_clear()
    assert "given_up" not in kernels.names()


TINY = {
    "pyproject.toml": """
        [build-system]
        requires = ["setuptools>=77"]
        build-backend = "setuptools.build_meta"
        [project]
        name = "tt-tiny"
        version = "0.3"
        [project.entry-points."twintrack.api"]
        v1 = "tt_tiny"
        [project.entry-points."twintrack.calibrators"]
        tiny = "tt_tiny:tiny"
        [tool.setuptools]
        py-modules = ["tt_tiny"]
        """,
    "tt_tiny.py": """
        from twintrack_core.calibrators import Knots
        def tiny(target):
            return Knots([0.5], [0.25])
        """,
}


def test_a_distribution_that_pip_installs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    for name, text in TINY.items():
        (source / name).write_text(textwrap.dedent(text))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(source)]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode:  # offline, pip cannot fetch what it builds with
        pytest.skip(f"pip could not build: {done.stderr.splitlines()[-3:]}")
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
