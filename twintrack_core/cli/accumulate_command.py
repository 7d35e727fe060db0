"""twintrack accumulate: a cohort's statistics, in one pass."""

from __future__ import annotations

import argparse

from twintrack_core.cli._shared import (
    add_cases,
    add_device,
    add_resume,
    add_roi,
    add_workers,
    is_whole,
    note_output,
    open_cases,
    workers_of,
)

HELP = "reduce a cohort to its statistics, touching each voxel once"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("store", metavar="STORE", help="cohort store")
    parser.add_argument("-o", "--output", required=True, metavar="STATS", help="statistics store to make")
    add_resume(parser)
    add_roi(parser)
    add_cases(parser)
    add_device(parser)
    add_workers(parser)


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from twintrack_core.engine.accumulate import accumulate

    was_whole = arguments.resume and is_whole(arguments.output)
    cohort = open_cases(arguments.store, arguments.cases)
    statistics = accumulate(
        cohort,
        roi=arguments.roi or "full",
        path=arguments.output,
        resume=arguments.resume,
        on_error=arguments.on_error,
        device=arguments.device,
        **workers_of(arguments),
        progress=True,
    )
    note_output(arguments.output, statistics.skipped, was_whole=was_whole)
    print(f"{len(statistics)} cases, roi {statistics.roi}, in {arguments.output}")
