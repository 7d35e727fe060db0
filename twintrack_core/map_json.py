"""The text of a calibration map: canonical JSON that diffs well, read without trusting any of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twintrack_core.errors import MapError, RequestError
from twintrack_core.json_text import parse_object

if TYPE_CHECKING:
    from twintrack_core.maps import CalibrationMap

FORMAT = "calibration-map"
VERSION = 1

_FIELDS = (
    "calibrator", "cases", "package_version", "parameters", "raters", "roi", "statistics", "target", "voxels",
)  # fmt: skip
_IF_ANY = ("skipped",)  # written where there are some
_COLUMNS = ("score", "value", "lower", "upper")
_MAX_BYTES = 1 << 23  # 15,361 knots with a band take 1.5 MB, 100,000 names of cases 3 MB


def dump_map(calibration: CalibrationMap) -> str:
    """Return the canonical text: sorted keys, one a line, one knot a line, shortest exact numbers."""
    document = {name: json.dumps(getattr(calibration, name), sort_keys=True, allow_nan=False) for name in _FIELDS}
    document |= {name: json.dumps(found) for name in _IF_ANY if (found := getattr(calibration, name))}
    columns = (calibration.score, calibration.value, calibration.lower, calibration.upper)
    knots = zip(*(column.tolist() for column in columns if column is not None), strict=True)
    lines = ",\n".join(f"    {json.dumps(knot)}" for knot in knots)
    document |= {"format": json.dumps(FORMAT), "version": str(VERSION), "knots": f"[\n{lines}\n  ]"}
    body = ",\n".join(f'  "{name}": {text}' for name, text in sorted(document.items()))
    return f"{{\n{body}\n}}\n"


def parse_map(text: str) -> dict[str, Any]:
    """Return the arguments of a `CalibrationMap`, which checks them further.

    Raises
    ------
    MapError
        If the text is not the JSON of a map of this version.
    """
    try:
        document = parse_object(text, _MAX_BYTES)
    except ValueError as error:
        raise MapError(
            f"The map cannot be read: {error}.", f"Allowed: a JSON object of at most {_MAX_BYTES} bytes."
        ) from error
    if document.pop("format", None) != FORMAT:
        raise MapError("The file is no calibration map.", f'Allowed: an object with "format": "{FORMAT}".')
    version = document.pop("version", None)
    if type(version) is not int or version != VERSION:
        raise MapError(
            f"version is {version!r:.40}.",
            f"Allowed: {VERSION}.",
            "Read the map with the version of twintrack-core that wrote it.",
        )
    wrong = sorted((set(document) ^ {*_FIELDS, "knots"}) - {*_IF_ANY})
    if wrong:
        state = "unknown" if wrong[0] in document else "missing"
        raise MapError(f"The field {wrong[0]!r:.80} is {state}.", f"Allowed: {', '.join(sorted(_FIELDS))}, knots.")
    knots = _parse_knots(document.pop("knots"))
    return document | knots


def read_text(path: Path) -> str:
    """Read a file that should hold a map.

    Raises
    ------
    RequestError
        If there is none.
    MapError
        If it cannot be read, is too large or no text.
    """
    if not path.is_file():
        raise RequestError(f"{path} does not exist or is no file.", "Allowed: a map, as twintrack fit writes it.")
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise MapError("The file is too large to be a map.", f"Allowed: {_MAX_BYTES} bytes.")
        return data.decode()
    except UnicodeDecodeError as error:
        raise MapError("The map is not text in UTF-8.", "Allowed: a JSON object.") from error
    except OSError as error:
        raise MapError(f"The map cannot be read: {error.strerror or error}.") from error


def _parse_knots(knots: Any) -> dict[str, list[float]]:
    if not isinstance(knots, list):
        raise MapError(f"knots is {knots!r:.80}.", "Allowed: a list of [score, value].")
    length = 4 if knots and isinstance(knots[0], list) and len(knots[0]) == 4 else 2
    for place, knot in enumerate(knots):
        numbers = knot if isinstance(knot, list) else []
        if len(numbers) != length or not all(type(number) in (int, float) for number in numbers):
            allowed = "Allowed: [score, value], two numbers from 0 to 1, or four at every knot"
            raise MapError(f"Knot {place} is {knot!r:.80}.", f"{allowed}, [score, value, lower, upper].")
    try:
        columns = [[float(number) for number in column] for column in zip(*knots, strict=True)]
    except OverflowError as error:
        raise MapError("A knot has a number too large.", "Allowed: 0 to 1.") from error
    return dict(zip(_COLUMNS[:length], columns or [[], []], strict=True))
