"""SAMed: low-rank updates change nothing at first, and with the decoder are all that changes."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from disc_and_bar import STRUCTURES, disc_and_bar
from torch import nn
from toy_backbone import ToyBackbone

from OFLSAM2Core.backbones.base import Backbone
from OFLSAM2Core.backbones.sam2_backbone import Sam2Backbone
from OFLSAM2Core.backbones.tiny_vit import TinyViT
from OFLSAM2Core.backbones.trainable import TrainableLiteMedSam, TrainableSam
from OFLSAM2Core.data.overlap import dice
from OFLSAM2Core.data.slice_geometry import support_geometries
from OFLSAM2Core.data.volume import SupportCase
from OFLSAM2Core.errors import InputError, TaskError
from OFLSAM2Core.learned_task import LearnedTask
from OFLSAM2Core.methods.common.learned_tensors import learned_tensors
from OFLSAM2Core.methods.samed.lora import LoraLinear, add_lora
from OFLSAM2Core.methods.samed.training import WARM_UP, enough_pixels, rate
from OFLSAM2Core.session import FewShotSession

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def backbone() -> Sam2Backbone:
    return Sam2Backbone.random(seed=3, image_size=64)


def _tiny_vit(backbone: Sam2Backbone, masks: int = 3) -> TrainableSam:
    """LiteMedSAM's encoder with random weights, and a decoder of SAM2's without finer maps."""
    from sam2.modeling.position_encoding import PositionEmbeddingRandom
    from sam2.modeling.sam.mask_decoder import MaskDecoder
    from sam2.modeling.sam.transformer import TwoWayTransformer

    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer = TwoWayTransformer(depth=1, embedding_dim=256, mlp_dim=64, num_heads=8)
        decoder = MaskDecoder(transformer_dim=256, transformer=transformer)
        encoder = TinyViT().eval()
        position = PositionEmbeddingRandom(128)
    return TrainableLiteMedSam(encoder, decoder, torch.zeros(1, 256, 1, 1), position, masks).eval()


@pytest.fixture(params=["SAM2", "TinyViT"])
def sam(request: pytest.FixtureRequest, backbone: Sam2Backbone) -> TrainableSam:
    return backbone.trainable(3).eval() if request.param == "SAM2" else _tiny_vit(backbone)


def _images(side: int, count: int = 1) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def _side(sam: TrainableSam) -> int:
    return 32 if isinstance(sam, TrainableLiteMedSam) else 64


def test_at_zero_the_encoder_is_the_frozen_one(sam: TrainableSam) -> None:
    images = _images(_side(sam))
    with torch.no_grad():
        before = sam(images)
        add_lora(sam, 4)
        assert torch.equal(sam(images), before)
    side = 32 if isinstance(sam, TrainableLiteMedSam) else 16  # 4 times the embedding's.
    assert before.shape == (1, 3, side, side)
    layers = [m for m in sam.encoder.modules() if isinstance(m, LoraLinear)]
    assert len(layers) == (5 if _side(sam) == 64 else 10)


def test_only_lora_and_decoder_change_in_training(sam: TrainableSam) -> None:
    add_lora(sam, 2)
    before = {name: value.clone() for name, value in sam.state_dict().items()}
    learned = [value for value in sam.parameters() if value.requires_grad]
    optimiser = torch.optim.AdamW(learned, 1e-2, weight_decay=0.1)
    images = _images(_side(sam))
    for _ in range(2):  # In the first step only the matrices that are zero have a gradient.
        optimiser.zero_grad()
        sam(images).softmax(dim=1)[:, 1].square().mean().backward()
        optimiser.step()
    changed = {k for k, v in sam.state_dict().items() if not torch.equal(v, before[k])}
    encoder = {name for name in changed if name.startswith("encoder.")}
    lora = {
        f"encoder.{k}" for k, _ in sam.encoder.named_parameters() if ".up." in k or ".down." in k
    }
    assert encoder == lora
    assert {name.split(".")[0] for name in changed} == {"encoder", "decoder", "no_prompt"}
    assert changed <= set(learned_tensors(sam))


def test_the_updated_rows_are_queries_and_values(sam: TrainableSam) -> None:
    attention = next(a for a in sam.attentions())
    layer, qkv = attention.layer, attention.layer.get_submodule("qkv")
    assert isinstance(qkv, nn.Linear)
    width = qkv.in_features
    windows = isinstance(sam, TrainableLiteMedSam)
    shape = (2, 49, width) if windows else (2, 8, 8, width)
    x = torch.rand(shape, generator=torch.Generator().manual_seed(2))
    every = torch.arange(qkv.out_features)
    others = torch.isin(every, torch.cat([attention.queries, attention.values]), invert=True)
    keys = every[others]
    assert len(keys) == len(attention.queries) == len(attention.values)
    with torch.no_grad():
        usual = layer(x)
        qkv.weight[keys] += 1.0 * torch.rand_like(qkv.weight[keys])
        assert not torch.allclose(layer(x), usual, atol=1e-5)
        # With queries of zero, keys do not matter.
        qkv.weight[attention.queries] = 0
        assert qkv.bias is not None
        qkv.bias[attention.queries] = 0
        asked = layer(x)
        qkv.weight[keys] += 1.0 * torch.rand_like(qkv.weight[keys])
        assert torch.allclose(layer(x), asked, atol=1e-5)
        # And without values only the bias comes out.
        qkv.weight[attention.values] = 0
        qkv.bias[attention.values] = 0
        bias = layer.get_submodule("proj").bias
        assert torch.allclose(layer(x), bias.expand_as(layer(x)), atol=1e-6)


def test_all_masks_begin_alike_and_near_the_frozen_decoder_s_first(backbone: Sam2Backbone) -> None:
    sam = backbone.trainable(4)
    images = _images(64)
    with torch.no_grad():
        logits = sam(images)
        model, features = backbone.model, backbone.encode(images)
        expected = model.sam_mask_decoder.predict_masks(
            image_embeddings=features.embedding + model.no_mem_embed.reshape(1, -1, 1, 1),
            image_pe=model.sam_prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=torch.zeros(1, 0, 256),
            dense_prompt_embeddings=model.sam_prompt_encoder.no_mask_embed.weight.reshape(
                1, -1, 1, 1
            ).expand(1, -1, 4, 4),
            repeat_image=False,
            high_res_features=list(features.high_res),
        )[0]
    for mask in logits[0]:
        assert torch.allclose(mask, logits[0, 0], atol=1e-4)
    # Not equal: the tokens of masks see each other, and the frozen decoder's differ.
    both = torch.stack([logits[0, 0].flatten(), expected[0, 0].flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.95


def test_litemedsam_takes_images_of_any_size(backbone: Sam2Backbone) -> None:
    sam = _tiny_vit(backbone)
    assert sam.takes_any_size and not backbone.trainable(3).takes_any_size
    for side in (32, 64, 96):
        with torch.no_grad():
            assert sam(_images(side)).shape == (1, 3, side, side)


def test_an_image_has_two_pixels_for_one_of_the_slice_but_no_more_than_the_backbone_takes() -> None:
    slicings = support_geometries([_case(0)], "auto")  # Slices of 60 x 50 pixels.
    assert enough_pixels(slicings, 256) == 128
    assert enough_pixels(slicings, 96) == 96


def test_the_shares_of_the_support_are_added_to_the_logits() -> None:
    backbone = Sam2Backbone.random(seed=3, image_size=64)
    case = _case(0)
    task = _session(backbone, training_steps=1, learning_rate=1e-6).learn([case])
    shares = np.exp(task.state.metadata["log_shares"])
    expected = [np.mean(case.labels == value) for value in (0, 1, 4)]
    np.testing.assert_allclose(shares, expected, rtol=1e-5)
    confidence = next(iter(_session(backbone).segment(case.volume, task))).confidence
    # Masks begin alike, so that of an untrained network only the shares are left.
    assert abs(float(np.median(confidence)) / 255 - expected[0]) < 0.05


def test_the_learning_rate_rises_and_falls_to_nothing() -> None:
    assert rate(0) < 0.2 and rate(WARM_UP) == pytest.approx(1)
    assert rate(0.3) > rate(0.6) > rate(0.99) and rate(1) == 0


# From end to end


def _case(number: int) -> SupportCase:
    return disc_and_bar(number, bar_top=42)


def _session(backbone: Backbone, **options: float) -> FewShotSession:
    return FewShotSession(backbone, method="samed", options=options)


@pytest.mark.slow
def test_structures_are_learned_from_two_cases(backbone: Sam2Backbone, tmp_path: Path) -> None:
    session = _session(backbone, training_steps=150, learning_rate=3e-3, core_minutes=10)
    task = session.learn([_case(0), _case(1)])
    task = LearnedTask.load(task.save(tmp_path / "task.oflsam2"))
    truth = _case(2)
    labels = np.full(truth.labels.shape, 255, np.uint8)
    for result in session.segment(truth.volume, task):
        labels[result.index_expression] = result.labels
    assert set(np.unique(labels)) <= {0, 1, 4}
    for structure in STRUCTURES:
        found, there = (array == structure.label for array in (labels, truth.labels))
        assert dice(found, there) > 0.5


def test_the_same_seed_and_steps_give_the_same_task_and_it_segments_every_slice(
    backbone: Sam2Backbone, tmp_path: Path
) -> None:
    before = {k: v.clone() for k, v in backbone.model.state_dict().items()}
    session = _session(backbone, training_steps=2)
    one, other = (session.learn([_case(0)]) for _ in range(2))
    for name, tensor in one.state.tensors.items():
        assert torch.equal(tensor, other.state.tensors[name]), name
    assert one.state.summary["training steps"] == 2
    for name, tensor in backbone.model.state_dict().items():
        assert torch.equal(tensor, before[name])  # The backbone itself is frozen.
    read = LearnedTask.load(one.save(tmp_path / "task.oflsam2"))
    direct, again = (
        [(r.index, r.labels.tobytes()) for r in session.segment(_case(1).volume, each)]
        for each in (one, read)
    )
    assert direct == again and [index for index, _ in direct] == list(range(6))


def test_where_the_encoder_calculates_in_bfloat16_training_and_segmenting_do_so_too(
    backbone: Sam2Backbone,
) -> None:
    quick = copy.copy(backbone)
    quick.precision = "bfloat16"
    found = {}
    for each in (backbone, quick):
        task = _session(each, training_steps=3).learn([_case(0)])
        assert all(tensor.dtype == torch.float32 for tensor in task.state.tensors.values())
        slices = _session(each).segment(_case(1).volume, task)
        found[each.precision] = np.stack([result.confidence for result in slices]).astype(float)
    apart = np.abs(found["float32"] - found["bfloat16"])
    assert 0 < apart.mean() < 10  # Of 255: rounded otherwise, and learned much the same.


def test_what_cannot_be_used_is_refused_in_words(backbone: Sam2Backbone) -> None:
    with pytest.raises(InputError, match="'toy' cannot be fine-tuned"):
        _session(ToyBackbone()).learn([_case(0)])
    session = _session(backbone, training_steps=1)
    task = session.learn([_case(0)])
    del task.state.tensors["learned.no_prompt"]
    with pytest.raises(TaskError, match="lacks a part"):
        session.open(_case(1).volume, task)
