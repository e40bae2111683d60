"""The command line `oflsam2`.

Exit codes: 0 done; 2 something the user can act on (one or two lines on stderr say what);
1 a bug; 3 some cases have no result; 130 stopped with Ctrl-C, 143 by the system.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from OFLSAM2Core import __version__
from OFLSAM2Core.cli.interrupt import (
    Stopped,
    answer_signals,
    default_signals,
    end_process,
    signals_noted,
)
from OFLSAM2Core.cli.progress import ProgressBars
from OFLSAM2Core.cli.spoken_log import SpokenLog
from OFLSAM2Core.cli.streams import flush_streams, ready_streams
from OFLSAM2Core.runtime.log import start_log
from OFLSAM2Core.runtime.redaction import keep_out
from OFLSAM2Core.worker.failures import failure_of

# One module of OFLSAM2Core.cli each; only the one that is asked for is imported.
COMMANDS = {
    "demo": "learn from three of the shipped hippocampus cases and segment two others",
    "learn": "learn a task from labelled volumes and save it",
    "segment": "segment a volume with a learned task, or straight from labelled volumes",
    "cohort": "segment many volumes, on one computer or many, and go on where it stopped",
    "evaluate": "learn and segment a folder of labelled cases and compare with the labels",
    "bench": "measure speed and memory, beside plain SAM2 video propagation",
    "backbones": "list, fetch, verify or remove the weights of backbones",
    "methods": "list the segmentation methods",
    "worker": "serve another program over standard input and output",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    answer_signals()
    ready_streams()
    words = list(sys.argv[1:] if argv is None else argv)
    asked = next((word for word in words if word in COMMANDS), None)
    args = _parser(asked).parse_args(words)
    module = importlib.import_module(f"OFLSAM2Core.cli.{args.command}")
    if args.command == "worker":
        default_signals()
        return int(module.run(args))  # It has a log and an ending of its own.
    keep_out(part for word in words for part in word.split("=") if word not in COMMANDS)
    log_file = start_log(
        "oflsam2",
        terminal_level=logging.ERROR if args.quiet else logging.WARNING,
        terminal=SpokenLog(),
    )
    try:
        with signals_noted():
            code = int(module.run(args) or 0)
            flush_streams()
        return code
    except KeyboardInterrupt as stop:
        ProgressBars.close_shown()
        print("Stopped.", file=sys.stderr)
        end_process(stop.code if isinstance(stop, Stopped) else 130)
    except Exception as error:
        ProgressBars.close_shown()
        logging.getLogger(__name__).info("%s failed", args.command, exc_info=True)
        if args.debug:
            traceback.print_exc()
        failure = failure_of(error, log_file)
        print(f"oflsam2: {failure['message']}", file=sys.stderr)
        if failure["hint"]:
            print(failure["hint"], file=sys.stderr)
        return 1 if failure["kind"] == "bug" else 2


def _parser(asked: str | None) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="oflsam2",
        description="Learn a segmentation from two or three labelled volumes, and segment others.",
        epilog="oflsam2 COMMAND --help tells more of one command.",
    )
    parser.add_argument("--version", action="version", version=f"oflsam2 {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(
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
