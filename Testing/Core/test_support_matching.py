"""Training-free matching: copies are matched to what they were made from, and each slice is
predicted from its match alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from OFLSAM2Core.backbones.base import ImageFeatures
from OFLSAM2Core.backbones.sam2_backbone import Sam2Backbone
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.errors import WeightsError
from OFLSAM2Core.learned_task import LearnedTask
from OFLSAM2Core.methods.support_matching.augmented_support import augment
from OFLSAM2Core.methods.support_matching.perceptual_distance import (
    ALEXNET_FILE,
    LINEAR_FILE,
    AlexNetStages,
    Lpips,
    of_backbone,
    signature,
)
from OFLSAM2Core.session import FewShotSession

STRUCTURES = (Structure("disc", 1), Structure("bar", 4))
SIDE = 128


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def backbone() -> Sam2Backbone:
    return Sam2Backbone.random(seed=3, image_size=SIDE)


def _slice(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A smooth image (3, S, S) of its own, and a mask (1, S, S) of its brightest part."""
    rng = np.random.default_rng(number)
    coarse = torch.from_numpy(rng.uniform(0, 1, (1, 1, 6, 6))).float()
    grey = torch.nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bicubic")[0].clamp(0, 1)
    image = grey.expand(3, -1, -1).numpy()
    return np.ascontiguousarray(image), (grey > 0.7).float().numpy()


# The perceptual distance


def test_the_distance_is_lpips_own_sum() -> None:
    """Unit-normalised, squared, weighted by channel, mean over positions, sum over stages."""
    generator = torch.Generator().manual_seed(0)
    ones, others, weights = [], [], []
    for channels, side in ((4, 6), (7, 3)):
        ones.append(torch.randn(1, channels, side, side, generator=generator))
        others.append(torch.randn(1, channels, side, side, generator=generator))
        weights.append(torch.rand(channels, generator=generator))
    expected = 0.0
    for one, other, weight in zip(ones, others, weights, strict=True):
        a, b = (x / x.square().sum(dim=1, keepdim=True).sqrt() for x in (one, other))
        expected += float(((a - b).square() * weight.view(1, -1, 1, 1)).sum(dim=1).mean())
    apart = signature(ones, weights) - signature(others, weights)
    assert float(apart.square().sum()) == pytest.approx(expected, rel=1e-4)


def _signatures(backbone: Sam2Backbone, images: list[np.ndarray]) -> Tensor:
    found = []
    for image in images:
        shown = torch.from_numpy(image)[None]
        found.append(of_backbone(shown, backbone.encode(shown)))
    return torch.stack(found)


def test_a_copy_is_matched_to_the_slice_that_it_was_made_from(backbone: Sam2Backbone) -> None:
    """Recoloured and moved a little, among slices of other content."""
    slices = [_slice(number) for number in range(6)]
    bank = _signatures(backbone, [image for image, _ in slices])
    rng = np.random.default_rng(1)
    right = 0
    for number, (image, _) in enumerate(slices):
        shifted = np.roll(image, 3, axis=2) * rng.uniform(0.9, 1.1)
        copy = np.clip(shifted + rng.normal(0, 0.01, image.shape), 0, 1).astype(np.float32)
        (query,) = _signatures(backbone, [copy])
        right += int((bank - query).square().sum(dim=1).argmin()) == number
    assert right == len(slices)


def _lpips_files(folder: Path) -> None:
    """Files as torchvision and lpips write them, with random weights."""
    folder.mkdir()
    torch.manual_seed(0)
    alexnet, linear = folder / ALEXNET_FILE, folder / LINEAR_FILE
    classifier = {"classifier.1.weight": torch.zeros(2, 2)}
    torch.save({**AlexNetStages().state_dict(), **classifier}, alexnet)
    channels = (64, 192, 384, 256, 256)
    torch.save(
        {f"lin{n}.model.1.weight": torch.rand(1, c, 1, 1) for n, c in enumerate(channels)}, linear
    )


def test_lpips_is_made_from_its_two_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFLSAM2_CACHE", str(tmp_path))
    _lpips_files(tmp_path / "weights")
    lpips = Lpips.find()
    images = [torch.from_numpy(_slice(number)[0])[None] for number in range(3)]
    nothing = ImageFeatures(torch.zeros(1, 1, 1, 1))
    first, second, third = (lpips(image, nothing) for image in images)
    almost = lpips((images[0] + 0.01).clamp(0, 1), nothing)
    assert (first - almost).square().sum() < (first - second).square().sum()
    assert (first - almost).square().sum() < (first - third).square().sum()


def test_without_its_files_lpips_says_which_are_needed(
    backbone: Sam2Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OFLSAM2_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    session = FewShotSession(backbone, method="support-matching", options={"distance": "lpips"})
    with pytest.raises(WeightsError, match=r"weights/v0.1/alex.pth"):
        session.learn([_case(0)])


# The augmented support


def test_image_and_mask_of_a_copy_are_moved_together_and_only_the_image_is_recoloured() -> None:
    image = np.zeros((3, 96, 96), np.float32)
    image[:, 30:60, 35:70] = 0.6
    mask = (image[:1] > 0).astype(np.float32)
    rng = np.random.default_rng(0)
    for _ in range(8):
        shown, there = augment(image, mask, rng)
        inside, outside = there[0] > 0.99, there[0] == 0
        assert shown[0][inside].std() < 0.02 and 0.3 < shown[0][inside].mean() < 0.95
        assert shown[0][outside].max() == 0
        assert set(np.unique(there[0] > 0.5)) == {False, True}
        assert np.allclose(shown[0], shown[1], atol=1e-4)  # Grey stays grey.
    assert not np.array_equal(there, mask)


def test_colours_change_in_hue_and_saturation() -> None:
    image = np.stack([np.full((8, 8), value, np.float32) for value in (0.7, 0.4, 0.2)])
    shown, _ = augment(image, image[:1], np.random.default_rng(3))
    middle = shown[:, 4, 4]
    assert not np.allclose(middle / middle.sum(), image[:, 4, 4] / image[:, 4, 4].sum(), atol=1e-3)


# From end to end


def _case(number: int, slices: int = 6) -> SupportCase:
    rng = np.random.default_rng(number)
    image = rng.normal(100, 5, (slices, 60, 50))
    labels = np.zeros(image.shape, np.uint8)
    row, column = np.mgrid[:60, :50]
    for index in range(slices):
        labels[index][(row - 12 - 5 * index) ** 2 + (column - 18 - index) ** 2 < 80] = 1
        labels[index][52:58, 10 + 3 * index : 40] = 4
    image += 200 * (labels == 1) + 100 * (labels == 4)
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    volume = Volume(image.astype(np.float32), affine, f"case{number}")
    return SupportCase(volume, labels, STRUCTURES)


def test_each_slice_is_predicted_from_its_match_whatever_the_others_are(
    backbone: Sam2Backbone, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    session = FewShotSession(backbone, method="support-matching", options={"augmented_copies": 1})
    case = _case(0)
    task = LearnedTask.load(session.learn([case]).save(tmp_path / "task.oflsam2"))
    assert task.state.summary["support slices"] == 2 * len(case.labels)
    with caplog.at_level("INFO"):
        whole = {r.index: r for r in session.segment(case.volume, task)}
    # A support case itself is matched slice by slice to its own slices, of which every other is a
    # copy.
    matches = [r.getMessage() for r in caplog.records if "support slice" in r.getMessage()]
    assert [int(m.split("support slice ")[1].split()[0]) for m in matches] == [0, 2, 4, 6, 8, 10]
    backwards = Volume(case.volume.array[::-1].copy(), case.volume.affine, "backwards")
    for result in session.segment(backwards, task):
        twin = whole[len(case.labels) - 1 - result.index]
        assert np.array_equal(result.labels, twin.labels)
        assert np.array_equal(result.confidence, twin.confidence)
