"""The distribution as a whole: what it imports, and what it offers."""

from __future__ import annotations

import ast
import importlib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

import twintrack_curvas
from twintrack_core.metrics import Metric, Suite, VolumeMetric, preferred_roi, resolve

ALLOWED = {
    "twintrack_core",
    "twintrack_core.cohort",
    "twintrack_core.errors",
    "twintrack_core.histogram",
    "twintrack_core.metrics",
    "twintrack_core.targets",
    "twintrack_core.testing",
}
FILES = sorted(Path(twintrack_curvas.__file__).parent.rglob("*.py"))


def public_names(module: str) -> set[str]:
    found = importlib.import_module(module)
    if module == "twintrack_core.errors":  # every exception there is public
        return {name for name, value in vars(found).items() if isinstance(value, type)}
    return set(found.__all__)


@pytest.mark.parametrize("path", FILES, ids=[path.name for path in FILES])
def test_only_the_public_api_is_imported(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not any(alias.name.split(".")[0] == "twintrack_core" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "twintrack_core":
            assert node.module in ALLOWED
            assert {alias.name for alias in node.names} <= public_names(node.module)
            assert node.level == 0


def test_public_names_of_cohorts_load_lazily_and_are_there() -> None:
    from twintrack_core import cohort

    for name in cohort.__all__:
        assert getattr(cohort, name) is not None
    assert set(cohort.__all__) <= set(dir(cohort))
    with pytest.raises(AttributeError, match="nothing"):
        _ = cohort.nothing


def test_entry_points() -> None:
    try:
        entries = distribution("twintrack-curvas").entry_points
    except PackageNotFoundError:
        pytest.skip("twintrack-curvas is not installed")
    assert [entry.load() for entry in entries.select(group="twintrack.api", name="v1")] == [twintrack_curvas]
    metrics = {entry.name: entry.load() for entry in entries.select(group="twintrack.metrics")}
    suite = metrics.pop("curvas")
    assert isinstance(suite, Suite)
    assert suite.name == "curvas"
    assert preferred_roi(resolve(suite.metrics)) == "raters+20"
    assert set(suite.metrics) == {"tdsc", *metrics}
    for name, metric in metrics.items():
        assert isinstance(metric, Metric | VolumeMetric)
        assert metric.name == name
    readers = {entry.name for entry in entries.select(group="twintrack.readers")}
    assert readers == {"curvas"}
