"""What other distributions add: entry points, listed without importing them and loaded when asked for by name."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from twintrack_core.errors import PluginError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


def names(group: str, ours: Collection[str]) -> tuple[str, ...]:
    """Names that other distributions offer in an entry-point group, in order; nothing of theirs is imported.

    Parameters
    ----------
    group
        For example "twintrack.kernels".
    ours
        Names that are taken: a plugin of such a name is left out, with one warning that names its distribution.
    """
    offered = _entries(group)
    for entry in offered:
        if entry.name in ours:
            _warn_of_clash(group, entry.name, _distribution(entry))
    return tuple(sorted({entry.name for entry in offered} - set(ours)))


def load(group: str, name: str, needs: Sequence[str]) -> Any:
    """Import the plugin of one of the `names` of a group.

    Parameters
    ----------
    group
        For example "twintrack.kernels".
    name
        Name of the entry point.
    needs
        Attributes the plugin must have.

    Raises
    ------
    PluginError
        If it cannot be imported, lacks an attribute, or several distributions offer one of that name.
    """
    entries = [entry for entry in _entries(group) if entry.name == name]
    if len(entries) > 1:
        offering = " and ".join(sorted(map(_distribution, entries)))
        raise PluginError(f"{group}: {offering} both offer {name!r}.", action="Uninstall all but one of them.")
    (entry,) = entries
    try:
        plugin = entry.load()
        for attribute in needs:
            getattr(plugin, attribute)
    except Exception as error:
        raise PluginError(
            f"{group}: {name!r} of {_distribution(entry)} ({entry.value}) cannot be used: {error!r}.",
            f"Allowed: what can be imported and has {', '.join(needs)}.",
            "Update or repair that distribution, or choose another name.",
        ) from error
    return plugin


def _entries(group: str) -> tuple[EntryPoint, ...]:
    from importlib.metadata import entry_points  # half as long to import as NumPy

    return tuple(entry_points(group=group))


def _distribution(entry: EntryPoint) -> str:
    # Only an entry point that was made by hand belongs to no distribution.
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "no distribution"


@functools.cache
def _warn_of_clash(group: str, name: str, distribution: str) -> None:
    warnings.warn(
        f"{group}: {name!r} of {distribution} is not used, because that name belongs to twintrack-core.",
        RuntimeWarning,
        stacklevel=4,
    )
