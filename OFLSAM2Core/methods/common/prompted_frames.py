"""Frames prompted with masks, and others predicted from them through a backbone's memory.

Support slices and a volume's slices are the frames of one video, as the SAM2 family has it. On SAM2
backbones the masks are those of `SAM2VideoPredictor` for the same frames and prompts (a test holds
the two together). LiteMedSAM has no mask decoder that reads memory: there the masks are what its
untrained memory attention reads out of memory (`mask_readout.py`). Prompts and predicted frames are
read separately: a neighbouring frame is so much more similar than a prompt that the softmax would
use it alone, and masks would only shrink. A structure is read from those predicted frames that show
it, or from the prompts alone where none does, so that it can begin in the middle of a volume.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from OFLSAM2Core.backbones.base import Backbone, Decoded, ImageFeatures, LearnedAttention, Memory
from OFLSAM2Core.methods.common.mask_readout import apply_thresholds, read_masks

REACH = 15
"""Frames back from which SAM2 takes object pointers; memory features come from the last 6."""

RECENT = 6
"""Predicted frames whose memory features are read, as in SAM2."""

PROMPTED_SHARE = 2 / 3
"""Weight of the prompts where memory is a mask; predicted frames have the rest. With one half a
hippocampus is lost after few slices (docs/experiments/sam2-family-on-litemedsam.md)."""


class PromptedFrames:
    """The memory of one video: predicted frames by number; prompts are given with each call.

    thresholds: (N,), see `mask_readout.best_thresholds`; where memory is a mask, 0.5 if not given.
    """

    def __init__(
        self,
        backbone: Backbone,
        attention: LearnedAttention | None = None,
        thresholds: Tensor | None = None,
    ) -> None:
        self._backbone = backbone
        self._attention = attention
        self._thresholds = thresholds
        self._predicted: dict[int, Memory] = {}
        self._present: dict[int, list[bool]] = {}
        self._reads_masks = backbone.attended_channels == backbone.memory_channels

    @torch.no_grad()
    def predict(
        self,
        frame: int,
        features: ImageFeatures,
        prompts: Sequence[tuple[int, Memory]],
        direction: int = 1,
        remember: bool = True,
    ) -> Tensor:
        """Probabilities (N, 4h, 4w) of frame number `frame`.

        prompts: number and memory of the conditioning frames, at least one. direction: 1 where the
        video is followed forwards, -1 backwards; what lies ahead is not in memory. remember:
        whether frames that follow see this one.
        """
        recent = [
            (back, self._predicted[frame - direction * back])
            for back in range(1, REACH + 1)
            if frame - direction * back in self._predicted
        ]
        decoded: Decoded | None = None
        if self._reads_masks:
            near = [frame - direction * back for back, _ in recent[:RECENT]]
            probabilities = self._read(features, [memory for _, memory in prompts], near)
            kept = (probabilities > 0.5).float()  # Soft masks would fade from slice to slice.
            self._present[frame] = kept.flatten(1).any(dim=1).tolist()
        else:
            offsets = [(frame - number) * direction for number, _ in prompts]
            read = self._backbone.attend(
                features,
                [memory for _, memory in prompts],
                recent,
                self._attention,
                support_offsets=[each if each >= 0 else None for each in offsets],
            )
            decoded = self._backbone.decode(features, read)
            logits = _displayed(decoded)
            probabilities = logits[:, 0].sigmoid()
            size = self._backbone.image_size
            resized = F.interpolate(logits, size=(size, size), mode="bilinear")
            kept = resized[:, 0].sigmoid()
        if not remember:
            return probabilities
        memory = self._backbone.encode_memory(features, kept[:, None], decoded)
        if self._attention is not None:
            memory = self._attention.project_memory(memory)
        self._predicted[frame] = memory
        return probabilities

    def _read(
        self, features: ImageFeatures, prompts: Sequence[Memory], near: Sequence[int]
    ) -> Tensor:
        """Probabilities (N, 4h, 4w). near: numbers of the predicted frames in memory."""
        thresholds = torch.full((len(prompts[0].features),), 0.5)
        thresholds = thresholds if self._thresholds is None else self._thresholds.cpu()
        read = read_masks(self._backbone, features, prompts, self._attention)
        found = apply_thresholds(read, thresholds)
        groups: dict[tuple[int, ...], list[int]] = {}
        for structure in range(len(found)):
            present = tuple(number for number in near if self._present[number][structure])
            groups.setdefault(present, []).append(structure)
        for numbers, structures in groups.items():
            if numbers:
                memories = [self._predicted[number].of(structures) for number in numbers]
                recent = read_masks(self._backbone, features, memories, self._attention)
                recent = apply_thresholds(recent, thresholds[structures])
                prompted = PROMPTED_SHARE * found[structures]
                found[structures] = prompted + (1 - PROMPTED_SHARE) * recent
        return found

    def forget_beyond(self, *frames: int) -> None:
        """Drop what lies farther than memory reaches from each of these frames."""
        for number in list(self._predicted):
            if all(abs(number - frame) > REACH for frame in frames):
                del self._predicted[number]
                self._present.pop(number, None)


def _displayed(decoded: Decoded) -> Tensor:
    """Logits as SAM2 shows and remembers them: of a structure that is not there, far below 0."""
    from OFLSAM2Core.backbones.sam2_backbone import displayed_logits

    return displayed_logits(decoded)


def from_middle(count: int, backwards_first: bool = False) -> list[tuple[int, int]]:
    """Index and direction of all slices from the middle to one end, then to the other."""
    middle = count // 2
    forwards = [(index, 1) for index in range(middle, count)]
    backwards = [(index, -1) for index in range(middle - 1, -1, -1)]
    if backwards_first:
        return [(middle, -1), *backwards, *forwards[1:]]
    return forwards + backwards


def before_the_volume(slices: Sequence[int]) -> list[tuple[int, int]]:
    """Support slices as the frames before the volume's first, in the given order."""
    return [(int(at), which) for at, which in zip(np.arange(-len(slices), 0), slices, strict=True)]
