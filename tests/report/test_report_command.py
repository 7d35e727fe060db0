"""twintrack report: what it writes, what it refuses, and the command that it shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from twintrack_core.calibrators import fit
from twintrack_core.cli import main
from twintrack_core.engine.accumulate import accumulate
from twintrack_core.engine.importing import import_cases
from twintrack_core.histogram import CohortStatistics
from twintrack_core.maps import CalibrationMap
from twintrack_core.report.report import html_report
from twintrack_core.simulate import Simulation


@pytest.fixture
def folder(
    tmp_path: Path,
    calibration: CalibrationMap,
    held_out: CohortStatistics,
    fitted: CohortStatistics,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A folder with a map and statistics, in which the command is run."""
    monkeypatch.chdir(tmp_path)
    calibration.save("my map.json")
    held_out.save("new.stats")
    fitted.save("fitted.stats")
    return tmp_path


def test_it_writes_the_report_that_python_makes(
    folder: Path,
    calibration: CalibrationMap,
    held_out: CohortStatistics,
    fitted: CohortStatistics,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["report", "my map.json", "new.stats", "--fitted", "fitted.stats", "--bootstrap", "50", "--seed", "3"]
    assert main(words) == 0
    assert capsys.readouterr().out == "isotonic to mhr on 12 cases, in report.html\n"
    command = "twintrack report 'my map.json' new.stats --fitted fitted.stats --bootstrap 50 --seed 3"
    expected = html_report(calibration, held_out, fitted=fitted, bootstrap=50, seed=3, command=command)
    assert (folder / "report.html").read_text(encoding="utf-8") == expected
    assert "twintrack report &#39;my map.json&#39; new.stats" in expected
    assert str(folder) not in expected


def test_it_refuses_what_cannot_be_before_any_work(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "there.html").write_text("mine")
    for words, said in (
        (["my map.json", "new.stats", "-o", "there.html"], "there.html exists already"),
        (["my map.json", "new.stats", "-o", "no/r.html"], "does not exist"),
        (["my map.json", "new.stats", "--bootstrap", "3"], "3 bootstrap draws"),
        (["my map.json", "nothing"], "nothing does not exist"),
        (["no.json", "new.stats"], "no.json"),
        (["my map.json", "fitted.stats", "--fitted", "new.stats"], "was not fitted to the statistics"),
    ):
        assert main(["report", *words]) == 2
        assert said in capsys.readouterr().err
    assert (folder / "there.html").read_text() == "mine"
    assert not (folder / "report.html").exists()


def test_a_cohort_is_counted_in_the_region_of_the_map(tmp_path: Path, read: Callable[[Path], str]) -> None:
    simulation = Simulation(cases=3, shape=(12, 24, 24), raters=3, members=2, seed=0)
    cohort = import_cases(simulation, tmp_path / "cohort.zarr")
    fit(accumulate(cohort, roi="raters+2")).save(tmp_path / "map.json")
    page = tmp_path / "page.html"
    arguments = ["report", str(tmp_path / "map.json"), str(tmp_path / "cohort.zarr"), "--bootstrap", "50"]
    assert main([*arguments, "-o", str(page)]) == 0
    assert "Cross-fitted: the map was fitted to these very 3 cases" in read(page)
    some = tmp_path / "some.html"
    assert main([*arguments, "-o", str(some), "--cases", cohort.names[0]]) == 0
    assert "In-sample" in read(some)


@pytest.fixture
def read() -> Callable[[Path], str]:
    """Read a page."""
    return lambda path: path.read_text(encoding="utf-8")
