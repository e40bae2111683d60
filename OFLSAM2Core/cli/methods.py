"""`oflsam2 methods`: what there is to segment with."""

from __future__ import annotations

import argparse

from OFLSAM2Core import methods


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None beyond the common ones."""


def run(args: argparse.Namespace) -> int:
    for name, description in methods.available().items():
        print(f"{name:<20} {description}")
    return 0
