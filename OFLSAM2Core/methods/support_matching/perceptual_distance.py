"""Perceptual distance of two slices: LPIPS (Zhang et al. 2018), or its construction on a backbone.

LPIPS compares unit-normalised features of several stages of a network, squared differences weighted
by channel and averaged over positions. That is the squared Euclidean distance of two vectors, the
slices' signatures: sqrt(weight / positions) times each feature. So slices are described once.
"""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from OFLSAM2Core.backbones.base import ImageFeatures
from OFLSAM2Core.backbones.weights import cache_folder
from OFLSAM2Core.errors import WeightsError

GRID = 16
"""Features are averaged to a grid of at most this side first, so that a signature stays small."""

LPIPS_SIDE = 64
"""AlexNet sees images of this side, the least at which all its stages have several positions."""

ALEXNET = ((3, 64, 11, 4, 2), (64, 192, 5, 1, 2), (192, 384, 3, 1, 1), (384, 256, 3, 1, 1))
"""Channels in and out, kernel, stride and padding; a fifth layer repeats 256 channels."""

ALEXNET_FILE, LINEAR_FILE = "alexnet-owt-7be5be79.pth", "lpips_alex.pth"

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""LPIPS's normalisation of images in [-1, 1]."""


def signature(stages: Sequence[Tensor], weights: Sequence[Tensor] | None = None) -> Tensor:
    """(D,), whose squared distance to another is the perceptual distance.

    stages: features (1, C, h, w) of each stage. weights: (C,) of each stage's channels, not
    negative; None: all channels alike, 1 / C.
    """
    parts = []
    for number, stage in enumerate(stages):
        own = F.normalize(stage.float(), dim=1)
        channels, positions = own.shape[1], own[0, 0].numel()
        weight = own.new_full((channels,), 1 / channels) if weights is None else weights[number]
        parts.append((own * (weight / positions).sqrt().view(1, -1, 1, 1)).flatten())
    return torch.cat(parts)


def of_backbone(image: Tensor, features: ImageFeatures) -> Tensor:
    """On the frozen backbone: its finer maps where it has them (SAM2), and its embedding, each
    channel standardised over its volume, on three grids."""
    embedding = features.normalized_embedding
    stages = [*features.high_res, embedding, F.avg_pool2d(embedding, 2), F.avg_pool2d(embedding, 4)]
    return signature([_at_most(stage, GRID) for stage in stages])


@dataclass(frozen=True)
class Lpips:
    """LPIPS with AlexNet. weights: of the channels of its five stages."""

    network: AlexNetStages
    weights: tuple[Tensor, ...]

    @classmethod
    def find(cls) -> Lpips:
        """LPIPS from files on this machine: in the folder of backbones' weights, torchvision's
        cache, or the package lpips. Raises WeightsError where one is missing."""
        folder = cache_folder()
        package = importlib.util.find_spec("lpips")
        packages = [] if package is None else package.submodule_search_locations or []
        network = [folder / ALEXNET_FILE, Path(torch.hub.get_dir()) / "checkpoints" / ALEXNET_FILE]
        linear = [folder / LINEAR_FILE, *(Path(p) / "weights/v0.1/alex.pth" for p in packages)]
        files = [next(filter(Path.is_file, places), None) for places in (network, linear)]
        if files[0] is None or files[1] is None:
            raise WeightsError(
                "LPIPS needs AlexNet and its own linear weights, which are not on this machine.",
                f"Put torchvision's {ALEXNET_FILE}, and weights/v0.1/alex.pth of the package lpips "
                f"as {LINEAR_FILE}, into {folder}; or use distance=backbone.",
            )
        return cls.from_files(files[0], files[1])

    @classmethod
    def from_files(cls, alexnet: Path, linear: Path) -> Lpips:
        """alexnet: torchvision's state dict. linear: LPIPS's (version 0.1). Raises WeightsError."""
        network = AlexNetStages()
        try:
            own = torch.load(alexnet, map_location="cpu", weights_only=True)
            network.load_state_dict({k: v for k, v in own.items() if k.startswith("features.")})
            lines = torch.load(linear, map_location="cpu", weights_only=True)
            each = [lines[f"lin{number}.model.1.weight"] for number in range(5)]
        except (OSError, KeyError, RuntimeError, pickle.UnpicklingError) as error:
            raise WeightsError(
                f"LPIPS cannot be made from '{alexnet}' and '{linear}'.",
                "Fetch the files again, or use distance=backbone.",
            ) from error
        weights = tuple(layer.flatten().clamp(min=0) for layer in each)
        return cls(network.eval().requires_grad_(False), weights)

    @torch.no_grad()
    def __call__(self, image: Tensor, features: ImageFeatures) -> Tensor:
        """The descriptor of an image (1, 3, S, S) in [0, 1]; the backbone's features are not
        used."""
        small = F.interpolate(
            image.cpu(), size=(LPIPS_SIDE, LPIPS_SIDE), mode="bilinear", antialias=True
        )
        shift, scale = (torch.tensor(each).view(1, 3, 1, 1) for each in (SHIFT, SCALE))
        stages = self.network((2 * small - 1 - shift) / scale)
        return signature(stages, self.weights).to(image.device)


class AlexNetStages(nn.Module):
    """The convolutions of AlexNet (Krizhevsky 2014), named as torchvision names them."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for number, (inputs, outputs, *shape) in enumerate((*ALEXNET, (256, 256, 3, 1, 1))):
            kernel, stride, padding = shape
            if number in (1, 2):
                layers.append(nn.MaxPool2d(3, 2))
            layers += [nn.Conv2d(inputs, outputs, kernel, stride, padding), nn.ReLU()]
        self.features = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> list[Tensor]:
        """What comes out of each of the five ReLUs."""
        stages, x = [], images
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                stages.append(x)
        return stages


def _at_most(stage: Tensor, side: int) -> Tensor:
    return stage if stage.shape[-1] <= side else F.adaptive_avg_pool2d(stage, side)
