"""Windows of a volume: which part of its slices the encoder sees, and how large."""

from __future__ import annotations

import numpy as np
import pytest
from toy_backbone import ToyBackbone

from OFLSAM2Core.backbones.sam2_backbone import Sam2Backbone
from OFLSAM2Core.data.overlap import bounding_box
from OFLSAM2Core.data.slice_geometry import SliceGeometry
from OFLSAM2Core.data.volume import Volume
from OFLSAM2Core.methods.ofl_sam2_atlas.config import ROI_ROOM
from OFLSAM2Core.methods.ofl_sam2_atlas.scan import View
from OFLSAM2Core.preprocessing.letterbox import Letterbox
from OFLSAM2Core.preprocessing.roi_crop import crop_around


def _slicing(rows: int, columns: int) -> SliceGeometry:
    return SliceGeometry.for_volume(Volume(np.zeros((4, rows, columns), np.float32)))


def test_a_crop_stays_within_the_slice_and_takes_all_of_a_narrow_one() -> None:
    slicing = _slicing(100, 30)
    assert crop_around((50, 15), 40, slicing) == (30, 70, 0, 30)
    assert crop_around((5, 15), 40, slicing) == (0, 40, 0, 30)
    assert crop_around((99, 15), 40, slicing) == (60, 100, 0, 30)


def test_a_point_of_the_network_lies_where_it_does_on_the_slice() -> None:
    region = (30, 70, 0, 40)
    framing = Letterbox.fit((100, 90), (1.0, 1.5), 0.3, 256, region)
    plane = np.zeros((1, 100, 90), np.uint8)
    plane[0, 40:50, 8:20] = 1
    rows, columns = bounding_box(framing.to_network(plane)[0] > 0.5)
    for edge, expected in (("start", (40, 8)), ("stop", (50, 20))):
        found = framing.point_on_slice(getattr(rows, edge), getattr(columns, edge))
        np.testing.assert_allclose(found, expected, atol=0.3)


def test_structures_are_seen_with_their_surroundings() -> None:
    view = View.fit([20.0, 25.0], 1.0, [_slicing(200, 180)], 2.0, ToyBackbone())
    assert view.side == pytest.approx(ROI_ROOM * 25 + 2)


def test_where_structures_fill_much_of_their_slices_these_are_seen_as_a_whole() -> None:
    view = View.fit([50.0], 0.0, [_slicing(100, 90)], 2.0, ToyBackbone())
    assert view.side == 100


def test_an_encoder_of_one_size_sees_the_same_part_of_a_slice() -> None:
    """SAM 2 has four pixels of its image for one of the maps."""
    slicings = [_slicing(200, 180)]
    fixed = View.fit([25.0], 1.0, slicings, 2.0, Sam2Backbone.random(seed=0, image_size=128))
    assert fixed.side == View.fit([25.0], 1.0, slicings, 2.0, ToyBackbone()).side
    assert (fixed.size, fixed.image_size) == (32, 128)
    larger = fixed.covering(_slicing(400, 400))
    assert (larger.side, larger.image_size) == (400, 128)


def test_a_finer_image_shows_the_same_at_the_same_place() -> None:
    plane = np.zeros((1, 100, 90), np.float32)
    plane[0, 40:60, 30:52] = 1
    framing = Letterbox.fit((100, 90), (1.0, 1.0), 1.0, 100)
    fine = framing.finer(4).to_network(plane)[0]
    assert fine.shape == (400, 400)
    coarse = fine.reshape(100, 4, 100, 4).mean(axis=(1, 3))
    assert np.abs(coarse - framing.to_network(plane)[0]).mean() < 0.01
