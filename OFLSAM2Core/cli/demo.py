"""`oflsam2 demo`: the whole job on the data that come with the package."""

from __future__ import annotations

import argparse
from pathlib import Path

from OFLSAM2Core.cli.evaluate import about, describe_case, last_line, print_failure
from OFLSAM2Core.cli.exit_codes import SOME_FAILED
from OFLSAM2Core.cli.files import output_folder
from OFLSAM2Core.cli.interrupt import in_background
from OFLSAM2Core.cli.options import (
    add_overwrite_option,
    add_session_options,
    check_options,
    make_session,
)
from OFLSAM2Core.cli.progress import ProgressBars
from OFLSAM2Core.evaluation.datasets import sample_data
from OFLSAM2Core.evaluation.evaluate import FailedCase, Learned, evaluate
from OFLSAM2Core.evaluation.pictures import sheet
from OFLSAM2Core.evaluation.report import (
    REPORT_FILES,
    EvaluationReport,
    strip_of,
    write_picture,
)
from OFLSAM2Core.io.reading import write_confidence, write_segmentation
from OFLSAM2Core.learned_task import SUFFIX

_TASK = f"hippocampus{SUFFIX}"
_PICTURE = "demo.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("oflsam2-demo"),
        metavar="DIR",
        help="where the results go; default: oflsam2-demo",
    )
    add_overwrite_option(parser)
    add_session_options(parser)


def run(args: argparse.Namespace) -> int:
    dataset = sample_data()
    support, test = dataset.choose(None, None, None)
    # Five minutes are enough for a first look; `balanced` would take ten.
    check_options(args)
    results = [f"{case}{suffix}" for case in test for suffix in (".seg.nrrd", "_confidence.nii.gz")]
    names = [_TASK, _PICTURE, *results, *REPORT_FILES]
    output_folder(args.out, names, overwrite=args.overwrite)
    bars = ProgressBars(args.quiet)
    bars.say(f"{dataset.name}: learning from {', '.join(support)}, segmenting {', '.join(test)}.")
    session = make_session(args, bars, preset="fast")
    structures = dataset.table.structures
    about_it = about(args, dataset, session, support, test, "fast")
    report = EvaluationReport(about_it, structures, unit="mm")
    strips = []
    try:
        for item in in_background(
            lambda progress: evaluate(session, dataset, support, test, progress), bars
        ):
            if isinstance(item, Learned):
                report.seconds_to_learn = item.seconds
                item.task.save(args.out / _TASK)
                bars.say(f"Learned in {item.seconds:.1f} s: {args.out / _TASK}")
                continue
            if isinstance(item, FailedCase):
                print_failure(report, item, bars)
                continue
            name, volume, outcome = item.truth.name, item.truth.volume, item.outcome
            write_segmentation(args.out / f"{name}.seg.nrrd", outcome.labels, volume, structures)
            write_confidence(args.out / f"{name}_confidence.nii.gz", outcome.confidence, volume)
            report.add(item)
            strips.append(strip_of(item, confidence=True))
            bars.say(describe_case(item))
        report.complete = True
    finally:
        # Also when stopped: the cases that are done took their time.
        bars.close()
        if report.cases_done or report.cases_failed:
            report.write(args.out)
    if strips:
        picture = sheet(strips, structures, truth=True, confidence=True)
        write_picture(args.out / _PICTURE, picture)
    print(f"Picture: {args.out / _PICTURE}")
    print(f"Report: {args.out / 'report.md'}")
    print(last_line(report))
    return SOME_FAILED if report.cases_failed else 0
