"""A copy of a SAM of which parts can be trained, for methods that fine-tune one.

Images go in and several masks come out at once, without a prompt. Nothing is shared with the frozen
backbone that it was copied from.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from sam2.modeling.position_encoding import PositionEmbeddingRandom
    from sam2.modeling.sam.mask_decoder import MaskDecoder
    from sam2.modeling.sam2_base import SAM2Base


@dataclass(frozen=True)
class AttentionRows:
    """An attention layer with one linear layer `qkv` for queries, keys and values; and which of its
    outputs are queries and which are values."""

    layer: nn.Module
    queries: Tensor
    values: Tensor


class TrainableSam(nn.Module, ABC):
    """encoder: of images. decoder: SAM's mask decoder, with as many masks as are asked for.
    no_prompt: what stands for "no mask was given", (1, 256, 1, 1)."""

    takes_any_size = False
    """Whether images may be of other sizes than the backbone's own."""

    def __init__(self, encoder: nn.Module, decoder: MaskDecoder, no_prompt: Tensor, masks: int):
        super().__init__()
        self.encoder = copy.deepcopy(encoder)
        self.decoder = _with_masks(decoder, masks)
        self.no_prompt = nn.Parameter(no_prompt.detach().clone())

    @abstractmethod
    def attentions(self) -> Iterator[AttentionRows]:
        """All attention layers of the encoder."""

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, S, S) in [0, 1] to logits (B, masks, 4 h, 4 w) for an embedding
        of h x w positions."""

    def _decode(
        self, embedding: Tensor, position: Tensor, high_res: list[Tensor] | None = None
    ) -> Tensor:
        count, channels = embedding.shape[:2]
        masks: Tensor = self.decoder.predict_masks(
            image_embeddings=embedding,
            image_pe=position,
            sparse_prompt_embeddings=embedding.new_zeros(count, 0, channels),
            dense_prompt_embeddings=self.no_prompt.expand(count, -1, *embedding.shape[2:]),
            repeat_image=False,
            high_res_features=high_res,
        )[0]
        return masks


class TrainableLiteMedSam(TrainableSam):
    """encode_position: SAM's positional encoding, of a grid of any shape."""

    takes_any_size = True

    def __init__(
        self,
        encoder: nn.Module,
        decoder: MaskDecoder,
        no_prompt: Tensor,
        encode_position: PositionEmbeddingRandom,
        masks: int,
    ) -> None:
        super().__init__(encoder, decoder, no_prompt, masks)
        self._encode_position = copy.deepcopy(encode_position)

    def attentions(self) -> Iterator[AttentionRows]:
        layer: Any
        for layer in self.encoder.modules():
            if isinstance(getattr(layer, "qkv", None), nn.Linear):
                # The queries, keys and values of a head lie beside each other.
                rows = torch.arange(layer.qkv.out_features).view(layer.num_heads, 3, -1)
                yield AttentionRows(layer, rows[:, 0].flatten(), rows[:, 2].flatten())

    def forward(self, images: Tensor) -> Tensor:
        embedding = self.encoder(images)
        return self._decode(embedding, self._encode_position(embedding.shape[-2:])[None])


class TrainableSam2(TrainableSam):
    """mean, deviation: what SAM2's encoder takes images relative to, (1, 3, 1, 1)."""

    def __init__(self, model: SAM2Base, mean: Tensor, deviation: Tensor, masks: int) -> None:
        prompts = model.sam_prompt_encoder
        no_prompt = prompts.no_mask_embed.weight.reshape(1, -1, 1, 1)
        super().__init__(model.image_encoder, model.sam_mask_decoder, no_prompt, masks)
        self.register_buffer("_position", prompts.get_dense_pe().detach().clone(), persistent=False)
        self.register_buffer("_mean", mean.clone(), persistent=False)
        self.register_buffer("_deviation", deviation.clone(), persistent=False)
        # Without memory SAM2 adds this to every embedding.
        no_memory = model.no_mem_embed.detach().reshape(1, -1, 1, 1)
        self.register_buffer("_no_memory", no_memory.clone(), persistent=False)

    def attentions(self) -> Iterator[AttentionRows]:
        layer: Any
        for layer in self.encoder.modules():
            if isinstance(getattr(layer, "qkv", None), nn.Linear):
                rows = torch.arange(layer.qkv.out_features).view(3, -1)
                yield AttentionRows(layer, rows[0], rows[2])

    def forward(self, images: Tensor) -> Tensor:
        levels = self.encoder((images - self.get_buffer("_mean")) / self.get_buffer("_deviation"))
        fine, middle, embedding = levels["backbone_fpn"]
        high_res = [self.decoder.conv_s0(fine), self.decoder.conv_s1(middle)]
        embedding = embedding + self.get_buffer("_no_memory")
        return self._decode(embedding, self.get_buffer("_position"), high_res)


def _with_masks(decoder: MaskDecoder, masks: int) -> MaskDecoder:
    """A copy with so many masks, each of which begins as the one for a single, unambiguous answer.
    Their different labels tell them apart in training."""
    own = copy.deepcopy(decoder)
    token = own.mask_tokens.weight.detach()[:1]
    own.mask_tokens = nn.Embedding.from_pretrained(token.repeat(masks, 1), freeze=False)
    network = own.output_hypernetworks_mlps[0]
    own.output_hypernetworks_mlps = nn.ModuleList(copy.deepcopy(network) for _ in range(masks))
    own.num_mask_tokens, own.num_multimask_outputs = masks, masks - 1
    return own
