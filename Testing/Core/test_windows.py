"""Windows of a volume: views of the structures and their surroundings, and the way between them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toy_backbone import ToyBackbone

from OFLSAM2Core.data.overlap import bounding_box
from OFLSAM2Core.data.slice_geometry import SliceGeometry
from OFLSAM2Core.data.volume import Volume
from OFLSAM2Core.methods.ofl_sam2_atlas.resample import resampled
from OFLSAM2Core.methods.ofl_sam2_atlas.scan import views_for
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


def test_small_structures_are_seen_near_and_with_their_surroundings() -> None:
    near, wide = views_for([20.0, 25.0], 1.0, [_slicing(200, 180)], 2.0, ToyBackbone())
    assert near.side == pytest.approx(1.7 * 25 + 2)
    assert wide.side == pytest.approx(2 * near.side)


def test_the_wider_view_is_no_larger_than_the_slices() -> None:
    near, wide = views_for([50.0], 0.0, [_slicing(120, 100)], 2.0, ToyBackbone())
    assert (near.side, wide.side) == (pytest.approx(85), 120)


def test_structures_that_fill_their_slices_are_seen_in_one_view() -> None:
    (only,) = views_for([80.0], 0.0, [_slicing(100, 90)], 2.0, ToyBackbone())
    assert only.side == 100


def test_maps_of_one_window_lie_at_the_same_place_in_another() -> None:
    """A structure as both windows show it: what the wide one's map says comes to lie on it."""
    plane = np.zeros((1, 100, 90), np.float32)
    plane[0, 40:60, 30:52] = 1
    wide = Letterbox.fit((100, 90), (1.0, 1.0), 100 / 192, 192)
    near = Letterbox.fit((100, 90), (1.0, 1.0), 50 / 128, 128, (25, 75, 15, 65))
    moved = resampled(torch.from_numpy(wide.to_network(plane)), wide, near)
    wanted = torch.from_numpy(near.to_network(plane))
    assert (moved - wanted).abs().mean() < 0.01
    assert ((moved > 0.5) == (wanted > 0.5)).float().mean() > 0.995


def test_beside_what_a_window_shows_its_maps_say_nothing() -> None:
    near = Letterbox.fit((100, 90), (1.0, 1.0), 50 / 128, 128, (25, 75, 15, 65))
    wide = Letterbox.fit((100, 90), (1.0, 1.0), 100 / 192, 192)
    back = wide.to_grid(resampled(torch.ones(1, 128, 128), near, wide))[0]
    assert (back[30:70, 20:60] > 0.99).all()
    assert (back[:20] == 0).all() and (back[80:] == 0).all() and (back[:, 72:] == 0).all()
