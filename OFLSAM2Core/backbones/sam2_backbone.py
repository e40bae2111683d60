"""SAM 2.1 and MedSAM2 as a frozen backbone.

Image encoder, memory encoder, memory attention and mask decoder are the `sam2` package's own,
called on one slice at a time with the structures as batch dimension. What SAM2VideoPredictor does
around them (which memories, in which order, with which encodings of time; what a mask prompt
becomes) is repeated here, and a test holds the two to the same masks on the same frames.

SAM2's prompt encoder is left out, as the paper does: its empty point and its "no mask" embedding,
which are what SAM2 itself uses while it propagates, are kept as constants.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from OFLSAM2Core.backbones.base import (
    Backbone,
    Decoded,
    ImageFeatures,
    LearnedAttention,
    Memory,
)
from OFLSAM2Core.backbones.sam2_config import (
    CONFIGS,
    HIDDEN,
    MEMORY,
    STRIDE,
    build_random_sam2,
    build_sam2,
    load_sam2_weights,
)
from OFLSAM2Core.backbones.trainable import TrainableSam, TrainableSam2
from OFLSAM2Core.backbones.weights import backbone_info, identity, weights_path
from OFLSAM2Core.data.results import ProgressCallback

if TYPE_CHECKING:
    from sam2.modeling.sam2_base import SAM2Base

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
SUPPORT_OFFSET = 1
"""Slices between a support slice and the current one, for the encoding of its pointer. A slice of
another volume has no such distance; 1 is the nearest that SAM2 saw in training."""


class Sam2Backbone(Backbone):
    """A frozen SAM 2.1.

    image_size: side of the square input in pixels, S below; the embedding has h = w = S / 16.
    feature_channels: 256, of embeddings and target features; memory_channels: 64.
    """

    feature_channels = HIDDEN
    memory_channels = MEMORY
    attended_channels = HIDDEN

    def __init__(self, model: SAM2Base, name: str, identity: str) -> None:
        self.model = model.eval().requires_grad_(False)
        self.name = name
        self.identity = identity
        self.image_size: int = model.image_size
        self.feature_size = self.image_size // STRIDE
        self._mean = torch.tensor(MEAN, device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(STD, device=self.device).view(1, 3, 1, 1)
        with torch.no_grad():
            self._sparse, self._dense = self._empty_prompt()

    @classmethod
    def load(
        cls,
        name: str,
        device: torch.device | str = "cpu",
        *,
        weights: Path | None = None,
        image_size: int | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> Sam2Backbone:
        """A backbone of the manifest with its weights, or with those in the file `weights`.

        image_size: another side than the one the weights were trained at, a multiple of 32.
        Raises WeightsError when the weights are missing, damaged, or of another architecture.
        """
        info = backbone_info(name)
        path = weights_path(name, weights=weights, on_progress=on_progress)
        model = build_sam2(CONFIGS[info.architecture], image_size or info.image_size)
        load_sam2_weights(model, path, name)
        return cls(model.to(device), name, identity(path))

    @classmethod
    def random(
        cls,
        architecture: str = "sam2-toy",
        seed: int = 0,
        image_size: int = 128,
        device: torch.device | str = "cpu",
    ) -> Sam2Backbone:
        """A backbone with seeded random weights, for tests and for timing without weights."""
        model = build_random_sam2(CONFIGS[architecture], image_size, seed)
        name = f"random-{architecture}"
        recipe = f"{name} {image_size} {seed}"
        return cls(model.to(device), name, hashlib.sha256(recipe.encode()).hexdigest())

    @property
    def device(self) -> torch.device:
        return self.model.device

    def trainable(self, masks: int) -> TrainableSam:
        return TrainableSam2(self.model, self._mean, self._std, masks)

    @torch.no_grad()
    def encode(self, images: Tensor) -> ImageFeatures:
        """Features of slices: images (B, 3, S, S) in [0, 1] to an embedding (B, 256, h, w).

        The high-resolution features are (B, 32, 4h, 4w) and (B, 64, 2h, 2w), as the mask decoder
        takes them. The mean and deviation that SAM2 was trained with are applied here.
        """
        side = self.image_size
        if images.ndim != 4 or images.shape[1:] != (3, side, side):
            raise ValueError(f"images are {tuple(images.shape)}, not (B, 3, {side}, {side})")
        found = self.model.forward_image((images.to(self.device) - self._mean) / self._std)
        # Hiera gives channels-last maps; in the usual layout the layers that follow choose the
        # same kernels as in SAM2VideoPredictor, and results agree to the bit.
        fine, middle, embedding = (level.contiguous() for level in found["backbone_fpn"])
        return ImageFeatures(embedding, (fine, middle), found["vision_pos_enc"][-1])

    @torch.no_grad()
    def encode_memory(
        self, features: ImageFeatures, masks: Tensor, decoded: Decoded | None = None
    ) -> Memory:
        """Memory features of a slice and the masks of its N structures.

        masks: (N, 1, S, S). Without `decoded` they are labels (0 or 1), and the structures'
        pointers are read out of the masks, as SAM2 does with a mask prompt. With it they are the
        probabilities predicted for the slice, and `decoded` gives the pointers and which
        structures are there at all.
        """
        masks = masks.to(self.device, torch.float32)
        embedding = _for_each(features.embedding, len(masks))
        if decoded is None:
            labels = (masks >= 0.5).float()
            high_res = [_for_each(level, len(masks)) for level in features.high_res]
            *_, pointer, score = self.model._use_mask_as_output(embedding, high_res, labels)
            masks = self._as_remembered(labels)
        else:
            if decoded.pointer is None or decoded.object_score is None:
                raise ValueError("SAM2 remembers a prediction with its pointer and object score")
            pointer, score = decoded.pointer, decoded.object_score[:, None]
        scale, bias = self.model.sigmoid_scale_for_mem_enc, self.model.sigmoid_bias_for_mem_enc
        found = self.model.memory_encoder(embedding, masks * scale + bias, skip_mask_sigmoid=True)
        absent = (score <= 0).float()[..., None, None]
        kept = found["vision_features"] + absent * self.model.no_obj_embed_spatial[..., None, None]
        # SAM2 keeps its memory in bfloat16; the same rounding here, so that a memory saved in
        # bfloat16 is read back without loss.
        return Memory(kept.bfloat16().float(), pointer=pointer)

    @torch.no_grad()
    def attend(
        self,
        features: ImageFeatures,
        support: Sequence[Memory],
        recent: Sequence[tuple[int, Memory]],
        attention: LearnedAttention | None = None,
        *,
        support_offsets: Sequence[int | None] | None = None,
    ) -> Tensor:
        """Read the memories out into the slice: E1, (N, 256, h, w).

        support: memories that stay (SAM2's conditioning frames).
        recent: (offset, memory), offset 1 for the slice before this one, 2 for the one before
            that. As in SAM2, features of the last 6 and pointers of the last 15 take part.
        attention: not used, SAM2's memory attention is frozen as a whole.
        support_offsets: how many slices lie between each support slice and this one, where they
            are frames of one video: the pointers carry it, and as in SAM2 the pointer of a frame
            that lies ahead (None) is left out.
        """
        if features.position is None or not (support or recent):
            raise ValueError("attend needs features with their position, and at least one memory")
        model = self.model
        recent = sorted(recent, key=lambda item: item[0])
        near = [item for item in recent if item[0] < model.num_maskmem]
        placed = [(model.num_maskmem, memory) for memory in support] + near[::-1]
        tokens, positions = [], []
        for offset, memory in placed:
            tokens.append(_as_tokens(memory.features.to(self.device, torch.float32)))
            position = model.memory_encoder.position_encoding(memory.features[:1]).to(self.device)
            time = model.maskmem_tpos_enc[offset - 1]
            positions.append((_as_tokens(position) + time).expand_as(tokens[-1]))

        if support_offsets is None:
            support_offsets = [SUPPORT_OFFSET] * len(support)
        pointers = [
            (offset, memory.pointer)
            for offset, memory in zip(support_offsets, support, strict=True)
            if offset is not None
        ]
        pointers += [
            (offset, memory.pointer)
            for offset, memory in recent
            if offset < model.max_obj_ptrs_in_encoder
        ]
        count = tokens[0].shape[1]
        pointer_tokens, pointer_positions = self._pointer_tokens(pointers, count)
        tokens.append(pointer_tokens)
        positions.append(pointer_positions)
        attended = model.memory_attention(
            curr=_as_tokens(_for_each(features.embedding, count)),
            curr_pos=_as_tokens(_for_each(features.position, count)),
            memory=torch.cat(tokens),
            memory_pos=torch.cat(positions),
            num_obj_ptr_tokens=len(pointer_tokens),
        )
        side = self.feature_size
        return attended.permute(1, 2, 0).reshape(count, HIDDEN, side, side)

    def decode(self, features: ImageFeatures, target: Tensor) -> Decoded:
        """Masks from target features (N, 256, h, w); differentiable with respect to `target`.

        As SAM2 does while it propagates, the mask with the highest predicted IoU of three
        candidates is taken. A structure is there where `object_score` (a logit) is above 0;
        the logits of one that is not are left as they are: `displayed_logits` says what SAM2 shows.
        """
        count = len(target)
        masks, ious, tokens, score = self.model.sam_mask_decoder(
            image_embeddings=target,
            image_pe=self.model.sam_prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=self._sparse.expand(count, -1, -1),
            dense_prompt_embeddings=self._dense.expand(count, -1, -1, -1),
            multimask_output=True,
            repeat_image=False,
            high_res_features=[_for_each(level, count) for level in features.high_res],
        )
        each = torch.arange(count, device=target.device)
        best = ious.argmax(dim=-1)
        there = (score > 0).float()
        pointer = self.model.obj_ptr_proj(tokens[each, best])
        pointer = there * pointer + (1 - there) * self.model.no_obj_ptr
        return Decoded(masks[each, best][:, None], ious[each, best], score[:, 0], pointer.detach())

    def _empty_prompt(self) -> tuple[Tensor, Tensor]:
        point = torch.zeros(1, 1, 2, device=self.device)
        label = -torch.ones(1, 1, dtype=torch.int32, device=self.device)
        sparse, dense = self.model.sam_prompt_encoder((point, label), None, None)
        return sparse, dense

    def _as_remembered(self, labels: Tensor) -> Tensor:
        """Labels as SAM2VideoPredictor hands them to the memory encoder: it keeps only a
        quarter-size copy of a mask prompt, so the finest details are gone."""
        size = self.image_size
        logits = interpolate(
            labels * 20.0 - 10.0,
            size=(size // 4, size // 4),
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )
        logits = interpolate(logits, size=(size, size), mode="bilinear", align_corners=False)
        return (logits > 0).float()

    def _pointer_tokens(
        self, pointers: list[tuple[int, Tensor | None]], count: int
    ) -> tuple[Tensor, Tensor]:
        """Each pointer (N, 256) becomes four tokens (N, 64), with how long ago it was made."""
        from sam2.modeling.sam2_utils import get_1d_sine_pe

        known = [(offset, made) for offset, made in pointers if made is not None]
        if not known:
            none = torch.zeros(0, count, MEMORY, device=self.device)
            return none, none
        stacked = torch.stack([made.to(self.device, torch.float32) for _, made in known])
        parts = HIDDEN // MEMORY
        tokens = stacked.reshape(-1, count, parts, MEMORY).permute(0, 2, 1, 3).flatten(0, 1)
        offsets = torch.tensor([offset for offset, _ in known], device=self.device)
        times = get_1d_sine_pe(offsets / (self.model.max_obj_ptrs_in_encoder - 1), dim=HIDDEN)
        times = self.model.obj_ptr_tpos_proj(times)[:, None].expand(-1, count, -1)
        return tokens, times.repeat_interleave(parts, dim=0)


def displayed_logits(decoded: Decoded) -> Tensor:
    """Logits as SAM2 shows them: far below 0 everywhere for a structure that is not there."""
    from sam2.modeling.sam2_base import NO_OBJ_SCORE

    if decoded.object_score is None:
        return decoded.logits
    there = (decoded.object_score > 0)[:, None, None, None]
    return torch.where(there, decoded.logits, NO_OBJ_SCORE)


def _as_tokens(maps: Tensor) -> Tensor:
    """(N, C, h, w) to SAM2's (h*w, N, C)."""
    return maps.flatten(2).permute(2, 0, 1)


def _for_each(maps: Tensor, count: int) -> Tensor:
    """One slice's maps, for each of `count` structures; a batch of that size as it is."""
    return maps if len(maps) == count else maps.expand(count, -1, -1, -1)
