"""The command line: one file per command, each thin.

A command module has ``HELP``, ``add_arguments(parser)`` and ``run(arguments)``; it imports what it needs inside
``run``, so that ``twintrack --help`` stays quick. Only the command that was asked for adds its arguments: those of
import depend on the plugins there are, which takes long to find out.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from twintrack_core.errors import TwinTrackError
from twintrack_core.plugins import PluginWarning

COMMANDS = (
    "demo",
    "simulate",
    "import",
    "info",
    "accumulate",
    "fit",
    "apply",
    "evaluate",
    "compare",
    "report",
    "merge",
    "export",
    "calibrate",
    "bench",
    "plugins",
)


_INTERRUPTED = 130


def entry() -> NoReturn:
    """Run ``twintrack`` as a program, which ends at once when it is interrupted."""
    code = main()
    if code == _INTERRUPTED:
        # Threads may be in the middle of something long. Nothing is lost: every write is whole or not at all.
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``twintrack`` with the given arguments and return its exit code: 0 done, 1 failed, 2 wrong request."""
    words = sys.argv[1:] if argv is None else argv
    arguments = argparse.Namespace(debug="--debug" in words)  # until they are parsed
    try:
        with _plugin_notes():
            arguments = _parser(words).parse_args(words)
            arguments.words = tuple(words)
            arguments.run(arguments)
    except KeyboardInterrupt:
        warnings.simplefilter("ignore")  # of what was interrupted half-way
        print("twintrack: interrupted; unfinished outputs are marked incomplete.", file=sys.stderr)
        if hasattr(arguments, "resume"):
            print("Run the same command with --resume to go on where it stopped.", file=sys.stderr)
        return _INTERRUPTED
    except TwinTrackError as error:
        if arguments.debug:
            raise
        print(f"twintrack: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # The reader of our output has seen enough, as in a pipe into head; Python must not try to flush the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if arguments.debug:
            raise
        print(f"twintrack: {error.filename or 'a file'}: {error.strerror or error}.", file=sys.stderr)
        return 1
    except MemoryError as error:
        if arguments.debug:
            raise
        print(f"twintrack: out of memory: {error or 'no reason was given'}.", file=sys.stderr)
        print("Use fewer --workers, each of which holds a case or some chunks, or a larger machine.", file=sys.stderr)
        return 1
    except Exception as error:  # the last resort: a bug is named as one, without a page of traceback
        if arguments.debug:
            raise
        reason = (str(error).splitlines() or [""])[0]
        print(f"twintrack: {type(error).__name__}: {reason}", file=sys.stderr)
        print("This is a bug in twintrack. Run again with --debug and report what it prints.", file=sys.stderr)
        return 1
    return 0


@contextlib.contextmanager
def _plugin_notes() -> Iterator[None]:
    """Show what is wrong with plugins without the line of ours that found out."""
    show = warnings.showwarning

    def showwarning(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, PluginWarning):
            print(f"twintrack: note: {message}", file=sys.stderr)
        else:
            show(message, category, *where, **more)

    with warnings.catch_warnings():
        warnings.showwarning = showwarning
        yield


class _Parser(argparse.ArgumentParser):
    """Reports a wrong request as all errors are reported; the usage, which would hide it, is left to --help."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"twintrack: {message.rstrip('.')}.\nSee {self.prog} --help.\n")


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    asked_for = next((word for word in words if not word.startswith("-")), None)
    parser = _Parser(
        prog="twintrack",
        description="Calibrate segmentation probabilities to the mean human response of several raters.",
    )
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in COMMANDS:
        command = importlib.import_module(f"twintrack_core.cli.{name}_command")
        subparser = subparsers.add_parser(name, help=command.HELP, description=command.HELP)
        if name != asked_for:
            continue
        command.add_arguments(subparser)
        for leaf in _leaves(subparser):
            leaf.add_argument("--debug", action="store_true", help="show the traceback of an error")
        if subparser.get_default("run") is None:
            subparser.set_defaults(run=command.run)
    return parser


def _leaves(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """Return the parsers without commands of their own below ``parser``."""
    nested = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]  # noqa: SLF001
    return [leaf for action in nested for child in action.choices.values() for leaf in _leaves(child)] or [parser]
