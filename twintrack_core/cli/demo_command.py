"""twintrack demo: the whole way on simulated data, and what it leaves behind."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from twintrack_core.cli._shared import add_workers, workers_of

HELP = "simulate, fit, apply, evaluate, report: the whole way, on this machine"

_CASES, _FIT_CASES = 18, 12
_FOLDS = 6
_SHAPE = (96, 192, 192)
_ROI = "raters+20"
_CALIBRATORS = ("isotonic", "centered_isotonic", "platt", "temperature", "beta", "spline")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("folder", nargs="?", default="twintrack-demo", metavar="DIR", help="folder to make")
    add_workers(parser)


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from twintrack_core.calibrators import fit
    from twintrack_core.engine.accumulate import accumulate
    from twintrack_core.engine.apply import apply
    from twintrack_core.engine.importing import import_cases
    from twintrack_core.metrics import evaluate
    from twintrack_core.paths import require_new
    from twintrack_core.report.page import require_libraries
    from twintrack_core.report.ranking import ranking_table
    from twintrack_core.report.report import html_report
    from twintrack_core.report.tables import case_tables, summary_table
    from twintrack_core.simulate import Simulation
    from twintrack_core.validation import compare

    folder = require_new(arguments.folder)
    require_libraries()
    folder.mkdir()
    workers = workers_of(arguments)
    left: list[tuple[Path, str]] = []

    def keep(name: str, what: str) -> Path:
        left.append((folder / name, what))
        print(f"{len(left)}. {what}")
        return folder / name

    simulation = Simulation(cases=_CASES, shape=_SHAPE, raters=5, members=3, seed=0)
    path = keep("cohort.zarr", f"{_CASES} simulated cases of {' x '.join(map(str, _SHAPE))}, 5 raters, 3 members")
    cohort = import_cases(simulation, path, **workers, progress=True)
    path = keep("statistics.zarr", f"their statistics, region {_ROI}: one pass over the voxels")
    statistics = accumulate(cohort, roi=_ROI, **workers, progress=True)
    statistics.save(path)
    fitted, held_out = cohort.names[:_FIT_CASES], cohort.names[_FIT_CASES:]
    path = keep("comparison.json", f"calibrators compared by cross-validation on {fitted[0]} to {fitted[-1]}")
    comparison = compare(statistics.select(fitted), _CALIBRATORS, folds=_FOLDS)
    path.write_text(json.dumps(comparison.to_dict(), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    path = keep("map.json", f"isotonic regression to the mean human response of {fitted[0]} to {fitted[-1]}")
    calibration = fit(statistics.select(fitted), "isotonic", target="mhr")
    calibration.save(path)
    path = keep("calibrated.zarr", f"the map applied to {held_out[0]} to {held_out[-1]}")
    apply(cohort.select(held_out), calibration, path, **workers, progress=True)
    path = keep("evaluation.json", "metrics of these cases before and after")
    evaluation = evaluate(statistics.select(held_out), calibration)
    path.write_text(json.dumps(evaluation.to_dict(), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    path = keep("evaluation.txt", "the same as tables")
    path.write_text(case_tables(evaluation, roi=_ROI) + "\n", encoding="utf-8")
    path = keep("report.html", "the report: open it in a browser")
    page = html_report(
        calibration,
        statistics.select(held_out),
        fitted=statistics.select(fitted),
        comparison=comparison,
        command=f"twintrack demo {arguments.folder}",
    )
    path.write_text(page, encoding="utf-8")
    print(f"\n{ranking_table(comparison)}\n\n{summary_table(evaluation, roi=_ROI)}\n")
    width = max(len(str(path)) for path, _ in left)
    for path, what in left:
        print(f"{path!s:<{width}}  {what}")
