"""twintrack plugins: what other distributions add, and whether it does what it must."""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from twintrack_core.cli._shared import add_json, print_json
from twintrack_core.errors import PluginError, RequestError, TwinTrackError

if TYPE_CHECKING:
    from twintrack_core.plugins import Offer, Registry

HELP = "list or validate kernels, calibrators, metrics and readers, those of other distributions too"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="list what there is; no plugin is imported")
    listing.set_defaults(action=_list)
    validation = actions.add_parser("validate", help="load plugins and run the checks that each must pass")
    validation.add_argument(
        "plugins", nargs="*", metavar="[KIND:]NAME", help="plugins (default: all of other distributions)"
    )
    validation.set_defaults(action=_validate)
    for leaf in (listing, validation):
        add_json(leaf)


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    arguments.action(arguments)


def _list(arguments: argparse.Namespace) -> None:
    from twintrack_core.plugins import API_VERSION

    offers = [offer for registry in _registries().values() for offer in registry.offers()]
    if arguments.json:
        print_json({"api": API_VERSION, "plugins": [asdict(offer) for offer in offers]})
        return
    rows = [("KIND", "NAME", "FROM", "PROBLEM")]
    rows += [(offer.kind, offer.name, offer.source, offer.problem or "") for offer in offers]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def _validate(arguments: argparse.Namespace) -> None:
    found: list[Offer] = []
    offers = _chosen(arguments.plugins)
    for offer in offers:
        checked = replace(offer, problem=_problem(offer))
        found.append(checked)
        if not arguments.json:
            print(f"{offer.kind}:{offer.name} of {offer.source}: {checked.problem or 'ok'}", flush=True)
    if arguments.json:
        print_json({"plugins": [asdict(offer) for offer in found]})
    elif not found:
        print("No plugin of another distribution is installed.")
    wrong = sum(offer.problem is not None for offer in found)
    if wrong:
        raise PluginError(
            f"{wrong} of {len(found)} plugins cannot be relied on.",
            None,
            "Update them, uninstall them, or report this to those who made them.",
        )


def _chosen(wanted: list[str]) -> list[Offer]:
    """Return the plugins of other distributions that were named, all of them if none was."""
    offers = [offer for registry in _registries().values() for offer in registry.others()]
    named = {name: [o for o in offers if name in (o.name, f"{o.kind}:{o.name}")] for name in dict.fromkeys(wanted)}
    for name, those in named.items():
        if not those:
            allowed = ", ".join(dict.fromkeys(f"{offer.kind}:{offer.name}" for offer in offers)) or "none"
            raise RequestError(f"No other distribution offers {name!r}.", f"Allowed: {allowed}.")
    return list(dict.fromkeys(offer for those in named.values() for offer in those)) if wanted else offers


def _problem(offer: Offer) -> str | None:
    """Return what is wrong with a plugin, once it is loaded and checked; on one line."""
    from twintrack_core import testing
    from twintrack_core.plugins import say

    # A reader is checked with files, by its own tests: here it is seen that it can be asked for.
    checks: dict[str, Any] = {
        "kernel": testing.check_kernel,
        "calibrator": testing.check_calibrator,
        "metric": testing.check_metric,
    }
    if offer.problem is not None:
        return offer.problem
    registry = _registries()[offer.kind]
    try:
        plugin = registry.get(offer.name)
        if offer.kind in checks:
            checks[offer.kind](plugin)
    except (AssertionError, TwinTrackError) as error:
        return registry.failure_of(offer.name) or (str(error).splitlines() or [repr(error)])[0].rstrip(".")
    except (Exception, SystemExit) as error:  # whatever it is, the next one is still to be checked  # noqa: BLE001
        return say(error)
    return None


def _registries() -> dict[str, Registry[Any]]:
    from twintrack_core.calibrators.registry import CALIBRATORS
    from twintrack_core.cohort.registry import READERS
    from twintrack_core.kernels.registry import KERNELS
    from twintrack_core.metrics.registry import METRICS

    return {registry.kind: registry for registry in (KERNELS, CALIBRATORS, METRICS, READERS)}
