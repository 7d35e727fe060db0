"""twintrack apply: a cohort through a map."""

from __future__ import annotations

import argparse

from twintrack_core.cli._shared import (
    add_bound,
    add_cases,
    add_device,
    add_resume,
    add_workers,
    is_whole,
    note_output,
    open_cases,
    open_map,
    workers_of,
)

HELP = "write a calibrated cohort"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("store", metavar="STORE", help="cohort store")
    parser.add_argument("map", metavar="MAP", help="map.json")
    parser.add_argument("-o", "--output", required=True, metavar="STORE", help="cohort store to make")
    add_resume(parser)
    add_bound(parser)
    add_cases(parser)
    add_device(parser)
    add_workers(parser)


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from twintrack_core.engine.apply import apply

    calibration_map = open_map(arguments.map, arguments.bound)
    was_whole = arguments.resume and is_whole(arguments.output)
    cohort = open_cases(arguments.store, arguments.cases)
    calibrated = apply(
        cohort,
        calibration_map,
        arguments.output,
        resume=arguments.resume,
        on_error=arguments.on_error,
        device=arguments.device,
        **workers_of(arguments),
        progress=True,
    )
    note_output(arguments.output, calibrated.skipped, was_whole=was_whole)
    print(f"{len(calibrated)} calibrated cases in {arguments.output}")
