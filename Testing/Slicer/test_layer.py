"""What Slicer's Python layer (or its double) does with the module, before a user does anything."""

from __future__ import annotations

import types

import pytest
import slicer
from OFLSAM2SlicerLib import sample_data
from panels import module

pytestmark = pytest.mark.usefixtures("scene")


@pytest.fixture
def samples():
    """What the module registers when the application has started."""
    slicer.modules.sampleDataSources = {}
    slicer.modules.sampleDataSourceCategories = {}
    parent = types.SimpleNamespace(path=slicer.modules.oflsam2slicer.path)
    module.OFLSAM2Slicer(parent)
    slicer.app.emit("startupCompleted()")
    yield slicer.modules.sampleDataSources
    slicer.app = type(slicer.app)()


def test_sample_data_are_registered_when_slicer_has_started(samples):
    (source,) = samples[sample_data.CATEGORY]
    assert source.sampleName == "Hippocampus"
    assert source.thumbnailFileName.endswith("OFLSAM2Sample.png")


def test_the_sample_loads_the_hippocampi(samples, monkeypatch):
    loaded = []
    monkeypatch.setattr(sample_data, "load_hippocampus", lambda: loaded.append(1))
    samples[sample_data.CATEGORY][0].customDownloader(samples[sample_data.CATEGORY][0])
    assert loaded == [1]
