"""The kit of readers: ours pass, and mistakes are caught."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from twintrack_core.cohort import Case, pack_votes, write_volume
from twintrack_core.cohort.nnunet import NnunetReader
from twintrack_core.cohort.volumes import VolumesReader
from twintrack_core.errors import RequestError
from twintrack_core.simulate import Simulation
from twintrack_core.testing import ReaderConformance, check_reader

SCORES = np.linspace(0, 1, 60, dtype=np.float32).reshape(3, 4, 5)
CASE = Case("a", SCORES, ("ann", "bob"), pack_votes([SCORES > 0.4, SCORES > 0.6]), source={"reader": "good"})


@dataclass
class Good:
    """A reader of one case that is in memory, and what others do differently."""

    names: Any = ("a",)

    def case_names(self) -> Any:
        return self.names

    def read(self, name: str) -> Any:
        if name not in self.names:
            raise RequestError(f"There is no case {name!r}.")
        return self.change(replace(CASE, name=name))

    def change(self, case: Case) -> Any:
        return case


class TestGood(ReaderConformance):
    """As a page of the documentation would have it."""

    @pytest.fixture
    def reader(self) -> Good:
        return Good(("a", "b"))


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    pytest.importorskip("SimpleITK")
    for folder in ("m", "r", "roi", "vessels", "p"):
        (tmp_path / folder).mkdir()
    marked = SCORES > 0.5
    for name in ("a", "b"):
        np.savez(tmp_path / "m" / f"{name}.npz", probabilities=np.stack([1 - SCORES, SCORES]))
        for folder, array in {"m": marked, "r": marked, "roi": marked, "vessels": marked}.items():
            write_volume(tmp_path / folder / f"{name}.nii.gz", array.astype(np.uint8), CASE.geometry)
        write_volume(tmp_path / "p" / f"{name}.nii.gz", SCORES, CASE.geometry)
    return tmp_path


def test_ours_pass(folders: Path) -> None:
    others: dict[str, Any] = {"raters": (folders / "r",), "roi": folders / "roi", "vessels": folders / "vessels"}
    check_reader(NnunetReader(members=(folders / "m",), **others))
    check_reader(VolumesReader(probability=(folders / "p",), **others))
    check_reader(Simulation(cases=2, shape=(8, 9, 10), raters=2, members=2, seed=1))


def test_names_are_checked() -> None:
    for names in ((), ["a"], ("b", "a"), ("a", "a"), ("../a",), (1,)):
        with pytest.raises(AssertionError, match=r"^case_names"):
            check_reader(Good(names))


class RefusesNothing(Good):
    def read(self, name: str) -> Any:
        return replace(CASE, name=name)


class RefusesWithKeyError(Good):
    def read(self, name: str) -> Any:
        return {"a": CASE}[name]


class Lock(Good):
    lock: Any

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


class NamesOnce(Good):
    def case_names(self) -> Any:
        self.names, names = ("a", "b"), self.names
        return names


class DriftsWithEveryCall(Good):
    calls = 0

    def change(self, case: Case) -> Case:
        type(self).calls += 1
        return replace(case, probability=SCORES * np.float32(0.5 + 0.5 / type(self).calls))


class Raises(Good):
    def change(self, case: Case) -> Case:
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("reader", "words"),
    [
        (RefusesNothing, "was read, though"),
        (RefusesWithKeyError, "instead of a RequestError"),
        (Lock, "cannot be pickled"),
        (NamesOnce, "case_names"),
        (DriftsWithEveryCall, "not the same"),
        (Raises, "raised ZeroDivisionError"),
    ],
)
def test_mistakes_are_caught(reader: Callable[[], Good], words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_reader(reader())


@dataclass
class Changed(Good):
    """A reader whose case differs from a good one."""

    changes: Any = None

    def change(self, case: Case) -> Any:
        return replace(case, **self.changes) if self.changes else "no case"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "is of type str, not Case"),
        ({"name": "b"}, "its name is 'b'"),
        ({"probability": SCORES.astype(np.float64)}, "probability is float64"),
        ({"probability": SCORES[0]}, r"shape \(4, 5\)"),
        ({"probability": SCORES[:0]}, "no voxel"),
        ({"probability": SCORES * 2}, r"not all in \[0, 1\]"),
        ({"probability": np.where(SCORES > 0.5, np.float32(np.nan), SCORES)}, r"not all in \[0, 1\]"),
        ({"probability": SCORES.tolist()}, "probability is"),
        ({"raters": ["ann", "bob"]}, "not a tuple of names"),
        ({"raters": ("ann", "ann")}, "different names"),
        ({"raters": tuple("abcdefghi")}, "at most 8"),
        ({"raters": ("ann",)}, "votes holds 3"),
        ({"raters": ()}, "one without the other"),
        ({"votes": None}, "one without the other"),
        ({"votes": (SCORES > 0.5)}, "votes is bool"),
        ({"votes": np.zeros((3, 4), np.uint8)}, r"votes is uint8 of shape \(3, 4\)"),
        ({"roi": np.zeros((3, 4, 5), np.uint8)}, "roi is uint8"),
        ({"vessels": np.full((3, 4, 5), 6, np.uint8)}, "vessels holds 6"),
        ({"attributes": {"site": {1, 2}}}, "attributes: raised"),
        ({"source": {"files": ["/data/a.npy"]}}, "holds the path"),
        ({"source": {"files": {"a": "C:\\data\\a.npy"}}}, "holds the path"),
    ],
)
def test_odd_cases_are_caught(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_reader(Changed(changes=changes))
