"""The distribution that docs/plugins.md shows, installed as it is shown, and its own tests."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import twintrack_core as tt
from twintrack_core import errors

PAGE = Path(__file__).parents[1] / "docs" / "plugins.md"
FENCE = re.compile(r"^```(?:python|toml)\n# (\S+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

Run = Callable[..., str]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of the page, and the metadata that an installer would write."""
    folder = tmp_path_factory.mktemp("site")
    for name, text in FENCE.findall(PAGE.read_text()):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = project["entry-points"].items()
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in pairs.items()) for group, pairs in groups
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def run(site: Path) -> Run:
    """Run Python with the distribution installed, warnings being errors."""

    def run(*arguments: object) -> str:
        command = [sys.executable, "-W", "error", *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(site)}
        done = subprocess.run(command, cwd=site, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def twintrack(run: Run) -> Run:
    """Run the command line with the distribution installed."""
    program = "import sys; from twintrack_core.cli import main; sys.exit(main())"
    return lambda *arguments: run("-c", program, *arguments)


def test_every_file_of_the_page_is_taken(site: Path) -> None:
    assert PAGE.read_text().count("```") == 2 * len(FENCE.findall(PAGE.read_text()))
    assert (site / "tests" / "test_my_package.py").is_file()


def test_all_exceptions_are_public() -> None:
    there = {name for name, thing in vars(errors).items() if isinstance(thing, type) and issubclass(thing, Exception)}
    assert there == set(errors.__all__)
    assert "`twintrack_core.errors`" in PAGE.read_text()


def test_its_tests_pass(run: Run) -> None:
    out = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ".", "tests")
    assert re.search(r"\d\d passed", out)
    assert "skipped" not in out


def test_it_is_listed_and_valid(twintrack: Run) -> None:
    listed = json.loads(twintrack("plugins", "list", "--json"))["plugins"]
    mine = {f"{item['kind']}:{item['name']}" for item in listed if item["distribution"] == "my-package"}
    assert mine == {
        "metric:excess",
        "metric:excess_mm3",
        "metric:my_figures",
        "calibrator:mean_shift",
        "kernel:mine",
        "reader:npy",
    }
    wanted = mine - {"kernel:mine"}  # its own tests took it
    validated = json.loads(twintrack("plugins", "validate", *sorted(wanted), "--json"))["plugins"]
    assert {item["name"]: item["problem"] for item in validated} == {name.split(":")[1]: None for name in wanted}


def test_the_commands_of_the_page(twintrack: Run, tmp_path: Path) -> None:
    inputs, cohort = tmp_path / "inputs", tmp_path / "cohort.zarr"
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (inputs / name).mkdir(parents=True)
        scores = rng.random((6, 7, 8), np.float32)
        for file, array in {"scores": scores, "ann": scores > 0.4, "bob": scores > 0.8}.items():
            np.save(inputs / name / f"{file}.npy", array)
    twintrack("import", "npy", cohort, inputs, "--option", "spacing=3,0.7,0.7")
    assert tt.open_cohort(cohort)["a"].read().geometry.spacing_mm == (3.0, 0.7, 0.7)
    twintrack("fit", cohort, "-o", tmp_path / "map.json", "--calibrator", "mean_shift")
    assert tt.load_map(tmp_path / "map.json").parameters["shift"] < 0
    found = json.loads(twintrack("evaluate", cohort, "--metrics", "my_figures,excess:0.5", "--json"))
    values = {row["metric"]: row["value"] for row in found["rows"]}
    assert set(values) == {"excess", "excess_mm3", "brier_mhr", "excess:0.5"}
    assert -1 < values["excess:0.5"] < values["excess"] < 1
