"""twintrack evaluate: metrics before and after, per case, averaged and pooled."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from twintrack_core.cli._shared import add_cases, add_json, add_roi, add_workers, print_json, statistics_of
from twintrack_core.errors import RequestError

if TYPE_CHECKING:
    from twintrack_core.maps import CalibrationMap

HELP = "metrics before and after calibration, per case and pooled"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("input", metavar="STORE|STATS", help="cohort or statistics store")
    parser.add_argument("--map", action="append", default=[], metavar="MAP", help="map.json; repeat to compare")
    parser.add_argument("--metrics", action="append", metavar="NAME[,NAME]", help="only these metrics")
    add_roi(parser)
    add_cases(parser)
    add_workers(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from twintrack_core.metrics import evaluate, get
    from twintrack_core.report.tables import case_tables, summary_table

    maps = _load_maps(arguments.map)
    metrics = [name for value in arguments.metrics for name in value.split(",")] if arguments.metrics else None
    for name in metrics or ():  # before the pass over the voxels
        get(name)
    statistics = statistics_of(arguments.input, arguments.roi, arguments.cases, arguments.workers)
    if not statistics.raters:
        raise RequestError(
            f"{arguments.input} has no raters, so there is nothing to compare its scores with.",
            "Allowed: a cohort with the masks of one rater or more.",
            "Import it with --rater DIR.",
        )
    evaluation = evaluate(statistics, maps or None, metrics=metrics)
    if arguments.json:
        print_json(evaluation.to_dict())
    else:
        print(case_tables(evaluation, roi=statistics.roi))
        print()
        print(summary_table(evaluation, roi=statistics.roi))
    for path, calibration in zip(arguments.map, maps.values(), strict=True):
        seen = len(set(statistics.names) & set(calibration.cases))
        if seen:
            print(
                f"twintrack: note: {seen} of {len(statistics)} cases have names of cases that {path} was fitted to; "
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
