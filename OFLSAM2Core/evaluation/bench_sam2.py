"""Plain SAM2 on the same frames, as the yardstick for `oflsam2 bench`.

What is timed is SAM2VideoPredictor as its authors ship it, given the masks of the first frame: no
learning, no mapping network, memory only. Its time does not depend on what the weights say, so
without weights on this machine random ones serve (`random_weights` says so).
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from OFLSAM2Core.backbones.sam2_config import (
    CONFIGS,
    build_random_sam2,
    build_sam2,
    load_sam2_weights,
)
from OFLSAM2Core.backbones.weights import backbone_info, status, weights_path
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.runtime.counted import counted
from OFLSAM2Core.runtime.peak_memory import PeakMemory
from OFLSAM2Core.runtime.temporary import temporary_folder


@dataclass(frozen=True)
class Sam2Timing:
    """How long SAM2VideoPredictor took, in seconds.

    seconds_to_first_slice: from the frames in memory to the masks of the second frame.
    seconds_per_slice: mean over the frames after that.
    peak_bytes: resident memory of the process; on a GPU, what PyTorch held there.
    """

    backbone: str
    image_size: int
    slices: int
    structures: int
    seconds_to_load: float
    seconds_to_first_slice: float
    seconds_per_slice: float
    peak_bytes: int
    random_weights: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def bench_sam2(
    frames: npt.NDArray[np.uint8],
    masks: npt.NDArray[np.bool_],
    *,
    backbone: str = "sam2.1-tiny",
    device: str = "cpu",
    image_size: int | None = None,
    weights: Path | None = None,
    seed: int = 0,
) -> Sam2Timing:
    """Propagate the masks of the first frame through all frames with SAM2VideoPredictor.

    frames: (T, H, W, 3), at least 3; masks: (N, H, W), one a structure.
    image_size: side in pixels that SAM2 works at; the backbone's own if None.
    weights: a file of the user's; else those on this machine, else seeded random ones.
    Raises InputError for frames or a backbone that SAM2 cannot be run with.
    """
    import torch

    info = backbone_info(backbone)
    if info.architecture not in CONFIGS:
        raise InputError(
            f"Plain SAM2 cannot run with the backbone '{backbone}'.", "Use a sam2.1 one or medsam2."
        )
    if len(frames) < 3 or len(masks) == 0:
        raise InputError(
            f"{counted(len(frames), 'frame')} with {counted(len(masks), 'structure')} are too "
            f"few to time.",
            "Give at least 3 frames and the mask of one structure.",
        )
    size = image_size or info.image_size
    has_weights = weights is not None or status(backbone).state == "ready"
    started = time.perf_counter()
    predictor = _predictor(backbone, size, weights, seed, has_weights).to(device)
    loaded = time.perf_counter()
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    with (
        temporary_folder() as folder,
        PeakMemory() as watch,
        contextlib.redirect_stderr(io.StringIO()),  # SAM2's own progress bars.
    ):
        _write_frames(frames, folder)
        moments = _propagate(predictor, str(folder), masks, _waiter(device))
    return Sam2Timing(
        backbone=backbone,
        image_size=size,
        slices=len(frames),
        structures=len(masks),
        seconds_to_load=loaded - started,
        seconds_to_first_slice=moments[1] - moments[0],
        seconds_per_slice=(moments[-1] - moments[1]) / (len(frames) - 2),
        peak_bytes=torch.cuda.max_memory_allocated(device) if on_gpu else watch.peak_bytes,
        random_weights=not has_weights,
    )


def _predictor(backbone: str, size: int, weights: Path | None, seed: int, has_weights: bool) -> Any:
    from sam2.sam2_video_predictor import SAM2VideoPredictor

    config = CONFIGS[backbone_info(backbone).architecture]
    if not has_weights:
        return build_random_sam2(config, size, seed, SAM2VideoPredictor)
    predictor = build_sam2(config, size, SAM2VideoPredictor)
    path = weights_path(backbone, weights=weights, download=False)
    load_sam2_weights(predictor, path, backbone)
    return predictor


def _write_frames(frames: npt.NDArray[np.uint8], folder: Path) -> None:
    """SAM2 reads frames from a folder of JPEG files only."""
    from PIL import Image

    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{index:05d}.jpg", quality=95)


def _propagate(
    predictor: Any, folder: str, masks: npt.NDArray[np.bool_], wait: Callable[[], None]
) -> list[float]:
    """The moments at which work began and at which each frame after the first was done."""
    moments = [time.perf_counter()]
    state = predictor.init_state(folder)
    for index, mask in enumerate(masks):
        predictor.add_new_mask(state, frame_idx=0, obj_id=index + 1, mask=mask)
    for index, _, logits in predictor.propagate_in_video(state):
        if index > 0:
            (logits > 0).cpu()  # What a user gets: masks in the computer's own memory.
            wait()
            moments.append(time.perf_counter())
    return moments


def _waiter(device: str) -> Callable[[], None]:
    """A GPU works on after a call returned: what waits for it."""
    import torch

    if torch.device(device).type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return lambda: None
