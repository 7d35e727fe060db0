"""Measure everything and print the tables of docs/performance.md; with --write, put them there.

    python -m benchmarks.tables [--only NAME ...] [--runs 3] [--folder /dev/shm] [--write]

What was measured is kept in .benchmarks/tables.json, so that the table of goals takes in sections that were measured
before, on the same machine and with the same sources.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import cold_start, engine, folds, growth, involvement, job, kernels, metrics, profile
from benchmarks.sections import Goal, Section, Settings, replaced, table
from twintrack_core.bench.timing import Spread, machine

SECTIONS: Mapping[str, Callable[[Settings], Section]] = {
    "floors": kernels.floors,
    "dense": kernels.dense,
    "peers": kernels.peers,
    "fits-and-metrics": kernels.slower_tasks,
    "job": job.whole_job,
    "engine": engine.engine,
    "profile": profile.profile,
    "layouts": engine.layouts,
    "growth": growth.in_memory,
    "cases": growth.cases,
    "metrics": metrics.of_tables,
    "involvement": involvement.involvement,
    "folds": folds.folds,
    "cold-start": cold_start.cold_start,
}
GOALS = "goals"

_ROOT = Path(__file__).parent.parent
_PAGE = _ROOT / "docs" / "performance.md"
_KEPT = _ROOT / ".benchmarks" / "tables.json"
_LIBRARIES = (
    "numba", "zarr", "numcodecs", "dask", "scipy", "scikit-learn", "SimpleITK", "fast-histogram", "boost-histogram",
    "torch", "torchmetrics", "netcal", "monai",
)  # fmt: skip


def main() -> None:
    """Measure, print and keep; write where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=[*SECTIONS, GOALS], help="only this section; repeat")
    parser.add_argument("--runs", type=int, default=3, help="timed runs of what is quick (default: 3)")
    parser.add_argument("--folder", type=Path, default=default_folder(), help="where stores are made")
    parser.add_argument("--write", action="store_true", help="write what is kept into docs/performance.md")
    arguments = parser.parse_args()
    settings = Settings(arguments.runs, arguments.folder)
    where = machine(_LIBRARIES)
    kept = _load(f"{machine(())}, sources {_sources()}")
    wanted = [name for name in SECTIONS if not arguments.only or name in arguments.only]
    for name in wanted:
        start = time.perf_counter()
        section = SECTIONS[name](settings)
        kept["sections"][name] = {
            "text": f"{_how(name, settings)}; {where}.\n\n{section.text}",
            "goals": [asdict(goal) for goal in section.goals],
        }
        _save(kept)
        print(f"## {name}\n\n{kept['sections'][name]['text']}\n", flush=True)
        print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    goals = goals_table(kept["sections"])
    print(f"## {GOALS}\n\n{goals}")
    if arguments.write:
        texts = {name: section["text"] for name, section in kept["sections"].items()}
        _PAGE.write_text(replaced(_PAGE.read_text(encoding="utf-8"), {**texts, GOALS: goals}), encoding="utf-8")


def default_folder() -> Path:
    """Where stores are made: in memory where there is such a file system, so that no disk is measured."""
    memory = Path("/dev/shm")
    return memory if memory.is_dir() else Path(tempfile.gettempdir())


def goals_table(sections: Mapping[str, Any]) -> str:
    """Lay out every goal that was measured, in the order of the sections."""
    goals = [
        Goal(**{**goal, "reached": Spread(*goal["reached"])})
        for name in SECTIONS
        for goal in sections.get(name, {}).get("goals", ())
    ]
    missing = [name for name in SECTIONS if name not in sections]
    text = table(
        f"{sum(goal.met for goal in goals)} of {len(goals)} figures reach their goal.",
        ("goal", "of", "limit", "reached", "", "measured with"),
        [goal.cells() for goal in goals],
    )
    return f"{text}\n\nNot measured here: {', '.join(missing)}." if missing else text


def _how(name: str, settings: Settings) -> str:
    return f"`python -m benchmarks.tables --only {name} --runs {settings.runs}`"


def _sources() -> str:
    """Digest of everything that is measured."""
    digest = hashlib.sha256()
    for folder in ("twintrack_core", "benchmarks"):
        for path in sorted((_ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".pyx", ".h"):
                digest.update(path.read_bytes())
    return digest.hexdigest()


def _load(where: str) -> dict[str, Any]:
    if _KEPT.exists():
        kept: dict[str, Any] = json.loads(_KEPT.read_text(encoding="utf-8"))
        if kept["machine"] == where:
            return kept
    return {"machine": where, "sections": {}}


def _save(kept: Mapping[str, Any]) -> None:
    _KEPT.parent.mkdir(exist_ok=True)
    _KEPT.write_text(json.dumps(kept, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
