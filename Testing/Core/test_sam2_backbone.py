"""The SAM2 backbone against SAM2's own video predictor, and what the method relies on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from OFLSAM2Core.backbones.base import Decoded, Memory
from OFLSAM2Core.backbones.manifest import list_backbones
from OFLSAM2Core.backbones.sam2_backbone import Sam2Backbone, displayed_logits
from OFLSAM2Core.backbones.sam2_config import CONFIGS, MODEL_OPTIONS, build_sam2
from OFLSAM2Core.errors import InputError, WeightsError

SIDE = 128
FRAMES = 20
FRAME_SHAPE = (96, 112)
TOLERANCE = 1e-4


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bright disc that wanders through noise, as a folder of JPEG frames."""
    folder = tmp_path_factory.mktemp("frames")
    rng = np.random.default_rng(0)
    for index in range(FRAMES):
        image = 60 + rng.normal(0, 10, FRAME_SHAPE) + 120 * _disc(index)
        pixels = np.clip(image, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).convert("RGB").save(folder / f"{index:05d}.jpg", quality=95)
    return folder


def _disc(index: int) -> np.ndarray:
    rows, columns = np.mgrid[: FRAME_SHAPE[0], : FRAME_SHAPE[1]]
    row, column = 48 + 10 * np.sin(index / 3), 30 + 2 * index
    return (columns - column) ** 2 + (rows - row) ** 2 < 15**2


def _images(frames: Path) -> Tensor:
    """As SAM2 reads frames, but for the mean and deviation, which the backbone applies."""
    files = sorted(frames.glob("*.jpg"))
    squares = [np.array(Image.open(file).convert("RGB").resize((SIDE, SIDE))) for file in files]
    return torch.from_numpy(np.stack(squares) / 255.0).permute(0, 3, 1, 2).float()


def _label() -> Tensor:
    mask = torch.from_numpy(_disc(0))[None, None].float()
    square = interpolate(mask, size=(SIDE, SIDE), mode="bilinear", antialias=True)
    return (square >= 0.5).float()


def _by_the_predictor(backbone: Sam2Backbone, architecture: str, frames: Path, last: int) -> list:
    """Logits at the frames' own size for frames 1 to `last`, by SAM2VideoPredictor."""
    from sam2.sam2_video_predictor import SAM2VideoPredictor

    predictor = build_sam2(CONFIGS[architecture], SIDE, SAM2VideoPredictor)
    predictor.load_state_dict(backbone.model.state_dict())
    state = predictor.init_state(str(frames))
    predictor.add_new_mask(state, frame_idx=0, obj_id=1, mask=_disc(0))
    shown = predictor.propagate_in_video(state, max_frame_num_to_track=last)
    return [logits.clone() for index, _, logits in shown if index > 0]


def _by_the_backbone(backbone: Sam2Backbone, frames: Path, last: int, keep: int = 15) -> list:
    """The same by memory alone: one labelled slice as support, then slice after slice."""
    images = _images(frames)
    support = backbone.encode_memory(backbone.encode(images[:1]), _label())
    done: list[Memory] = []
    shown = []
    for index in range(1, last + 1):
        features = backbone.encode(images[index : index + 1])
        recent = [(offset + 1, memory) for offset, memory in enumerate(reversed(done[-keep:]))]
        target = backbone.attend(features, [support], recent, support_offsets=[index])
        decoded = backbone.decode(features, target)
        logits = displayed_logits(decoded)
        square = interpolate(logits, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
        done.append(backbone.encode_memory(features, torch.sigmoid(square), decoded))
        shown.append(interpolate(logits, FRAME_SHAPE, mode="bilinear", align_corners=False))
    return shown


def _largest_difference(one: list, other: list) -> float:
    assert len(one) == len(other) > 0
    return max((a - b).abs().max().item() for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("architecture", "seed", "last"),
    # All 19 frames on the toy, so that memories rotate out and all pointers take part; with the
    # real tiny encoder and its four layers of memory attention six frames, which fill the memory.
    [("sam2-toy", 3, FRAMES - 1), ("sam2-toy", 6, FRAMES - 1), ("sam2-tiny", 8, 6)],
)
def test_memory_alone_gives_the_masks_of_sam2_video_predictor(
    frames: Path, architecture: str, seed: int, last: int
) -> None:
    backbone = Sam2Backbone.random(architecture, seed, SIDE)
    theirs = _by_the_predictor(backbone, architecture, frames, last)
    ours = _by_the_backbone(backbone, frames, last)
    assert _largest_difference(ours, theirs) <= TOLERANCE
    # That these are masks and not a constant, and change from frame to frame:
    areas = [(logits > 0).float().mean().item() for logits in theirs]
    assert all(0.02 < area < 0.98 for area in areas)
    assert (theirs[0] - theirs[-1]).abs().max() > 0.1


def test_a_structure_that_sam2_finds_absent_is_absent_here(frames: Path) -> None:
    backbone = Sam2Backbone.random("sam2-toy", 0, SIDE)
    theirs = _by_the_predictor(backbone, "sam2-toy", frames, 8)
    assert max(logits.max().item() for logits in theirs) == -1024
    assert _largest_difference(_by_the_backbone(backbone, frames, 8), theirs) == 0


def test_the_comparison_notices_one_forgotten_pointer(frames: Path) -> None:
    backbone = Sam2Backbone.random("sam2-toy", 1, SIDE)
    whole = _by_the_backbone(backbone, frames, FRAMES - 1)
    without = _by_the_backbone(backbone, frames, FRAMES - 1, keep=14)
    assert _largest_difference(whole[:15], without[:15]) == 0
    assert _largest_difference(whole, without) > 10 * TOLERANCE


@pytest.fixture(scope="module")
def backbone() -> Sam2Backbone:
    return Sam2Backbone.random(seed=1, image_size=SIDE)


def _masks(count: int) -> Tensor:
    """Squares of different sizes, the last one empty."""
    masks = torch.zeros(count, 1, SIDE, SIDE)
    for index in range(count - 1):
        masks[index, :, 20 : 50 + 15 * index, 30 + 10 * index : 90] = 1
    return masks


def test_three_structures_at_once_equal_one_at_a_time(backbone: Sam2Backbone) -> None:
    """Each operation on the same input: rounding to bfloat16 would carry from one to the next."""
    images = torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    first, second, third = (backbone.encode(images[i : i + 1]) for i in range(3))
    masks = _masks(3)
    support = backbone.encode_memory(first, masks)
    before = backbone.decode(second, backbone.attend(second, [support, support], []))
    probabilities = torch.sigmoid(_square(before.logits))
    recent = backbone.encode_memory(second, probabilities, before)
    target = backbone.attend(third, [support], [(1, recent)])
    decoded = backbone.decode(third, target)
    for index in range(3):
        one = slice(index, index + 1)
        alone = _of_structure(before, one)
        _same_memory(backbone.encode_memory(first, masks[one]), support.of([index]))
        _same_memory(backbone.encode_memory(second, probabilities[one], alone), recent.of([index]))
        attended = backbone.attend(third, [support.of([index])], [(1, recent.of([index]))])
        torch.testing.assert_close(attended, target[one], rtol=0, atol=2e-5)
        single = backbone.decode(third, target[one])
        whole = _of_structure(decoded, one)
        for name in ("logits", "iou", "object_score", "pointer"):
            torch.testing.assert_close(
                getattr(single, name), getattr(whole, name), rtol=0, atol=2e-5
            )
    assert (target[0] - target[1]).abs().max() > 0.1  # The structures do differ.


def _of_structure(decoded: Decoded, one: slice) -> Decoded:
    assert decoded.object_score is not None and decoded.pointer is not None
    return Decoded(
        decoded.logits[one], decoded.iou[one], decoded.object_score[one], decoded.pointer[one]
    )


def _same_memory(one: Memory, other: Memory) -> None:
    """The same, but for values that fall to the next bfloat16 (8 bits of precision)."""
    torch.testing.assert_close(one.features, other.features, rtol=2**-7, atol=1e-5)
    torch.testing.assert_close(one.pointer, other.pointer, rtol=0, atol=2e-5)


def _square(logits: Tensor) -> Tensor:
    return interpolate(logits, size=(SIDE, SIDE), mode="bilinear", align_corners=False)


def test_slices_encoded_together_equal_slices_encoded_one_by_one(backbone: Sam2Backbone) -> None:
    images = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    both = backbone.encode(images)
    for index in range(2):
        one = backbone.encode(images[index : index + 1])
        torch.testing.assert_close(both.embedding[index : index + 1], one.embedding)
        for level, single in zip(both.high_res, one.high_res, strict=True):
            torch.testing.assert_close(level[index : index + 1], single)


def test_masks_are_differentiable_in_the_target_features_and_in_nothing_else(
    backbone: Sam2Backbone,
) -> None:
    before = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    features = backbone.encode(torch.rand(1, 3, SIDE, SIDE))
    assert not features.embedding.requires_grad
    target = features.embedding.repeat(2, 1, 1, 1).requires_grad_()
    backbone.decode(features, target).logits.square().mean().backward()
    assert target.grad is not None and target.grad.abs().max() > 0
    assert all(p.grad is None and not p.requires_grad for p in backbone.model.parameters())
    assert not backbone.model.training
    assert all(torch.equal(before[name], v) for name, v in backbone.model.state_dict().items())


def test_following_the_gradient_through_the_frozen_decoder_fits_a_mask(
    backbone: Sam2Backbone,
) -> None:
    features = backbone.encode(torch.rand(1, 3, SIDE, SIDE))
    wanted = interpolate(_masks(2)[:1], size=(SIDE // 4, SIDE // 4))
    target = features.embedding.clone().requires_grad_()
    optimiser = torch.optim.Adam([target], lr=0.05)
    losses = []
    for _ in range(15):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            backbone.decode(features, target).logits, wanted
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_a_memory_survives_being_kept_in_half_precision(backbone: Sam2Backbone) -> None:
    """It is rounded as SAM2 rounds it, to bfloat16, so nothing more is lost there."""
    features = backbone.encode(torch.rand(1, 3, SIDE, SIDE))
    memory = backbone.encode_memory(features, _masks(2))
    kept = memory.to("cpu", torch.bfloat16)
    assert torch.equal(kept.features.float(), memory.features)
    attended = backbone.attend(features, [kept], [])
    torch.testing.assert_close(attended, backbone.attend(features, [memory], []), rtol=0, atol=0.05)


def test_shapes_of_tiny_at_the_512_pixels_of_medsam2() -> None:
    backbone = Sam2Backbone.random("sam2-tiny", image_size=512)
    features = backbone.encode(torch.rand(1, 3, 512, 512))
    assert backbone.feature_size == 32
    assert features.embedding.shape == (1, backbone.feature_channels, 32, 32)
    assert [level.shape[1:] for level in features.high_res] == [(32, 128, 128), (64, 64, 64)]
    masks = torch.zeros(2, 1, 512, 512)
    memory = backbone.encode_memory(features, masks)
    assert memory.features.shape == (2, backbone.memory_channels, 32, 32)
    assert memory.pointer is not None and memory.pointer.shape == (2, 256)
    target = backbone.attend(features, [memory], [(1, memory)])
    assert target.shape == (2, backbone.attended_channels, 32, 32)
    decoded = backbone.decode(features, target)
    assert decoded.logits.shape == (2, 1, 128, 128)
    assert decoded.iou.shape == (2,) and bool(((decoded.iou >= 0) & (decoded.iou <= 1)).all())
    assert decoded.object_score is not None and decoded.object_score.shape == (2,)


@pytest.mark.parametrize(
    ("architecture", "file"),
    [
        ("sam2-tiny", "sam2.1_hiera_t.yaml"),
        ("sam2-small", "sam2.1_hiera_s.yaml"),
        ("sam2-base-plus", "sam2.1_hiera_b+.yaml"),
        ("sam2-large", "sam2.1_hiera_l.yaml"),
    ],
)
def test_the_table_of_sizes_says_what_the_sam2_package_says(architecture: str, file: str) -> None:
    import sam2  # noqa: F401 (tells hydra where its files are)

    model = compose(config_name=f"configs/sam2.1/{file}").model
    theirs = dict(model.image_encoder.trunk)
    ours = CONFIGS[architecture].trunk()
    defaults = {"embed_dim": 112, "num_heads": 2, "stages": [2, 3, 16, 3]}
    defaults |= {"global_att_blocks": [12, 16, 20], "window_spec": [8, 4, 14, 7]}
    defaults |= {"window_pos_embed_bkg_spatial_size": [14, 14]}
    for key, value in ours.items():
        expected = theirs.get(key, defaults[key])
        assert (list(value) if isinstance(value, tuple) else value) == expected, key
    parts = {"_target_", "image_encoder", "memory_attention", "memory_encoder", "image_size"}
    assert {key: model[key] for key in model if key not in parts} == MODEL_OPTIONS
    assert model.memory_attention.num_layers == CONFIGS[architecture].attention_layers


def test_the_model_built_here_is_the_one_that_the_sam2_package_builds() -> None:
    from sam2.build_sam import build_sam2 as build_by_package

    theirs = build_by_package("configs/sam2.1/sam2.1_hiera_t.yaml", device="cpu")
    ours = build_sam2(CONFIGS["sam2-tiny"], 1024)
    ours.load_state_dict(theirs.state_dict())  # Strict: the same names and shapes.
    images = torch.rand(1, 3, 256, 256)
    with torch.no_grad():
        for one, other in zip(
            ours.forward_image(images)["backbone_fpn"],
            theirs.forward_image(images)["backbone_fpn"],
            strict=True,
        ):
            assert torch.equal(one, other)


def test_every_sam2_backbone_of_the_manifest_has_an_architecture() -> None:
    named = {info.architecture for info in list_backbones()} - {"litemedsam"}
    assert named == set(CONFIGS) - {"sam2-toy"}


def test_weights_of_another_size_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "toy.pt"
    torch.save({"model": Sam2Backbone.random().model.state_dict()}, path)
    with pytest.raises(WeightsError, match="toy.pt does not fit the backbone 'sam2.1-tiny'"):
        Sam2Backbone.load("sam2.1-tiny", weights=path)


def test_weights_from_a_file_give_the_same_features_and_the_files_identity(tmp_path: Path) -> None:
    import hashlib

    made = Sam2Backbone.random("sam2-tiny", seed=5, image_size=64)
    path = tmp_path / "mine.pt"
    torch.save({"model": made.model.state_dict()}, path)
    read = Sam2Backbone.load("medsam2", weights=path, image_size=64)
    assert read.identity == hashlib.sha256(path.read_bytes()).hexdigest()
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(read.encode(images).embedding, made.encode(images).embedding)


def test_the_same_seed_gives_the_same_backbone_and_leaves_the_global_seed_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    one, same, other = (Sam2Backbone.random(seed=seed) for seed in (4, 4, 5))
    assert torch.equal(torch.rand(3), expected)
    assert one.identity == same.identity != other.identity
    weights = [list(each.model.parameters())[0] for each in (one, same, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("side", [32, 100, 1000])
def test_a_side_that_sam2_cannot_work_at_is_refused(side: int) -> None:
    with pytest.raises(InputError, match="multiple of 32"):
        Sam2Backbone.random(image_size=side)


def test_images_of_the_wrong_size_and_memories_that_are_missing_are_refused(
    backbone: Sam2Backbone,
) -> None:
    with pytest.raises(ValueError, match="128"):
        backbone.encode(torch.rand(1, 3, 64, 64))
    with pytest.raises(ValueError, match="memory"):
        backbone.attend(backbone.encode(torch.rand(1, 3, SIDE, SIDE)), [], [])


def test_running_sam2_imports_neither_torchvision_nor_timm() -> None:
    code = (
        "import sys, torch\n"
        "from OFLSAM2Core.backbones.sam2_backbone import Sam2Backbone\n"
        "assert 'sam2' not in sys.modules\n"
        "b = Sam2Backbone.random()\n"
        "f = b.encode(torch.rand(1, 3, 128, 128))\n"
        "m = b.encode_memory(f, torch.ones(1, 1, 128, 128))\n"
        "b.decode(f, b.attend(f, [m], []))\n"
        "assert not {'torchvision', 'timm'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
