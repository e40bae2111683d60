"""`oflsam2 bench`: seconds a stage, slices a second, memory, and plain SAM2 on the same frames."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from OFLSAM2Core import __version__
from OFLSAM2Core.backbones.weights import backbone_info
from OFLSAM2Core.cli.files import check_outputs
from OFLSAM2Core.cli.interrupt import call_in_background
from OFLSAM2Core.cli.options import (
    DEFAULT_BACKBONE,
    add_overwrite_option,
    add_session_options,
    check_options,
    make_session,
)
from OFLSAM2Core.cli.progress import ProgressBars
from OFLSAM2Core.data.results import ProgressCallback
from OFLSAM2Core.data.segmentation_buffer import SegmentationBuffer
from OFLSAM2Core.data.structures import MOST_STRUCTURES
from OFLSAM2Core.data.volume import SupportCase
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.evaluation.machine import describe_machine
from OFLSAM2Core.evaluation.phantom import phantom
from OFLSAM2Core.io.reading import write_segmentation
from OFLSAM2Core.runtime.counted import counted
from OFLSAM2Core.runtime.peak_memory import PeakMemory
from OFLSAM2Core.runtime.temporary import temporary_folder

if TYPE_CHECKING:
    from OFLSAM2Core.evaluation.bench_sam2 import Sam2Timing
    from OFLSAM2Core.session import FewShotSession

STAGES = ("locate", "encode", "predict", "register", "fuse", "attend", "update", "decode", "write")
PRESET = "fast"  # How long was learned changes nothing about the pace that is measured.
_SAM2_BESIDE = "sam2.1-tiny"  # The fastest; a comparison with a larger one flatters us.


@dataclass(frozen=True)
class Timing:
    """What our side took. Stages in seconds for the whole volume; "write" is into the caller's
    arrays and, at the end, into a .seg.nrrd file."""

    seconds_to_learn: float
    seconds_to_first_slice: float
    seconds_per_slice: float
    slices: int
    stages: dict[str, float]
    peak_bytes: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--size", default="256x256", metavar="HxW", help="pixels of a slice; default: 256x256"
    )
    parser.add_argument("--slices", type=int, default=16, help="default: 16")
    parser.add_argument("--structures", type=int, default=1, help="default: 1")
    parser.add_argument("--supports", type=int, default=2, help="support volumes; default: 2")
    parser.add_argument(
        "--sam2",
        metavar="BACKBONE",
        help=f"plain SAM2 to compare with; default: the same backbone, or {_SAM2_BESIDE}",
    )
    parser.add_argument("--no-sam2", action="store_true", help="leave plain SAM2 out")
    parser.add_argument("--report", type=Path, metavar="REPORT.json", help="all figures")
    add_overwrite_option(parser)
    add_session_options(parser)


def run(args: argparse.Namespace) -> int:
    height, width = _size(args.size)
    for name, least in (("slices", 3), ("structures", 1), ("supports", 1)):
        if getattr(args, name) < least:
            raise InputError(f"--{name} {getattr(args, name)} is too few.", f"At least {least}.")
    if args.structures > MOST_STRUCTURES:
        raise InputError(
            f"--structures {args.structures} is too many.", f"At most {MOST_STRUCTURES}."
        )
    check_outputs([(args.report, (".json",))], [], overwrite=args.overwrite)
    check_options(args)
    bars = ProgressBars(args.quiet)
    target = phantom((args.slices, height, width), args.structures, 0, "target")
    # In a function: the session is gone before the memory of plain SAM2 is looked at.
    ours, device = _ours(args, target, bars)
    backbone = args.backbone or DEFAULT_BACKBONE
    bars.say(
        f"{backbone} on {device}: {counted(args.slices, 'slice')} of {height} x {width}, "
        f"{args.structures} structure(s), {args.supports} support volume(s)"
    )
    _print_ours(ours)
    sam2 = None
    if not args.no_sam2:
        name = args.sam2 or _sam2_for(backbone)
        sam2 = call_in_background(lambda report: _measure_sam2(target, name, device), bars)
        _print_sam2(ours, sam2)
    if args.report is not None:
        from OFLSAM2Core.evaluation.report import write_text

        content = {
            "oflsam2": __version__,
            "backbone": backbone,
            "device": device,
            "size": [height, width],
            "structures": args.structures,
            "supports": args.supports,
            "preset": args.preset or PRESET,
            "options": args.settings,
            "ours": vars(ours),
            "sam2": sam2.to_json() if sam2 else None,
            "machine": describe_machine(),
        }
        write_text(args.report, json.dumps(content, indent=1, allow_nan=False) + "\n")
    return 0


def _ours(args: argparse.Namespace, target: SupportCase, bars: ProgressBars) -> tuple[Timing, str]:
    session = make_session(args, bars, preset=PRESET)
    support = [
        phantom(target.volume.grid_shape, args.structures, seed, f"support {seed}")
        for seed in range(1, args.supports + 1)
    ]
    timing = call_in_background(lambda report: _measure(session, support, target, report), bars)
    return timing, str(session.backbone.device)


def _measure(
    session: FewShotSession,
    support: list[SupportCase],
    target: SupportCase,
    report: ProgressCallback,
) -> Timing:
    started = time.perf_counter()
    task = session.learn(support, report)
    learned = time.perf_counter() - started
    with PeakMemory() as watch:
        outcome = SegmentationBuffer(target.volume)
        writing = 0.0
        for result in session.segment(target.volume, task, report):
            arrived = time.perf_counter()
            outcome.add(result)
            writing += time.perf_counter() - arrived
    with temporary_folder() as folder:
        arrived = time.perf_counter()
        write_segmentation(
            folder / "bench.seg.nrrd", outcome.labels, target.volume, task.structures
        )
        writing += time.perf_counter() - arrived
    stages = dict(session.timings.seconds)
    return Timing(
        seconds_to_learn=learned,
        seconds_to_first_slice=outcome.seconds_to_first,
        seconds_per_slice=outcome.seconds_per_slice,
        slices=outcome.slices_done,
        stages={**stages, "write": writing},
        peak_bytes=watch.peak_bytes,
    )


def _measure_sam2(target: SupportCase, backbone: str, device: str) -> Sam2Timing:
    from OFLSAM2Core.evaluation.bench_sam2 import bench_sam2

    image = target.volume.array.astype(np.float32)
    grey = (255 * (image - image.min()) / max(np.ptp(image), 1)).astype(np.uint8)
    frames: npt.NDArray[np.uint8] = np.repeat(grey[..., None], 3, axis=3)
    # From the middle on, where every structure is there to be propagated; then the rest.
    middle = len(frames) // 2
    order = [*range(middle, len(frames)), *range(middle - 1, -1, -1)]
    masks = np.stack([target.labels[middle] == s.label for s in target.structures])
    return bench_sam2(frames[order], masks, backbone=backbone, device=device)


def _print_ours(ours: Timing) -> None:
    whole = sum(ours.stages.values())
    print(f"{'stage':<10}{'seconds':>10}{'a slice':>10}{'share':>8}")
    for stage in [*STAGES, *(set(ours.stages) - set(STAGES))]:
        if stage in ours.stages:
            seconds = ours.stages[stage]
            a_slice, share = seconds / ours.slices, seconds / max(whole, 1e-9)
            print(f"{stage:<10}{seconds:>10.3f}{a_slice:>10.4f}{share:>8.0%}")
    if encoding := ours.stages.get("encode"):
        print(f"all of it takes {whole / encoding:.2f} times as long as encoding alone")
    print(
        f"learning {ours.seconds_to_learn:.1f} s, first slice after "
        f"{ours.seconds_to_first_slice:.2f} s, {1 / ours.seconds_per_slice:.2f} slices a second, "
        f"peak memory {ours.peak_bytes / 1e9:.2f} GB"
    )


def _print_sam2(ours: Timing, sam2: Sam2Timing) -> None:
    print(
        f"plain SAM2 ({sam2.backbone}, {sam2.image_size} px"
        f"{', random weights' if sam2.random_weights else ''}): first slice after "
        f"{sam2.seconds_to_first_slice:.2f} s, {1 / sam2.seconds_per_slice:.2f} slices a second, "
        f"peak memory {sam2.peak_bytes / 1e9:.2f} GB"
    )
    print(
        f"ratio (seconds a slice, ours to plain SAM2): "
        f"{ours.seconds_per_slice / sam2.seconds_per_slice:.3f}"
    )


def _sam2_for(backbone: str) -> str:
    return backbone if backbone_info(backbone).architecture.startswith("sam2") else _SAM2_BESIDE


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) >= 16 and int(width) >= 16):
        raise InputError(f"--size {text} is not a size.", "Write HEIGHTxWIDTH, such as 256x256.")
    return int(height), int(width)
