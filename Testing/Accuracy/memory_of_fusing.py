"""The most memory that fusing takes, the last step of the method `ofl-sam2-atlas`, by itself.

    python Testing/Accuracy/memory_of_fusing.py SLICES STRUCTURES [--side 128]

Fusing holds most of all that grows with structures. Here it is given a phantom's labels as
predictions, noise around them, and a random prior: nothing is learned, registered or encoded, so
that thousands of slices and many structures take minutes. memory_model.py measures whole runs.
Linux only.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from OFLSAM2Core.atlas.isotropic_grid import IsotropicGrid
from OFLSAM2Core.atlas.propagated_labels import AtlasPrior
from OFLSAM2Core.data.slice_geometry import SliceGeometry
from OFLSAM2Core.data.volume import Volume
from OFLSAM2Core.evaluation.phantom import phantom
from OFLSAM2Core.methods.ofl_sam2_atlas.fuse import fuse
from OFLSAM2Core.methods.ofl_sam2_atlas.scan import Scan
from OFLSAM2Core.preprocessing.letterbox import Letterbox
from OFLSAM2Core.slice_position.extents import StructureExtents
from OFLSAM2Core.slice_position.regression import PositionScale

HEIGHT = 400.0
"""Millimetres along the slices: more slices are thinner ones."""


def memory(name: str) -> int:
    """Bytes that this process holds now (VmRSS), or held at its most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(name)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("slices", type=int)
    parser.add_argument("structures", type=int)
    parser.add_argument("--side", type=int, default=128, help="of a slice, pixels of 1 mm")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    noise = np.random.default_rng(0)
    slices, count, side = args.slices, args.structures, args.side

    case = phantom((slices, side, side), count, 0)
    volume = Volume(case.volume.array, np.diag([1.0, 1.0, HEIGHT / slices, 1.0]), "phantom")
    slicing = SliceGeometry.for_volume(volume, "axial")
    labels = slicing.to_slices(case.labels)
    values = [structure.label for structure in case.structures]
    framing = Letterbox.fit(
        slicing.slice_shape, slicing.spacing_in_plane, 1.0, side, (0, side, 0, side)
    )
    predicted = {}
    for index in range(slices):
        masks = 200 * np.stack([labels[index] == value for value in values]).astype(np.uint8)
        masks += 20 * (noise.random(masks.shape) > 0.98).astype(np.uint8)
        predicted[index] = torch.from_numpy(masks)
    grid = IsotropicGrid.holding([HEIGHT, side, side], 1.0)
    prior = AtlasPrior(
        0.4 * torch.rand(count, *grid.shape), grid, (HEIGHT / 2, side / 2, side / 2), slicing
    )
    # What fusing takes of a model and a location, and nothing else.
    model: Any = SimpleNamespace(
        structures=case.structures,
        widths=[30.0] * count,
        touched=[[]] * count,
        single=[True] * count,
        reliability=SimpleNamespace(dice=[0.8] * count),
        extents=StructureExtents(np.tile([[-1.0, 1.0]], (count, 1))),
    )
    location: Any = SimpleNamespace(
        encoded=SimpleNamespace(window=SimpleNamespace(framing=framing)),
        prior=prior,
        scale=PositionScale(HEIGHT / 2, HEIGHT / 2),
    )

    before, started = memory("VmRSS"), time.process_time()
    Path("/proc/self/clear_refs").write_text("5")  # The highest so far is forgotten.
    fuse(model, Scan.of(volume, slicing), location, predicted)
    most = memory("VmHWM")
    voxels = slices * count * side**2
    print(
        f"{slices} slices of {side} x {side}, {count} structures: {most / 1e6:.0f} MB at the most, "
        f"of these {before / 1e6:.0f} before fusing; {1 + (most - before) / voxels:.1f} bytes a "
        f"pixel and structure with the predictions; {time.process_time() - started:.0f} s of a core"
    )


if __name__ == "__main__":
    main()
