"""The most memory that learning and segmenting take, beside what is estimated from headers.

    python Testing/Accuracy/memory_model.py 200 1000 2000 --structures 1 8 30 [--side 256]
        [--method NAME] [--set NAME=VALUE ...] [--json FILE]

Volumes are phantoms whose structures reach through nine tenths of their slices, in files. Each
figure is the peak of a process of its own that does what `oflsam2 segment` or `oflsam2 learn` does:
it loads the backbone, reads files, works, writes. The encoder is loaded, used once, and then
replaced by one that only scales the image down: features of the same size, in a thousandth of the
time. Constants of OFLSAM2Core/runtime/memory_estimate.py are fitted to the figures; Linux only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

HEIGHT = 400.0
"""Height of every volume in mm; with more slices, each is thinner."""


def write_case(path: Path, slices: int, side: int, structures: int, seed: int) -> None:
    """`path`_image.nrrd and `path`_label.nrrd, axial slices, pixels of 1 mm."""
    import SimpleITK as sitk

    from OFLSAM2Core.evaluation.phantom import phantom

    case = phantom((slices, side, side), structures, seed)
    for kind, array in (("image", case.volume.array), ("label", case.labels)):
        made = sitk.GetImageFromArray(array)
        made.SetSpacing((1.0, 1.0, HEIGHT / slices))
        sitk.WriteImage(made, f"{path}_{kind}.nrrd")


def session_for(args: argparse.Namespace) -> Any:
    """With the stand-in for the encoder."""
    import torch
    import torch.nn.functional as F

    from OFLSAM2Core.backbones import load_backbone
    from OFLSAM2Core.session import FewShotSession

    class ScaledDown(torch.nn.Module):
        """(B, 3, S, S) to (B, 256, S / 4, S / 4)."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            small = F.avg_pool2d(images, 4)
            shifted = [small.roll((step, step), dims=(2, 3)) for step in range(86)]
            return torch.cat(shifted, dim=1)[:, :256].contiguous()

    torch.set_num_threads(1)
    backbone: Any = load_backbone("litemedsam", torch.device("cpu"), None, None)
    backbone.encode(torch.zeros(1, 3, 256, 256))
    backbone.encoder, backbone._compiled = ScaledDown(), None
    options = dict(setting.split("=", 1) for setting in args.set)
    return FewShotSession(backbone, method=args.method, options=options)


def learn(args: argparse.Namespace) -> dict[str, Any]:
    from OFLSAM2Core.io.reading import read_support_case
    from OFLSAM2Core.io.volume_size import volume_size
    from OFLSAM2Core.runtime.memory_estimate import bytes_to_learn

    session = session_for(args)
    pairs = [(f"{path}_image.nrrd", f"{path}_label.nrrd") for path in args.paths]
    sizes = [size for image, _ in pairs if (size := volume_size(image)) is not None]
    started = time.monotonic()
    task = session.learn([read_support_case(*pair) for pair in pairs])
    task.save(args.task)
    estimated = bytes_to_learn(
        ((size.voxels, size.itemsize) for size in sizes),
        len(task.structures),
        args.image_side,
        int(task.options["encoded_slices"]),
    )
    return {"estimated": estimated, "seconds": time.monotonic() - started}


def segment(args: argparse.Namespace) -> dict[str, Any]:
    from OFLSAM2Core.data.segmentation_buffer import SegmentationBuffer
    from OFLSAM2Core.io.reading import read_volume, write_confidence, write_segmentation
    from OFLSAM2Core.io.volume_size import volume_size
    from OFLSAM2Core.learned_task import LearnedTask
    from OFLSAM2Core.runtime.memory_estimate import bytes_to_segment

    session = session_for(args)
    task = LearnedTask.load(args.task)
    image = Path(f"{args.paths[0]}_image.nrrd")
    size = volume_size(image)
    assert size is not None
    estimated = bytes_to_segment(
        size.shape, size.itemsize, len(task.structures), size.slices, args.image_side
    )
    started = time.monotonic()
    volume = read_volume(image)
    found = SegmentationBuffer(volume)
    for result in session.segment(volume, task):
        found.add(result)
    seconds = time.monotonic() - started
    out = Path(args.task).parent
    write_segmentation(out / "out.seg.nrrd", found.labels, volume, task.structures)
    write_confidence(out / "confidence.nrrd", found.confidence, volume)
    drawn = int(np.count_nonzero(found.labels.any(axis=(1, 2))))
    return {"estimated": estimated, "seconds": seconds, "slices_drawn": drawn}


def peak_bytes() -> int:
    """Peak memory of this process, as Linux counts it (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))


def measured(args: argparse.Namespace, job: str, *paths: Path, task: Path) -> dict[str, Any]:
    """What a job in a process of its own found; {"failed": why} where it did not end well."""
    words = ["--job", job, "--task", str(task), "--method", args.method]
    words += ["--image-side", str(args.image_side)]
    words += [word for setting in args.set for word in ("--set", setting)]
    done = subprocess.run(
        [sys.executable, __file__, *map(str, paths), *words], capture_output=True, text=True
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"failed": lines[-1] if lines else f"exit {done.returncode}"}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def describe(job: str, found: dict[str, Any]) -> str:
    if "failed" in found:
        return f"{job}: {found['failed']}"
    ratio = found["estimated"] / found["peak"]
    return (
        f"{job}: {found['peak'] / 1e6:.0f} MB measured, {found['estimated'] / 1e6:.0f} estimated "
        f"({ratio:.2f} times), {found['seconds']:.0f} s"
    )


def compare(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Every number of slices with every number of structures."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for structures in args.structures:
            support = [folder / f"support{seed}" for seed in range(args.supports)]
            for seed, path in enumerate(support):
                write_case(path, args.support_slices, args.side, structures, seed)
            task = folder / "task.oflsam2"
            learned = measured(args, "learn", *support, task=task)
            shape = {"structures": structures, "side": args.side}
            print(
                f"{structures} structures, {args.support_slices} slices, "
                f"{describe('learn', learned)}"
            )
            rows.append({"job": "learn", "slices": args.support_slices, **shape, **learned})
            for slices in map(int, args.paths):
                write_case(folder / "target", slices, args.side, structures, 99)
                found = measured(args, "segment", folder / "target", task=task)
                print(f"{structures} structures, {slices} slices, {describe('segment', found)}")
                sys.stdout.flush()
                rows.append({"job": "segment", "slices": slices, **shape, **found})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("paths", nargs="*", metavar="SLICES", help="of the volume to segment")
    parser.add_argument("--structures", type=int, nargs="+", default=[1])
    parser.add_argument("--side", type=int, default=256, help="of a slice, pixels")
    parser.add_argument("--supports", type=int, default=2)
    parser.add_argument("--support-slices", type=int, default=24)
    parser.add_argument(
        "--image-side",
        type=int,
        default=256,
        help="of the network's image, where options change it",
    )
    parser.add_argument("--method", default="ofl-sam2-atlas")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--json", type=Path, help="file for all figures")
    parser.add_argument("--job", choices=("learn", "segment"), help=argparse.SUPPRESS)
    parser.add_argument("--task", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        found = {"learn": learn, "segment": segment}[args.job](args)
        print(json.dumps({**found, "peak": peak_bytes()}), flush=True)
        return
    args.set = args.set or ["training_steps=3"]
    rows = compare(args)
    if args.json is not None:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
