"""twintrack simulate: a cohort with known truth."""

from __future__ import annotations

import argparse

from twintrack_core.cli._shared import add_workers, workers_of

HELP = "simulate a cohort with known truth"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("store", metavar="STORE", help="cohort store to make")
    parser.add_argument("--cases", type=int, default=12, metavar="N")
    parser.add_argument("--shape", type=int, nargs=3, default=(96, 192, 192), metavar=("Z", "Y", "X"))
    parser.add_argument("--raters", type=int, default=5, metavar="R")
    parser.add_argument("--members", type=int, default=3, metavar="M")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    add_workers(parser)


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from twintrack_core.engine.importing import import_cases
    from twintrack_core.simulate import Simulation

    simulation = Simulation(
        cases=arguments.cases,
        shape=tuple(arguments.shape),
        raters=arguments.raters,
        members=arguments.members,
        seed=arguments.seed,
    )
    import_cases(simulation, arguments.store, **workers_of(arguments), progress=True)
    print(f"{arguments.cases} simulated cases in {arguments.store}")
