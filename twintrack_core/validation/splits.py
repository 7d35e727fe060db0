"""Which cases a map is fitted to and which it is scored on: never voxels of one case on both sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from twintrack_core.errors import RequestError
from twintrack_core.histogram import CohortStatistics
from twintrack_core.names import some

LEAVE_ONE_OUT: Literal["leave-one-out"] = "leave-one-out"

Folds: TypeAlias = int | Literal["leave-one-out"] | Mapping[str, Sequence[str]]
"""How many folds, one for every case (or group), or the cases to score on in each of some folds by name."""


@dataclass(frozen=True)
class Split:
    """One way to part cases.

    Attributes
    ----------
    name
        Of the fold.
    fit, test
        Names of the cases that a map is fitted to, and of those it is scored on; no case is in both.
    """

    name: str
    fit: tuple[str, ...]
    test: tuple[str, ...]


def split_cases(
    statistics: CohortStatistics, folds: Folds = 5, *, group_by: str | None = None, seed: int = 0
) -> tuple[Split, ...]:
    """Part the cases that have raters into folds: each is scored on the maps of the others.

    Parameters
    ----------
    statistics
        Joint histograms of the cases.
    folds
        Number of folds, into which cases are dealt at random; "leave-one-out"; or the cases to score on in each of some
        folds, by name, whose maps are then fitted to all others.
    group_by
        Name of an attribute of the cases, such as "site" or "patient": cases of one value stay together, which given
        folds must see to. With "leave-one-out" every group is scored on the maps of the others.
    seed
        Of the deal.

    Returns
    -------
    tuple of Split
        The same for equal arguments.

    Raises
    ------
    RequestError
        For fewer than two cases or groups with raters, more folds than there are of them, cases without the attribute,
        and given folds that name unknown cases, name one twice, are empty, leave nothing to fit to or part a group.
    """
    rated = statistics.rated().names
    if isinstance(folds, Mapping):
        splits = _given(rated, folds)
        if group_by is not None:
            _require_whole(splits, groups_of(statistics, group_by), group_by)
        return splits
    groups = groups_of(statistics, group_by)
    what = "cases with raters" if group_by is None else f"values of {group_by!r} among cases with raters"
    if len(groups) < 2:
        raise RequestError(
            f"{what[0].upper()}{what[1:]}: {len(groups)}, which leaves nothing to fit to or nothing to score on.",
            "Allowed: 2 or more.",
        )
    if folds == LEAVE_ONE_OUT:
        tests = [(name, list(cases)) for name, cases in groups.items()]
    elif isinstance(folds, int | np.integer) and not isinstance(folds, bool) and 2 <= folds <= len(groups):
        tests = _deal(groups, int(folds), seed)
    else:
        raise RequestError(
            f"Folds: {folds!r:.40}, {what}: {len(groups)}.",
            f"Allowed: 2{f' to {len(groups)}' * (len(groups) > 2)} folds, {LEAVE_ONE_OUT}, or the cases of each.",
        )
    return _splits(rated, tests)


def groups_of(statistics: CohortStatistics, attribute: str | None) -> dict[str, list[str]]:
    """Return the cases that have raters by the value of an attribute, sorted; each by itself without one.

    Raises
    ------
    RequestError
        If a case lacks the attribute.
    """
    groups: dict[str, list[str]] = {}
    for name, case in statistics.items():
        if not case.histogram.raters:
            continue
        if attribute is None:
            groups[name] = [name]
        elif case.attributes.get(attribute) is not None:
            groups.setdefault(str(case.attributes[attribute]), []).append(name)
        else:
            raise RequestError(
                f"Case {name} has no {attribute!r}; its attributes with a value are {some(_valued(case.attributes))}.",
                "Allowed: an attribute of all cases.",
                "Give attributes with import --attributes CSV.",
            )
    return dict(sorted(groups.items()))


def places_of(statistics: CohortStatistics, attribute: str | None, cases: Sequence[str]) -> npt.NDArray[np.intp] | None:
    """Return the number of each case's group among those that occur, (cases,) from 0 on; None without an attribute.

    Raises
    ------
    RequestError
        If a case lacks the attribute.
    """
    if attribute is None:
        return None
    group_of = {case: group for group, names in groups_of(statistics, attribute).items() for case in names}
    return np.unique([group_of[case] for case in cases], return_inverse=True)[1].reshape(-1)


def _valued(attributes: Mapping[str, Any]) -> list[str]:
    return sorted(name for name, value in attributes.items() if value is not None)


def _deal(groups: Mapping[str, Sequence[str]], folds: int, seed: int) -> list[tuple[str, list[str]]]:
    """Deal groups, the largest first, those of one size in random order, each to the fold with the fewest cases."""
    names = list(groups)
    order = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    order.sort(key=lambda name: -len(groups[name]))  # stable
    dealt: list[list[str]] = [[] for _ in range(folds)]
    for name in order:
        min(dealt, key=len).extend(groups[name])
    return [(f"fold{number}", cases) for number, cases in enumerate(dealt, start=1)]


def _given(rated: Sequence[str], folds: Mapping[str, Sequence[str]]) -> tuple[Split, ...]:
    if not folds:
        raise RequestError("No fold is given.", "Allowed: one or more, each with the names of the cases to score on.")
    seen: dict[str, str] = {}
    for fold, cases in folds.items():
        if isinstance(cases, str) or not cases:
            raise RequestError(f"The fold {fold!r} is {cases!r:.80}.", "Allowed: the names of one case or more.")
        for case in cases:
            if case not in rated:
                raise RequestError(
                    f"The fold {fold!r} has a case {case!r}, which is not there or has no raters.",
                    f"Allowed: {some(rated)}.",
                )
            if case in seen:
                raise RequestError(f"Case {case} is in the folds {seen[case]!r} and {fold!r}.", "Allowed: one of them.")
            seen[case] = fold
        if len(cases) == len(rated):
            raise RequestError(f"The fold {fold!r} has all cases, which leaves nothing to fit to.", "Allowed: fewer.")
    return _splits(rated, [(fold, list(cases)) for fold, cases in folds.items()])


def _require_whole(splits: Sequence[Split], groups: Mapping[str, Sequence[str]], attribute: str) -> None:
    for split in splits:
        for group, cases in groups.items():
            if set(cases) & set(split.test) and set(cases) & set(split.fit):
                raise RequestError(
                    f"The fold {split.name!r} scores some cases of {attribute} {group!r}, and is fitted to others.",
                    "Allowed: folds that keep a group's cases together.",
                )


def _splits(rated: Sequence[str], tests: Sequence[tuple[str, list[str]]]) -> tuple[Split, ...]:
    return tuple(
        Split(name, tuple(case for case in rated if case not in set(test)), tuple(sorted(test))) for name, test in tests
    )
