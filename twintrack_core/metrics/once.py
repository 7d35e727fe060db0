"""What several metrics need of the same cells or volumes is computed once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar, cast

T = TypeVar("T")


class Once:
    """Base of what metrics are given."""

    def once(self, key: Any, compute: Callable[[], T]) -> T:
        """Return what ``compute`` gives, which is called for a key once.

        Parameters
        ----------
        key
            Hashable; begin it with something of your own, such as the name of your module.
        """
        if key not in self._computed:
            self._computed[key] = compute()
        return cast("T", self._computed[key])

    @cached_property
    def _computed(self) -> dict[Any, Any]:
        return {}
