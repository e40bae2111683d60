"""Where the result can be trusted: a confidence volume, and its place in the slice views.

Voxels are 255 times the probability of the label; 0 is "not segmented yet", so that the
volume is empty before the run and fills slice by slice. What is surely none of the structures and
away from all of them is 255, which is never drawn: else the whole picture would be tinted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import slicer
import vtk

from OFLSAM2Core.app.steps import Steps
from OFLSAM2Core.data.results import SliceResult
from OFLSAM2SlicerLib import geometry
from OFLSAM2SlicerLib.scene_nodes import is_in_scene, nodes_of_class, place_beside

NOT_YET = 0
AWAY = 255  # surely background, and not near a structure
SURE = 0.9  # background that is less sure than this is drawn wherever it is
NEAR_MM = 8.0
COLOR_NODE_NAME = "OFL-SAM2 confidence"
COLOR_STOPS = (
    (0.0, (0.55, 0.00, 0.15)),  # red: doubtful
    (0.5, (0.96, 0.43, 0.26)),
    (0.7, (1.00, 0.88, 0.56)),  # yellow: look at it
    (0.9, (0.67, 0.85, 0.91)),
    (1.0, (0.19, 0.21, 0.58)),  # blue: sure. Red to blue is safe for the colour-blind
)


def is_confidence(volume_node: Any) -> bool:
    """Whether a volume of the scene is a confidence volume, by its colours."""
    display = volume_node.GetDisplayNode()
    colors = display.GetColorNode() if display is not None else None
    return colors is not None and colors.GetName() == COLOR_NODE_NAME


class ConfidenceWriter:
    """Writes the confidence of slices into a volume node, in place."""

    def __init__(self, confidence_node: Any, volume_node: Any) -> None:
        self.confidence_node = confidence_node
        self._volume_node = volume_node
        self._dirty = False

    def prepare(self) -> Steps[None]:
        """Give the node the volume's grid, empty, and its fixed colours and window; in steps."""
        node, volume = self.confidence_node, self._volume_node
        dimensions = volume.GetImageData().GetDimensions()
        image = node.GetImageData()
        if image is None or image.GetDimensions() != dimensions:
            image = vtk.vtkImageData()
            image.SetDimensions(dimensions)
            image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
        yield from geometry.clear(image)
        node.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
        node.SetIJKToRASMatrix(geometry.array_to_matrix(geometry.volume_to_local(volume)))
        node.SetAndObserveImageData(image)
        self._dirty = True
        yield
        show_as_confidence(node)
        place_beside(node, volume)

    def write(self, result: SliceResult) -> None:
        array = slicer.util.arrayFromVolume(self.confidence_node)
        values = np.clip(result.confidence, NOT_YET + 1, AWAY - 1)
        away = result.confidence >= SURE * 255
        box = _box(result.labels, self._reach(result.axis))
        if box is not None:
            away[box] &= ~_near(result.labels[box] > 0, self._reach(result.axis))
        np.copyto(values, AWAY, where=away)
        array[result.index_expression] = values
        self._dirty = True

    def empty(self) -> None:
        """Say of all voxels that they are not segmented yet."""
        slicer.util.arrayFromVolume(self.confidence_node)[...] = NOT_YET
        self._dirty = True

    def values(self, place: Any) -> npt.NDArray[np.uint8] | None:
        """A copy of what a slice holds; None where the volume is gone."""
        if not is_in_scene(self.confidence_node):
            return None
        return slicer.util.arrayFromVolume(self.confidence_node)[place].copy()

    def put_back(self, place: Any, values: npt.NDArray[np.uint8]) -> None:
        if is_in_scene(self.confidence_node):
            slicer.util.arrayFromVolume(self.confidence_node)[place] = values
            self._dirty = True

    def _reach(self, axis: int) -> tuple[int, int]:
        """`NEAR_MM` in rows and columns of a slice along an axis of the (K, J, I) array."""
        columns = geometry.volume_to_local(self._volume_node)[:3, :3]
        spacing = [float(np.linalg.norm(columns[:, index])) for index in (2, 1, 0)]
        del spacing[axis]
        rows, cols = (min(64, max(1, round(NEAR_MM / step))) for step in spacing)
        return rows, cols

    def flush(self) -> None:
        if self._dirty and self.confidence_node.GetImageData() is not None:
            slicer.util.arrayFromVolumeModified(self.confidence_node)
            self._dirty = False


class ConfidenceOverlay:
    """Shows a confidence volume in the foreground of the slice views that show its volume; puts
    back what was there."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[str | None, float]] = {}
        self._shown: str | None = None

    @property
    def is_shown(self) -> bool:
        return self._shown is not None

    def show(self, confidence_node: Any, opacity: float, volume_nodes: Sequence[Any]) -> None:
        """opacity: 0 to 1. volume_nodes: only views with one of these in the background."""
        scene = confidence_node.GetScene()
        if self._shown != confidence_node.GetID():
            self.hide(scene)
        self._shown = confidence_node.GetID()
        wanted = {node.GetID() for node in volume_nodes if node is not None}
        for view in nodes_of_class(scene, "vtkMRMLSliceCompositeNode"):
            shows = view.GetForegroundVolumeID() == self._shown
            if view.GetBackgroundVolumeID() not in wanted:
                if shows:
                    self._put_back(view)
                continue
            if not shows and view.GetID() in self._before:
                continue  # the user has picked another foreground meanwhile
            if not shows:
                before = (view.GetForegroundVolumeID(), view.GetForegroundOpacity())
                self._before[view.GetID()] = before
                view.SetForegroundVolumeID(self._shown)
            view.SetForegroundOpacity(opacity)

    def hide(self, scene: Any) -> None:
        """Views in which the user has meanwhile picked another foreground stay as they are."""
        for view in nodes_of_class(scene, "vtkMRMLSliceCompositeNode"):
            if self._shown is not None and view.GetForegroundVolumeID() == self._shown:
                self._put_back(view)
        self._before.clear()
        self._shown = None

    def _put_back(self, view: Any) -> None:
        volume_id, opacity = self._before.pop(view.GetID(), (None, 0.0))
        kept = volume_id is not None and is_in_scene(view.GetScene().GetNodeByID(volume_id))
        view.SetForegroundVolumeID(volume_id if kept else None)
        view.SetForegroundOpacity(opacity)


def new_confidence_node(volume_node: Any) -> Any:
    scene = volume_node.GetScene()
    name = scene.GetUniqueNameByString(f"{volume_node.GetName()} confidence")
    return scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)


def show_as_confidence(node: Any) -> None:
    """Give a volume of 0 to 255 the fixed colours and window of confidences."""
    if node.GetDisplayNode() is None:
        # CreateDefaultDisplayNodes would look for a window in the image's histogram, 140 ms.
        display = slicer.vtkMRMLScalarVolumeDisplayNode()
        display.SetAutoWindowLevel(False)
        node.GetScene().AddNode(display)
        node.SetAndObserveDisplayNodeID(display.GetID())
    display = node.GetDisplayNode()
    display.SetAutoWindowLevel(False)
    display.SetAndObserveColorNodeID(confidence_colors(node.GetScene()).GetID())
    display.SetWindowLevel(255, 127.5)
    display.SetInterpolate(False)
    show_only_below(node, SURE)


def show_only_below(confidence_node: Any, confidence: float) -> None:
    """Show only voxels with at most this confidence (0 to 1); 1 shows all that are segmented, but
    what is away from all structures and surely none of them."""
    display = confidence_node.GetDisplayNode()
    if display is not None:
        display.SetLowerThreshold(NOT_YET + 1)
        display.SetUpperThreshold(max(NOT_YET + 1, min(round(255 * confidence), AWAY - 1)))
        display.SetApplyThreshold(True)


def _box(labels: npt.NDArray[np.uint8], reach: tuple[int, int]) -> tuple[slice, slice] | None:
    """What is at most so many rows and columns away from where there are labels, as a rectangle;
    None where there are none."""
    rows, columns = np.flatnonzero(labels.any(axis=1)), np.flatnonzero(labels.any(axis=0))
    if not rows.size:
        return None
    return (
        slice(max(0, int(rows[0]) - reach[0]), int(rows[-1]) + reach[0] + 1),
        slice(max(0, int(columns[0]) - reach[1]), int(columns[-1]) + reach[1] + 1),
    )


def _near(mask: npt.NDArray[np.bool_], reach: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """What is at most so many rows and columns away from the mask. By shifts of doubling
    length."""
    near = mask.copy()
    for axis in (0, 1):
        line, left, step = np.moveaxis(near, axis, 0), reach[axis], 1
        while left > 0:
            step = min(step, left)
            grown = line.copy()
            grown[step:] |= line[:-step]
            grown[:-step] |= line[step:]
            line[...] = grown
            left -= step
            step *= 2
    return near


def confidence_colors(scene: Any) -> Any:
    """The fixed colour table of confidence volumes; one a scene."""
    known = scene.GetFirstNodeByName(COLOR_NODE_NAME)
    if known is not None and known.IsA("vtkMRMLColorTableNode"):
        return known
    node = slicer.vtkMRMLColorTableNode()
    node.SetName(COLOR_NODE_NAME)
    node.SetTypeToUser()
    node.SetHideFromEditors(False)
    node.SetNumberOfColors(256)
    modified = node.StartModify()
    stops = [stop for stop, _ in COLOR_STOPS]
    for value in range(256):
        red, green, blue = (
            float(np.interp(value / 255, stops, [color[part] for _, color in COLOR_STOPS]))
            for part in range(3)
        )
        node.SetColor(value, f"{value / 255:.2f}", red, green, blue, 1.0)
    node.GetLookupTable().SetTableRange(0, 255)
    node.EndModify(modified)
    return scene.AddNode(node)
