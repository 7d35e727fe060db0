"""twintrack export: a cohort's probabilities as images."""

from __future__ import annotations

import argparse

from twintrack_core.cli._shared import add_cases, add_workers, open_cases, workers_of

HELP = "write a cohort's probabilities as images for a viewer"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("store", metavar="STORE", help="cohort store")
    parser.add_argument("output", metavar="DIR", help="folder for the images")
    add_image_options(parser)
    add_cases(parser)
    add_workers(parser)


def add_image_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what images are written."""
    parser.add_argument("--format", default="nii.gz", choices=("nii.gz", "nii", "mha", "nrrd"))
    parser.add_argument("--threshold", type=float, metavar="T", help="write uint8 masks of p > T instead")


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from twintrack_core.engine.export import export

    cohort = open_cases(arguments.store, arguments.cases)
    export(
        cohort,
        arguments.output,
        suffix=arguments.format,
        threshold=arguments.threshold,
        **workers_of(arguments),
        progress=True,
    )
    print(f"{len(cohort)} images in {arguments.output}")
