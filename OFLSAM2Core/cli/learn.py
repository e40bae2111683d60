"""`oflsam2 learn`: labelled volumes in, a learned task out; or more of them for a task there is."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from OFLSAM2Core.cli.files import (
    add_support_options,
    check_outputs,
    default_method,
    read_support,
    say_how_to_name,
    split_support,
)
from OFLSAM2Core.cli.interrupt import call_in_background
from OFLSAM2Core.cli.options import (
    add_overwrite_option,
    add_session_options,
    check_options,
    make_session,
    refuse_what_is_learned,
)
from OFLSAM2Core.cli.progress import ProgressBars
from OFLSAM2Core.data.results import ProgressCallback
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.io.label_table import LabelTable
from OFLSAM2Core.io.reading import read_volume
from OFLSAM2Core.io.writing import check_writable
from OFLSAM2Core.learned_task import SUFFIX, LearnedTask
from OFLSAM2Core.runtime.counted import counted

_TASK_BYTES = 100_000_000
"""More than a task of the default method takes on the disk."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--support",
        action="append",
        required=True,
        metavar="IMAGE[+IMAGE2]=LABELS",
        help="a volume and its segmentation; two or three of them. IMAGE2 and IMAGE3 are "
        "co-registered volumes of the same patient",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar=f"TASK{SUFFIX}", help="the learned task"
    )
    parser.add_argument(
        "--task",
        type=Path,
        metavar=f"TASK{SUFFIX}",
        help="add the support to this task instead of learning from nothing, in less time; with "
        "the options that it was learned with",
    )
    parser.add_argument(
        "--unlabelled",
        action="append",
        default=[],
        type=Path,
        metavar="IMAGE",
        help="a volume without a segmentation to learn from, too; several times for several. Only "
        "for methods that do so (rrl-medsam)",
    )
    add_support_options(parser)
    add_overwrite_option(parser)
    add_session_options(parser)


def run(args: argparse.Namespace) -> int:
    support = [split_support(text) for text in args.support]
    inputs = [path for files in support for path in files.all]
    check_outputs(
        [(args.out, (SUFFIX,))],
        [*inputs, *args.unlabelled, *filter(None, [args.task])],
        overwrite=args.overwrite,
    )
    if args.unlabelled and args.task is not None:
        raise InputError(
            "A case is added to a learned task without volumes that have no labels.",
            "Leave out --unlabelled, or learn from all cases without --task.",
        )
    check_writable(args.out, need_bytes=_TASK_BYTES)
    bars = ProgressBars(args.quiet)
    before = known = None
    if args.task is not None:
        before = call_in_background(lambda report: LearnedTask.load(args.task), bars)
        known = LabelTable(before.structures, "the learned task")
    method = before.method if before else default_method(support)
    check_options(args, method)
    if before is not None:
        refuse_what_is_learned(
            args,
            {
                **{f"--set {setting}": True for setting in args.settings},
                f"--preset {args.preset}": args.preset is not None,
                "--allow-missing": args.allow_missing,
            },
        )
    cases = call_in_background(
        lambda report: read_support(support, args.labels, report, known), bars
    )
    unlabelled = call_in_background(
        lambda report: [read_volume(path) for path in args.unlabelled], bars
    )
    if before is None:
        session = make_session(args, bars, method=method)
    else:
        session = make_session(args, bars, backbone=before.backbone, method=method)
    started = time.monotonic()

    def work(report: ProgressCallback) -> LearnedTask:
        if before is None:
            return session.learn(
                cases, report, allow_missing=args.allow_missing, unlabelled=unlabelled
            )
        task = before
        for case in cases:
            task = session.add_case(task, case, report)
        return task

    task = call_in_background(work, bars)
    task.save(args.out)
    bars.say(
        f"Learned {', '.join(structure.name for structure in task.structures)} from "
        f"{counted(len(cases), 'more case' if before else 'case')} in "
        f"{time.monotonic() - started:.1f} s: "
        f"{args.out} ({args.out.stat().st_size / 1e6:.1f} MB)"
    )
    if before is None:
        say_how_to_name(task.structures, bars.say)
    return 0
