"""What the kits share: how a check fails, and how all checks of a class are made without pytest."""

from __future__ import annotations

from typing import NoReturn


def fail(what: object, words: str) -> NoReturn:
    """Raise an AssertionError."""
    raise AssertionError(f"{what}: {words}")


def make_all(checks: object, kind: type, *arguments: object) -> None:
    """Make every check that a class defines, in order."""
    for name, check in vars(kind).items():
        if name.startswith("test_"):
            check(checks, *arguments)
