"""`oflsam2 refine`: a corrected result in, the rest of the volume predicted again."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from OFLSAM2Core.cli.files import check_outputs
from OFLSAM2Core.cli.interrupt import call_in_background, in_background
from OFLSAM2Core.cli.options import (
    add_overwrite_option,
    add_session_options,
    make_session,
    options_of_segmenting,
)
from OFLSAM2Core.cli.progress import ProgressBars
from OFLSAM2Core.data.corrections import Corrections
from OFLSAM2Core.data.image_identity import image_identity
from OFLSAM2Core.data.segmentation_buffer import SegmentationBuffer
from OFLSAM2Core.data.support import fit_structures
from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.io.image_names import split_images
from OFLSAM2Core.io.label_table import LabelTable
from OFLSAM2Core.io.made_of import images_made_of
from OFLSAM2Core.io.memory_first import require_memory_to_segment
from OFLSAM2Core.io.reading import labelled, read_volume, write_confidence, write_segmentation
from OFLSAM2Core.io.seg_nrrd import SEGMENTATION_EXTENSIONS
from OFLSAM2Core.io.writing import LABELMAP_EXTENSIONS
from OFLSAM2Core.learned_task import SUFFIX, LearnedTask
from OFLSAM2Core.methods.base import refuse_corrections
from OFLSAM2Core.runtime.counted import counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "image",
        metavar="IMAGE[+IMAGE2]",
        help="the volume that was segmented, with its co-registered volumes where it had some",
    )
    parser.add_argument(
        "--task", type=Path, required=True, metavar=f"TASK{SUFFIX}", help="the learned task"
    )
    parser.add_argument(
        "--result",
        type=Path,
        required=True,
        metavar="RESULT.seg.nrrd",
        help="the segmentation as it was made with the task",
    )
    parser.add_argument(
        "--corrected",
        type=Path,
        required=True,
        metavar="CORRECTED.seg.nrrd",
        help="the segmentation after it was corrected",
    )
    parser.add_argument(
        "--slices",
        metavar="N,N",
        help="slices that were looked at as a whole and are right now, along the slicing axis, "
        "from 0; default: only voxels that differ from the result are taken as truth",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="OUT.seg.nrrd", help="the new segmentation"
    )
    parser.add_argument(
        "--confidence", type=Path, metavar="CONF.nii.gz", help="per voxel, 0 to 255"
    )
    parser.add_argument(
        "--task-out", type=Path, metavar=f"TASK2{SUFFIX}", help="the task, with what was taught"
    )
    parser.add_argument(
        "--unknown-image",
        action="store_true",
        help="accept a result that does not say of which image it was made (of another program, or "
        "saved by one), or says another one",
    )
    add_overwrite_option(parser)
    add_session_options(parser)


def run(args: argparse.Namespace) -> int:
    images = split_images(args.image)
    inputs = [*images, args.task, args.result, args.corrected]
    outputs = [
        (args.out, SEGMENTATION_EXTENSIONS),
        (args.confidence, LABELMAP_EXTENSIONS),
        (args.task_out, (SUFFIX,)),
    ]
    check_outputs(outputs, inputs, overwrite=args.overwrite)
    slices = _slices(args.slices)
    bars = ProgressBars(args.quiet)
    task = call_in_background(lambda report: LearnedTask.load(args.task), bars)
    given = options_of_segmenting(args, task)
    if not given.method.corrections:
        refuse_corrections(given.method.name)
    result, corrected = call_in_background(lambda report: _read(args, images, task), bars)
    volume = result.volume
    session = make_session(args, bars, backbone=task.backbone, method=task.method)
    opened = call_in_background(lambda report: session.open(volume, task, report), bars)
    corrections = Corrections.from_difference(result.labels, corrected.labels)
    if slices:
        axis = _slicing_axis(volume, task)
        _check_slices(slices, volume, axis)
        whole = Corrections.from_slices(corrected.labels, axis, slices)
        corrections = Corrections(corrected.labels, corrections.known | whole.known)
    buffer = SegmentationBuffer(volume)
    buffer.labels[:] = corrected.labels
    for each in in_background(lambda report: opened.correct(corrections, report), bars):
        buffer.add(each)
    bars.close()
    write_segmentation(args.out, buffer.labels, volume, task.structures)
    if args.confidence is not None:
        write_confidence(args.confidence, buffer.confidence, volume)
    if args.task_out is not None:
        opened.task().save(args.task_out)
    changed = int(np.count_nonzero(buffer.labels != corrected.labels))
    bars.say(
        f"Learned from {counted(int(np.count_nonzero(corrections.known)), 'corrected voxel')}; "
        f"{counted(changed, 'other voxel')} changed by it: {args.out}"
    )
    return 0


def _read(
    args: argparse.Namespace, images: tuple[Path, ...], task: LearnedTask
) -> tuple[SupportCase, SupportCase]:
    """The result and what was corrected of it, with the task's structures and values."""
    require_memory_to_segment(images[0], len(task.structures))
    table = LabelTable(task.structures, "the learned task")
    volume = read_volume(images[0], further=images[1:])
    if not args.unknown_image:
        _check_made_of(args.result, args.corrected, volume)
    cases = []
    for path in (args.result, args.corrected):
        case = labelled(volume, path, table=table, may_be_empty=True, same_grid=path == args.result)
        cases.append(fit_structures(case, task.structures, no_others=True))
    return cases[0], cases[1]


def _check_made_of(result: Path, corrected: Path, volume: Volume) -> None:
    """The result was made of this image, and what was corrected is no other image's.

    Raises InputError naming the file.
    """
    image = f"'{volume.source or volume.name}'"
    hint = "Give the image that was segmented. --unknown-image takes the file nevertheless."
    identity = image_identity(volume)
    for path in (result, corrected):
        found = images_made_of(path)
        if found - {identity}:
            raise InputError(f"'{path}' was made of another image than {image}.", hint)
        # Other programs may leave out of the corrected file what they do not know.
        if not found and path == result:
            raise InputError(
                f"'{path}' does not say of which image it was made, so it cannot be told whether "
                f"it was {image}.",
                "Give the file that oflsam2 wrote. --unknown-image takes this one nevertheless.",
            )


def _slices(text: str | None) -> list[int]:
    if text is None:
        return []
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(
            f"--slices {text} is no list of slices.", "Write their numbers as 12,40."
        ) from error


def _slicing_axis(volume: Volume, task: LearnedTask) -> int:
    """The stored axis that slices run along."""
    from OFLSAM2Core.data.slice_geometry import SliceGeometry

    orientation = str(task.state.summary.get("slicing axis", "auto"))
    return SliceGeometry.for_volume(volume, orientation).axis


def _check_slices(slices: list[int], volume: Volume, axis: int) -> None:
    count = volume.grid_shape[axis]
    beyond = [index for index in slices if not 0 <= index < count]
    if beyond:
        raise InputError(
            f"--slices names {', '.join(map(str, beyond))}; '{volume.name}' has 0 to {count - 1}.",
            "Count from 0 along the slicing axis.",
        )
