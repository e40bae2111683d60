"""`oflsam2 evaluate`: how good it is on a folder of labelled cases."""

from __future__ import annotations

import argparse
import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from OFLSAM2Core import __version__
from OFLSAM2Core.backbones import DEFAULT_BACKBONE
from OFLSAM2Core.cli.exit_codes import SOME_FAILED
from OFLSAM2Core.cli.files import add_allow_missing_option, output_folder
from OFLSAM2Core.cli.interrupt import in_background
from OFLSAM2Core.cli.options import (
    add_overwrite_option,
    add_session_options,
    check_options,
    make_session,
)
from OFLSAM2Core.cli.progress import ProgressBars
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.evaluation.datasets import Dataset, for_method
from OFLSAM2Core.evaluation.evaluate import EvaluatedCase, FailedCase, Learned, evaluate
from OFLSAM2Core.evaluation.machine import describe_machine
from OFLSAM2Core.evaluation.report import REPORT_FILES, EvaluationReport
from OFLSAM2Core.methods import default_for, get_method
from OFLSAM2Core.methods.base import Method, refuse_unlabelled, uses_unlabelled
from OFLSAM2Core.runtime.counted import counted
from OFLSAM2Core.worker.failures import failure_of

if TYPE_CHECKING:
    from OFLSAM2Core.session import FewShotSession


_log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", type=Path, metavar="DATASET", help="a folder with dataset.json")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="where the report goes"
    )
    support = parser.add_mutually_exclusive_group()
    support.add_argument(
        "--supports", type=int, metavar="N", help="learn from the first N; default: all listed"
    )
    support.add_argument("--support-cases", metavar="A,B,C", help="learn from these cases")
    support.add_argument(
        "--support-percent",
        type=float,
        default=5.0,
        metavar="P",
        help="percent of the frames of each sequence that are learned from; default: 5",
    )
    add_allow_missing_option(parser)
    parser.add_argument("--cases", type=int, metavar="N", help="segment the first N test cases")
    parser.add_argument(
        "--volumes",
        type=int,
        metavar="N",
        help="use the first N co-registered volumes of a case; default: all that the "
        "method can use, up to 3",
    )
    parser.add_argument(
        "--every", type=int, default=1, metavar="N", help="segment one of N test cases; default: 1"
    )
    parser.add_argument(
        "--minutes", type=float, metavar="M", help="begin no further case after so long"
    )
    parser.add_argument(
        "--unlabelled",
        action="store_true",
        help="learn from the test volumes, too, without their labels (transductive); only with a "
        "method that does so (rrl-medsam)",
    )
    add_overwrite_option(parser)
    add_session_options(parser)


def run(args: argparse.Namespace) -> int:
    dataset = Dataset.open(args.dataset)
    method = default_for(dataset.sequences)
    check_options(args, method)
    dataset = for_method(dataset, get_method(args.method or method), args.volumes)
    named = None
    if args.support_cases is not None:
        named = [name.strip() for name in args.support_cases.split(",") if name.strip()]
    support, test = dataset.choose(args.supports, named, args.cases, args.every)
    method = default_for(dataset.sequences)
    check_options(args, method)
    if not 0 < args.support_percent < 100:
        raise InputError(
            f"--support-percent {args.support_percent:g} leaves no frame on one side.",
            "Give a percentage between 0 and 100.",
        )
    if args.unlabelled:
        check_unlabelled(dataset, [get_method(args.method or method)])
    output_folder(args.out, REPORT_FILES, overwrite=args.overwrite)
    bars = ProgressBars(args.quiet)
    session = make_session(args, bars, method=method)
    report = EvaluationReport(
        {
            **about(args, dataset, session, support, test),
            "volumes": dataset.volumes,
            "transductive": args.unlabelled,
            **({"support_percent": args.support_percent} if dataset.sequences else {}),
        },
        dataset.table.structures,
        unit="voxel" if dataset.nominal_spacing else "mm",
    )
    ends = math.inf if args.minutes is None else time.monotonic() + 60 * args.minutes
    try:
        for item in in_background(
            lambda progress: evaluate(
                session,
                dataset,
                support,
                test,
                progress,
                allow_missing=args.allow_missing,
                support_percent=args.support_percent,
                unlabelled=args.unlabelled,
            ),
            bars,
        ):
            if isinstance(item, Learned):
                # Sequences are learned one by one.
                report.seconds_to_learn = (report.seconds_to_learn or 0.0) + item.seconds
                report.core_seconds_to_learn = (
                    report.core_seconds_to_learn or 0.0
                ) + item.core_seconds
                tensors = item.task.state.tensors.values()
                report.learned_values = sum(tensor.numel() for tensor in tensors)
                bars.say(f"Learned from {item.support} in {item.seconds:.1f} s.")
            elif isinstance(item, FailedCase):
                print_failure(report, item, bars)
            else:
                report.add(item)
                bars.say(f"{report.cases_done}/{len(test)}  {describe_case(item)}")
            done = report.cases_done + report.cases_failed
            report.time_over = done < len(test) and time.monotonic() > ends
            # The first case that can be done is done, however long learning took.
            if report.time_over and report.cases_done:
                break
        report.complete = not report.time_over
    finally:
        # Also when stopped: the cases that are done took their time.
        bars.close()
        if report.cases_done or report.cases_failed:
            report.write(args.out)
    print(f"Report: {args.out / 'report.md'}")
    print(last_line(report))
    for name, found in report.parts().items():
        print(
            f"{name}: parts found {_digits(found['recall'])}, predicted parts that are right "
            f"{_digits(found['precision'])}, false parts a case {_digits(found['false_a_case'])}"
        )
    return SOME_FAILED if report.cases_failed else 0


def check_unlabelled(dataset: Dataset, chosen: Sequence[Method]) -> None:
    """Raises InputError where none of the methods could learn from the test volumes."""
    if dataset.sequences:
        raise InputError(
            "A sequence is learned from frames of its own, not from those without masks.",
            "Leave --unlabelled out.",
        )
    if not any(map(uses_unlabelled, chosen)):
        refuse_unlabelled(chosen[0])


def _digits(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"


def print_failure(report: EvaluationReport, failed: FailedCase, bars: ProgressBars) -> None:
    """On the terminal and in the report; the log gets the traceback."""
    _log.info("A case failed", exc_info=failed.error)
    failure = failure_of(failed.error)
    report.add_failure(failed.name, failure["kind"], failure["message"])
    bars.say(f"{failed.name} has no result. {failure['message']}")


def about(
    args: argparse.Namespace,
    dataset: Dataset,
    session: FewShotSession,
    support: list[str],
    test: list[str],
    preset: str = "balanced",
) -> dict[str, Any]:
    """What a report begins with.

    backbone_identity: SHA-256 of the weights, "" where the method needs no backbone.
    """
    return {
        "oflsam2": __version__,
        "dataset": dataset.name,
        "method": session.method.name,
        "backbone": args.backbone or DEFAULT_BACKBONE,
        "backbone_identity": session.backbone.identity if session.method.needs_backbone else "",
        "device": args.device,
        "seed": args.seed,
        "preset": args.preset or preset,
        "options": session.changes.values,
        "support": support,
        "test": test,
        "machine": describe_machine(),
    }


def describe_case(case: EvaluatedCase) -> str:
    """One line."""
    found = "  ".join(
        f"{name} {value.dice:.4f}" + ("" if value.status == "found" else f" ({value.status})")
        for name, value in case.agreements.items()
    )
    return (
        f"{case.truth.name}  Dice: {found}  "
        f"({counted(case.outcome.slices_done, 'slice')}, {case.outcome.seconds_per_slice:.2f} s "
        f"each)"
    )


def last_line(report: EvaluationReport) -> str:
    """A contract: other programs read it."""
    failed = f" ({report.cases_failed} failed)" if report.cases_failed else ""
    return f"mean dice {report.mean_dice:.4f} over {report.cases_done} cases{failed}"
