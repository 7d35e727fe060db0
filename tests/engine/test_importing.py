"""What tells the input of one import from that of another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from twintrack_core.engine.importing import _identity


@dataclass
class Told:
    value: Any

    def case_names(self) -> tuple[str, ...]:
        return ("a",)

    def read(self, name: str) -> Any:
        raise NotImplementedError


class Other(Told):
    pass


class Plain:
    """Its representation holds an address."""

    def __init__(self, value: int = 0) -> None:
        self.value = value


def of(value: Any) -> str:
    return _identity(Told(value))


def test_the_same_folder_spelled_differently(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "images"
    (folder / "inner").mkdir(parents=True)
    (folder / "a").write_bytes(b"1")
    monkeypatch.chdir(tmp_path)
    spelled = [Path("images"), Path("./images/inner/.."), folder]
    assert len({of(path) for path in spelled}) == 1
    assert len({of((path,)) for path in spelled}) == 1
    monkeypatch.chdir(folder)
    assert of(Path("../images")) == of(folder)
    before = of({"key": [folder]})
    (folder / "a").write_bytes(b"12")
    assert of({"key": [folder]}) != before


def test_arrays_are_told_by_all_of_their_values() -> None:
    values = np.zeros(5000)
    same, other = values.copy(), values.copy()
    other[2500] = 1  # which its representation leaves out
    assert of(values) == of(same) != of(other)
    assert of(values) != of(values.reshape(50, 100))
    assert of(np.array([None, Path("a")], dtype=object)) == of(np.array([None, Path("./a")], dtype=object))


def test_addresses_tell_nothing() -> None:
    assert of(Plain()) == of(Plain(1)) == of([Plain()][0])
    assert of(Plain()) != of(object())
    assert of((1, Plain())) == of((1, Plain())) != of((2, Plain()))
    assert of(lambda: 0) == of(lambda: 0)


def test_what_else_a_reader_was_told() -> None:
    values: list[Any] = [1, "1", 1.0, None, (), (1,), ("1",), {"a": 1}, {"a": 2}, {1, 2}, {1, 3}]
    assert len(set(map(of, values))) == len(values)
    assert of({"b", "a"}) == of({"a", "b"})
    assert _identity(Told(1)) != _identity(Other(1))
    cached = Told(1)
    cached.__dict__["found"] = 2
    assert _identity(cached) == of(1)
