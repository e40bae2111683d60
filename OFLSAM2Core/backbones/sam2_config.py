"""SAM 2.1's architectures, built in plain Python.

The `sam2` package describes them in YAML for hydra. Here they are a small table instead: hydra
keeps one global state a process, its configuration cannot be given other sizes without editing
strings, and a typing error shows only at run time. A test compares this table with the package's
own YAML files. Nothing of `sam2` is imported before a model is built, and nothing that is
imported then needs torchvision.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from OFLSAM2Core.backbones.weights import load_state_dict
from OFLSAM2Core.errors import InputError, WeightsError

if TYPE_CHECKING:
    from sam2.modeling.sam2_base import SAM2Base

STRIDE = 16
"""Pixels of the image to one position of the embedding."""

HIDDEN = 256
MEMORY = 64


@dataclass(frozen=True)
class Sam2Config:
    """What differs between the sizes of SAM 2.1: the Hiera encoder.

    window_spec, stages: window side and number of blocks of the four stages.
    global_att_blocks: the blocks that attend to the whole image instead of a window.
    attention_layers: layers of memory attention (4 in every published size).
    """

    embed_dim: int
    num_heads: int
    stages: tuple[int, int, int, int]
    global_att_blocks: tuple[int, ...]
    window_pos_embed_bkg_spatial_size: tuple[int, int]
    window_spec: tuple[int, int, int, int] = (8, 4, 14, 7)
    attention_layers: int = 4

    def trunk(self) -> dict[str, Any]:
        """Arguments of `sam2.modeling.backbones.hieradet.Hiera`."""
        return {
            "embed_dim": self.embed_dim,
            "num_heads": self.num_heads,
            "stages": self.stages,
            "global_att_blocks": self.global_att_blocks,
            "window_pos_embed_bkg_spatial_size": self.window_pos_embed_bkg_spatial_size,
            "window_spec": self.window_spec,
        }


CONFIGS = {
    "sam2-tiny": Sam2Config(96, 1, (1, 2, 7, 2), (5, 7, 9), (7, 7)),
    "sam2-small": Sam2Config(96, 1, (1, 2, 11, 2), (7, 10, 13), (7, 7)),
    "sam2-base-plus": Sam2Config(112, 2, (2, 3, 16, 3), (12, 16, 20), (14, 14)),
    "sam2-large": Sam2Config(144, 2, (2, 6, 36, 4), (23, 33, 43), (7, 7), (8, 4, 16, 8)),
    # Not published by anyone: every part of the architecture at a few milliseconds a slice, for
    # tests with random weights.
    "sam2-toy": Sam2Config(16, 1, (1, 1, 2, 1), (3,), (7, 7), attention_layers=1),
}

MODEL_OPTIONS: dict[str, Any] = {
    "num_maskmem": 7,
    "sigmoid_scale_for_mem_enc": 20.0,
    "sigmoid_bias_for_mem_enc": -10.0,
    "use_mask_input_as_output_without_sam": True,
    "directly_add_no_mem_embed": True,
    "no_obj_embed_spatial": True,
    "use_high_res_features_in_sam": True,
    "multimask_output_in_sam": True,
    "iou_prediction_use_sigmoid": True,
    "use_obj_ptrs_in_encoder": True,
    "add_tpos_enc_to_obj_ptrs": True,
    "proj_tpos_enc_in_obj_ptrs": True,
    "use_signed_tpos_enc_to_obj_ptrs": True,
    "only_obj_ptrs_in_the_past_for_eval": True,
    "pred_obj_scores": True,
    "pred_obj_scores_mlp": True,
    "fixed_no_obj_ptr": True,
    "multimask_output_for_tracking": True,
    "use_multimask_token_for_obj_ptr": True,
    "multimask_min_pt_num": 0,
    "multimask_max_pt_num": 1,
    "use_mlp_for_obj_ptr_proj": True,
    "compile_image_encoder": False,
}
"""The options that all sizes of SAM 2.1 share, as in its YAML files."""

PREDICTOR_OPTIONS: dict[str, Any] = {
    # `build_sam2_video_predictor` sets these two by default, so they belong to SAM 2 as people
    # know it. (It also asks for holes to be filled, by a CUDA extension that the wheel lacks.)
    "binarize_mask_from_pts_for_mem_enc": True,
    "sam_mask_decoder_extra_args": {
        "dynamic_multimask_via_stability": True,
        "dynamic_multimask_stability_delta": 0.05,
        "dynamic_multimask_stability_thresh": 0.98,
    },
}


def build_sam2(
    config: Sam2Config, image_size: int, model_class: type[SAM2Base] | None = None
) -> SAM2Base:
    """A SAM 2.1 model without its weights, in evaluation mode, on the CPU.

    image_size: side of the square input in pixels, a multiple of 32, at least 64.
    model_class: SAM2Base, or a class derived from it (SAM2VideoPredictor).
    Raises InputError for a side that does not divide.
    """
    if image_size < 64 or image_size % 32:
        raise InputError(
            f"SAM2 cannot work at {image_size} pixels.", "Use a multiple of 32, at least 64."
        )
    from sam2.modeling.backbones.hieradet import Hiera
    from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
    from sam2.modeling.position_encoding import PositionEmbeddingSine
    from sam2.modeling.sam2_base import SAM2Base

    trunk = Hiera(**config.trunk())
    neck = FpnNeck(
        position_encoding=PositionEmbeddingSine(num_pos_feats=HIDDEN),
        d_model=HIDDEN,
        backbone_channel_list=trunk.channel_list,
        fpn_top_down_levels=[2, 3],
        fpn_interp_model="nearest",
    )
    model = (model_class or SAM2Base)(
        image_encoder=ImageEncoder(trunk=trunk, neck=neck, scalp=1),
        memory_attention=_memory_attention(config.attention_layers, image_size // STRIDE),
        memory_encoder=_memory_encoder(),
        image_size=image_size,
        backbone_stride=STRIDE,
        **MODEL_OPTIONS,
        **PREDICTOR_OPTIONS,
    )
    return model.eval()


def build_random_sam2(
    config: Sam2Config,
    image_size: int,
    seed: int,
    model_class: type[SAM2Base] | None = None,
) -> SAM2Base:
    """A SAM 2.1 model with seeded random weights that give masks worth comparing.

    SAM2's own initial values give flat masks and a memory encoder that passes its input through
    (its layers are scaled by 1e-6). Enlarged, masks depend on image and memory.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = build_sam2(config, image_size, model_class)
        for name, parameter in model.named_parameters():
            if name.endswith("gamma"):
                parameter.fill_(0.5)
            elif parameter.ndim > 1 and not name.startswith("image_encoder"):
                parameter.mul_(2.0)
    return model


def load_sam2_weights(model: SAM2Base, path: Path, name: str) -> None:
    """Load a checkpoint into a model built for the backbone `name`.

    Strictly: a checkpoint that only nearly fits would give wrong masks silently. Raises
    WeightsError naming the file and the first tensor that differs.
    """
    tensors = load_state_dict(path)
    wanted = {key: value.shape for key, value in model.state_dict().items()}
    found = {key: value.shape for key, value in tensors.items()}
    if wanted != found:
        differing = sorted(
            key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key)
        )
        raise WeightsError(
            f"{path} does not fit the backbone '{name}': {len(differing)} of {len(wanted)} "
            f"tensors differ, the first is '{differing[0]}'.",
            "Choose the backbone of the size that these weights are of (oflsam2 backbones list).",
        )
    model.load_state_dict(tensors)


def _memory_attention(layers: int, side: int) -> Any:
    from sam2.modeling.memory_attention import MemoryAttention, MemoryAttentionLayer
    from sam2.modeling.sam.transformer import RoPEAttention

    rope = {
        "rope_theta": 10000.0,
        "feat_sizes": (side, side),
        "embedding_dim": HIDDEN,
        "num_heads": 1,
        "downsample_rate": 1,
        "dropout": 0.1,
    }
    layer = MemoryAttentionLayer(
        activation="relu",
        dim_feedforward=2048,
        dropout=0.1,
        pos_enc_at_attn=False,
        self_attention=RoPEAttention(**rope),
        d_model=HIDDEN,
        pos_enc_at_cross_attn_keys=True,
        pos_enc_at_cross_attn_queries=False,
        cross_attention=RoPEAttention(**rope, rope_k_repeat=True, kv_in_dim=MEMORY),
    )
    return MemoryAttention(d_model=HIDDEN, pos_enc_at_input=True, layer=layer, num_layers=layers)


def _memory_encoder() -> Any:
    from sam2.modeling.memory_encoder import CXBlock, Fuser, MaskDownSampler, MemoryEncoder
    from sam2.modeling.position_encoding import PositionEmbeddingSine

    block = CXBlock(dim=HIDDEN, kernel_size=7, padding=3, layer_scale_init_value=1e-6)
    return MemoryEncoder(
        out_dim=MEMORY,
        position_encoding=PositionEmbeddingSine(num_pos_feats=MEMORY),
        mask_downsampler=MaskDownSampler(kernel_size=3, stride=2, padding=1),
        fuser=Fuser(block, num_layers=2),
    )
