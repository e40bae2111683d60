"""What the Segment Editor's effect needs: a volume's prediction, and its voxels as the editor takes
them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import slicer
import vtk

from OFLSAM2Core.app.run_request import Learned, RunSettings
from OFLSAM2Core.app.states import State, Status
from OFLSAM2Core.app.steps import Steps
from OFLSAM2Core.data.corrections import Corrections
from OFLSAM2Core.data.results import SliceResult
from OFLSAM2Core.data.structures import Structure, find_structure
from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.data.volume_count import OF_TASK
from OFLSAM2Core.errors import InputError
from OFLSAM2SlicerLib import geometry
from OFLSAM2SlicerLib.cases import volume_with_further
from OFLSAM2SlicerLib.controller import Controller, Failure
from OFLSAM2SlicerLib.further_volumes import why_not_so_many
from OFLSAM2SlicerLib.scene_nodes import is_in_scene
from OFLSAM2SlicerLib.structures import structure_of

Mask = npt.NDArray[np.bool_]


class LabelsRun:
    """The scene side of a run that writes into no node.

    further: volume nodes that are co-registered with it.
    labels: (K, J, I), values are `Structure.label`.
    """

    frame_count = 1

    def __init__(self, volume_node: Any, further: Sequence[Any] = ()) -> None:
        self._node = volume_node
        self._volume, self.notes = volume_with_further(volume_node, further)
        self.labels = np.zeros(self._volume.grid_shape, np.uint8)

    @property
    def is_intact(self) -> bool:
        return is_in_scene(self._node)

    def support_cases(self) -> Steps[Sequence[SupportCase]]:
        return []
        yield

    def volume(self, frame: int) -> Volume:
        return self._volume

    def begin(self, frame: int, structures: Sequence[Structure]) -> Steps[None]:
        yield

    def add(self, result: SliceResult) -> None:
        self.labels[result.index_expression] = result.labels

    def flush(self) -> None:
        """No view changes before the run is over."""

    def corrections(self) -> Steps[Corrections]:
        raise InputError("There is no result to be corrected.", "Segment the volume first.")
        yield

    def end(self, frame: int, image: str = "") -> Steps[None]:
        yield

    def finish(self, complete: bool) -> Steps[None]:
        yield


class Prediction:
    """Predicts volumes with the module's learned task and worker; keeps the last one.

    settings: called for where to calculate, and with what. further: called for the volumes that
        are co-registered with one.
    """

    def __init__(
        self,
        controller: Controller,
        settings: Callable[[], RunSettings],
        further: Callable[[Any], Sequence[Any]] = lambda volume: (),
    ) -> None:
        self._controller = controller
        self._settings = settings
        self._further = further
        # What `_labels` were predicted from.
        self._key: tuple[Any, ...] = ()
        self._task: Learned | None = None
        self._labels: npt.NDArray[np.uint8] | None = None

    @property
    def learned(self) -> Learned | None:
        return self._controller.learned

    @property
    def is_running(self) -> bool:
        return self._controller.status.is_running

    def load(self, path: str, then: Callable[[], None], failed: Failure) -> None:
        self._controller.load_task(path, lambda learned: then(), failed)

    def cancel(self) -> None:
        self._controller.cancel()

    def predict(
        self, volume_node: Any, segment: Any, then: Callable[[Mask], None], say: Failure
    ) -> None:
        """Call `then` with the segment's voxels in the volume's (K, J, I) grid: at once where the
        volume is known, else when the worker has predicted it. say: called with the state, as a
        sentence.

        Raises InputError where there is no task, the task knows no such structure, it was learned
        from cases of another number of volumes, or the worker is busy.
        """
        learned = self.learned
        if learned is None:
            raise InputError("Nothing is learned yet.", "Load a learned task, or learn one.")
        structure = _structure(segment, learned)
        further = self._further(volume_node)
        name, count = volume_node.GetName(), 1 + len(further)
        if problem := why_not_so_many(name, count, learned.volume_count, OF_TASK):
            raise InputError(
                problem, f"In the module OFL-SAM2, with '{name}' as volume to segment."
            )
        key = tuple(_state_of(node) for node in (volume_node, *further))
        if key == self._key and learned is self._task and self._labels is not None:
            then(self._labels == structure.label)
            return
        run = LabelsRun(volume_node, further)

        def on_status(status: Status) -> None:
            if status.is_running:
                say(f"{status.stage} {status.done} / {status.total}" if status.total else "")
                return
            self._controller.listeners.remove(on_status)
            if status.state is State.DONE:
                self._key, self._task, self._labels = key, learned, run.labels
                then(run.labels == structure.label)
            else:
                say(status.text)

        self._controller.listeners.append(on_status)
        try:
            self._controller.predict(run, self._settings(), learned)
        except InputError:
            self._controller.listeners.remove(on_status)
            raise


def current_slice(volume_node: Any) -> tuple[int, int]:
    """Axis of the (K, J, I) grid and index of the volume's slice that the first slice view which
    shows the volume goes through. Raises InputError where none does."""
    scene = volume_node.GetScene()
    for number in range(scene.GetNumberOfNodesByClass("vtkMRMLSliceCompositeNode")):
        composite = scene.GetNthNodeByClass(number, "vtkMRMLSliceCompositeNode")
        if composite.GetBackgroundVolumeID() == volume_node.GetID():
            found = _slice_through(volume_node, composite.GetLayoutName())
            if found is not None:
                return found
    raise InputError(
        f"No slice view goes through '{volume_node.GetName()}'.",
        "Show it in a slice view, and go to one of its slices.",
    )


def _slice_through(volume_node: Any, view: str) -> tuple[int, int] | None:
    scene = volume_node.GetScene()
    to_world = geometry.rigid_or_scaling_to_world(volume_node)
    affine = geometry.volume_to_local(volume_node)
    affine = affine if to_world is None else to_world @ affine
    for number in range(scene.GetNumberOfNodesByClass("vtkMRMLSliceNode")):
        node = scene.GetNthNodeByClass(number, "vtkMRMLSliceNode")
        if node.GetLayoutName() != view:
            continue
        plane = geometry.matrix_to_array(node.GetSliceToRAS())
        columns = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        axis = int(np.abs(columns.T @ plane[:3, 2]).argmax())
        index = round(float((np.linalg.inv(affine) @ plane[:, 3])[axis]))
        if 0 <= index < volume_node.GetImageData().GetDimensions()[axis]:
            return 2 - axis, index
    return None


def editable_overlay(
    volume_node: Any,
    segmentation_node: Any,
    mask: Mask,
    place: tuple[int, int] | None,
    reference: Any,
) -> Any:
    """A mask of the volume's (K, J, I) grid as the labelmap that the Segment Editor takes, on the
    grid of `reference`. place: axis and index of the only slice to be taken, None for all."""
    image = geometry.grid_image(
        geometry.full_extent(volume_node),
        geometry.volume_to_local(volume_node),
        vtk.VTK_UNSIGNED_CHAR,
    )
    array = geometry.image_array(image)
    if place is None:
        array[...] = mask
    else:
        axis, index = place
        chosen = tuple(index if other == axis else slice(None) for other in range(3))
        array[chosen] = mask[chosen]
    transform = None
    if not geometry.same_place(volume_node, segmentation_node):
        transform = geometry.transform_between(volume_node, segmentation_node)
    overlay = slicer.vtkOrientedImageData()
    slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(
        image, reference, overlay, False, False, transform
    )
    return overlay


def _state_of(volume_node: Any) -> tuple[str, int, bytes]:
    """Changes when the node is another one, or has other voxels, or these lie elsewhere, also by a
    transform: of two volumes of a patient one may be registered to the other meanwhile."""
    image = volume_node.GetImageData()
    to_world = geometry.rigid_or_scaling_to_world(volume_node)
    place = geometry.volume_to_local(volume_node).tobytes()
    place += b"" if to_world is None else to_world.tobytes()
    return volume_node.GetID(), image.GetMTime() if image is not None else 0, place


def _structure(segment: Any, learned: Learned) -> Structure:
    """The learned structure that a segment is. Raises InputError."""
    own = structure_of(segment)
    found = find_structure(own, list(learned.structures))
    if found is None:
        names = ", ".join(one.name for one in learned.structures)
        raise InputError(
            f"The learned task has no structure '{own.name}'.",
            f"It has: {names}. Select such a segment, or give this one such a name.",
        )
    return found
