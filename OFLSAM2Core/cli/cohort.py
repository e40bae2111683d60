"""`oflsam2 cohort`: many volumes, one task; what fails is listed, and what is done stays done."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from OFLSAM2Core import __version__
from OFLSAM2Core.backbones import DEFAULT_BACKBONE
from OFLSAM2Core.cli.exit_codes import SOME_FAILED
from OFLSAM2Core.cli.files import (
    add_support_options,
    default_method,
    read_support,
    say_how_to_name,
    split_support,
)
from OFLSAM2Core.cli.interrupt import call_in_background, raise_if_stopped
from OFLSAM2Core.cli.options import (
    add_session_options,
    check_options,
    make_session,
    options_of_segmenting,
    ready_weights,
    settings_from,
)
from OFLSAM2Core.cli.progress import ProgressBars
from OFLSAM2Core.cohort import folder as cohort_folder
from OFLSAM2Core.cohort.case_work import RunSettings, software
from OFLSAM2Core.cohort.cases import CaseInput, FoundCases
from OFLSAM2Core.cohort.damaged_cases import DamagedCases, find_damaged
from OFLSAM2Core.cohort.identity import check_identity, support_identity
from OFLSAM2Core.cohort.inputs import find_cases
from OFLSAM2Core.cohort.judgement import DOUBTFUL_BELOW
from OFLSAM2Core.cohort.manifest import FILE_NAME, Manifest
from OFLSAM2Core.cohort.memory_estimate import usable_cores, workers_that_fit
from OFLSAM2Core.cohort.outputs import LAYOUTS, layout_named
from OFLSAM2Core.cohort.report import write_report
from OFLSAM2Core.cohort.runner import (
    CaseEnded,
    has_failures,
    machine,
    plan,
    run_cohort,
)
from OFLSAM2Core.cohort.status import counts, problem_lines, status_lines
from OFLSAM2Core.cohort.task_segmenter import TaskSegmenter, sha256_of
from OFLSAM2Core.cohort.workers import ThisProcess, Workers
from OFLSAM2Core.data.results import Progress
from OFLSAM2Core.data.volume_count import in_words
from OFLSAM2Core.errors import InputError, OFLSAM2Error, ResourceError
from OFLSAM2Core.learned_task import SUFFIX
from OFLSAM2Core.runtime.counted import counted

if TYPE_CHECKING:
    from OFLSAM2Core.learned_task import LearnedTask

# Damaged cases that are named at the start; the report lists all.
_MOST_SAID = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        "oflsam2 cohort INPUTS ... (--task TASK | --support IMAGE=LABELS ...) --out DIR [options]\n"
        "       oflsam2 cohort status DIR\n"
        "       oflsam2 cohort report DIR"
    )
    parser.description = (
        "Segment many volumes, record each, and go on with --resume where it stopped.\n"
        "Exit codes: 0 all cases are done; 3 some failed or were empty, and are listed;\n"
        "2 the run could not start or go on; 130 stopped with Ctrl-C."
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUTS",
        help="image files, folders, globs, CSV, TSV or JSON lists, DICOM folders, IMAGE+IMAGE2",
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--task", type=Path, metavar=f"TASK{SUFFIX}", help="a learned task")
    source.add_argument(
        "--support",
        action="append",
        metavar="IMAGE=LABELS",
        help="a volume and its segmentation to learn from first; two or three of them "
        "(IMAGE+IMAGE2=LABELS of co-registered volumes)",
    )
    outputs = parser.add_argument_group("output")
    outputs.add_argument("--out", type=Path, metavar="DIR", help="the cohort's folder")
    outputs.add_argument(
        "--layout", choices=LAYOUTS, default="flat", help="flat, or BIDS derivatives"
    )
    outputs.add_argument(
        "--dicom-seg",
        action="store_true",
        help="a DICOM SEG besides, of every case that came as DICOM",
    )
    outputs.add_argument(
        "--resume",
        action="store_true",
        help="go on with the cohort in DIR: what is not done, what failed, what has changed",
    )
    outputs.add_argument(
        "--limit", type=_count, metavar="N", help="only the first N cases of INPUTS"
    )
    outputs.add_argument(
        "--doubtful-below",
        type=float,
        default=DOUBTFUL_BELOW,
        metavar="S",
        help=f"confidence below which a case is called doubtful; default: {DOUBTFUL_BELOW}",
    )
    group = parser.add_argument_group("workers")
    chosen = group.add_mutually_exclusive_group()
    chosen.add_argument(
        "--workers",
        type=_count_or_none,
        metavar="N",
        help="processes on this computer; default: one a GPU, or what cores and memory allow; "
        "0: this process alone",
    )
    chosen.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="a Dask scheduler that runs (tcp://HOST:8786, or its scheduler file)",
    )
    group.add_argument(
        "--worker-wait",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="how long a scheduler may be without workers; default: 300",
    )
    add_support_options(parser)
    add_session_options(parser)


def run(args: argparse.Namespace) -> int:
    if args.inputs[0] in ("status", "report") and not (args.out or args.task or args.support):
        return _about_folder(args.inputs)
    if args.out is None or (args.task is None and not args.support):
        raise InputError(
            "A cohort needs --out DIR, and --task TASK or --support IMAGE=LABELS.",
            "Try: oflsam2 cohort --help",
        )
    if args.dicom_seg and find_spec("highdicom") is None:
        raise ResourceError(
            "--dicom-seg needs the package highdicom, which is not installed.",
            "Install it (pip install highdicom), or leave --dicom-seg out.",
        )
    bars = ProgressBars(args.quiet)
    out = args.out.absolute()
    cohort_folder.check_folder(out)
    found = call_in_background(
        lambda report: find_cases(args.inputs, skip=[out], limit=args.limit), bars
    )
    _check_first(args)
    with cohort_folder.only_run(out), _manifest(out, args.resume, bars) as manifest:
        return _run(args, found, manifest, out, bars)


def _check_first(args: argparse.Namespace) -> None:
    """What can be told before the folder is made: nothing is left then."""
    if args.workers != 0:
        from OFLSAM2Core.cohort.dask_cluster import need_dask

        need_dask()
    if args.task is not None:
        sha256_of_task(args.task)


def _about_folder(words: list[str]) -> int:
    if len(words) != 2:
        raise InputError(f"`oflsam2 cohort {words[0]}` takes one folder.", "Give the cohort's DIR.")
    if words[0] == "status":
        print("\n".join(status_lines(Path(words[1]))))
    else:
        print(f"Written: {write_report(Path(words[1]))}")
    return 0


def _manifest(out: Path, resume: bool, bars: ProgressBars) -> Manifest:
    path = out / FILE_NAME
    if not path.exists():
        return Manifest.create(out)
    if not resume and path.stat().st_size:  # Else it was refused before it began.
        raise InputError(
            f"'{out}' holds a cohort already.",
            "Add --resume to go on with it, or choose another --out.",
        )
    manifest, kept = Manifest.reopen(out)
    if kept is not None:
        bars.say(
            f"The manifest was damaged; it is kept as '{kept}'. What can be read of it still "
            "holds; the cases that are not in it are done again."
        )
    return manifest


def _run(
    args: argparse.Namespace, found: FoundCases, manifest: Manifest, out: Path, bars: ProgressBars
) -> int:
    if args.task is None:  # Before it is learned.
        _check_volumes(found.cases, len(split_support(args.support[0]).images))
    damaged = _damaged(args, found, manifest, bars)
    segmenter, task, identity = _segmenter(args, manifest, out, bars)
    _check_volumes(found.cases, task.volume_count)
    mark = cohort_folder.start_run(out)
    if args.layout == "bids":
        from OFLSAM2Core.cohort.bids import write_dataset_files

        write_dataset_files(out, task.structures)
    manifest.begin(
        identity,
        **machine(),
        software=software(),
        task=task.summary(),
        left_out=[list(pair) for pair in found.left_out],
    )
    cases = call_in_background(lambda report: plan(found.cases, manifest, out, damaged), bars)
    if found.left_out:
        path, why = found.left_out[0]
        bars.say(f"Left out: {len(found.left_out)} that are no cases, as '{path}' ({why}).")
    settings = RunSettings(
        out, mark, segmenter, layout_named(args.layout), args.doubtful_below, args.dicom_seg
    )
    structures = len(task.structures)
    workers = call_in_background(lambda report: _workers(args, list(cases), structures, bars), bars)

    def on_case(ended: CaseEnded) -> None:
        bad = len(manifest.content.in_state("failed"))
        bars(Progress("segment", ended.done, ended.total, f"{bad} failed" if bad else ""))

    try:
        run_cohort(cases, settings, manifest, workers, on_case, raise_if_stopped)
    except KeyboardInterrupt:
        bars.say(f"Stopped: {counts(manifest.content)}. Go on with --resume.")
        raise
    finally:
        cohort_folder.end_run(out)
        workers.close()
    bars.close()
    print(
        f"{counted(len(manifest.content.cases), 'case')}: {counts(manifest.content)}. "
        f"{_reported(out)}"
    )
    for line in problem_lines(manifest.content):
        print(line)
    return SOME_FAILED if has_failures(manifest) else 0


def _damaged(
    args: argparse.Namespace, found: FoundCases, manifest: Manifest, bars: ProgressBars
) -> DamagedCases:
    """What headers tell, before anything is learned. Files of a cluster need not be here."""
    if args.scheduler is not None:
        return {}
    damaged = call_in_background(lambda report: find_damaged(found.cases, manifest.content), bars)
    for sources, error in list(damaged.items())[:_MOST_SAID]:
        bars.say(f"Cannot be segmented: {Path(sources[0]).name}: {error.message}")
    if len(damaged) > _MOST_SAID:
        bars.say(f"And {len(damaged) - _MOST_SAID} more. The other cases go on.")
    return damaged


def _reported(out: Path) -> str:
    """Where the report is, or why there is none: the cases are done all the same."""
    try:
        return str(write_report(out))
    except OFLSAM2Error as error:
        return f"No report: {error.message} Mend that; then: oflsam2 cohort report DIR"


def _segmenter(
    args: argparse.Namespace, manifest: Manifest, out: Path, bars: ProgressBars
) -> tuple[TaskSegmenter, LearnedTask, dict[str, Any]]:
    """The task, read or learned; and what all results of the folder are made with."""
    from OFLSAM2Core.learned_task import LearnedTask

    before = manifest.content.identity
    with_seg = " with DICOM SEG" if args.dicom_seg else ""
    identity: dict[str, Any] = {
        "layout": f"{args.layout}{with_seg}",
        "version of oflsam2": __version__,
        "seed": args.seed,
        "bound of doubt": args.doubtful_below,
    }
    path = args.task
    if path is None:
        path = out / cohort_folder.TASK
        identity["support"] = _support_identity(args)
        check_identity(manifest, identity)
        if not before:
            _learn(args, path, bars)
    check_identity(manifest, {**identity, "task": sha256_of_task(path)})
    identity["task"] = sha256_of_task(path)
    task = call_in_background(lambda report: LearnedTask.load(path), bars)
    task.check_fits(
        args.method or task.method, args.backbone or task.backbone, task.backbone_identity
    )
    given = (
        check_options(args, task.method) if args.task is None else options_of_segmenting(args, task)
    )
    identity["options"] = given.for_segmenting(task.options, {}).to_json()
    # As FewShotSession reads "auto". A method without backbone calculates as it always does.
    asked = args.precision if task.backbone else "auto"
    identity["precision"] = task.backbone_precision if asked == "auto" else asked
    check_identity(manifest, identity)
    if task.backbone:
        ready_weights(task.backbone, args.weights, bars)
    segmenter = TaskSegmenter(
        task=path.absolute(),
        sha256=identity["task"],
        device=args.device,
        weights=args.weights.absolute() if args.weights else None,
        precision=args.precision,
        preset=args.preset,
        options=tuple(sorted(settings_from(args).items())),
        seed=args.seed,
    )
    return segmenter, task, {**before, **identity}


def _check_volumes(cases: Sequence[CaseInput], wanted: int) -> None:
    """Raises InputError where no case has as many co-registered volumes as those that the task was
    learned from. Where some have, the others fail by themselves, and are listed."""
    counts = {len(case.sources) for case in cases}
    if wanted in counts or not counts:
        return
    first = cases[0]
    if wanted == 1:
        hint = f"Name the volume that the task was learned from alone, such as '{first.source}'."
    else:
        hint = (
            f"Give {wanted} of each, in the order of the support cases: as IMAGE+IMAGE2 on the "
            "command line or in a list, or as nnU-Net's channels (CASE_0000, CASE_0001)."
        )
    raise InputError(
        f"The case '{first.name}' is {in_words(len(first.sources))}; the task is learned from "
        f"cases of {in_words(wanted)}, and none of {len(cases)} cases is that.",
        hint,
    )


def sha256_of_task(path: Path) -> str:
    """Raises InputError where there is no such file."""
    try:
        return sha256_of(path)
    except OSError as error:
        gone = isinstance(error, FileNotFoundError)
        why = "does not exist" if gone else f"cannot be read: {error.strerror}"
        raise InputError(f"The learned task '{path}' {why}.", "Check the path.") from error


def _learn(args: argparse.Namespace, path: Path, bars: ProgressBars) -> None:
    support = [split_support(text) for text in args.support]
    method = default_method(support)
    check_options(args, method)
    cases = call_in_background(lambda report: read_support(support, args.labels, report), bars)
    session = make_session(args, bars, method=method)
    task = call_in_background(
        lambda report: session.learn(cases, report, allow_missing=args.allow_missing), bars
    )
    task.save(path)
    names = ", ".join(structure.name for structure in task.structures)
    bars.say(f"Learned {names} from {counted(len(cases), 'case')}: {path}")
    say_how_to_name(task.structures, bars.say)


def _support_identity(args: argparse.Namespace) -> str:
    support = [split_support(text) for text in args.support]
    settings = {
        "options": settings_from(args),
        "preset": args.preset,
        "backbone": args.backbone or DEFAULT_BACKBONE,
        "method": args.method or default_method(support),
        "precision": args.precision,
        "seed": args.seed,
        "allow_missing": args.allow_missing,
    }
    return support_identity([files.all for files in support], args.labels, args.weights, settings)


def _workers(
    args: argparse.Namespace, cases: list[CaseInput], structures: int, bars: ProgressBars
) -> Workers:
    if args.workers == 0:
        return ThisProcess(lambda function: call_in_background(function, lambda progress: None))
    from OFLSAM2Core.cohort.dask_cluster import local_workers, scheduler_workers

    if args.scheduler is not None:
        return scheduler_workers(args.scheduler, args.worker_wait, bars.say)
    gpus = _gpus(args.device)
    cores = usable_cores()
    count = args.workers or workers_that_fit(cases, structures, cores, len(gpus))
    memory = int(psutil.virtual_memory().available * 0.95 / count)
    return local_workers(count, cores, memory, gpus)


def _gpus(device: str) -> list[str]:
    """As CUDA_VISIBLE_DEVICES names them; none where the processor is asked for."""
    if device not in ("auto", "cuda"):
        return []
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return visible.split(",")[:count] if visible and count else [str(gpu) for gpu in range(count)]


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1")
    return number


def _count_or_none(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0")
    return number
