"""What several commands share: options, opening what was named, printing."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from twintrack_core.errors import RequestError, StoreError

if TYPE_CHECKING:
    from twintrack_core.cohort.store import Cohort
    from twintrack_core.histogram import CohortStatistics
    from twintrack_core.maps import CalibrationMap


class Guards(TypedDict):
    """What guards a fit; see `calibrators.fit`."""

    weighting: Literal["voxels", "cases"]
    min_cases: float
    shrinkage: float


def add_bound(parser: argparse.ArgumentParser) -> None:
    """Add --bound."""
    parser.add_argument(
        "--bound", choices=("lower", "upper"), help="what the map's band ends at, instead of the calibrated score"
    )


def add_cases(parser: argparse.ArgumentParser) -> None:
    """Add --cases."""
    parser.add_argument(
        "--cases", action="append", default=[], metavar="GLOB|FILE", help="only these cases; a file has one per line"
    )


class Workers(TypedDict):
    """Who does the work; see `engine.run.Run`."""

    scheduler: str
    workers: int | None


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Add --scheduler and --workers."""
    parser.add_argument(
        "--scheduler", default="threads", metavar="S",
        help="threads (default), processes, or the address of a Dask scheduler: tcp://host:port",
    )  # fmt: skip
    parser.add_argument("--workers", type=int, metavar="N", help="threads or processes (default: all cores)")


def workers_of(arguments: argparse.Namespace) -> Workers:
    """Return what `add_workers` parsed, as arguments of functions of the engine."""
    return {"scheduler": arguments.scheduler, "workers": arguments.workers}


def add_resume(parser: argparse.ArgumentParser) -> None:
    """Add --resume and --on-error."""
    parser.add_argument("--resume", action="store_true", help="finish an output that was cut off, or start it")
    parser.add_argument(
        "--on-error", choices=("stop", "skip"), default="stop",
        help="at a case that cannot be read, stop (default) or leave it out and list it",
    )  # fmt: skip


def is_whole(path: str) -> bool:
    """Whether a store is there, and complete."""
    from twintrack_core.storage import open_folder
    from twintrack_core.storage.metadata import find_json

    attributes = (find_json(open_folder(path)) or {}).get("attributes")
    written = attributes.get("twintrack") if isinstance(attributes, dict) else None
    return isinstance(written, dict) and written.get("complete") is True


def note_output(path: str, skipped: Mapping[str, str], *, was_whole: bool) -> None:
    """Say on stderr that there was nothing to resume, if so, and which cases an output lacks."""
    if was_whole:
        print(f"twintrack: note: {path} was whole already; nothing was done.", file=sys.stderr)
    for name, why in skipped.items():
        print(f"twintrack: note: {name} was left out: {why}.", file=sys.stderr)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add --device."""
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="where voxels are worked on (default: cpu)"
    )


def add_roi(parser: argparse.ArgumentParser, default: str = "full") -> None:
    """Add --roi, the rule, and say what it is by default."""
    parser.add_argument(
        "--roi", metavar="RULE", help=f"region of interest: full, mask, mask+Nmm, raters+N (default: {default})"
    )


def add_guards(parser: argparse.ArgumentParser) -> None:
    """Add what guards a fit: --weighting, --min-cases and --shrinkage."""
    parser.add_argument(
        "--weighting", choices=("voxels", "cases"), default="voxels",
        help="what counts the same: every voxel (default), or every case",
    )  # fmt: skip
    parser.add_argument(
        "--min-cases", type=float, default=0.0, metavar="N",
        help="pool neighbouring scores until N effective cases stand behind each value (default: 0)",
    )  # fmt: skip
    parser.add_argument(
        "--shrinkage", type=float, default=0.0, metavar="N",
        help="draw the map to the identity as if N more cases had answered with the score (default: 0)",
    )  # fmt: skip


def guards_of(arguments: argparse.Namespace) -> Guards:
    """Return what `add_guards` parsed, as arguments of `fit` and `compare`."""
    return {
        "weighting": arguments.weighting,
        "min_cases": arguments.min_cases,
        "shrinkage": arguments.shrinkage,
    }


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add --json."""
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout")


def integers(text: str) -> tuple[int, ...]:
    """Parse "1,2" for argparse."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not one whole number or several, such as 1,2") from None


def case_patterns(values: list[str]) -> list[str]:
    """Return the patterns that --cases named: those in a file, or the value itself.

    Raises
    ------
    RequestError
        If a file names no case or is not text.
    """
    patterns: list[str] = []
    for value in values:
        # Unlike Path.is_file, this takes a pattern that is too long for a path.
        patterns += _lines(Path(value)) if os.path.isfile(value) else [value]  # noqa: PTH113
    return patterns


_MAX_LIST = 1 << 24  # bytes: a hundred thousand of the longest names
_MAX_LINE = 1000


def _lines(path: Path) -> list[str]:
    allowed = f"Allowed: a pattern, or a text file of at most {_MAX_LIST} bytes with one a line."
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_LIST + 1)
        if len(data) > _MAX_LIST:
            raise RequestError(f"{path} has more than {_MAX_LIST} bytes.", allowed)
        lines = [line.strip() for line in data.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} is not text in UTF-8.", allowed) from error
    if not any(lines):  # no pattern would mean all cases
        raise RequestError(f"{path} names no case.", allowed)
    if too_long := [number for number, line in enumerate(lines, 1) if len(line) > _MAX_LINE]:
        raise RequestError(f"{path}: line {too_long[0]} has more than {_MAX_LINE} characters.", allowed)
    return [line for line in lines if line]


def open_cases(path: str, cases: list[str]) -> Cohort:
    """Open a cohort, or the chosen cases of it."""
    from twintrack_core.cohort.store import open_cohort

    return open_cohort(path).select(case_patterns(cases))


def kind_of(path: str) -> str:
    """Return "cohort", "statistics" or "map", as the store or file says.

    Raises
    ------
    RequestError
        If it is none of them.
    """
    from twintrack_core.storage import open_folder
    from twintrack_core.storage.metadata import find_json

    folder = open_folder(path)
    if not folder.exists():
        raise RequestError(f"{path} does not exist.", "Allowed: a cohort store, a statistics store or a map.")
    if folder.local is not None and folder.local.is_file():
        return "map"
    if (metadata := find_json(folder)) is not None:
        attributes = metadata.get("attributes")
        found = attributes.get("twintrack") if isinstance(attributes, dict) else None
        kind = found.get("format") if isinstance(found, dict) else None
        if kind in ("cohort", "statistics"):
            return str(kind)
    raise RequestError(
        f"{path} is no store of this package.",
        "Allowed: a cohort store or a statistics store.",
        "Make one with twintrack import or twintrack accumulate.",
    )


def open_map(path: str, bound: Literal["lower", "upper"] | None) -> CalibrationMap:
    """Read a map, or one bound of its band.

    Raises
    ------
    RequestError
        If it has no band.
    """
    from twintrack_core.maps import load_map

    calibration_map = load_map(path)
    if bound is None:
        return calibration_map
    try:
        return calibration_map.bound(bound)
    except RequestError as error:
        raise RequestError(f"{path}: {error.what}", error.allowed, error.action) from error


def statistics_of(
    path: str, roi: str | None, cases: list[str], workers: Workers, device: Literal["cpu", "cuda"] = "cpu"
) -> CohortStatistics:
    """Load statistics, or accumulate them from a cohort.

    Raises
    ------
    RequestError
        If statistics were made with another ROI rule than the one asked for.
    WorkError
        For "cuda" without a usable device.
    """
    from twintrack_core.cohort.roi import parse_roi
    from twintrack_core.engine.accumulate import accumulate
    from twintrack_core.engine.device import check_device
    from twintrack_core.engine.run import Run
    from twintrack_core.histogram import CohortStatistics
    from twintrack_core.names import matching

    # Statistics need neither, but a scheduler or device that is not there is never passed over.
    check_device(device, "auto", here=Run(workers["workers"], scheduler=workers["scheduler"]).here)
    if kind_of(path) == "statistics":
        statistics = CohortStatistics.load(path)
        if roi is not None and str(parse_roi(roi)) != statistics.roi:
            raise RequestError(
                f"{path} was accumulated with the rule {statistics.roi!r}, not {roi!r}.",
                f"Allowed: --roi {statistics.roi}, or none.",
                "Accumulate the cohort again with the other rule.",
            )
        return statistics.select(matching(statistics.names, case_patterns(cases), path))
    return accumulate(open_cases(path, cases), roi=roi or "full", device=device, **workers, progress=True)


def names_in(values: Sequence[str] | None) -> list[str] | None:
    """Return the names of any number of lists, NAME[,NAME]; None without any."""
    names = [name.strip() for value in values or () for name in value.split(",")]
    return [name for name in names if name] or None


def check_outputs(names: Sequence[str], suffixes: Sequence[str]) -> list[Path]:
    """Return files to write, each once.

    Raises
    ------
    RequestError
        For other suffixes, a file that exists, or a folder that does not.
    """
    from twintrack_core.paths import require_new

    for name in names:
        if Path(name).suffix not in suffixes:
            raise RequestError(f"{name} cannot be written.", f"Allowed: names in {' or '.join(suffixes)}.")
    return [require_new(name) for name in dict.fromkeys(names)]


def print_json(document: Any) -> None:
    """Print one JSON document on stdout, whole or not at all.

    Raises
    ------
    StoreError
        If a store's attributes hold NaN or infinity.
    """
    try:
        print(json.dumps(document, indent=2, allow_nan=False))
    except ValueError as error:
        raise StoreError(f"This cannot be printed as JSON: {error}.", "Allowed: finite numbers.") from error
