"""One command of the command line: its words, its errors, its end."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from OFLSAM2Core import __version__
from OFLSAM2Core.cli.progress import ProgressBars
from OFLSAM2Core.cli.signals import Stopped, default_signals, end_process, signals_noted
from OFLSAM2Core.cli.streams import flush_streams, ready_streams
from OFLSAM2Core.cli.terminal_log import TerminalLog
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.runtime.log import start_log
from OFLSAM2Core.runtime.redaction import keep_out
from OFLSAM2Core.worker.failures import failure_of

_log = logging.getLogger(__name__)


def run_command(argv: Sequence[str] | None, commands: Mapping[str, str]) -> int:
    """Run the command that `argv` names, one of `commands` (its name, and what it does).

    Returns its exit code; ends the process where it was asked to stop.
    """
    ready_streams()
    words = list(sys.argv[1:] if argv is None else argv)
    log_file: Path | None = None
    try:
        asked = next((word for word in words if word in commands), None)
        args = _parser(asked, commands).parse_args(words)
        _check_current_folder()
        module = importlib.import_module(f"OFLSAM2Core.cli.{args.command}")
        if args.command == "worker":
            default_signals()
            return int(module.run(args))  # It has a log and an ending of its own.
        keep_out(part for word in words for part in word.split("=") if word not in commands)
        log_file = start_log(
            "oflsam2",
            terminal_level=logging.ERROR if args.quiet else logging.WARNING,
            terminal=TerminalLog(),
        )
        with signals_noted():
            code = int(module.run(args) or 0)
            flush_streams()
        return code
    except KeyboardInterrupt as stop:
        ProgressBars.close_current()
        print("Stopped.", file=sys.stderr)
        end_process(stop.code if isinstance(stop, Stopped) else 130)
    except Exception as error:
        ProgressBars.close_current()
        _log.info("%s failed", asked, exc_info=True)
        if "--debug" in words:
            traceback.print_exc()
        failure = failure_of(error, log_file)
        print(f"oflsam2: {failure['message']}", file=sys.stderr)
        if failure["hint"]:
            print(failure["hint"], file=sys.stderr)
        return 1 if failure["kind"] == "bug" else 2


def _check_current_folder() -> None:
    """Paths on the command line count from it, and libraries ask for it."""
    try:
        os.getcwd()
    except OSError as error:
        raise InputError(
            f"The current folder cannot be used: {error.strerror}.",
            "It was deleted, perhaps. Change to another folder.",
        ) from error


def _parser(asked: str | None, commands: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="oflsam2",
        description="Learn a segmentation from two or three labelled volumes, and segment others.",
        epilog="oflsam2 COMMAND --help tells more of one command.",
    )
    parser.add_argument("--version", action="version", version=f"oflsam2 {__version__}")
    actions = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in commands.items():
        command = actions.add_parser(
            name, help=summary, description=summary[0].upper() + summary[1:] + "."
        )
        if name == asked:
            importlib.import_module(f"OFLSAM2Core.cli.{name}").add_arguments(command)
        group = command.add_argument_group("messages")
        group.add_argument("--quiet", action="store_true", help="no progress bars, no warnings")
        group.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


class _Parser(argparse.ArgumentParser):
    """Errors in two lines instead of the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"oflsam2: {message}\nTry: {self.prog} --help\n")
