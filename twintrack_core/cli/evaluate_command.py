"""twintrack evaluate: metrics before and after, per case, averaged and pooled."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twintrack_core.cli._shared import (
    add_cases,
    add_device,
    add_json,
    add_roi,
    add_workers,
    check_outputs,
    kind_of,
    names_in,
    open_cases,
    print_json,
    statistics_of,
    workers_of,
)
from twintrack_core.errors import RequestError

if TYPE_CHECKING:
    from twintrack_core.cohort.store import Cohort
    from twintrack_core.histogram import CohortStatistics
    from twintrack_core.maps import CalibrationMap
    from twintrack_core.metrics import Evaluation

HELP = "metrics before and after calibration, per case and pooled"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("input", metavar="STORE|STATS", help="cohort or statistics store")
    parser.add_argument("--map", action="append", default=[], metavar="MAP", help="map.json; repeat to compare")
    parser.add_argument(
        "--metrics", action="append", metavar="NAME[,NAME]",
        help="only these metrics or suites, with a table of cases for each (default: all that need no voxels)",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", action="append", default=[], metavar="FILE",
        help="write every case and metric to FILE.csv or FILE.json; repeat for both",
    )  # fmt: skip
    add_roi(parser, "what the metrics are meant for, or full")
    add_cases(parser)
    add_device(parser)
    add_workers(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from twintrack_core.engine.evaluate import evaluate
    from twintrack_core.metrics import preferred_roi, resolve

    maps = _load_maps(arguments.map)
    names = names_in(arguments.metrics)
    metrics = resolve(names)  # before the pass over the voxels
    outputs = check_outputs(arguments.output, (".csv", ".json"))
    source: Cohort | CohortStatistics
    if kind_of(arguments.input) == "statistics":
        source = statistics_of(arguments.input, arguments.roi, arguments.cases, workers_of(arguments), arguments.device)
        raters, roi = bool(source.raters), source.roi
    else:
        source = open_cases(arguments.input, arguments.cases)
        raters = any(case.raters for case in source)
        roi = preferred_roi(metrics) if arguments.roi is None else arguments.roi
    if not raters:
        raise RequestError(
            f"{arguments.input} has no raters, so there is nothing to compare its scores with.",
            "Allowed: a cohort with the masks of one rater or more.",
            "Import it with --rater DIR.",
        )
    evaluation = evaluate(
        source, maps or None, names, roi=roi, device=arguments.device, **workers_of(arguments), progress=True
    )
    for path in outputs:
        _write(evaluation, path)
    if arguments.json:
        print_json(evaluation.to_dict())
    else:
        _print(evaluation, roi, cases=names is not None)
    _note_seen_cases(source, arguments.map, maps)


def _write(evaluation: Evaluation, path: Path) -> None:
    from twintrack_core.paths import write_text
    from twintrack_core.report.tables import rows_as_csv

    document = json.dumps(evaluation.to_dict(), indent=2, allow_nan=False) + "\n"
    write_text(path, document if path.suffix == ".json" else rows_as_csv(evaluation))


def _print(evaluation: Evaluation, roi: str, *, cases: bool) -> None:
    from twintrack_core.report.tables import case_tables, summary_table

    if cases:
        print(case_tables(evaluation, roi=roi))
        print()
    print(summary_table(evaluation, roi=roi))


def _note_seen_cases(source: Any, paths: Sequence[str], maps: dict[str, CalibrationMap]) -> None:
    for path, calibration in zip(paths, maps.values(), strict=True):
        seen = len(set(source.names) & set(calibration.cases))
        if seen:
            print(
                f"twintrack: note: {seen} of {len(source)} cases have names of cases that {path} was fitted to; "
                "a map looks better on those than on new ones.",
                file=sys.stderr,
            )


def _load_maps(paths: Sequence[str]) -> dict[str, CalibrationMap]:
    from twintrack_core.maps import load_map

    stems = [Path(path).stem for path in paths]
    if len(set(stems)) != len(stems):
        raise RequestError(
            f"Two maps have the same name: {', '.join(paths)}.", "Allowed: maps of different file names."
        )
    return {stem: load_map(path) for stem, path in zip(stems, paths, strict=True)}
