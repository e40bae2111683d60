"""`oflsam2 methods`: what there is to segment with."""

from __future__ import annotations

import argparse

from OFLSAM2Core import methods
from OFLSAM2Core.cli.method_help import option_lines
from OFLSAM2Core.methods.base import describe

_DEFAULT_FOR = {methods.DEFAULT: "volumes", methods.OF_SEQUENCES: "sequences"}


_ALSO = {
    "sequences": "sequences of frames",
    "further_volumes": "co-registered volumes",
    "corrections": "corrections",
    "unlabelled": "volumes without labels (--unlabelled)",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="list this method's options")


def run(args: argparse.Namespace) -> int:
    if args.name is not None:
        described = describe(methods.get_method(args.name))
        print(f"{args.name}: {described['description']}")
        if also := [text for key, text in _ALSO.items() if described[key]]:
            print(f"  It takes, too: {', '.join(also)}.")
        print("\n".join(option_lines(described)))
        return 0
    for described in methods.describe_all():
        kind = _DEFAULT_FOR.get(described["name"])
        mark = f" (default for {kind})" if kind else ""
        print(f"{described['name'] + mark:<40} {described['description']}")
    return 0
