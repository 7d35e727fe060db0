"""twintrack report: a map and what it does to some cases, as one page."""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING

from twintrack_core.cli._shared import (
    add_cases,
    add_device,
    add_workers,
    check_outputs,
    kind_of,
    statistics_of,
    workers_of,
)

if TYPE_CHECKING:
    from twintrack_core.histogram import CohortStatistics

HELP = "a map and what it does, as one page of HTML"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("map", metavar="MAP", help="map.json")
    parser.add_argument("input", metavar="STATS|STORE", help="the cases to look at: statistics or cohort store")
    parser.add_argument(
        "--fitted", metavar="STATS|STORE", help="those the map was fitted to, for its band, a learning curve and drift"
    )
    parser.add_argument("-o", "--output", default="report.html", metavar="FILE", help="default: report.html")
    parser.add_argument("--bootstrap", type=int, default=1000, metavar="B", help="draws of the cases (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of draws and folds (default: 0)")
    add_cases(parser)
    add_device(parser)
    add_workers(parser)


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from twintrack_core.maps import load_map
    from twintrack_core.paths import write_text
    from twintrack_core.report.report import html_report
    from twintrack_core.validation import Bootstrap

    (output,) = check_outputs([arguments.output], (".html",))
    Bootstrap(arguments.bootstrap, seed=arguments.seed)  # before the pass over the voxels
    calibration = load_map(arguments.map)

    def statistics(path: str, cases: list[str]) -> CohortStatistics:
        # Statistics keep their rule; only a store is counted by that of the map.
        roi = calibration.roi if kind_of(path) == "cohort" else None
        return statistics_of(path, roi, cases, workers_of(arguments), arguments.device)

    looked_at = statistics(arguments.input, arguments.cases)
    fitted = None if arguments.fitted is None else statistics(arguments.fitted, [])
    page = html_report(
        calibration,
        looked_at,
        fitted=fitted,
        bootstrap=arguments.bootstrap,
        seed=arguments.seed,
        command=shlex.join(["twintrack", *arguments.words]),
    )
    write_text(output, page)
    print(f"{calibration.calibrator} to {calibration.target} on {len(looked_at)} cases, in {arguments.output}")
