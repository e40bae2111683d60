"""What is estimated from headers is within 1.5 of what was measured."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from OFLSAM2Core.runtime.memory_estimate import BASE_BYTES, bytes_to_learn, bytes_to_segment


@dataclass(frozen=True)
class Measured:
    """Peak of a process, by Testing/Accuracy/memory_model.py; slices are square, of `pixels` a
    side; image_side: of the network's image."""

    slices: int
    structures: int
    pixels: int
    image_side: int
    peak_mb: int


SEGMENTED = [
    Measured(50, 1, 128, 128, 1003),
    Measured(200, 1, 128, 128, 1092),
    Measured(200, 8, 128, 128, 1116),
    Measured(200, 1, 256, 256, 1642),
    Measured(50, 8, 128, 128, 1198),
    Measured(50, 30, 128, 128, 1883),
    Measured(1000, 8, 128, 128, 2556),
    Measured(1000, 30, 128, 128, 5639),
    Measured(2000, 1, 128, 128, 2693),
]
LEARNED = [
    (Measured(16, 1, 256, 256, 1271), 2, 24),
    (Measured(8, 1, 128, 128, 824), 1, 8),
    (Measured(8, 8, 128, 128, 1003), 1, 8),
    (Measured(24, 1, 128, 128, 998), 2, 40),
    (Measured(24, 8, 128, 128, 1581), 2, 40),
    (Measured(24, 30, 128, 128, 3329), 2, 40),
]
"""With the number of volumes, and of slices and copies that are encoded."""


@dataclass(frozen=True)
class Fused:
    """Peaks of processes that fuse, by Testing/Accuracy/memory_of_fusing.py: slices of 128 x 128,
    one structure and `structures`."""

    slices: int
    structures: int
    one_peak_mb: int
    peak_mb: int


FUSED = [
    Fused(300, 30, 410, 1099),
    Fused(1000, 8, 556, 1110),
    Fused(1000, 30, 556, 2910),
]


@pytest.mark.parametrize("found", FUSED, ids=str)
def test_further_structures_take_about_what_is_estimated(found: Fused) -> None:
    one, all_of_them = (
        bytes_to_segment((found.slices, 128, 128), 2, count, side=128)
        - bytes_to_segment((0, 128, 128), 2, count, side=128)
        for count in (1, found.structures)
    )
    assert 1 / 1.2 < (all_of_them - one) / (1e6 * (found.peak_mb - found.one_peak_mb)) < 1.2


@pytest.mark.parametrize("found", SEGMENTED, ids=str)
def test_segmenting_takes_about_what_is_estimated(found: Measured) -> None:
    shape = (found.slices, found.pixels, found.pixels)
    estimated = bytes_to_segment(shape, 2, found.structures, side=found.image_side)
    assert 1 / 1.5 < estimated / (1e6 * found.peak_mb) < 1.5


@pytest.mark.parametrize(("found", "volumes", "encoded"), LEARNED, ids=str)
def test_learning_takes_about_what_is_estimated(
    found: Measured, volumes: int, encoded: int
) -> None:
    voxels = found.slices * found.pixels**2
    estimated = bytes_to_learn([(voxels, 2)] * volumes, found.structures, found.image_side, encoded)
    assert 1 / 1.5 < estimated / (1e6 * found.peak_mb) < 1.5


def test_the_estimate_of_segmenting_grows_with_slices_structures_and_voxels() -> None:
    small = bytes_to_segment((200, 256, 256), 2, 1)
    assert bytes_to_segment((200, 256, 256), 2, 30) > small
    assert bytes_to_segment((2000, 256, 256), 2, 1) > small
    assert bytes_to_segment((200, 512, 512), 2, 1) > small


def test_the_estimate_of_learning_grows_with_volumes_and_structures() -> None:
    one = bytes_to_learn([(10_000_000, 2)])
    assert BASE_BYTES < one < bytes_to_learn([(10_000_000, 2)] * 3)
    assert one < bytes_to_learn([(10_000_000, 2)], structures=30)
