"""twintrack info: what a store or a map is, what is in it, and whether it is whole."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from twintrack_core.cli._shared import add_json, kind_of, print_json

HELP = "say what a store or a map is, what is in it and whether it is whole"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("path", metavar="STORE|STATS|MAP")
    add_json(parser)


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from twintrack_core.cohort.store import require_complete

    describe = {"cohort": _cohort, "statistics": _statistics, "map": _map}[kind_of(arguments.path)]
    facts = describe(arguments.path)
    if arguments.json:
        print_json(facts)
    else:
        _print(facts)
    if facts["complete"] is False:
        require_complete(facts, arguments.path)


def _cohort(path: str) -> dict[str, Any]:
    from twintrack_core.cohort.store import expected_cases, is_complete

    cohort = expected_cases(Path(path))
    complete = is_complete(cohort.path)
    cases: list[dict[str, Any]] = []
    # A store that says it is complete must have all its cases; of another, those that are there are shown.
    for case in (cohort[name] for name in cohort.names if complete or is_complete(cohort.path / name)):
        written, chunks = len(case.probability.written()), math.prod(case.probability.grid)
        cases.append(
            {
                "case": case.name,
                "shape": list(case.shape),
                "members": case.members,
                "dtype": case.probability.dtype,
                "spacing_mm": list(case.geometry.spacing_mm),
                "raters": list(case.raters),
                "arrays": ["probability", *case.parts],
                "chunk": list(case.probability.chunks),
                "written_chunks": f"{written} of {chunks}",
            }
        )
    return {
        "path": path,
        "format": "cohort",
        "complete": complete,
        "cases": len(cohort),
        "complete_cases": len(cases),
        "voxels": sum(math.prod(case["shape"]) for case in cases),
        "source": dict(cohort.source),
        "rows": cases,
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
            print(f"{key:<14} {_text(value)}")


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " ".join(_text(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items()) or "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)
