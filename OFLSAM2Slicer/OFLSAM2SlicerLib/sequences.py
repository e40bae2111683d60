"""Runs on sequences: a volume sequence frame by frame, an image sequence as one stack of slices.

The result is a segmentation sequence (and a confidence sequence), synchronised with the browser
of the target, so that the segmentation follows the browser's frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from OFLSAM2Core.app.steps import Steps, run_steps
from OFLSAM2Core.data.corrections import Corrections
from OFLSAM2Core.data.results import SliceResult
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import Volume
from OFLSAM2Core.errors import InputError
from OFLSAM2SlicerLib.cases import SupportPair, volume_from_node
from OFLSAM2SlicerLib.review import ScoredSlice
from OFLSAM2SlicerLib.scene_nodes import is_in_scene, nodes_of_class, place_beside
from OFLSAM2SlicerLib.scene_run import SceneRun
from OFLSAM2SlicerLib.undo import UndoSnapshot


def run_for(
    target: Any,
    segmentation: Any,
    pairs: Sequence[SupportPair] = (),
    wanted: list[Structure] | None = None,
    further: Sequence[Any] = (),
) -> SceneRun:
    """The scene side for a volume node or a sequence node. Raises InputError."""
    if not target.IsA("vtkMRMLSequenceNode"):
        return SceneRun(target, segmentation, None, pairs, wanted, further)
    if further:
        raise InputError(
            f"'{target.GetName()}' is a sequence, and was given with further volumes.",
            "Give further volumes for a single volume only.",
        )
    return SequenceRun(target, segmentation, pairs, wanted)


class _UndoSequence(UndoSnapshot):
    """The way back from a run on a sequence: what was stored of its frames goes as well.

    outputs: as `SequenceRun` has them; more may be added.
    """

    def __init__(
        self, segmentation_node: Any, browser: Any, outputs: list[tuple[Any, Any]]
    ) -> None:
        super().__init__(segmentation_node)
        self._browser = browser
        self._outputs = outputs

    def restore(self) -> None:
        if self.is_available:
            for node, sequence in self._outputs:
                if node is self._node and is_in_scene(sequence):
                    # Else the browser would show a stored frame again, at the next one.
                    if is_in_scene(self._browser):
                        self._browser.RemoveSynchronizedSequenceNode(sequence.GetID())
                    sequence.GetScene().RemoveNode(sequence)
        super().restore()


class SequenceRun(SceneRun):
    """One frame after the other is selected, segmented, and stored in an output sequence.

    A sequence of single images is one volume for the core: its frames are the slices.
    """

    def __init__(
        self,
        sequence: Any,
        segmentation: Any,
        pairs: Sequence[SupportPair] = (),
        wanted: list[Structure] | None = None,
    ) -> None:
        count = sequence.GetNumberOfDataNodes()
        if count == 0 or not sequence.GetNthDataNode(0).IsA("vtkMRMLVolumeNode"):
            raise InputError(
                f"Sequence '{sequence.GetName()}' does not hold volumes.",
                "Pick a sequence of volumes or images.",
            )
        self._sequence = sequence
        self._browser = _browser_of(sequence)
        proxy = self._browser.GetProxyNode(sequence)
        super().__init__(proxy, segmentation, None, pairs, wanted)
        self._shapes = {
            sequence.GetNthDataNode(frame).GetImageData().GetDimensions() for frame in range(count)
        }
        self._is_stack = all(shape[2] == 1 for shape in self._shapes)
        if self._is_stack and len(self._shapes) > 1:
            raise InputError(
                f"The images of sequence '{sequence.GetName()}' are not all of one size.",
                "Crop or pad them to one size first.",
            )
        self.frame_count = 1 if self._is_stack else count
        self._length = count
        self._structures: tuple[Structure, ...] = ()
        self._outputs: list[tuple[Any, Any]] = []  # node and the sequence it is stored in
        self._stack: dict[int, SliceResult] = {}
        self._is_stored = True  # the frame that was begun last

    @property
    def is_intact(self) -> bool:
        return super().is_intact and is_in_scene(self._sequence)

    def volume(self, frame: int) -> Volume:
        if self._is_stack:
            frames = [
                volume_from_node(self._sequence.GetNthDataNode(i))[0].array[0]
                for i in range(self._length)
            ]
            return Volume(np.stack(frames), np.eye(4), self._sequence.GetName())
        self._show(frame)
        volume, notes = volume_from_node(self.target)
        self.notes += [note for note in notes if note not in self.notes]
        # The proxy's voxels are replaced when another frame is selected.
        return Volume(volume.array.copy(), volume.affine, f"{volume.name}, frame {frame + 1}")

    def begin(self, frame: int, structures: Sequence[Structure]) -> Steps[None]:
        self._structures = tuple(structures)
        self._frame = frame
        self._show(frame)
        self._is_stored = self._is_stack  # At the end, of a stack.
        if frame == 0:
            yield from super().begin(frame, structures)
            self._outputs.append((self.segmentation, self._new_sequence(self.segmentation)))
            if self.confidence is not None:
                self._outputs.append((self.confidence, self._new_sequence(self.confidence)))
        else:
            yield from self._prepare(self.target, structures)

    def add(self, result: SliceResult) -> None:
        if not self._is_stack:
            super().add(result)
            return
        self._has_arrived = True
        self._stack[result.index] = result
        self.scores.add(result)
        self._show(result.index)
        self._write_image(result)

    def show_slice(self, scored: ScoredSlice) -> None:
        """The frame, too."""
        if self._is_stack:
            self._show(scored.index)
            scored = replace(scored, center=(0.0, *scored.center[1:]))
        else:
            self._show(scored.frame)
        super().show_slice(scored)

    def place_in_words(self, scored: ScoredSlice) -> str:
        """Nothing of an image sequence: its slices are frames, all at one place."""
        return "" if self._is_stack else super().place_in_words(scored)

    def corrected_slices(self) -> Steps[list[int]]:
        """Does nothing for sequences: only the selected frame is there to be compared."""
        return []
        yield

    def corrections(self) -> Steps[Corrections]:
        """Raises InputError."""
        raise InputError(
            "Corrections of a sequence are not learned from.",
            "Segment a single frame, and correct its result.",
        )
        yield

    def end(self, frame: int, image: str = "") -> Steps[None]:
        self.flush()
        if not self._is_stack:
            self._store(frame)
            self._is_stored = True
        yield

    def finish(self, complete: bool) -> Steps[None]:
        if not complete and not self._has_arrived:
            self._discard()
            return
        if self._is_stack:
            for index in sorted(self._stack):
                self._show(index)
                self._write_image(self._stack[index])
                self.flush()
                self._store(index)
                yield
        if not self._is_stored:  # Cancelled: what has arrived of the frame is kept.
            yield from self.end(self._frame)
        for node, sequence in self._outputs:
            if is_in_scene(node) and not self._browser.GetProxyNode(sequence):
                # In one step, or Slicer makes a node of its own to show the sequence with.
                was_modifying = self._browser.StartModify()
                self._browser.AddSynchronizedSequenceNodeID(sequence.GetID())
                self._browser.AddProxyNode(node, sequence, False)
                self._browser.EndModify(was_modifying)
        yield from super().finish(complete)

    def _discard(self) -> None:
        super()._discard()
        for _node, sequence in self._outputs:
            if is_in_scene(sequence):
                sequence.GetScene().RemoveNode(sequence)

    def _snapshot(self) -> UndoSnapshot:
        return _UndoSequence(self.segmentation, self._browser, self._outputs)

    def _write_image(self, result: SliceResult) -> None:
        """A frame of an image sequence is the only slice of its own little volume."""
        run_steps(self._prepare(self.target, self._structures))
        image = SliceResult(0, 0, result.labels, result.confidence, result.scores)
        assert self._writer is not None
        self._writer.write(image)
        if self._confidence_writer is not None and is_in_scene(self.confidence):
            self._confidence_writer.write(image)

    def _show(self, frame: int) -> None:
        self._browser.SetSelectedItemNumber(frame)

    def _store(self, frame: int) -> None:
        value = self._sequence.GetNthIndexValue(frame)
        for node, sequence in self._outputs:
            if is_in_scene(node):
                sequence.SetDataNodeAtValue(node, value)

    def _new_sequence(self, node: Any) -> Any:
        scene = self._sequence.GetScene()
        name = scene.GetUniqueNameByString(f"{node.GetName()} sequence")
        sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", name)
        sequence.SetIndexName(self._sequence.GetIndexName())
        sequence.SetIndexUnit(self._sequence.GetIndexUnit())
        sequence.SetIndexType(self._sequence.GetIndexType())
        place_beside(sequence, self._sequence)
        return sequence


def _browser_of(sequence: Any) -> Any:
    """The browser that shows the sequence, made where there is none."""
    scene = sequence.GetScene()
    for browser in nodes_of_class(scene, "vtkMRMLSequenceBrowserNode"):
        if browser.IsSynchronizedSequenceNode(sequence, True) and browser.GetProxyNode(sequence):
            return browser
    browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", f"{sequence.GetName()} browser")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    if browser.GetProxyNode(sequence) is None:
        browser.AddProxyNode(sequence.GetNthDataNode(0), sequence, True)
    return browser


def volumes_worked_on(target: Any) -> list[Any]:
    """The volumes that a run on a volume or sequence node works on, and the target itself."""
    browsers = nodes_of_class(target.GetScene(), "vtkMRMLSequenceBrowserNode")
    proxies = [
        browser.GetProxyNode(target)
        for browser in browsers
        if target.IsA("vtkMRMLSequenceNode") and browser.IsSynchronizedSequenceNode(target, True)
    ]
    return [node for node in (target, *proxies) if node is not None]
