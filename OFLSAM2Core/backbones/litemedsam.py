"""LiteMedSAM as a frozen backbone, with a memory read out by attention over its features.

LiteMedSAM (Ma et al., 2024) is SAM's mask decoder on a distilled TinyViT encoder, trained on
medical images of many kinds. It has no memory. What SAM2 gets from its memory encoder and memory
attention is made here from what is frozen: memory features are the mask itself, its 4x4 blocks of
pixels laid out as 16 channels on the embedding's grid; attention compares embeddings and reads the
masks of similar places out. Only the projection in which embeddings are compared is learned.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from OFLSAM2Core.backbones.base import (
    Backbone,
    Decoded,
    ImageFeatures,
    LearnedAttention,
    Memory,
)
from OFLSAM2Core.backbones.openvino_encoder import OpenVinoEncoder
from OFLSAM2Core.backbones.tiny_vit import TinyViT
from OFLSAM2Core.backbones.trainable import TrainableLiteMedSam, TrainableSam
from OFLSAM2Core.backbones.weights import identity, load_state_dict, weights_path
from OFLSAM2Core.data.results import ProgressCallback
from OFLSAM2Core.errors import WeightsError
from OFLSAM2Core.runtime.device import has_matrix_tiles
from OFLSAM2Core.runtime.named_tensors import part_of

if TYPE_CHECKING:
    from sam2.modeling.sam.mask_decoder import MaskDecoder
    from sam2.modeling.sam.prompt_encoder import PromptEncoder

IMAGE_SIZE = 256
FEATURE_SIZE = 64
BLOCK = IMAGE_SIZE // FEATURE_SIZE

TOKENS_IN_TRAINING = 4096
"""A training step compares with this many places of memory, chosen at random: with a third of all
places the projection is learned as well, in a third of the time."""

QUERIES_IN_TRAINING = 1024
"""A training step takes the gradient of this many places of the query slice, chosen at random. The
gradient of all 4096 would take 60 % of the attention's time and a fifth of the step's."""


class LiteMedSamBackbone(Backbone):
    """The frozen parts of LiteMedSAM: encoder, positional encoding, mask decoder."""

    name = "litemedsam"
    image_size = IMAGE_SIZE
    feature_size = FEATURE_SIZE
    memory_channels = BLOCK * BLOCK
    attended_channels = BLOCK * BLOCK
    memory_is_mask = True

    def __init__(
        self,
        weights: dict[str, Tensor],
        identity: str,
        device: torch.device | str = "cpu",
        use_openvino: bool = True,
        keep_converted: bool = False,
    ) -> None:
        """keep_converted: `identity` is the weights' SHA-256, and the encoder that is converted
        for OpenVINO may be kept in the cache folder under it."""
        self.identity = identity
        self._device = torch.device(device)
        self.encoder = TinyViT()
        self.encoder.load_state_dict(part_of(weights, "image_encoder"))
        self.encoder.eval().requires_grad_(False).to(self._device)
        self._decoder, prompts = _sam_decoder(weights)
        self._decoder.eval().requires_grad_(False).to(self._device)
        with torch.no_grad():
            self._position = prompts.get_dense_pe().to(self._device)
            self._encode_position = prompts.pe_layer
            # SAM's own embeddings for "no mask" and "no point": what it sees without a prompt.
            self._dense = prompts.no_mask_embed.weight.reshape(1, 256, 1, 1).to(self._device)
            self._sparse = prompts.not_a_point_embed.weight.reshape(1, 1, 256).to(self._device)
        self._compiled: OpenVinoEncoder | None = None
        self._by_size: dict[int, OpenVinoEncoder] = {}
        self._kept_as = identity if keep_converted else None
        if use_openvino and self._device.type == "cpu":
            with suppress(ImportError):
                self._compiled = OpenVinoEncoder(self.encoder, IMAGE_SIZE, self._kept_as)
                self._by_size[IMAGE_SIZE] = self._compiled
                self.precision = self._compiled.precisions[0]

    @classmethod
    def load(
        cls,
        device: torch.device | str = "cpu",
        *,
        weights: Path | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> LiteMedSamBackbone:
        """With the weights of the manifest, or those in a file of the user's.

        Raises WeightsError when they are missing, damaged, or of another model.
        """
        path = weights_path("litemedsam", weights=weights, on_progress=on_progress)
        try:
            return cls(load_state_dict(path), identity(path), device, keep_converted=True)
        except (RuntimeError, KeyError) as error:
            raise WeightsError(
                f"{path} does not hold the weights of LiteMedSAM.",
                "Choose the backbone that these weights are of (oflsam2 backbones list).",
            ) from error

    @property
    def device(self) -> torch.device:
        return self._device

    def new_attention(self) -> MaskAttention:
        return MaskAttention(self.feature_channels)

    def trainable(self, masks: int) -> TrainableSam:
        return TrainableLiteMedSam(
            self.encoder, self._decoder, self._dense, self._encode_position, masks
        )

    @torch.no_grad()
    def encode(self, images: Tensor) -> ImageFeatures:
        if self._compiled is None:
            return ImageFeatures(self.encoder(images.to(self._device)))
        return ImageFeatures(self._compiled(images, self.precision))

    @property
    def takes_any_size(self) -> bool:
        return True

    def at_size(self, size: int) -> LiteMedSamBackbone:
        """Its attention looks at windows of 7 and 14 positions and knows no place in the image, so
        it takes images of any size; the time goes with their area."""
        if size == self.image_size:
            return self
        other = copy.copy(self)
        other.image_size, other.feature_size = size, size // BLOCK
        if self._compiled is not None:
            # Converted and compiled once for all volumes, whichever copy of this asks.
            if size not in self._by_size:
                self._by_size[size] = OpenVinoEncoder(self.encoder, size, self._kept_as)
            other._compiled = self._by_size[size]
        return other

    def with_precision(self, precision: str) -> LiteMedSamBackbone:
        if self._compiled is None or precision not in self._compiled.precisions:
            return self
        other = copy.copy(self)
        other.precision = precision
        return other

    @torch.no_grad()
    def encode_memory(
        self, features: ImageFeatures, masks: Tensor, decoded: Decoded | None = None
    ) -> Memory:
        return Memory(F.pixel_unshuffle(masks, BLOCK) * 2 - 1, features.normalized_embedding)

    def attend(
        self,
        features: ImageFeatures,
        support: Sequence[Memory],
        recent: Sequence[tuple[int, Memory]],
        attention: LearnedAttention | None = None,
        *,
        support_offsets: Sequence[int | None] | None = None,
    ) -> Tensor:
        memories = [*support, *(memory for _, memory in recent)]
        if attention is None:
            attention = self.new_attention().to(self._device)
        return attention(features.normalized_embedding, memories)

    def decode(self, features: ImageFeatures, target: Tensor) -> Decoded:
        count = len(target)
        masks, ious, _, _ = self._decoder.predict_masks(
            image_embeddings=target,
            image_pe=self._position,
            sparse_prompt_embeddings=self._sparse.expand(count, -1, -1),
            dense_prompt_embeddings=self._dense.expand(count, -1, FEATURE_SIZE, FEATURE_SIZE),
            repeat_image=False,
        )
        # The first mask is the one for a single, unambiguous answer; LiteMedSAM trained only it.
        return Decoded(masks[:, :1], ious[:, 0].clamp(0, 1))


class MaskAttention(LearnedAttention):
    """Reads masks out of memory: softmax over how alike two places are.

    Two places are alike where their projected embeddings are similar (cosine) and where they lie
    near each other in their slices. The length that counts as near is learned.
    The projection starts orthogonal, so that before learning this is plain cosine attention
    within a wide neighbourhood.
    """

    def __init__(self, channels: int, projected: int = 60) -> None:
        super().__init__()
        self.projection = nn.Conv2d(channels, projected, 1, bias=False)
        nn.init.orthogonal_(self.projection.weight)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(20.0)))
        # Half of the slice's half width.
        self.log_reach = nn.Parameter(torch.tensor(math.log(0.5)))

    def forward(self, embedding: Tensor, memories: Sequence[Memory]) -> Tensor:
        """embedding (1, C, h, w) of a slice, memories of N structures, to
        (N, memory_channels, h, w)."""
        near, _ = self._nearness(embedding)
        query = _rows(self.project(embedding)) * self.log_temperature.exp()
        query = torch.cat([query, near, torch.ones_like(near[:, :1])], dim=1)
        most = TOKENS_IN_TRAINING // len(memories) if self.training else None
        tokens = [self._tokens(memory, most) for memory in memories]
        key = torch.cat([keys for keys, _ in tokens])
        value = torch.cat([values for _, values in tokens])
        if self.training and torch.is_grad_enabled():
            with torch.no_grad():
                read = _attention(query, key, value)
            some = self._some(len(query), QUERIES_IN_TRAINING, query.device)
            read = read.index_copy(0, some, _attention(query[some], key, value))
        else:
            quick = has_matrix_tiles(query.device) and not torch.is_grad_enabled()
            read = _attention(query, key, value, torch.bfloat16 if quick else torch.float32)
        return read.T.reshape(len(memories[0].features), -1, *embedding.shape[-2:])

    def _nearness(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates of the places of maps (..., h, w) in units of the reach, (hw, 2), and half
        their squares, (hw, 1).

        exp(q.k - |a - b|^2 / 2) is, up to a factor that softmax cancels, exp(q.k + a.b - b.b / 2):
        nearness is three more components of query and key.
        """
        rows, columns = (
            torch.linspace(-1, 1, side, device=maps.device) for side in maps.shape[-2:]
        )
        places = torch.cartesian_prod(rows, columns) / self.log_reach.exp()
        return places, places.square().sum(dim=1, keepdim=True) / 2

    def _tokens(self, memory: Memory, most: int | None) -> tuple[Tensor, Tensor]:
        """Keys (tokens, projected) and values (tokens, N * M) of a memory, `most` at random."""
        assert memory.position is not None
        near, square = self._nearness(memory.position)
        position, features = memory.position.flatten(2), memory.features.flatten(2)
        if most is not None and most < position.shape[2]:
            some = self._some(position.shape[2], most, position.device)
            position, features = position[..., some], features[..., some]
            near, square = near[some], square[some]
        key = torch.cat([_rows(self._key(position[..., None].float())), near, -square], dim=1)
        return key, features.flatten(0, 1).T.float().contiguous()

    def _some(self, count: int, most: int, device: torch.device) -> Tensor:
        return torch.randperm(count)[:most].to(device)

    def project(self, embedding: Tensor) -> Tensor:
        """(B, C, h, w) to unit vectors (B, projected, h, w)."""
        return F.normalize(self.projection(embedding), dim=1)

    def project_memory(self, memory: Memory) -> Memory:
        """The memory with its embedding projected once and for all, a quarter of its size."""
        assert memory.position is not None
        return replace(memory, position=self._key(memory.position))

    def _key(self, position: Tensor) -> Tensor:
        projected = position.shape[1] == self.projection.out_channels
        return position if projected else self.project(position)


def _rows(maps: Tensor) -> Tensor:
    """(1, C, h, w) to (h * w, C), contiguous: fused attention is 15 times slower otherwise."""
    return maps.flatten(2)[0].T.contiguous()


def _attention(
    query: Tensor, key: Tensor, value: Tensor, precision: torch.dtype = torch.float32
) -> Tensor:
    """softmax(query key') value, the values in groups as wide as the keys.

    PyTorch's fused attention needs equal widths; it takes 0.04 s where the plain product, which
    writes out 4096 x 12288 similarities, takes 0.17 s. On processors with matrix tiles bfloat16
    takes less than half of that, and differs by 0.7 %.
    """
    width, wanted = key.shape[1], value.shape[1]
    groups = -(-wanted // width)
    value = F.pad(value, (0, groups * width - wanted))
    value = value.view(len(key), groups, width).transpose(0, 1).contiguous()
    read = F.scaled_dot_product_attention(
        query.to(precision).expand(1, groups, -1, -1),
        key.to(precision).expand(1, groups, -1, -1),
        value.to(precision)[None],
        scale=1.0,
    )
    return read[0].transpose(0, 1).reshape(len(query), -1)[:, :wanted].to(query)


def _sam_decoder(weights: dict[str, Tensor]) -> tuple[MaskDecoder, PromptEncoder]:
    """SAM's mask decoder and prompt encoder, built from the `sam2` package's classes, which
    contain them; only the two layers of each MLP have other names there."""
    from sam2.modeling.sam.mask_decoder import MaskDecoder
    from sam2.modeling.sam.prompt_encoder import PromptEncoder
    from sam2.modeling.sam.transformer import TwoWayTransformer

    decoder = MaskDecoder(
        transformer_dim=256,
        transformer=TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8),
        num_multimask_outputs=3,
        iou_head_depth=3,
        iou_head_hidden_dim=256,
    )
    renamed = {
        key.replace("mlp.lin1", "mlp.layers.0").replace("mlp.lin2", "mlp.layers.1"): value
        for key, value in part_of(weights, "mask_decoder").items()
    }
    decoder.load_state_dict(renamed)
    prompts = PromptEncoder(256, (FEATURE_SIZE, FEATURE_SIZE), (IMAGE_SIZE, IMAGE_SIZE), 16)
    prompts.load_state_dict(part_of(weights, "prompt_encoder"))
    return decoder, prompts
