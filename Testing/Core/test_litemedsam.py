"""The default backbone, with its real weights."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from OFLSAM2Core.backbones.litemedsam import BLOCK, LiteMedSamBackbone
from OFLSAM2Core.backbones.weights import identity, load_state_dict, weights_path
from OFLSAM2Core.errors import WeightsError


@pytest.fixture(scope="module")
def backbone() -> LiteMedSamBackbone:
    return LiteMedSamBackbone.load()


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    """A bright disc on a dark, noisy ground."""
    rows, columns = torch.meshgrid(torch.arange(256.0), torch.arange(256.0), indexing="ij")
    disc = ((rows - 120) ** 2 + (columns - 140) ** 2 < 45**2).float()
    noise = torch.rand(256, 256, generator=torch.Generator().manual_seed(0))
    return (0.2 + 0.6 * disc + 0.1 * noise).expand(1, 3, 256, 256)


def test_openvino_and_pytorch_give_the_same_embedding_in_single_precision(
    backbone: LiteMedSamBackbone, image: torch.Tensor
) -> None:
    fast = backbone.with_precision("float32").encode(image).embedding
    with torch.no_grad():
        plain = backbone.encoder(image)
    assert fast.shape == (1, 256, 64, 64)
    assert (fast - plain).norm() / plain.norm() < 1e-4


def test_the_encoder_calculates_in_bfloat16_where_the_processor_does_unless_configured_otherwise(
    backbone: LiteMedSamBackbone, image: torch.Tensor
) -> None:
    import openvino

    able = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    assert backbone.precision == ("bfloat16" if able else "float32")
    exact = backbone.with_precision("float32")
    assert exact.precision == "float32"
    assert backbone.precision == ("bfloat16" if able else "float32")
    quick, slow = (each.encode(image).embedding for each in (backbone, exact))
    apart = float((quick - slow).norm() / slow.norm())
    assert (apart > 1e-4) == able
    assert apart < 0.1


def test_a_precision_that_the_processor_has_not_changes_nothing(
    backbone: LiteMedSamBackbone,
) -> None:
    assert backbone.with_precision("int3") is backbone


def test_the_decoder_with_a_box_prompt_finds_a_disc_so_the_weights_are_where_they_belong(
    backbone: LiteMedSamBackbone, image: torch.Tensor
) -> None:
    """What LiteMedSAM was trained for; one wrong or unloaded layer and it fails."""
    from sam2.modeling.sam.prompt_encoder import PromptEncoder

    path = weights_path("litemedsam")
    weights = load_state_dict(path)
    prompts = PromptEncoder(256, (64, 64), (256, 256), 16)
    prefix = "prompt_encoder."
    prompts.load_state_dict(
        {k[len(prefix) :]: v for k, v in weights.items() if k.startswith(prefix)}
    )
    with torch.no_grad():
        box = torch.tensor([[95.0, 75.0, 185.0, 165.0]])
        sparse, dense = prompts(None, box, None)
        masks, *_ = backbone._decoder.predict_masks(
            backbone.encode(image).embedding, backbone._position, sparse, dense, False
        )
    found, truth = masks[0, 0] > 0, image[0, 0] > 0.6
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.9


def test_memory_features_are_the_mask_itself_and_lose_nothing(
    backbone: LiteMedSamBackbone, image: torch.Tensor
) -> None:
    masks = torch.rand(2, 1, 256, 256, generator=torch.Generator().manual_seed(1))
    memory = backbone.encode_memory(backbone.encode(image), masks)
    assert memory.features.shape == (2, backbone.memory_channels, 64, 64)
    torch.testing.assert_close((F.pixel_shuffle(memory.features, BLOCK) + 1) / 2, masks)


def test_following_the_gradient_through_the_frozen_decoder_fits_a_mask(
    backbone: LiteMedSamBackbone, image: torch.Tensor
) -> None:
    features = backbone.encode(image)
    truth = (image[:, :1] > 0.6).float()
    target = features.embedding.clone().requires_grad_()
    optimiser = torch.optim.Adam([target], 0.03)
    losses = []
    for _ in range(12):
        loss = F.binary_cross_entropy_with_logits(backbone.decode(features, target).logits, truth)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(p.grad is None for p in backbone._decoder.parameters())


def test_weights_of_another_model_are_refused(tmp_path) -> None:  # noqa: ANN001
    path = tmp_path / "other.pth"
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match=r"other\.pth"):
        LiteMedSamBackbone.load(weights=path)
    assert len(identity(path)) == 64
