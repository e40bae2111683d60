"""What a backbone is to the rest of the core: four frozen operations.

The batch dimension N of everything that belongs to a mask is the structures, so that a slice goes
through the encoder once, whatever the number of structures.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from OFLSAM2Core.errors import InputError

if TYPE_CHECKING:
    from OFLSAM2Core.backbones.trainable import TrainableSam


@dataclass(frozen=True)
class ImageFeatures:
    """What the encoder makes of slices.

    embedding: (B, 256, h, w), before any memory.
    high_res: finer feature maps for the mask decoder, where it takes any (SAM2).
    position: positional encoding of the embedding, where memory attention takes one (SAM2).
    standardised: (B, 256, h, w), the embedding with zero mean and unit deviation of every channel
        over its volume, once the volume's statistics are known. What is learned from few cases
        sees these: on the next scanner all channels shift.
    """

    embedding: Tensor
    high_res: tuple[Tensor, ...] = ()
    position: Tensor | None = None
    standardised: Tensor | None = None

    @property
    def normalized_embedding(self) -> Tensor:
        """The embedding in the form that can be compared across volumes."""
        return self.embedding if self.standardised is None else self.standardised

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> ImageFeatures:
        """Moved, and stored in another precision (half to keep many slices)."""
        return replace(
            self,
            embedding=self.embedding.to(device, dtype),
            high_res=tuple(maps.to(device, dtype) for maps in self.high_res),
            position=None if self.position is None else self.position.to(device, dtype),
            standardised=None if self.standardised is None else self.standardised.to(device, dtype),
        )


@dataclass(frozen=True)
class Memory:
    """Memory features: what is stored of a slice and the masks of its N structures.

    features: (N, memory_channels, h, w).
    position: (1, C, h, w), positional encoding (SAM2), or what attention compares places by
        (LiteMedSAM): the slice's embedding, or its projection once that is learned.
    pointer: (N, 256), SAM2's object pointers.
    """

    features: Tensor
    position: Tensor | None = None
    pointer: Tensor | None = None

    def of(self, structures: Sequence[int]) -> Memory:
        """The same memory for a selection of its structures."""
        index = list(structures)
        pointer = None if self.pointer is None else self.pointer[index]
        return replace(self, features=self.features[index], pointer=pointer)

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Memory:
        return Memory(
            self.features.to(device, dtype),
            None if self.position is None else self.position.to(device, dtype),
            None if self.pointer is None else self.pointer.to(device, dtype),
        )


@dataclass(frozen=True)
class Decoded:
    """What the mask decoder makes of target features.

    logits: (N, 1, 4h, 4w).
    iou: (N,), the decoder's own prediction of the mask's IoU.
    object_score: (N,), a logit, above 0 where the structure is there; None if not predicted.
    pointer: (N, 256), SAM2's object pointers, to be remembered.
    """

    logits: Tensor
    iou: Tensor
    object_score: Tensor | None = None
    pointer: Tensor | None = None


class LearnedAttention(nn.Module, ABC):
    """The part of memory attention that is learned from the support."""

    @abstractmethod
    def project_memory(self, memory: Memory) -> Memory:
        """The memory in the form that is kept once attention is learned."""


class Backbone(ABC):
    """A frozen encoder, memory and mask decoder.

    name: as in the manifest. identity: SHA-256 of the weights.
    image_size: side of the square input; feature_size: side of the embedding (h = w).
    memory_channels: channels of memory features, which the mapping network predicts.
    attended_channels: channels of what `attend` returns: 256 where this is target features
        already (SAM2), memory_channels where it is memory features read out (LiteMedSAM).
    memory_is_mask: whether memory features are the mask itself, its 4 x 4 blocks as 16 channels,
        from -1 to 1.
    precision: what the encoder calculates in, "float32" or "bfloat16".
    """

    name: str
    identity: str
    image_size: int
    feature_size: int
    feature_channels: int = 256
    memory_channels: int
    attended_channels: int = 256
    memory_is_mask: bool = False
    precision: str = "float32"

    @property
    @abstractmethod
    def device(self) -> torch.device: ...

    def new_attention(self) -> LearnedAttention | None:
        """The part of memory attention that is learned from the support, freshly initialised;
        None where attention is frozen as a whole (SAM2)."""
        return None

    @property
    def takes_any_size(self) -> bool:
        """Whether `at_size` gives an encoder for images of other sizes."""
        return False

    def at_size(self, size: int) -> Backbone:
        """This one, with an encoder for images of `size` x `size` pixels, of which an embedding has
        a quarter as many positions each way; as it is where the encoder has one size only. What it
        makes is for heads of one's own: `decode` and `attend` are for the size it came in."""
        return self

    def with_precision(self, precision: str) -> Backbone:
        """This one, with an encoder that calculates in `precision`; as it is where it cannot."""
        return self

    def trainable(self, masks: int) -> TrainableSam:
        """A copy of encoder and mask decoder of which parts can be trained, with `masks` masks.

        Raises InputError where there is none of this backbone.
        """
        raise InputError(
            f"The backbone '{self.name}' cannot be fine-tuned.",
            "Use litemedsam or one of SAM 2.1's.",
        )

    @abstractmethod
    def encode(self, images: Tensor) -> ImageFeatures:
        """Slices (B, 3, S, S) in [0, 1] to features. No gradient."""

    @abstractmethod
    def encode_memory(
        self, features: ImageFeatures, masks: Tensor, decoded: Decoded | None = None
    ) -> Memory:
        """Memory features of one slice and its masks (N, 1, S, S) in [0, 1].

        `decoded` is given where the masks are the decoder's own and not labels.
        """

    @abstractmethod
    def attend(
        self,
        features: ImageFeatures,
        support: Sequence[Memory],
        recent: Sequence[tuple[int, Memory]],
        attention: LearnedAttention | None = None,
        *,
        support_offsets: Sequence[int | None] | None = None,
    ) -> Tensor:
        """Read memories out into one slice: (N, attended_channels, h, w).

        support: memories of support slices.
        recent: (offset, memory) of slices of this volume, offset 1 for the neighbour.
        attention: from `new_attention`, learned since.
        support_offsets: how many slices lie between each support memory and this slice, where they
            are frames of one video; None for one that lies ahead. Without them the support is of
            other volumes.
        """

    @abstractmethod
    def decode(self, features: ImageFeatures, target: Tensor) -> Decoded:
        """Masks from target features (N, 256, h, w); differentiable with respect to them."""
