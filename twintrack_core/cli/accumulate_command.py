"""twintrack accumulate: a cohort's statistics, in one pass."""

from __future__ import annotations

import argparse

from twintrack_core.cli._shared import add_cases, add_device, add_roi, add_workers, open_cases

HELP = "reduce a cohort to its statistics, touching each voxel once"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("store", metavar="STORE", help="cohort store")
    parser.add_argument("-o", "--output", required=True, metavar="STATS", help="statistics store to make")
    add_roi(parser)
    add_cases(parser)
    add_device(parser)
    add_workers(parser)


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from twintrack_core.engine.accumulate import accumulate
    from twintrack_core.paths import require_new

    require_new(arguments.output)
    cohort = open_cases(arguments.store, arguments.cases)
    statistics = accumulate(
        cohort, roi=arguments.roi or "full", device=arguments.device, workers=arguments.workers, progress=True
    )
    statistics.save(arguments.output)
    print(f"{len(statistics)} cases, roi {statistics.roi}, in {arguments.output}")
