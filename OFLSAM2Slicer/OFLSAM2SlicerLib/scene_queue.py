"""The volumes of the scene as the queue of a cohort: written as files with a list of them, so that
they are there when Slicer is closed."""

from __future__ import annotations

import filecmp
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import slicer

from OFLSAM2Core.app.steps import Steps
from OFLSAM2Core.cohort.cases import file_name
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.runtime.atomic_write import atomic_write
from OFLSAM2SlicerLib import geometry
from OFLSAM2SlicerLib.cases import volume_from_node
from OFLSAM2SlicerLib.confidence import is_confidence
from OFLSAM2SlicerLib.scene_nodes import nodes_of_class

LIST = "cases.json"
_NEW = "new.nrrd"


def volumes_to_queue(scene: Any, others: Collection[Any] = ()) -> list[Any]:
    """The scalar volumes of a scene that are no confidence, no labelmap and none of `others`."""
    return [
        node
        for node in nodes_of_class(scene, "vtkMRMLScalarVolumeNode")
        if node.GetClassName() == "vtkMRMLScalarVolumeNode"
        and node.GetImageData() is not None
        and not is_confidence(node)
        and not any(node is other for other in others)
    ]


def write_queue(nodes: Sequence[Any], folder: Path) -> Steps[Path]:
    """Write volumes into a folder, and a list of them, as `oflsam2 cohort` reads it; a volume a
    step. What the folder holds from before stays, and a volume that is in it already is not
    written again. Returns the list.

    Raises InputError where something cannot be written, ResourceError for the list.
    """
    path = folder / LIST
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(
            f"The folder '{folder}' cannot be made: {error.strerror}.", "Choose another one."
        ) from error
    listed = _listed(path)
    for node in nodes:
        name = _put(node, folder)
        if name not in listed:
            listed.append(name)
        yield
    with atomic_write(path) as beside:
        entries = [{"name": name, "image": f"{name}.nrrd"} for name in listed]
        beside.write_text(json.dumps(entries, indent=1))
    return path


def _put(node: Any, folder: Path) -> str:
    """Write a volume, where it lies in the world; returns its name in the folder."""
    new = folder / _NEW
    _write(node, new)
    wanted = file_name(node.GetName())
    number, name = 1, wanted
    while (folder / f"{name}.nrrd").exists():
        if filecmp.cmp(new, folder / f"{name}.nrrd", shallow=False):
            new.unlink()
            return name
        number += 1
        name = f"{wanted}-{number}"
    new.rename(folder / f"{name}.nrrd")
    return name


def _write(node: Any, path: Path) -> None:
    """By a storage node of its own: the volume goes on belonging to the file that it came from."""
    volume, _notes = volume_from_node(node)
    copy = slicer.vtkMRMLScalarVolumeNode()
    copy.SetName(node.GetName())
    copy.SetAndObserveImageData(node.GetImageData())
    copy.SetIJKToRASMatrix(geometry.array_to_matrix(volume.affine))
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(path))
    storage.SetUseCompression(0)  # A CT of 300 slices takes 10 s to compress.
    if not storage.WriteData(copy):
        raise InputError(
            f"'{node.GetName()}' could not be written to '{path.parent}'.",
            "Look whether the disk is full, or choose another folder.",
        )


def _listed(path: Path) -> list[str]:
    try:
        return [str(entry["name"]) for entry in json.loads(path.read_text())]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"The list '{path}' cannot be read: {error}.", "Choose another folder."
        ) from error
