"""twintrack merge: statistics of several sites into one, without their images."""

from __future__ import annotations

import argparse

HELP = "merge statistics of different cases"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("inputs", nargs="+", metavar="STATS", help="statistics stores")
    parser.add_argument("-o", "--output", required=True, metavar="STATS", help="statistics store to make")


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from twintrack_core.histogram import CohortStatistics
    from twintrack_core.storage import new_folder

    new_folder(arguments.output)
    first, *others = (CohortStatistics.load(path) for path in arguments.inputs)
    merged = first.merge(*others)
    merged.save(arguments.output)
    print(f"{len(merged)} cases, roi {merged.roi}, in {arguments.output}")
