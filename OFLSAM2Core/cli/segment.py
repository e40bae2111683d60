"""`oflsam2 segment`: a volume and a learned task (or support) in, a segmentation out."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from OFLSAM2Core import __version__
from OFLSAM2Core.cli.files import (
    SupportFiles,
    add_support_options,
    check_outputs,
    check_resources,
    default_method,
    read_support,
    say_how_to_name,
    split_support,
)
from OFLSAM2Core.cli.interrupt import call_in_background, in_background
from OFLSAM2Core.cli.options import (
    add_overwrite_option,
    add_session_options,
    check_options,
    make_session,
    options_of_segmenting,
)
from OFLSAM2Core.cli.progress import ProgressBars
from OFLSAM2Core.data.segmentation_buffer import SegmentationBuffer
from OFLSAM2Core.data.structure_status import describe_status, structure_status
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.evaluation.machine import describe_machine, peak_memory_mb
from OFLSAM2Core.evaluation.pictures import StripContent, sheet, strip
from OFLSAM2Core.evaluation.report import write_picture, write_text
from OFLSAM2Core.io.dicom_seg_writing import (
    DICOM_EXTENSIONS,
    check_dicom_seg,
    write_dicom_seg,
)
from OFLSAM2Core.io.image_names import split_images
from OFLSAM2Core.io.reading import (
    read_volume,
    write_confidence,
    write_labelmap,
    write_segmentation,
)
from OFLSAM2Core.io.seg_nrrd import SEGMENTATION_EXTENSIONS
from OFLSAM2Core.io.writing import LABELMAP_EXTENSIONS
from OFLSAM2Core.learned_task import SUFFIX, LearnedTask
from OFLSAM2Core.runtime.counted import counted

if TYPE_CHECKING:
    from OFLSAM2Core.session import FewShotSession

_DOUBTFUL_SHOWN = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "image",
        metavar="IMAGE[+IMAGE2]",
        help="the volume to segment; up to three co-registered volumes of the patient, where the "
        "task was learned from such",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--task", type=Path, metavar=f"TASK{SUFFIX}", help="a learned task")
    source.add_argument(
        "--support",
        action="append",
        metavar="IMAGE[+IMAGE2]=LABELS",
        help="a volume and its segmentation to learn from first; two or three of them",
    )
    outputs = parser.add_argument_group("output")
    outputs.add_argument(
        "--out", type=Path, required=True, metavar="OUT.seg.nrrd", help="the segmentation"
    )
    outputs.add_argument(
        "--labelmap", type=Path, metavar="OUT.nii.gz", help="the same as a labelmap"
    )
    outputs.add_argument(
        "--dicom-seg", type=Path, metavar="OUT.dcm", help="the same as DICOM SEG, of a DICOM image"
    )
    outputs.add_argument(
        "--confidence",
        type=Path,
        metavar="CONF.nii.gz",
        help="per voxel, 255 times the probability of the label shown",
    )
    outputs.add_argument(
        "--report", type=Path, metavar="REPORT.json", help="scores of slices, volumes, timing"
    )
    outputs.add_argument(
        "--picture", type=Path, metavar="SHEET.png", help="slices with labels and confidence"
    )
    add_overwrite_option(parser)
    add_support_options(parser)
    add_session_options(parser)


def run(args: argparse.Namespace) -> int:
    support = [split_support(text) for text in args.support or ()]
    images = split_images(args.image)
    inputs = [*images, *(path for files in support for path in files.all)]
    if args.task is not None:
        inputs.append(args.task)
    check_outputs(
        [
            (args.out, SEGMENTATION_EXTENSIONS),
            (args.labelmap, LABELMAP_EXTENSIONS),
            (args.dicom_seg, DICOM_EXTENSIONS),
            (args.confidence, LABELMAP_EXTENSIONS),
            (args.report, (".json",)),
            (args.picture, (".png",)),
        ],
        inputs,
        overwrite=args.overwrite,
    )
    bars = ProgressBars(args.quiet)
    outputs = (args.out, args.labelmap, args.confidence)
    call_in_background(lambda report: check_resources(images, outputs), bars)
    volume = call_in_background(lambda report: read_volume(images[0], further=images[1:]), bars)
    if args.dicom_seg is not None:
        check_dicom_seg(volume)
    session, task = _session_and_task(args, support, bars)
    outcome = SegmentationBuffer(volume)
    try:
        for result in in_background(lambda report: session.segment(volume, task, report), bars):
            outcome.add(result)
    except BaseException:
        # Ctrl-C, or something that broke: what has arrived is the user's.
        bars.close()
        if outcome.slices_done:
            _write(args, volume, task, outcome, complete=False)
            bars.say(_what_there_is(outcome, args.out))
        raise
    bars.close()
    _write(args, volume, task, outcome, complete=outcome.is_complete)
    _print_summary(volume, task, outcome, args.out)
    if args.task is None:
        say_how_to_name(task.structures, print)
    return 0


def _session_and_task(
    args: argparse.Namespace, support: list[SupportFiles], bars: ProgressBars
) -> tuple[FewShotSession, LearnedTask]:
    if args.task is not None:
        task = call_in_background(lambda report: LearnedTask.load(args.task), bars)
        options_of_segmenting(args, task)
        return make_session(args, bars, backbone=task.backbone, method=task.method), task
    method = default_method(support)
    check_options(args, method)

    def read(report: Any) -> list[SupportCase]:
        return read_support(support, args.labels, report)

    cases = call_in_background(read, bars)
    session = make_session(args, bars, method=method)
    task = call_in_background(
        lambda report: session.learn(cases, report, allow_missing=args.allow_missing), bars
    )
    return session, task


def _write(
    args: argparse.Namespace,
    volume: Volume,
    task: LearnedTask,
    outcome: SegmentationBuffer,
    *,
    complete: bool,
) -> None:
    write_segmentation(args.out, outcome.labels, volume, task.structures)
    if args.labelmap is not None:
        write_labelmap(args.labelmap, outcome.labels, volume)
    if args.dicom_seg is not None:
        write_dicom_seg(args.dicom_seg, outcome.labels, volume, task.structures)
    if args.confidence is not None:
        write_confidence(args.confidence, outcome.confidence, volume)
    if args.report is not None:
        content = json.dumps(_report(volume, task, outcome, complete), indent=1, allow_nan=False)
        write_text(args.report, content + "\n")
    if args.picture is not None:
        shown = StripContent(
            volume=volume,
            labels=outcome.labels,
            structures=task.structures,
            title="Segmentation",
            confidence=outcome.confidence,
            scores=outcome.min_scores(),
            axis=outcome.axis,
        )
        write_picture(args.picture, sheet([strip(shown)], task.structures, confidence=True))


def _what_there_is(outcome: SegmentationBuffer, out: Path) -> str:
    """Where a run was stopped: how far it was, and that it was not at its end."""
    done, total = outcome.slices_done, outcome.slices_total
    if done == total:
        return (
            f"All {total} slices have a first result, which is in {out}. The last stage, which "
            "improves them, was not finished."
        )
    were = "was" if total == 1 else "were"
    return f"{done} of {counted(total or 0, 'slice')} {were} finished; they are in {out}."


def _report(
    volume: Volume, task: LearnedTask, outcome: SegmentationBuffer, complete: bool
) -> dict[str, Any]:
    return {
        "oflsam2": __version__,
        "complete": complete,
        "task": task.summary(),
        "axis": outcome.axis,
        "structures": [
            {
                "name": structure.name,
                "label": structure.label,
                "milliliters": round(outcome.milliliters(structure.label), 4),
                "status": _status(structure, task, outcome),
            }
            for structure in task.structures
        ],
        "slices": [
            {
                "index": index,
                "scores": {name: round(score, 4) for name, score in scores.items()},
                "doubt": round(outcome.expected_error_voxels(index), 1),
            }
            for index, scores in sorted(outcome.scores.items())
        ],
        "seconds": round(outcome.seconds, 3),
        "seconds_to_first_slice": round(outcome.seconds_to_first, 3),
        "seconds_per_slice": round(outcome.seconds_per_slice, 4),
        "peak_memory_mb": round(peak_memory_mb()),
        "machine": describe_machine(),
    }


def _status(structure: Structure, task: LearnedTask, outcome: SegmentationBuffer) -> str:
    return structure_status(
        outcome.voxels(structure.label),
        outcome.milliliters(structure.label),
        task.sizes.get(structure.name),
    )


def _print_summary(
    volume: Volume, task: LearnedTask, outcome: SegmentationBuffer, out: Path
) -> None:
    print(
        f"{volume.name}: {counted(outcome.slices_done, 'slice')} in {outcome.seconds:.1f} s "
        f"({outcome.seconds_per_slice:.2f} s each, the first after "
        f"{outcome.seconds_to_first:.1f} s): {out}"
    )
    for structure in task.structures:
        size = "" if volume.is_sequence else f"  {outcome.milliliters(structure.label):.2f} ml"
        status = _status(structure, task, outcome)
        note = describe_status(
            status, task.sizes.get(structure.name), outcome.milliliters(structure.label)
        )
        print(f"  {structure.name}{size}{f'  ({note})' if note else ''}")
    listed = ", ".join(
        f"{index} ({outcome.expected_error_voxels(index):.0f})"
        for index in outcome.slices_to_review(_DOUBTFUL_SHOWN)
    )
    if listed:
        print(f"Look at these slices first (index, voxels in doubt): {listed}")
