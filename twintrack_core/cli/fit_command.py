"""twintrack fit: a calibration map from a cohort or its statistics."""

from __future__ import annotations

import argparse

from twintrack_core.cli._shared import (
    add_cases,
    add_device,
    add_guards,
    add_roi,
    add_workers,
    guards_of,
    statistics_of,
    workers_of,
)

HELP = "fit a calibration map"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("input", metavar="STORE|STATS", help="cohort or statistics store")
    parser.add_argument("-o", "--output", required=True, metavar="MAP", help="map.json to write")
    parser.add_argument(
        "--calibrator", default="isotonic", metavar="NAME", help="see twintrack plugins list (default: isotonic)"
    )
    parser.add_argument("--target", default="mhr", help="mhr (default), majority, staple or rater:NAME")
    add_guards(parser)
    add_roi(parser)
    add_cases(parser)
    add_device(parser)
    add_workers(parser)


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from twintrack_core.calibrators import Recipe, fit
    from twintrack_core.paths import require_new

    require_new(arguments.output)
    guards = guards_of(arguments)
    recipe = Recipe(arguments.calibrator, arguments.target, **guards)  # refused before the pass over the voxels
    statistics = statistics_of(arguments.input, arguments.roi, arguments.cases, workers_of(arguments), arguments.device)
    fitted = fit(statistics, arguments.calibrator, target=arguments.target, **guards)
    fitted.save(arguments.output)
    guarded = "".join(f", {name} {value}" for name, value in recipe.guards.items())
    print(
        f"{fitted.calibrator} to {fitted.target}{guarded}: {len(fitted.score)} knots from {fitted.voxels:,} voxels of "
        f"{len(statistics)} cases (roi {fitted.roi}), in {arguments.output}"
    )
