"""twintrack calibrate: new cases, folder to folder."""

from __future__ import annotations

import argparse

from twintrack_core.cli._shared import (
    add_bound,
    add_cases,
    add_device,
    add_workers,
    case_patterns,
    open_map,
    workers_of,
)
from twintrack_core.cli.export_command import add_image_options
from twintrack_core.cli.import_command import add_floor, add_nnunet

HELP = "calibrate new nnU-Net predictions, folder to folder"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("map", metavar="MAP", help="map.json")
    add_nnunet(parser)
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="folder for the images")
    add_floor(parser)
    add_image_options(parser)
    add_bound(parser)
    add_cases(parser)
    add_device(parser)
    add_workers(parser)


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from twintrack_core.cohort.nnunet import NnunetReader
    from twintrack_core.engine.export import calibrate

    calibration_map = open_map(arguments.map, arguments.bound)
    reader = NnunetReader(
        members=tuple(arguments.member),
        classes=arguments.classes,
        regions=arguments.regions,
        check_argmax=not arguments.no_check_argmax,
        floor=arguments.floor,
        cases=tuple(case_patterns(arguments.cases)),
    )
    names = calibrate(
        reader,
        calibration_map,
        arguments.output,
        suffix=arguments.format,
        threshold=arguments.threshold,
        device=arguments.device,
        **workers_of(arguments),
        progress=True,
    )
    print(f"{len(names)} calibrated images in {arguments.output}")
