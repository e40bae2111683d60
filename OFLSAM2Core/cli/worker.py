"""`oflsam2 worker`: frames on standard input and output."""

from __future__ import annotations

import argparse

from OFLSAM2Core.worker import server


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nice", type=int, default=server.NICE, help="priority (POSIX)")


def run(args: argparse.Namespace) -> int:
    server.main(["--nice", str(args.nice)])
    return 0
