"""twintrack bench: the kernels of this machine against floors and other libraries."""

from __future__ import annotations

import argparse

from twintrack_core.cli._shared import add_json, print_json

HELP = "time the kernels on this machine against floors and other libraries"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--task", action="append", metavar="TASK", help="accumulate, apply, fit, metrics or job; repeat (default: all)"
    )
    parser.add_argument(
        "--kind", action="append", metavar="KIND",
        help="unwritten, region, softmax, saturated, uniform, one_bin or cells; repeat "
        "(default: region, softmax, uniform)",
    )  # fmt: skip
    parser.add_argument("--kernel", action="append", metavar="NAME", help="only these kernels; repeat (default: all)")
    parser.add_argument("--no-peers", action="store_true", help="without other libraries, which take most of the time")
    parser.add_argument(
        "--threads", action="append", type=int, metavar="N", help="threads; repeat (default: 1, and all cores)"
    )
    parser.add_argument(
        "--megavoxels", type=float, default=2.0, metavar="X", help="millions of voxels of a volume (default: 2)"
    )
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="timed runs of each (default: 3)")
    add_json(parser)


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from twintrack_core.bench.contenders import WrongAnswerError
    from twintrack_core.bench.run import DEFAULT_KINDS, Request, Row, describe, measure
    from twintrack_core.bench.table import as_json, group_table
    from twintrack_core.bench.tasks import TASKS

    request = Request(
        tasks=tuple(arguments.task or TASKS),
        kinds=tuple(arguments.kind or DEFAULT_KINDS),
        kernels=tuple(arguments.kernel) if arguments.kernel else None,
        threads=tuple(arguments.threads) if arguments.threads else None,
        megavoxels=arguments.megavoxels,
        runs=arguments.runs,
        peers=not arguments.no_peers,
    )
    found: list[Row] = []
    if not arguments.json:
        print(f"{describe(request)}.\n")
    for rows in measure(request):
        found += rows
        if not arguments.json:
            task, kind = rows[0].task, rows[0].kind
            print(f"{task}, {kind}: {TASKS[task].description}, {rows[0].voxels:,} voxels\n")
            print(f"{group_table(rows)}\n", flush=True)
    if arguments.json:
        print_json({"machine": describe(request), "rows": [as_json(row) for row in found]})
    wrong = [row for row in found if row.wrong and row.kernel is not None]
    if wrong:
        raise WrongAnswerError(
            f"{len(wrong)} times a kernel was not timed: {wrong[0].why}",
            None,
            "twintrack_core.testing.check_kernel says more about a kernel that is yours.",
        )
