"""Closed surfaces of segments, made in a process of their own while the panel goes on.

Slicer converts a labelmap on the main thread: 540 ms for a large structure of 512x512x200 voxels,
in which Slicer stands still. A Python thread does not help: Slicer's VTK keeps Python's lock while
a filter works. So the filters that Slicer uses run in another process of Slicer's Python
(`surface_process.py`), on the voxels around the structure. They go there and the surface comes back
through files in a temporary folder that only the user can read.
"""

from __future__ import annotations

import json
import logging
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import vtk

from OFLSAM2Core.app.steps import Steps
from OFLSAM2SlicerLib import geometry
from OFLSAM2SlicerLib.worker_command import slicer_python

SCRIPT = Path(__file__).with_name("surface_process.py")

_FLYING_EDGES = "0"
_ASKED = {
    "Conversion method": "0",
    "Joint smoothing": "0",
    "Smoothing factor": "0.5",
    "Decimation factor": "0.0",
    "Compute surface normals": "1",
}
"""Slicer's names of the conversion's parameters, and what they are where it has none."""

_log = logging.getLogger(__name__)


def closed_surfaces(segmentation: Any, labelmap: Any, values: Sequence[int]) -> Steps[Any]:
    """The surfaces (vtkPolyData, in the segmentation's coordinates) around the voxels of each of
    the values in a labelmap (vtkOrientedImageData), by value; in steps.

    They are those that Slicer's conversion gives (vtkBinaryLabelmapToClosedSurfaceConversionRule),
    with the segmentation's smoothing and decimation. None where the segmentation asks for what is
    not done here (joint smoothing, surface nets), or the process fails: then Slicer has to do it.
    """
    wanted = {name: _parameter(segmentation, name) for name in _ASKED}
    if wanted["Conversion method"] != _FLYING_EDGES or wanted["Joint smoothing"] != "0":
        return None
    with tempfile.TemporaryDirectory(prefix="oflsam2-surfaces-") as name:
        folder = Path(name)
        pieces = yield from _write_crops(folder, labelmap, values)
        job = {
            "pieces": pieces,
            "to_world": _to_world(labelmap),
            "smoothing": float(wanted["Smoothing factor"]),
            "decimation": float(wanted["Decimation factor"]),
            "normals": wanted["Compute surface normals"] != "0",
        }
        (folder / "job.json").write_text(json.dumps(job))
        command = [slicer_python(), str(SCRIPT), name]
        if pieces and not (yield from _finished(command, folder / "log.txt")):
            return None
        surfaces = {value: vtk.vtkPolyData() for value in values}
        for piece in pieces:
            reader = vtk.vtkXMLPolyDataReader()
            reader.SetFileName(str(folder / f"{piece['value']}.vtp"))
            reader.Update()
            surfaces[piece["value"]].ShallowCopy(reader.GetOutput())
            yield
    return surfaces


def _finished(command: Sequence[str], log: Path) -> Steps[bool]:
    """Run a program, in steps; False where it fails."""
    with log.open("wb") as file:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, **_without_window()
            )
        except OSError as error:
            _log.warning("Surfaces are made by Slicer itself: %s", error)
            return False
        try:
            while process.poll() is None:
                yield
        finally:
            if process.poll() is None:  # the steps were given up
                process.kill()
                process.wait()
    if process.returncode:
        text = log.read_text(errors="replace")[-2000:]
        _log.warning("Surfaces are made by Slicer itself: %s", text)
    return process.returncode == 0


def _without_window() -> dict[str, Any]:
    """On Windows a console program would open one."""
    flag = getattr(subprocess, "CREATE_NO_WINDOW", 0)
    return {"creationflags": flag} if flag else {}


def _write_crops(folder: Path, labelmap: Any, values: Sequence[int]) -> Steps[list[dict]]:
    """A file with the voxels around each structure, one more at each side; where its first voxel
    is in the image."""
    pieces: list[dict] = []
    if labelmap.IsEmpty() or labelmap.GetPointData().GetScalars() is None:
        return pieces
    array = geometry.image_array(labelmap)
    boxes = yield from _boxes(array, values)
    for value, (low, high) in boxes.items():
        shape = [b - a + 2 for a, b in zip(low, high, strict=True)]
        mask = np.zeros(shape, np.uint8)
        inside = (slice(low[1], high[1]), slice(low[2], high[2]))
        for plane in range(low[0], high[0]):
            mask[plane - low[0] + 1, 1:-1, 1:-1] = array[plane][inside] == value
            if plane % 16 == 0:
                yield
        np.save(folder / f"{value}.npy", mask)
        extent = labelmap.GetExtent()
        first = [int(extent[2 * axis] + low[2 - axis] - 1) for axis in range(3)]
        pieces.append({"value": int(value), "first": first})
        yield
    return pieces


def _to_world(labelmap: Any) -> list[float]:
    matrix = vtk.vtkMatrix4x4()
    labelmap.GetImageToWorldMatrix(matrix)
    return [float(number) for number in geometry.matrix_to_array(matrix).ravel()]


def _boxes(array: npt.NDArray, values: Sequence[int]) -> Steps[dict[int, tuple]]:
    """First and last place (one past) of each value in (K, J, I), a slice at a time."""
    boxes: dict[int, tuple[list[int], list[int]]] = {}
    for k, plane in enumerate(array):
        if plane.any():
            for value in values:
                mask = plane == value
                rows = np.flatnonzero(mask.any(axis=1))
                if not rows.size:
                    continue
                columns = np.flatnonzero(mask.any(axis=0))
                low, high = boxes.setdefault(value, ([k, *array.shape[1:]], [0, 0, 0]))
                high[0] = k + 1
                low[1], high[1] = min(low[1], rows[0]), max(high[1], rows[-1] + 1)
                low[2], high[2] = min(low[2], columns[0]), max(high[2], columns[-1] + 1)
        if k % 8 == 0:
            yield
    return boxes


def _parameter(segmentation: Any, name: str) -> str:
    return segmentation.GetConversionParameter(name) or _ASKED[name]
