"""A few support slices that a task keeps, so that the head can be trained on without forgetting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from OFLSAM2Core.methods.common.mapping_network import PcaFeatureMap
from OFLSAM2Core.methods.ofl_sam2_atlas.config import KEPT_SLICES
from OFLSAM2Core.methods.ofl_sam2_atlas.head import Mapping as TauMapping
from OFLSAM2Core.methods.ofl_sam2_atlas.support import SupportSlice, spread


@dataclass(frozen=True, eq=False)
class TrainingSlice:
    """A support slice as the head sees it. case: which one it is of. slice_position: -1 and 1
    at the ends of the structures.
    components: (C, h, w), detail: (1, S, S), both in half precision. masks, prior: (N, S, S) bytes;
    prior None where there is none."""

    case: int
    slice_position: float
    components: Tensor
    detail: Tensor
    masks: Tensor
    prior: Tensor | None

    @classmethod
    def of(cls, each: SupportSlice, features: PcaFeatureMap) -> TrainingSlice:
        components = features(each.embedding.float()[None]).half()
        return cls(each.case, each.slice_position, components, each.detail, each.masks, each.prior)


@dataclass(frozen=True, eq=False)
class KeptSlices:
    """slices: of several cases. without: tau of the mapping network without each case, (N, D, M),
    by its number."""

    slices: tuple[TrainingSlice, ...]
    without: Mapping[int, Tensor]

    @classmethod
    def of(
        cls,
        slices: Sequence[SupportSlice],
        features: PcaFeatureMap,
        without: Mapping[int, TauMapping],
    ) -> KeptSlices:
        """About KEPT_SLICES of them, evenly over the cases and their slices; no copies."""
        kept = []
        for case in without:
            own = sorted(
                (each for each in slices if each.case == case and each.copy == 0),
                key=lambda each: each.slice_position,
            )
            chosen = spread(range(len(own)), max(1, KEPT_SLICES // len(without)))
            kept += [TrainingSlice.of(own[n], features) for n in chosen]
        return cls(tuple(kept), {case: each.tau for case, each in without.items()})

    def and_of(self, case: int, slices: Sequence[TrainingSlice], tau: Tensor) -> KeptSlices:
        """With slices of one more case, as many as before in all. tau: of the mapping network
        without that case, (N, D, M)."""
        count = len(self.without) + 1
        each = max(1, KEPT_SLICES // count)
        kept: list[TrainingSlice] = []
        for number in self.without:
            own = [one for one in self.slices if one.case == number]
            kept += [own[n] for n in spread(range(len(own)), min(each, len(own)))]
        own = sorted(slices, key=lambda one: one.slice_position)
        kept += [own[n] for n in spread(range(len(own)), min(each, len(own)))]
        return KeptSlices(tuple(kept), {**self.without, case: tau})

    def to_tensors(self) -> dict[str, Tensor]:
        """Components and detail in bytes: a task file is half as large."""
        if not self.slices:
            return {}
        components, scale = _packed(torch.stack([each.components for each in self.slices]))
        detail, detail_scale = _packed(torch.stack([each.detail for each in self.slices]))
        priors = [
            torch.zeros_like(each.masks) if each.prior is None else each.prior
            for each in self.slices
        ]
        return {
            "case": torch.tensor([each.case for each in self.slices]),
            "slice_position": torch.tensor(
                [each.slice_position for each in self.slices], dtype=torch.float64
            ),
            "components": components,
            "components_scale": scale,
            "detail": detail,
            "detail_scale": detail_scale,
            "masks": torch.stack([each.masks for each in self.slices]),
            "prior": torch.stack(priors),
            "has_prior": torch.tensor([each.prior is not None for each in self.slices]),
            "cases": torch.tensor(list(self.without)),
            "without": torch.stack(list(self.without.values())),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> KeptSlices:
        """Raises KeyError where something is missing; nothing is kept in a task of before."""
        if not tensors:
            return cls((), {})
        components = _unpacked(tensors["components"], tensors["components_scale"])
        detail = _unpacked(tensors["detail"], tensors["detail_scale"])
        slices = [
            TrainingSlice(
                int(tensors["case"][n]),
                float(tensors["slice_position"][n]),
                components[n],
                detail[n],
                tensors["masks"][n],
                tensors["prior"][n] if bool(tensors["has_prior"][n]) else None,
            )
            for n in range(len(components))
        ]
        cases = tensors["cases"].tolist()
        return cls(tuple(slices), dict(zip(cases, tensors["without"], strict=True)))


def _packed(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Maps (T, C, H, W) in whole numbers from -127 to 127, and the size of one by channel, (C,)."""
    maps = maps.float()
    scale = maps.abs().amax(dim=(0, 2, 3)).clamp(min=1e-6) / 127
    return (maps / scale[:, None, None]).round().to(torch.int8), scale


def _unpacked(packed: Tensor, scale: Tensor) -> Tensor:
    return (packed.float() * scale[:, None, None]).half()
