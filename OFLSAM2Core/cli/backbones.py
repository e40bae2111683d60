"""`oflsam2 backbones`: their weights on this machine."""

from __future__ import annotations

import argparse

from OFLSAM2Core.backbones import weights
from OFLSAM2Core.cli.interrupt import call_in_background
from OFLSAM2Core.cli.options import ready_weights
from OFLSAM2Core.cli.progress import ProgressBars


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    actions.add_parser("list", help="all backbones and what is on this machine (the default)")
    for action, what in (
        ("fetch", "bring the weights onto this machine"),
        ("verify", "check the weights on this machine against their SHA-256"),
        ("remove", "delete downloaded weights"),
    ):
        actions.add_parser(action, help=what).add_argument("name", metavar="NAME")


def run(args: argparse.Namespace) -> int:
    bars = ProgressBars(args.quiet)
    if args.action == "fetch":
        ready_weights(args.name, None, bars)
        bars.say(f"{args.name}: {weights.status(args.name).path}")
    elif args.action == "verify":
        path = call_in_background(lambda report: weights.verify(args.name), bars)
        print(f"{args.name}: {path} is right (SHA-256 {weights.identity(path)}).")
    elif args.action == "remove":
        freed = weights.remove(args.name)
        print(f"{args.name}: {freed / 1e6:.1f} MB freed.")
    else:
        _list()
    return 0


def _list() -> None:
    for info in weights.list_backbones():
        found = weights.status(info.name)
        state = found.state if found.path is None else f"{found.state}, {found.path}"
        print(f"{info.name:<18} {info.bytes / 1e6:6.0f} MB  {info.license:<13} {state}")
        print(f"{'':<18} {info.description}")
        if info.terms:
            print(f"{'':<18} {info.terms}")
