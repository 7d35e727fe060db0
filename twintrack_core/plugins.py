"""What other distributions add: entry points, listed without importing them and loaded when asked for by name.

There is an entry-point group for each kind of plugin: "twintrack.kernels", "twintrack.calibrators",
"twintrack.metrics" and "twintrack.readers". A distribution says which version of the plugin API it was written for with
an entry point of the group "twintrack.api", named "v1"; one that says nothing was written for the first.
"""

from __future__ import annotations

import functools
import importlib
import re
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from twintrack_core.errors import PluginError, RequestError

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from importlib.metadata import Distribution

API_VERSION = 1
"""Version of what plugins rely on: it changes when a plugin that works would not any more."""

_FIRST_API = "v1"
_API_GROUP = "twintrack.api"
_OURSELVES = "twintrack-core"
_NAME = re.compile(r"\w[\w.+-]*")  # no colon, which begins a metric's argument, and no comma, which parts names
_VALUE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*(\s*:\s*[^\W\d]\w*(\.[^\W\d]\w*)*)?")

T = TypeVar("T")


@dataclass(frozen=True)
class Offer:
    """A name that can be asked for, or could if it were not for a problem.

    Attributes
    ----------
    kind
        "kernel", "calibrator", "metric" or "reader".
    name
        Name of the entry point.
    value
        What the entry point stands for, MODULE or MODULE:OBJECT; "" for ours.
    distribution, version
        Who offers it.
    problem
        Why it is left out when names are listed, as far as that can be told without importing it; None if it is not.
    """

    kind: str
    name: str
    value: str
    distribution: str
    version: str
    problem: str | None = None

    @property
    def source(self) -> str:
        """Distribution and version."""
        return f"{self.distribution} {self.version}"


@dataclass(frozen=True)
class _Entry:
    """An entry point, and the versions of the API that its distribution was written for."""

    name: str
    value: str
    distribution: str
    version: str
    apis: tuple[str, ...]

    @property
    def source(self) -> str:
        return f"{self.distribution} {self.version}"


class Registry(Generic[T]):
    """Things of one kind by name: ours, and those that other distributions offer as entry points.

    Nothing of theirs is imported before it is asked for. One that cannot be used is left out of `names`, with one
    warning that names its distribution, and is an error when it is asked for; the others are not affected.

    Parameters
    ----------
    kind
        "kernel", "calibrator", "metric" or "reader": the singular of the entry-point group's name.
    ours
        Names that are ours, which no plugin can have.
    load_ours
        Returns one of ours by name.
    check
        Returns what is wrong with a loaded plugin, given its name and the plugin; None if nothing is.
    needed
        What a plugin has to be, for messages.
    is_there
        Whether one of ours is there on this machine.
    """

    def __init__(
        self,
        kind: str,
        ours: Collection[str],
        load_ours: Callable[[str], T],
        check: Callable[[str, Any], str | None],
        needed: str,
        *,
        is_there: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self.kind = kind
        self.group = f"twintrack.{kind}s"
        self._ours = ours
        self._load_ours = load_ours
        self._check = check
        self._needed = needed
        self._is_there = is_there
        self._loaded: dict[str, T] = {}
        self._failed: dict[_Entry, str] = {}

    def names(self) -> tuple[str, ...]:
        """Names that can be asked for: ours, then those of other distributions, sorted; nothing of theirs is imported.

        A plugin that cannot be used is left out, with one warning in a process.
        """
        offered: list[str] = []
        left_out: dict[tuple[str, str], list[str]] = defaultdict(list)
        for offer in self._theirs():
            if offer.problem is None:
                offered.append(offer.name)
            else:
                left_out[offer.name, offer.problem].append(offer.source)
        for (name, problem), sources in left_out.items():
            self._warn(name, " and ".join(sources), problem)
        return (*filter(self._is_there, self._ours), *offered)

    def offers(self) -> tuple[Offer, ...]:
        """Return who offers which name, ours first, with what is wrong; nothing of theirs is imported."""
        from importlib.metadata import version

        ours = version(_OURSELVES)
        names = filter(self._is_there, self._ours)
        return (*(Offer(self.kind, name, "", _OURSELVES, ours) for name in names), *self._theirs())

    def get(self, name: str) -> T:
        """Return what a name stands for, importing it if need be.

        Raises
        ------
        RequestError
            If there is none of that name.
        PluginError
            If the one that another distribution offers cannot be used, or several distributions offer one.
        """
        if name not in self._loaded:  # kernels are asked for once a task
            self._loaded[name] = self._find(name)
        return self._loaded[name]

    def _find(self, name: str) -> T:
        named = [entry for entry in _entries(self.group) if entry.name == name]
        if name in self._ours:
            if named:
                self._warn(name, " and ".join(entry.source for entry in named), _CLASH)
            return self._load_ours(name)
        if not named:
            raise RequestError(
                f"There is no {self.kind} {name!r}.", f"Allowed: {', '.join(self.names())}.", self._did_you_mean(name)
            )
        usable = [entry for entry in named if _refusal(entry) is None]
        if len(usable) > 1:
            raise PluginError(
                f"{self.group}: {' and '.join(entry.source for entry in usable)} both offer {name!r}.",
                action="Uninstall all but one of them.",
            )
        return self._load(usable[0] if usable else named[0])

    def _load(self, entry: _Entry) -> T:
        cause: BaseException | None = None
        wrong = _refusal(entry)
        if wrong is None:
            try:
                found = _import(entry.value)
                wrong = self._check(entry.name, found)
            except (Exception, SystemExit) as error:  # whatever a module does when it is imported  # noqa: BLE001
                wrong, cause = repr(error), error
        if wrong is None:
            self._failed.pop(entry, None)
            return cast("T", found)
        self._failed[entry] = wrong
        raise PluginError(
            f"{self.group}: {entry.name!r} of {entry.source} ({entry.value}) cannot be used: {wrong}.",
            f"Allowed: {self._needed}, for plugin API v{API_VERSION}.",
            "Update or repair that distribution, or choose another name.",
        ) from cause

    def _theirs(self) -> list[Offer]:
        entries = _entries(self.group)
        usable = [entry.name for entry in entries if _refusal(entry) is None]

        def problem(entry: _Entry) -> str | None:
            if entry.name in self._ours:
                return _CLASH
            refusal = _refusal(entry)
            if refusal is None and usable.count(entry.name) > 1:
                return "only one distribution may offer a name"
            return refusal or self._failed.get(entry) or _missing_module(entry.value)

        return [
            Offer(self.kind, entry.name, entry.value, entry.distribution, entry.version, problem(entry))
            for entry in entries
        ]

    def _did_you_mean(self, name: str) -> str | None:
        import difflib

        near = difflib.get_close_matches(name, self.names(), n=1)
        return f"Did you mean {near[0]!r}?" if near else None

    def _warn(self, name: str, sources: str, problem: str) -> None:
        plugin = (self.group, name, sources)
        if plugin not in _warned_of:
            _warned_of.add(plugin)
            warnings.warn(f"{self.group}: {name!r} of {sources} is not used: {problem}.", RuntimeWarning, stacklevel=4)


_CLASH = f"that name belongs to {_OURSELVES}"
_warned_of: set[tuple[str, str, str]] = set()


def _refusal(entry: _Entry) -> str | None:
    """Return why an entry point is not even tried."""
    if not _NAME.fullmatch(entry.name):
        return "its name is not made of letters, digits and _ . + -"
    if not _VALUE.fullmatch(entry.value):
        return f"{entry.value!r} is not MODULE or MODULE:OBJECT"
    if f"v{API_VERSION}" not in entry.apis:
        return f"it was written for plugin API {' and '.join(entry.apis)}, this is v{API_VERSION}"
    return None


def _import(value: str) -> Any:
    module, _, attributes = value.partition(":")
    found: Any = importlib.import_module(module.strip())
    for attribute in filter(None, attributes.strip().split(".")):
        found = getattr(found, attribute)
    return found


def _entries(group: str) -> tuple[_Entry, ...]:
    """Return the entry points of a group, sorted by name."""
    return _scan(tuple((place, _changed(place)) for place in sys.path)).get(group, ())


def _changed(place: str) -> int:
    try:
        return Path(place or ".").stat().st_mtime_ns
    except OSError:
        return 0


@functools.lru_cache(maxsize=1)  # as long as nothing is installed: every distribution is looked at
def _scan(_: tuple[tuple[str, int], ...]) -> Mapping[str, tuple[_Entry, ...]]:
    from importlib import metadata  # half as long to import as NumPy

    named = {name for name, _ in map(_entry_points, metadata.distributions()) if name}
    found: dict[str, list[_Entry]] = defaultdict(list)
    for name in sorted(named):
        distribution = metadata.distribution(name)  # of several versions on the path, the one that is imported
        lines = list(_parse(_entry_points(distribution)[1]))
        apis = tuple(sorted(name for group, name, _ in lines if group == _API_GROUP)) or (_FIRST_API,)
        for group, entry, value in lines:
            found[group].append(_Entry(entry, value, name, distribution.version, apis))
    return {group: tuple(sorted(entries, key=lambda entry: entry.name)) for group, entries in found.items()}


def _entry_points(distribution: Distribution) -> tuple[str, str]:
    """Return a distribution's name, if it has anything for us, and its file of entry points."""
    try:
        text = distribution.read_text("entry_points.txt") or ""
        # The name takes longer to read, and most have nothing for us.
        return (distribution.name if "[twintrack." in text else ""), text
    except Exception:  # noqa: BLE001 - one that is damaged must not stop the others
        return "", ""


def _parse(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield group, name and value of entry points; unlike Python's parser, this takes lines that make no sense."""
    group = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            group = line[1:-1].strip()
        elif line and line[0] not in "#;":
            name, _, value = line.partition("=")
            yield group, name.strip(), re.sub(r"\s*\[[^\]]*\]$", "", value.strip())


def _missing_module(value: str) -> str | None:
    """Say which module of an entry point there is not, without importing its packages; None when it may be there."""
    top, *rest = value.partition(":")[0].strip().split(".")
    try:
        name, spec = top, _find_module(top, None)
        for part in rest:
            if spec is None or not _lists_its_modules(spec):
                break
            name = f"{name}.{part}"
            spec = _find_module(name, spec)
    except Exception:  # noqa: BLE001 - finders are anybody's, and what they cannot tell is left to the import
        return None
    return f"there is no module {name!r}" if spec is None and name not in sys.modules else None


def _find_module(name: str, package: ModuleSpec | None) -> ModuleSpec | None:
    path = package.submodule_search_locations if package else None
    specs = (finder.find_spec(name, path) for finder in sys.meta_path)
    return next((spec for spec in specs if spec is not None), None)


def _lists_its_modules(package: ModuleSpec) -> bool:
    """Whether the modules of a package are those in its folders: its code may add others when it runs."""
    if package.submodule_search_locations is None:
        return False
    if not package.has_location or not str(package.origin).endswith(".py"):
        return package.origin is None  # a folder without __init__.py
    source = Path(str(package.origin)).read_bytes()
    return not any(word in source for word in (b"__path__", b"modules", b"meta_path"))
