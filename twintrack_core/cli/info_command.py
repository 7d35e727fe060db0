"""twintrack info: what a store or a map is, what is in it, and whether it is whole."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from twintrack_core.cli._shared import add_json, add_workers, kind_of, print_json, workers_of
from twintrack_core.errors import StoreError

if TYPE_CHECKING:
    from twintrack_core.cohort.store import StoredCase

HELP = "say what a store or a map is, what is in it, what a run would take and whether it is whole"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("path", metavar="STORE|STATS|MAP")
    parser.add_argument("--check", action="store_true", help="read all of it, and say what is wrong with each case")
    add_workers(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from twintrack_core.cohort.store import require_complete
    from twintrack_core.engine.run import Run

    Run(arguments.workers, scheduler=arguments.scheduler)  # refused whether it is needed or not
    kinds: dict[str, Callable[[str], dict[str, Any]]] = {
        "cohort": partial(_cohort, arguments),
        "statistics": _statistics,
        "map": _map,
    }
    describe = kinds[kind_of(arguments.path)]
    facts = describe(arguments.path)
    if arguments.check and facts["complete"]:
        facts |= {"checked": True, "wrong": _check(arguments, facts), "rows": facts.pop("rows")}
    if arguments.json:
        print_json(facts)
    else:
        _print(facts)
    if facts["complete"] is False:
        require_complete(facts, arguments.path)
    if facts.get("wrong"):
        raise StoreError(
            f"{arguments.path}: {len(facts['wrong'])} of {facts['cases']} cases are wrong.",
            None,
            "Make it anew from its source, restore its files, or leave such cases out with --on-error skip.",
        )


def _check(arguments: argparse.Namespace, facts: dict[str, Any]) -> dict[str, str]:
    """Return what is wrong with each case in which something is."""
    from twintrack_core.cohort.store import open_cohort
    from twintrack_core.engine.check import check, check_statistics
    from twintrack_core.histogram import CohortStatistics

    if facts["format"] == "cohort":
        found = check(open_cohort(arguments.path), **workers_of(arguments), progress=True)
        return {name: error.what for name, error in found.items()}
    if facts["format"] == "statistics":
        return check_statistics(CohortStatistics.load(arguments.path), arguments.path)
    return {}  # a map is checked whenever it is read


def _cohort(arguments: argparse.Namespace, path: str) -> dict[str, Any]:
    from twintrack_core.cohort.store import expected_cases, is_complete
    from twintrack_core.engine.cost import Cost, cost_of
    from twintrack_core.kernels.dispatch import default_threads

    cohort = expected_cases(path)
    complete = is_complete(cohort.folder)
    cases: list[StoredCase] = []
    # A store that says it is complete must have all its cases; of another, those that are there are shown.
    for name in cohort.names:
        if complete or is_complete(cohort.folder / name):
            try:
                cases.append(cohort[name])
            except StoreError:
                if not arguments.check:  # which tells of all of them
                    raise
    costs = [cost_of(case) for case in cases]
    rows = [
        {
            "case": case.name,
            "shape": list(case.shape),
            "members": case.members,
            "dtype": case.probability.dtype,
            "spacing_mm": list(case.geometry.spacing_mm),
            "raters": list(case.raters),
            "arrays": ["probability", *case.parts],
            "chunk": list(case.probability.chunks),
            "written_chunks": f"{cost.score_chunks} of {math.prod(case.probability.grid)}",
        }
        for case, cost in zip(cases, costs, strict=True)
    ]
    cost, workers = sum(costs, Cost()), arguments.workers or default_threads()
    return {
        "path": path,
        "format": "cohort",
        "complete": complete,
        "cases": len(cohort),
        "complete_cases": len(cases),
        "voxels": sum(math.prod(case.shape) for case in cases),
        "source": dict(cohort.source),
        **({"skipped": dict(cohort.skipped)} if cohort.skipped else {}),
        "chunks": f"{cost.chunks:,} of {cost.grid:,}",
        "stored_bytes": cost.stored_bytes,
        "decoded_bytes": cost.decoded_bytes,
        "worker_bytes": {"accumulate": cost.accumulate_bytes, "apply": cost.apply_bytes},
        "memory_bytes": {f"{workers} workers": cost.process_bytes(workers)},
        "rows": rows,
    }


def _statistics(path: str) -> dict[str, Any]:
    from twintrack_core.histogram import CohortStatistics

    statistics = CohortStatistics.load(path)
    rows = [
        {
            "case": name,
            "voxels": case.histogram.n_voxels,
            "inside": case.histogram.n_inside,
            "cells": len(case.histogram.count),
            "raters": list(case.histogram.raters),
        }
        for name, case in statistics.items()
    ]
    return {
        "path": path,
        "format": "statistics",
        "complete": True,
        "cases": len(statistics),
        "roi": statistics.roi,
        "voxels": sum(row["voxels"] for row in rows),
        **({"skipped": dict(statistics.skipped)} if statistics.skipped else {}),
        "rows": rows,
    }


def _map(path: str) -> dict[str, Any]:
    from twintrack_core.calibrators.recipe import GUARDS
    from twintrack_core.maps import load_map

    fitted = load_map(path)
    columns = {"calibrated": fitted}
    if fitted.lower is not None:
        columns |= {"lower": fitted.bound("lower"), "upper": fitted.bound("upper")}
    return {
        "path": path,
        "format": "calibration-map",
        "complete": True,
        "calibrator": fitted.calibrator,
        "target": fitted.target,
        **{name: fitted.parameters[name] for name in GUARDS if name in fitted.parameters},
        "roi": fitted.roi,
        "raters": list(fitted.raters),
        "cases": len(fitted.cases),
        **({"skipped": list(fitted.skipped)} if fitted.skipped else {}),
        "voxels": fitted.voxels,
        "knots": len(fitted.score),
        "band": fitted.lower is not None,
        "digest": fitted.digest(),
        "rows": [
            {"score": score}
            | {name: round(float(column(score, dtype="float64")), 4) for name, column in columns.items()}
            for score in (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
        ],
    }


def _print(facts: dict[str, Any]) -> None:
    for key, value in facts.items():
        if key == "rows":
            if not value:
                continue
            print()
            columns = list(value[0])
            cells = [[_text(row[column]) for column in columns] for row in value]
            widths = [max(len(text) for text in column) for column in zip(columns, *cells, strict=True)]
            for line in (columns, *cells):
                print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
        else:
            print(f"{key:<14} {_text(value, in_bytes=key.endswith('_bytes'))}")


def _text(value: Any, *, in_bytes: bool = False) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " ".join(_text(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(item, in_bytes=in_bytes)}" for key, item in value.items()) or "-"
    if in_bytes and isinstance(value, int):
        return f"{value / (1 << 20):,.1f} MiB"
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)
