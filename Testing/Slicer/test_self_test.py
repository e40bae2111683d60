"""The parts of the self test that need no application; the rest runs in Slicer itself."""

from __future__ import annotations

import types
import unittest

import pytest
import slicer
from OFLSAM2SlicerLib import self_test


@pytest.fixture
def in_slicer(open_panel):
    """The module as Slicer's own module manager would give it."""
    panel = open_panel()
    module = slicer.modules.oflsam2slicer
    module.widgetRepresentation = lambda: types.SimpleNamespace(self=lambda: panel.widget)
    yield unittest.TestCase()
    del module.widgetRepresentation


@pytest.mark.parametrize(
    "name", ["a_panel_opens_and_says_what_is_missing", "slices_arrive_voxel_for_voxel"]
)
def test_a_part_of_the_self_test(in_slicer, name):
    getattr(self_test, name)(in_slicer)


def test_every_part_of_the_self_test_is_there():
    assert all(callable(getattr(self_test, name)) for name in self_test.TESTS)
