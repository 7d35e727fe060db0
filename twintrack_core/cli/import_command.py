"""twintrack import: nnU-Net folders, plain volumes, or what another distribution reads, to a cohort store."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twintrack_core.cli._shared import (
    add_cases,
    add_resume,
    add_workers,
    case_patterns,
    integers,
    is_whole,
    note_output,
    workers_of,
)
from twintrack_core.errors import RequestError

if TYPE_CHECKING:
    from twintrack_core.cohort.readers import Reader

HELP = "import nnU-Net outputs or plain volumes, with the raters' masks, into a cohort store"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    formats = parser.add_subparsers(metavar="FORMAT", required=True)
    nnunet = formats.add_parser("nnunet", help="folders of nnU-Net predictions: CASE.npz beside CASE.nii.gz")
    nnunet.add_argument("store", metavar="STORE", help="cohort store to make")
    add_nnunet(nnunet)
    volumes = formats.add_parser("volumes", help="folders of probability images (NIfTI, MHA, NRRD)")
    volumes.add_argument("store", metavar="STORE", help="cohort store to make")
    volumes.add_argument(
        "--probability",
        action="append",
        required=True,
        type=Path,
        metavar="DIR",
        help="a member's probability images; repeat",
    )
    for leaf, reader in ((nnunet, nnunet_reader), (volumes, _volumes_reader)):
        _add_case_parts(leaf)
        add_resume(leaf)
        add_workers(leaf)
        leaf.set_defaults(reader=reader, run=run)
    _add_plugins(formats)


def _add_plugins(formats: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from twintrack_core.cohort.registry import OURS, READERS

    # One that cannot be used too: when it is asked for the reason is given.
    for name in {offer.name: None for offer in READERS.others() if offer.name not in OURS}:
        leaf = formats.add_parser(name, help="what a plugin reads; see twintrack plugins list")
        leaf.add_argument("store", metavar="STORE", help="cohort store to make")
        leaf.add_argument("folder", type=Path, metavar="FOLDER", help="where the files are")
        leaf.add_argument(
            "--option", action="append", default=[], metavar="KEY=VALUE", help="an option of the reader; repeat"
        )
        add_cases(leaf)
        add_resume(leaf)
        add_workers(leaf)
        leaf.set_defaults(reader=_plugin_reader, run=run, format=name)


def add_nnunet(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how nnU-Net's folders are read."""
    parser.add_argument(
        "--member", action="append", required=True, type=Path, metavar="DIR", help="a member's folder; repeat"
    )
    parser.add_argument(
        "--class",
        dest="classes",
        type=integers,
        metavar="K[,K]",
        help="foreground classes, summed (default: 1, if it is the only one); with --regions the region, from 0",
    )
    parser.add_argument("--regions", action="store_true", help="the channels are sigmoid regions, not classes")
    parser.add_argument(
        "--no-check-argmax", action="store_true", help="accept probabilities that differ from the segmentation"
    )


def add_floor(parser: argparse.ArgumentParser) -> None:
    """Add --floor."""
    parser.add_argument("--floor", type=float, default=0.0, metavar="X", help="take scores below X as 0")


def _add_case_parts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rater", action="append", default=[], type=Path, metavar="DIR", help="a rater's masks; repeat"
    )
    parser.add_argument("--label", type=integers, metavar="K[,K]", help="values of the raters' files that are marks")
    parser.add_argument("--missing-rater", choices=("error", "allow"), default="error")
    parser.add_argument("--roi", type=Path, metavar="DIR", help="masks of the region of interest")
    parser.add_argument("--vessels", type=Path, metavar="DIR", help="label maps of the vessels, 0 to 5")
    parser.add_argument(
        "--attributes", type=Path, metavar="CSV", help="facts about the cases, in a column named case and others"
    )
    add_floor(parser)
    add_cases(parser)


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from twintrack_core.engine.importing import import_cases

    was_whole = arguments.resume and is_whole(arguments.store)
    cohort = import_cases(
        arguments.reader(arguments),
        arguments.store,
        resume=arguments.resume,
        on_error=arguments.on_error,
        **workers_of(arguments),
        progress=True,
    )
    note_output(arguments.store, cohort.skipped, was_whole=was_whole)
    raters = {rater for case in cohort for rater in case.raters}
    whose = f" with {len(raters)} raters" if raters else ""
    print(f"{len(cohort)} cases{whose} in {arguments.store}")


def nnunet_reader(arguments: argparse.Namespace) -> Reader:
    """Return the reader of nnU-Net folders that the arguments describe."""
    from twintrack_core.cohort.nnunet import NnunetReader

    return NnunetReader(
        members=tuple(arguments.member),
        classes=arguments.classes,
        regions=arguments.regions,
        check_argmax=not arguments.no_check_argmax,
        **_case_parts(arguments),
    )


def _volumes_reader(arguments: argparse.Namespace) -> Reader:
    from twintrack_core.cohort.volumes import VolumesReader

    return VolumesReader(probability=tuple(arguments.probability), **_case_parts(arguments))


def _plugin_reader(arguments: argparse.Namespace) -> Reader:
    from twintrack_core.cohort.registry import make_reader

    options: dict[str, str] = {}
    for text in arguments.option:
        key, equals, value = text.partition("=")
        if not equals or key in options:
            raise RequestError(
                f"--option {text} {'is no option' if not equals else 'is given twice'}.",
                "Allowed: KEY=VALUE, each once.",
            )
        options[key] = value
    cases = tuple(case_patterns(arguments.cases))
    return make_reader(arguments.format, arguments.folder, cases=cases, options=options)


def _case_parts(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "raters": tuple(arguments.rater),
        "labels": arguments.label,
        "missing_rater": arguments.missing_rater,
        "roi": arguments.roi,
        "vessels": arguments.vessels,
        "attributes": arguments.attributes,
        "floor": arguments.floor,
        "cases": tuple(case_patterns(arguments.cases)),
    }
