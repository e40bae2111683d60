"""The sample data of the tutorial, in Slicer's module Sample Data.

The files are small and come with the extension, so they are there without a network.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import slicer

from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.errors import InputError

CATEGORY = "OFL-SAM2"
SAMPLE = "Hippocampus"
SUPPORT = ("hippocampus_001", "hippocampus_003", "hippocampus_004")
TARGET = "hippocampus_006"
COLORS = ((0.90, 0.36, 0.25), (0.25, 0.55, 0.85))
SHA256 = {
    "hippocampus_001_image.nii.gz": (
        "bd439015ded25c0c87a43e7f6e30328f95aff2a9fddddb35a5b4d6f7b23419bc"
    ),
    "hippocampus_001_label.nii.gz": (
        "a2ca684aa8fd3b5192b8536a9b2bdeeff2cf40bd21dd513a60619d13972e6510"
    ),
    "hippocampus_003_image.nii.gz": (
        "2d78e674b0138f63ce1dafa7820c19002d3b05d6b52a158fa768feb248e2f2f7"
    ),
    "hippocampus_003_label.nii.gz": (
        "2cb065a03c1d3d6b41b1f213d836a313cd5a0205cb761d7126fc873267adae89"
    ),
    "hippocampus_004_image.nii.gz": (
        "d4172c92da34a54f40e63ab621024feb68ed5c476582d50bcd257d6bf45488df"
    ),
    "hippocampus_004_label.nii.gz": (
        "da2734df5672c779012b0fb460821af1556e0cb78ea84947fef368af582a32cc"
    ),
    "hippocampus_006_image.nii.gz": (
        "8d2353d8e3692e1760122c2b6a2b1186bc9ca0f0397f00547d8886e8397cb944"
    ),
}


def sample_folder() -> Path:
    """Beside the module where it is installed, in Resources/ of a source tree."""
    module_folder = Path(__file__).resolve().parent.parent
    installed = module_folder / "Resources" / "SampleData"
    return installed if installed.is_dir() else module_folder.parent / "Resources" / "SampleData"


def register_sample_data() -> None:
    """Register the sample data with Slicer. Slicer 5.10 and 5.12 both ask for addresses, files and
    nodes, if only empty ones."""
    import SampleData  # a module of the application

    icon = Path(__file__).resolve().parent.parent / "Resources" / "Icons" / "OFLSAM2Sample.png"
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category=CATEGORY,
        sampleName=SAMPLE,
        uris="",
        fileNames="",
        nodeNames="",
        thumbnailFileName=str(icon),
        customDownloader=lambda source: load_hippocampus(),
    )


def load_hippocampus() -> list[Any]:
    """Load the three support cases and the volume to segment; returns the volume nodes, the one to
    segment last. Raises InputError where a file is not what it should be."""
    structures = sample_structures()
    nodes = []
    for case in (*SUPPORT, TARGET):
        volume = slicer.util.loadVolume(str(checked_file(f"{case}_image.nii.gz")), {"name": case})
        nodes.append(volume)
        if case == TARGET:
            continue
        labelmap = slicer.util.loadLabelVolume(str(checked_file(f"{case}_label.nii.gz")))
        segmentation_from_labelmap(labelmap, volume, f"{case} segmentation", structures)
        slicer.mrmlScene.RemoveNode(labelmap)
    return nodes


def segmentation_from_labelmap(
    labelmap: Any, volume: Any, name: str, structures: list[Structure]
) -> Any:
    """A segmentation node with a named and coloured segment for each label value."""
    node = volume.GetScene().AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    logic.ImportLabelmapToSegmentationNode(labelmap, node)
    segmentation = node.GetSegmentation()
    for position in range(segmentation.GetNumberOfSegments()):
        segment = segmentation.GetNthSegment(position)
        for structure in structures:
            if structure.label == segment.GetLabelValue():
                segment.SetName(structure.name)
                segment.SetColor(*structure.color)
    return node


def sample_structures() -> list[Structure]:
    described = json.loads((sample_folder() / "dataset.json").read_text())
    return [
        Structure(name, int(value), COLORS[(int(value) - 1) % len(COLORS)])
        for value, name in described["labels"].items()
    ]


def checked_file(name: str) -> Path:
    path = sample_folder() / name
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != SHA256[name]:
        raise InputError(
            f"The sample file '{path}' is missing or damaged.", "Install the extension again."
        )
    return path
