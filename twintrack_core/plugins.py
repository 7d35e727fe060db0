"""What other distributions add: entry points, listed without importing them and loaded when asked for by name.

There is an entry-point group for each kind of plugin: "twintrack.kernels", "twintrack.calibrators",
"twintrack.metrics" and "twintrack.readers". A distribution says which version of the plugin API it was written for with
an entry point of the group "twintrack.api", named "v1"; one that says nothing was written for the first.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import re
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from twintrack_core.errors import PluginError, RequestError

if TYPE_CHECKING:
    from importlib.metadata import Distribution

API_VERSION = 1
"""Version of what plugins rely on: it changes when a plugin that works would not any more."""

_FIRST_API = "v1"
_API_GROUP = "twintrack.api"
_OURSELVES = "twintrack-core"
_NAME = re.compile(r"\w[\w.+-]*")  # no colon, which begins a metric's argument, and no comma, which parts names
_VALUE = re.compile(r"(?P<top>[^\W\d]\w*)(\.[^\W\d]\w*)*(\s*:\s*[^\W\d]\w*(\.[^\W\d]\w*)*)?")
_FILE = "entry_points.txt"
_WORDS = 200  # of somebody else's error in a message of ours

T = TypeVar("T")


class PluginWarning(RuntimeWarning):
    """A plugin that nobody asked for by name cannot be used."""


def say(error: BaseException) -> str:
    """Return an error's type and text on one line, cut where it is long."""
    text = " ".join(repr(error).split())
    return text if len(text) <= _WORDS else f"{text[: _WORDS - 3]}..."


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
    default
        Name that stands for one of ours, whichever `load_ours` chooses: no plugin can have it, and it is not listed.
    unlisted
        Those of ours that are there when they are asked for by name, but that `names` leaves out: whether they can be
        used shows only when it is tried. Each with what returns the reason why it cannot be used, None if it can.
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
        default: str | None = None,
        unlisted: Mapping[str, Callable[[], str | None]] | None = None,
    ) -> None:
        self.kind = kind
        self.group = f"twintrack.{kind}s"
        self._ours = ours
        self._load_ours = load_ours
        self._check = check
        self._needed = needed
        self._is_there = is_there
        self._default = default
        self._unlisted = unlisted or {}
        self._loaded: dict[str, T] = {}
        self._failed: dict[Offer, str] = {}

    def names(self) -> tuple[str, ...]:
        """Names that can be asked for: ours, then those of other distributions, sorted; nothing of theirs is imported.

        A plugin that cannot be used is left out, with one warning in a process.
        """
        offered: list[str] = []
        left_out: dict[tuple[str, str], list[str]] = defaultdict(list)
        for offer in self.others():
            if offer.problem is None:
                offered.append(offer.name)
            else:
                left_out[offer.name, offer.problem].append(offer.source)
        for (name, problem), sources in left_out.items():
            self._warn(name, " and ".join(sources), problem)
        listed = (name for name in self._ours if name not in self._unlisted)
        return (*filter(self._is_there, listed), *offered)

    def offers(self) -> tuple[Offer, ...]:
        """Return who offers which name, ours first, with what is wrong; nothing of theirs is imported."""
        from importlib.metadata import version

        ours = version(_OURSELVES)
        tried = {name: why_not() for name, why_not in self._unlisted.items() if self._is_there(name)}
        names = filter(self._is_there, self._ours)
        return (*(Offer(self.kind, name, "", _OURSELVES, ours, tried.get(name)) for name in names), *self.others())

    def others(self) -> tuple[Offer, ...]:
        """Return what other distributions offer, with what is wrong; nothing of it is imported."""
        found = _found(self.kind)
        usable = [offer.name for offer in found if offer.problem is None]

        def problem(offer: Offer) -> str | None:
            if self._is_ours(offer.name):
                return _CLASH
            if offer.problem is None and usable.count(offer.name) > 1:
                return "only one distribution may offer a name"
            return offer.problem or self._failed.get(offer) or _missing_module(offer.value)

        return tuple(replace(offer, problem=problem(offer)) for offer in found)

    def source_of(self, name: str) -> str:
        """Say which distribution a name comes from, for a message about what it did."""
        others = [offer for offer in _found(self.kind) if offer.name == name and offer.problem is None]
        return _OURSELVES if self._is_ours(name) or not others else _sources(others)

    def maker_of(self, thing: object) -> str:
        """Say what type a thing is of, and which distribution it comes from if its module is a plugin's."""
        top = type(thing).__module__.partition(".")[0]
        sources = [f" of {offer.source}" for offer in _found(self.kind) if _top(offer.value) == top]
        return f"{type(thing).__name__}{sources[0] if sources else ''}"

    def failure_of(self, name: str) -> str | None:
        """Return why a name could not be loaded, if that was tried."""
        return next((why for offer, why in self._failed.items() if offer.name == name), None)

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

    def _is_ours(self, name: str) -> bool:
        return name in self._ours or name == self._default

    def _find(self, name: str) -> T:
        if name == self._default:  # without a look at every distribution
            return self._load_ours(name)
        named = [offer for offer in _found(self.kind) if offer.name == name]
        if name in self._ours:
            if named:
                self._warn(name, _sources(named), _CLASH)
            return self._load_ours(name)
        if not named:
            allowed = ", ".join(filter(None, (self._default, *self.names())))
            raise RequestError(f"There is no {self.kind} {name!r}.", f"Allowed: {allowed}.", self._did_you_mean(name))
        usable = [offer for offer in named if offer.problem is None]
        if len(usable) > 1:
            raise PluginError(
                f"{self.group}: {name!r} is offered by {_sources(usable)}.",
                "Allowed: one distribution.",
                "Uninstall the others.",
            )
        return self._load(usable[0] if usable else named[0])

    def _load(self, offer: Offer) -> T:
        cause: BaseException | None = None
        wrong = offer.problem
        if wrong is None:
            try:
                found = _import(offer)
                wrong = self._check(offer.name, found)
            except (Exception, SystemExit) as error:  # whatever a module does when it is imported  # noqa: BLE001
                wrong, cause = say(error), error
        if wrong is None:
            self._failed.pop(offer, None)
            return cast("T", found)
        self._failed[offer] = wrong
        raise PluginError(
            f"{self.group}: {offer.name!r} of {offer.source} ({offer.value}) cannot be used: {wrong}.",
            f"Allowed: {self._needed}, for plugin API v{API_VERSION}.",
            "Update or repair that distribution, or choose another name.",
        ) from cause

    def _did_you_mean(self, name: str) -> str | None:
        import difflib

        near = difflib.get_close_matches(name, self.names(), n=1)
        return f"Did you mean {near[0]!r}?" if near else None

    def _warn(self, name: str, sources: str, problem: str) -> None:
        plugin = (self.group, name, sources)
        if plugin not in _warned_of:
            _warned_of.add(plugin)
            warnings.warn(f"{self.group}: {name!r} of {sources} is not used: {problem}.", PluginWarning, stacklevel=4)


_NO_FILE = "it is not made of lines [GROUP] and NAME = MODULE:OBJECT"
_CLASH = f"that name belongs to {_OURSELVES}"
_warned_of: set[tuple[str, str, str]] = set()


def _refusal(name: str, value: str, apis: Collection[str]) -> str | None:
    """Return why an entry point is not even tried."""
    if not _NAME.fullmatch(name):
        return "its name is not made of letters, digits and _ . + -"
    if not _VALUE.fullmatch(value):
        return f"{value!r} is not MODULE or MODULE:OBJECT"
    if f"v{API_VERSION}" not in apis:
        return f"it was written for plugin API {' and '.join(apis)}, this is v{API_VERSION}"
    return None


def _sources(offers: Iterable[Offer]) -> str:
    return " and ".join(offer.source for offer in offers)


def _import(offer: Offer) -> Any:
    from importlib.metadata import EntryPoint

    with contextlib.redirect_stdout(sys.stderr):  # stdout is ours: it may be one JSON document
        return EntryPoint(offer.name, offer.value, "").load()


def _found(kind: str) -> tuple[Offer, ...]:
    """Return what other distributions offer of a kind, sorted by name."""
    return _scan(tuple((place, _changed(place)) for place in sys.path)).get(kind, ())


def _changed(place: str) -> int:
    try:
        return Path(place or ".").stat().st_mtime_ns
    except OSError:
        return 0


@functools.lru_cache(maxsize=1)  # as long as nothing is installed: every distribution is looked at
def _scan(_: tuple[tuple[str, int], ...]) -> Mapping[str, tuple[Offer, ...]]:
    from importlib import metadata  # half as long to import as NumPy

    named: dict[str, Distribution] = {}
    for distribution in metadata.distributions():
        # The name takes longer to read, and most have nothing for us.
        if "[twintrack." in _text(distribution) and (name := _name(distribution)):
            named.setdefault(re.sub(r"[-_.]+", "-", name).lower(), distribution)
    found: dict[str, list[Offer]] = defaultdict(list)
    for name, distribution in sorted(named.items()):
        # Of several versions on the path the one that is imported, which may have nothing for us. A folder that is not
        # named as its distribution, such as what pip leaves when it is interrupted, is not found by name.
        nearest = next(filter(_name, metadata.Distribution.discover(name=name)), distribution)
        for offer in _offers_of(nearest):
            found[offer.kind].append(offer)
    return {kind: tuple(sorted(offers, key=lambda offer: offer.name)) for kind, offers in found.items()}


def _text(distribution: Distribution) -> str:
    """Return the file of entry points; "" for none, and of a distribution that is damaged."""
    with contextlib.suppress(Exception):
        return distribution.read_text(_FILE) or ""
    return ""


def _name(distribution: Distribution) -> str:
    """Return the name; "" for a distribution that is damaged."""
    with contextlib.suppress(Exception):
        return distribution.name or ""
    return ""


def _offers_of(distribution: Distribution) -> Iterator[Offer]:
    """Yield what a distribution offers; if its file cannot be parsed, one thing of every kind, named as the file."""
    source, version = distribution.name, "?"
    with contextlib.suppress(Exception):
        version = distribution.version or version
    try:
        points = [(point.group, point.name, point.value) for point in distribution.entry_points]
    except Exception:  # noqa: BLE001 - one that is damaged must not stop the others
        for kind in dict.fromkeys(re.findall(r"^\s*\[twintrack\.(\w+)s\]", _text(distribution), re.MULTILINE)):
            yield Offer(kind, _FILE, _FILE, source, version, _NO_FILE)
        return
    apis = sorted(name for group, name, _ in points if group == _API_GROUP) or [_FIRST_API]
    for group, name, text in points:
        if group.startswith("twintrack."):
            value = re.sub(r"\s*\[[^\]]*\]$", "", text)  # extras
            kind = group.removeprefix("twintrack.").removesuffix("s")
            yield Offer(kind, name, value, source, version, _refusal(name, value, apis))


def _top(value: str) -> str:
    match = _VALUE.fullmatch(value)
    return match["top"] if match else ""


def _missing_module(value: str) -> str | None:
    """Say so if there is no such module or package at the top, which is not imported."""
    top = _top(value)
    try:
        return None if importlib.util.find_spec(top) else f"there is no module {top!r}"
    except Exception:  # noqa: BLE001 - finders are anybody's, and what they cannot tell is left to the import
        return None
