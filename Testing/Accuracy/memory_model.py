"""The most memory that learning and segmenting take, by slices and structures.

    python Testing/Accuracy/memory_model.py 200 1000 2000 --structures 1 8 30 --side 256

Each figure is of a process of its own. The encoder is replaced by one that only scales the image
down: features of the same size, in a thousandth of the time, and the memory of the encoder itself
is the same for every volume. Constants of OFLSAM2Core/runtime/memory_estimate.py are fitted to it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any

import torch
import torch.nn.functional as F


class ScaledDown(torch.nn.Module):
    """(B, 3, 256, 256) to (B, 256, 64, 64)."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        small = F.avg_pool2d(images, 4)
        shifted = [small.roll(step, dims=(2, 3)) for step in range(86)]
        return torch.cat(shifted, dim=1)[:, :256].contiguous()


def measure(slices: int, structures: int, side: int, supports: int, support_slices: int) -> Any:
    from OFLSAM2Core.backbones import load_backbone
    from OFLSAM2Core.evaluation.machine import peak_memory_mb
    from OFLSAM2Core.evaluation.phantom import phantom
    from OFLSAM2Core.session import FewShotSession

    backbone: Any = load_backbone("litemedsam", torch.device("cpu"), None, None)
    backbone.encode(torch.zeros(1, 3, 256, 256))
    base = peak_memory_mb()
    backbone.encoder, backbone._compiled = ScaledDown(), None
    session = FewShotSession(backbone, preset="fast", options={"training_steps": 5})
    cases = [
        phantom((support_slices, side, side), structures, seed, f"support {seed}")
        for seed in range(supports)
    ]
    task = session.learn(cases)
    learned = peak_memory_mb()
    target = phantom((slices, side, side), structures, 99, "target").volume
    array = target.array
    del cases
    count = sum(1 for _ in session.segment(target, task))
    return {
        "slices": slices, "structures": structures, "side": side, "supports": supports,
        "support_slices": support_slices, "voxels": array.size, "itemsize": array.itemsize,
        "base_mb": round(base), "learn_mb": round(learned), "segment_mb": round(peak_memory_mb()),
        "results": count,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("slices", type=int, nargs="+")
    parser.add_argument("--structures", type=int, nargs="+", default=[1])
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--supports", type=int, default=2)
    parser.add_argument("--support-slices", type=int, default=12)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        found = measure(
            args.slices[0], args.structures[0], args.side, args.supports, args.support_slices
        )
        print(json.dumps(found), flush=True)
        return
    for slices in args.slices:
        for structures in args.structures:
            words = [str(slices), "--structures", str(structures), "--side", str(args.side)]
            words += ["--supports", str(args.supports)]
            words += ["--support-slices", str(args.support_slices)]
            subprocess.run([sys.executable, __file__, *words, "--one"], check=False)


if __name__ == "__main__":
    main()
