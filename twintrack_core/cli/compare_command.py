"""twintrack compare: calibrators and targets on held-out cases, ranked, with intervals."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twintrack_core.cli._shared import (
    add_cases,
    add_device,
    add_guards,
    add_json,
    add_roi,
    add_workers,
    check_outputs,
    guards_of,
    names_in,
    print_json,
    statistics_of,
    workers_of,
)
from twintrack_core.errors import RequestError

if TYPE_CHECKING:
    from twintrack_core.histogram import CohortStatistics
    from twintrack_core.validation import Comparison
    from twintrack_core.validation.splits import Folds

HELP = "compare calibrators and targets on held-out cases, with intervals"

_SHOWN = ("brier_mhr", "smece_mhr", "tdsc")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("input", metavar="STORE|STATS", help="cohort or statistics store")
    parser.add_argument(
        "--calibrators", action="append", metavar="NAME[,NAME]", help="what to compare (default: all of ours)"
    )
    parser.add_argument(
        "--targets", action="append", metavar="NAME[,NAME]",
        help="what to fit to: mhr (default), majority, staple, rater:NAME",
    )  # fmt: skip
    parser.add_argument(
        "--folds", default="5", metavar="K|leave-one-out|FILE",
        help='folds over cases (default: 5); FILE is JSON: {"fold": ["case to score", ...], ...}, or splits_final.json',
    )  # fmt: skip
    parser.add_argument(
        "--group-by", metavar="ATTRIBUTE", help="patient or site: keep its cases together, in folds and in draws"
    )
    parser.add_argument(
        "--metrics", action="append", metavar="NAME[,NAME]", help=f"metrics to show (default: {', '.join(_SHOWN)})"
    )
    parser.add_argument("--rank-by", default="brier_mhr", metavar="NAME", help="proper score (default: brier_mhr)")
    parser.add_argument("--bootstrap", type=int, default=1000, metavar="B", help="draws of test cases (default: 1000)")
    parser.add_argument(
        "--refit", type=int, default=0, metavar="B", help="draws in which maps are refitted too, 50 to 200 (default: 0)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of folds and draws (default: 0)")
    parser.add_argument(
        "-o", "--output", action="append", default=[], metavar="FILE",
        help="write everything to FILE.json, or a report to FILE.html; repeat for both",
    )  # fmt: skip
    add_guards(parser)
    add_roi(parser)
    add_cases(parser)
    add_device(parser)
    add_workers(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from twintrack_core.metrics import resolve
    from twintrack_core.report.ranking import ranking_table
    from twintrack_core.validation import compare
    from twintrack_core.validation.comparison import check_draws, metrics_of, recipes_of

    outputs = check_outputs(arguments.output, (".json", ".html"))
    folds = _folds(arguments.folds)
    shown = names_in(arguments.metrics) or list(_SHOWN)
    calibrators, targets = names_in(arguments.calibrators), names_in(arguments.targets) or ["mhr"]
    guards = guards_of(arguments)
    # What is wrong with the request is said before the pass over the voxels.
    metrics = [*(metric.name for metric in resolve(None)), *shown]
    metrics_of(metrics, arguments.rank_by)
    recipes_of(calibrators, targets, **guards)
    check_draws(arguments.bootstrap, arguments.refit, seed=arguments.seed)
    statistics = statistics_of(arguments.input, arguments.roi, arguments.cases, workers_of(arguments), arguments.device)
    comparison = compare(
        statistics,
        calibrators,
        targets=targets,
        folds=folds,
        group_by=arguments.group_by,
        metrics=metrics,
        rank_by=arguments.rank_by,
        bootstrap=arguments.bootstrap,
        refit=arguments.refit,
        seed=arguments.seed,
        progress=True,
        **guards,
    )
    for path in outputs:
        _write(comparison, statistics, path, arguments)
    if arguments.json:
        print_json(comparison.to_dict())
    else:
        print(ranking_table(comparison, shown))
    unrated = len(statistics) - len(statistics.rated())
    if unrated:
        print(
            f"twintrack: note: {unrated} of {len(statistics)} cases have no raters and are left out.", file=sys.stderr
        )


def _folds(text: str) -> Folds:
    """Return what --folds asks for."""
    if text == "leave-one-out":
        return "leave-one-out"
    if text.isdecimal() and len(text) < 10:
        return int(text)
    allowed = (
        'Allowed: a number, leave-one-out, or a JSON file {"fold": ["case to score on", ...], ...}, '
        "or nnU-Net's splits_final.json."
    )
    # Unlike Path.is_file, this takes a text that is too long for a path.
    if not os.path.isfile(text):  # noqa: PTH113
        raise RequestError(f"--folds {text:.80} is neither a number nor a file.", allowed)
    try:
        found = json.loads(Path(text).read_text(encoding="utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{text} is not JSON: {error!s:.120}.", allowed) from error
    if isinstance(found, list) and all(isinstance(split, dict) and "val" in split for split in found):
        found = {f"fold{number}": split["val"] for number, split in enumerate(found)}  # as nnU-Net numbers them
    if not isinstance(found, dict) or not all(
        isinstance(cases, list) and all(isinstance(case, str) for case in cases) for cases in found.values()
    ):
        raise RequestError(f"{text} holds no folds.", allowed)
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"a name is there twice among {names!r:.80}")
    return dict(pairs)


def _write(comparison: Comparison, statistics: CohortStatistics, path: Path, arguments: argparse.Namespace) -> None:
    from twintrack_core.calibrators.fitting import fit
    from twintrack_core.paths import write_text
    from twintrack_core.report.report import html_report

    if path.suffix == ".json":
        write_text(path, json.dumps(comparison.to_dict(), indent=2, allow_nan=False) + "\n")
        return
    recipe = comparison.best or next((each.recipe for each in comparison.candidates if each.recipe), None)
    if recipe is None or not comparison.values:
        raise RequestError("No calibrator could be fitted, so there is no map to report on.", None)
    rated = statistics.rated()
    calibration = fit(rated, recipe.calibrator, target=recipe.target, **guards_of(arguments))
    page = html_report(
        calibration,
        rated,
        comparison=comparison,
        bootstrap=arguments.bootstrap,
        seed=arguments.seed,
        command=shlex.join(["twintrack", *arguments.words]),
    )
    write_text(path, page)
