"""Augmented copies: what they may change, and what they must not."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from OFLSAM2Core.methods.common import augmentation
from OFLSAM2Core.methods.common.augmentation import augment

SIZE = 128


def disc(row: float, column: float, radius: float) -> npt.NDArray[np.float32]:
    rows, columns = np.mgrid[:SIZE, :SIZE]
    return ((rows - row) ** 2 + (columns - column) ** 2 < radius**2).astype(np.float32)


@pytest.fixture
def masks() -> npt.NDArray[np.float32]:
    """Two discs far from one another, and a structure that is not there."""
    return np.stack([disc(50, 45, 12), disc(75, 85, 14), np.zeros((SIZE, SIZE), np.float32)])


def bright_where(masks: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.repeat((0.25 + 0.5 * masks.sum(axis=0))[None], 3, axis=0).astype(np.float32)


def test_masks_go_where_the_image_goes(masks):
    rng = np.random.default_rng(0)
    for _ in range(30):
        image, moved = augment(bright_where(masks), masks, rng)
        drawn = moved.max(axis=0) > 0.5
        inside, outside = image[0][drawn], image[0][~drawn & (image[0] > 0)]
        between = (np.median(inside) + np.median(outside)) / 2
        assert (inside > between).mean() > 0.93 and (outside < between).mean() > 0.97
        assert image.min() >= 0 and image.max() <= 1 and moved.min() >= 0 and moved.max() <= 1
        assert not moved[2].any()


def test_what_goes_along_goes_where_the_structures_go_and_changes_nothing_else(masks):
    more = masks[::-1]
    along, alone = (
        augment(bright_where(masks), planes, np.random.default_rng(7), structures)
        for planes, structures in ((np.concatenate([masks, more]), len(masks)), (masks, None))
    )
    assert np.array_equal(along[0], alone[0]) and np.array_equal(along[1][:3], alone[1])
    assert np.array_equal(along[1][3:], alone[1][::-1])


def test_the_same_seed_makes_the_same_copy(masks):
    one, other, third = (
        augment(bright_where(masks), masks, np.random.default_rng(seed)) for seed in (5, 5, 6)
    )
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert not np.array_equal(one[1], third[1])


def test_a_colour_image_stays_coloured_and_a_grey_one_grey(masks):
    grey = bright_where(masks)
    colour = grey * np.array([1.0, 0.7, 0.4], np.float32)[:, None, None]
    found, _ = augment(grey, masks, np.random.default_rng(2))
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])
    found, _ = augment(colour, masks, np.random.default_rng(2))
    assert found[0].mean() > found[1].mean() > found[2].mean()


def test_what_surrounds_the_image_stays_black(masks):
    image = bright_where(masks)
    image[:, :10] = 0
    found, moved = augment(image, masks, np.random.default_rng(3))
    assert (found[0] == 0).mean() > 0.04
    assert (found[0][moved.max(axis=0) > 0.5] > 0).all()


def test_structures_shrink_and_grow_each_in_its_own_place(masks):
    """More than the whole image does, one beside the other, and without being driven off."""
    rng = np.random.default_rng(1)
    relative, shifts = [], []
    for _ in range(150):
        _, moved = augment(bright_where(masks), masks, rng)
        areas = moved[:2].sum(axis=(1, 2)) / masks[:2].sum(axis=(1, 2))
        if areas.min() == 0:
            continue
        relative.append(np.log(areas[0] / areas[1]))
        centres = [np.argwhere(mask > 0.5).mean(axis=0) for mask in moved[:2]]
        shifts.append(np.linalg.norm(centres[0] - centres[1]))
    assert len(relative) > 140
    assert min(relative) < -0.8 and max(relative) > 0.8 and np.std(relative) > 0.4
    apart = np.hypot(75 - 50, 85 - 45)
    assert abs(np.mean(shifts) / apart - 1) < 0.1


@pytest.mark.parametrize("extreme", augmentation.IN_PLACE)
def test_the_image_is_never_folded(masks, extreme, monkeypatch):
    """Everywhere an area stays an area, on its right side, even where structures touch and all
    change by the most."""
    monkeypatch.setattr(augmentation, "IN_PLACE", (extreme, extreme))
    monkeypatch.setattr(augmentation, "UNCHANGED", 0.0)
    touching = np.stack([disc(60, 60, 14), disc(60, 60, 24) - disc(60, 60, 14), disc(60, 92, 12)])
    points = np.random.default_rng(0).uniform(0, SIZE, (2, 4000, 1))
    step = 1e-5
    for structures in (masks, touching):
        for seed in range(20):
            here, down, right = (
                augmentation._resized_in_place(at, structures, np.random.default_rng(seed))
                for at in (points, points + [[[step]], [[0]]], points + [[[0]], [[step]]])
            )
            (a, b), (c, d) = (down - here) / step, (right - here) / step
            assert (a * d - b * c).min() > 0


def test_only_structures_that_others_are_beside_are_changed_in_place(masks):
    pixels = np.mgrid[:SIZE, :SIZE].astype(float)
    for structures in (np.zeros_like(masks), masks[:1]):
        for seed in range(10):
            rng = np.random.default_rng(seed)
            assert np.array_equal(augmentation._resized_in_place(pixels, structures, rng), pixels)
