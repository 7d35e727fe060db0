"""The command ``twintrack-curvas``: rank submissions from what ``twintrack evaluate --json`` printed."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from twintrack_core.errors import RequestError, TwinTrackError
from twintrack_curvas.ranking import Ranking, Standing, rank, read_evaluation


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``twintrack-curvas`` and return its exit code: 0 done, 1 failed, 2 wrong request."""
    arguments = _parser().parse_args(argv)
    try:
        ranking = rank(_evaluations(arguments.evaluations), arguments.reading, arguments.variant)
    except TwinTrackError as error:
        print(f"twintrack-curvas: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(ranking.to_dict(), indent=2) if arguments.json else table(ranking))
    return 0


def table(ranking: Ranking) -> str:
    """Return a ranking as text: a line per submission, with mean and rank of each metric."""
    metrics = list(ranking.placings[0].metrics)
    rows = [["submission", "mean rank", *metrics]]
    rows += [
        [
            placing.name,
            f"{placing.mean_rank:.2f}",
            *(_cell(standing, ranking.cases) for standing in placing.metrics.values()),
        ]
        for placing in ranking.placings
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"{ranking.cases} cases, {ranking.reading} reading, {ranking.variant}: mean over the cases (rank)"]
    for first, *rest in rows:
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]))
    return "\n".join([*lines, *ranking.notes])


def _cell(standing: Standing, cases: int) -> str:
    """Return mean and rank, and of how many cases the mean is where that is not all of them."""
    defined = f" of {standing.defined}" if standing.defined < cases else ""
    return f"{standing.mean:.4g}{defined} ({standing.rank:g})"


def _evaluations(paths: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Read evaluations, by the stems of their files."""
    found: dict[str, dict[str, Any]] = {}
    for path in paths:
        if path.stem in found:
            raise RequestError(
                f"Two submissions are named {path.stem!r}.",
                "Allowed: files of different names; a file's name is the submission's.",
                "Rename one of them.",
            )
        found[path.stem] = read_evaluation(path)
    return found


class _Parser(argparse.ArgumentParser):
    """Reports a wrong request as all errors are reported, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"twintrack-curvas: {message.rstrip('.')}.\nSee {self.prog} --help.\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="twintrack-curvas", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("rank", help="rank submissions by the metrics of CURVAS-PDACVI")
    command.add_argument(
        "evaluations",
        nargs="+",
        type=Path,
        metavar="A.json",
        help="output of twintrack evaluate --json, one each",
    )
    command.add_argument(
        "--reading", choices=("official", "exact"), default="official", help="of ECE, CRPS and VI (default: official)"
    )
    command.add_argument("--variant", default="raw", help='for instance "calibrated" (default: raw)')
    command.add_argument("--json", action="store_true", help="print one JSON document")
    return parser
