"""The conformance kit of readers."""

from __future__ import annotations

import json
import pickle
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

import numpy as np

from twintrack_core.codes import MAX_RATERS
from twintrack_core.errors import TwinTrackError
from twintrack_core.names import check_case_name
from twintrack_core.testing._checks import fail, make_all

if TYPE_CHECKING:
    from twintrack_core.cohort import Case, Reader

_SCORES = ("float16", "float32", "uint8")
_MASKS = {"votes": "uint8", "roi": "bool", "vessels": "uint8"}


class ReaderConformance:
    """What every reader must do, as a class of tests: derive from it, give it a fixture ``reader``, let pytest collect.

    The reader must name its cases, sorted; read each the same every time, from several threads too, as a case that can
    be imported; refuse a case that there is not; and be small enough to be sent to another process.

    Examples
    --------
    >>> class TestMine(ReaderConformance):
    ...     @pytest.fixture
    ...     def reader(self, tmp_path):
    ...         write_some_files(tmp_path)
    ...         return my_reader(tmp_path)
    """

    def test_case_names(self, reader: Reader) -> None:
        """One name or more, sorted, each once, and the same again."""
        names = reader.case_names()
        if not isinstance(names, tuple) or not names:
            fail("case_names", f"returned {names!r}, not a tuple of one name or more")
        for name in names:
            _allowed("case_names", lambda name=name: check_case_name(name, "It"))
        if list(names) != sorted(set(names)):
            fail("case_names", f"{names} are not sorted, or not each there once")
        if reader.case_names() != names:
            fail("case_names", f"{names}, then {reader.case_names()}")

    def test_cases(self, reader: Reader) -> None:
        """Arrays of the dtypes, shapes and values that a case has."""
        for name in reader.case_names():
            _check_case(name, _read(reader, name))

    def test_same_again(self, reader: Reader) -> None:
        """The same case again, from several threads and from a copy of the reader that was pickled."""
        names = reader.case_names()
        first = [_content(_read(reader, name)) for name in names]
        try:
            copy = pickle.loads(pickle.dumps(reader))  # noqa: S301 - made a moment ago
        except Exception as error:
            raise AssertionError(f"the reader cannot be pickled: {error!r}") from error
        with ThreadPoolExecutor(4) as pool:
            again = list(pool.map(lambda name: _content(_read(reader, name)), names * 3))
        copied = [_content(_read(copy, name)) for name in names]
        for name, one, *others in zip(names * 3, first * 3, again, copied * 3, strict=True):
            if any(other != one for other in others):
                fail(f"case {name}", "it is not the same when it is read again")

    def test_no_such_case(self, reader: Reader) -> None:
        """A case that there is not, and a name that leaves the folder, are refused in the way of this package."""
        for name in ("no such case", "../no such case", ""):
            try:
                reader.read(name)
            except TwinTrackError:
                continue
            except Exception as error:
                raise AssertionError(f"case {name!r}: raised {error!r} instead of a RequestError") from error
            fail(f"case {name!r}", "was read, though case_names does not list it")

    def test_import(self, reader: Reader) -> None:
        """The cases can be imported, and are in the store as they were read."""
        from twintrack_core.engine.importing import import_cases

        with tempfile.TemporaryDirectory() as folder:
            cohort = _allowed("import", lambda: import_cases(reader, Path(folder) / "cohort.zarr", workers=2))
            if tuple(case.name for case in cohort) != reader.case_names():
                fail("import", f"the store holds {[case.name for case in cohort]}")
            for stored in cohort:
                case, read = stored.read(), _read(reader, stored.name)
                for name in ("probability", *_MASKS):
                    if not np.array_equal(_array(case, name), _array(read, name)):
                        fail(f"case {stored.name}", f"its {name} is not in the store as it was read")


def check_reader(reader: Reader) -> None:
    """Run the checks of `ReaderConformance` without pytest.

    Parameters
    ----------
    reader
        A reader of files that there are, a few small cases; each is read about ten times.

    Raises
    ------
    AssertionError
        For the first thing that is wrong, naming the case.
    """
    make_all(ReaderConformance(), ReaderConformance, reader)


def _read(reader: Reader, name: str) -> Case:
    from twintrack_core.cohort import Case

    case = _allowed(f"case {name}", lambda: reader.read(name))
    if not isinstance(case, Case):
        fail(f"case {name}", f"is of type {type(case).__name__}, not Case")
    return case


def _allowed(what: str, call: Any) -> Any:
    try:
        return call()
    except Exception as error:
        raise AssertionError(f"{what}: raised {error!r}") from error


def _check_case(name: str, case: Case) -> None:
    what = f"case {name}"
    if case.name != name:
        fail(what, f"its name is {case.name!r}")
    shape = _check_scores(what, case.probability)
    _check_raters(what, case.raters)
    for array_name, dtype in _MASKS.items():
        array = getattr(case, array_name)
        if array is None:
            continue
        if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != shape:
            fail(what, f"{array_name} is {_kind(array)}, not {dtype} of shape {shape}")
    if (case.votes is None) != (not case.raters):
        fail(what, f"it has raters {case.raters} and votes {_kind(case.votes)}: one without the other")
    for array_name, most in (("votes", (1 << len(case.raters)) - 1), ("vessels", 5)):
        array = getattr(case, array_name)
        if array is not None and array.size and array.max() > most:
            fail(what, f"{array_name} holds {array.max()}; the largest there can be is {most}")
    for word in ("attributes", "source"):
        facts = getattr(case, word)
        _allowed(f"{what}, {word}", lambda facts=facts: json.dumps(dict(facts), allow_nan=False))
        for text in _texts(facts):
            if PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute():
                fail(what, f"{word} holds the path {text!r}: equal files would give stores that differ")


def _check_scores(what: str, scores: Any) -> tuple[int, ...]:
    """Return the shape of the volume."""
    if not isinstance(scores, np.ndarray) or scores.dtype.name not in _SCORES or scores.ndim not in (3, 4):
        fail(what, f"probability is {_kind(scores)}, not {' or '.join(_SCORES)} of (z, y, x) or (member, z, y, x)")
    if not scores.size:
        fail(what, f"probability has shape {scores.shape}, no voxel")
    if scores.dtype.kind == "f" and not ((scores >= 0) & (scores <= 1)).all():
        fail(what, "probability is not all in [0, 1]")
    return tuple(scores.shape[-3:])


def _check_raters(what: str, raters: Any) -> None:
    if not isinstance(raters, tuple) or not all(isinstance(rater, str) and rater for rater in raters):
        fail(what, f"raters are {raters!r}, not a tuple of names")
    if len(set(raters)) != len(raters) or len(raters) > MAX_RATERS:
        fail(what, f"raters are {raters}, not at most {MAX_RATERS} different names")


def _texts(facts: Any) -> Iterator[str]:
    if isinstance(facts, str):
        yield facts
    elif isinstance(facts, dict):
        for value in facts.values():
            yield from _texts(value)
    elif isinstance(facts, list | tuple):
        for value in facts:
            yield from _texts(value)


def _content(case: Case) -> object:
    arrays = [_array(case, name) for name in ("probability", *_MASKS)]
    facts = [json.dumps(dict(facts), sort_keys=True, default=repr) for facts in (case.attributes, case.source)]
    kinds = [(array.dtype, array.shape, array.tobytes()) for array in arrays]
    return case.name, case.raters, case.geometry, facts, kinds


def _array(case: Case, name: str) -> Any:
    return np.asarray(getattr(case, name))


def _kind(array: Any) -> str:
    return f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else repr(array)[:80]
