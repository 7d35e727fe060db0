"""Look at the cases of a cohort before they are worked on: what there is to do, found by opening and listing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, TypeVar

from twintrack_core.cohort.store import StoredCase
from twintrack_core.engine.run import LOOK_BYTES, Crew, Run, Skipped, Task, groups, task_bytes
from twintrack_core.names import some


class Plan(Protocol):
    """What is to be done to a case."""

    @property
    def case(self) -> StoredCase:
        """The case."""


P = TypeVar("P", bound=Plan)


def look(
    plan: Callable[[tuple[str, ...]], list[P]], names: Sequence[str], skipped: Skipped, crew: Crew, run: Run
) -> list[P]:
    """Plan the cases of some names, many to a task, and return the plans in the order of the names.

    Parameters
    ----------
    plan
        Opens cases and plans each. It is pickled where tasks run in other processes.
    skipped
        Takes those that cannot be opened, if they may be left out.
    """

    def task(*group: str) -> Task[list[P]]:
        return Task(some(group), partial(plan, group), group)

    sizes = [LOOK_BYTES] * len(names)
    tasks = [task(*group) for group in groups(names, sizes, task_bytes(sum(sizes), crew.size))]
    plans = {each.case.name: each for found in skipped.compute(tasks, task, crew, run, "looking") for each in found}
    return [plans[name] for name in names if name in plans]
