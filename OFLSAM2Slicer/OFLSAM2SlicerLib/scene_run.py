"""The scene side of a run on one volume: nodes in, segments and confidence out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from OFLSAM2Core.app.steps import Steps
from OFLSAM2Core.data.corrections import Corrections
from OFLSAM2Core.data.results import SliceResult
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.errors import InputError
from OFLSAM2SlicerLib.cases import SupportPair, read_support_case, volume_with_further
from OFLSAM2SlicerLib.confidence import ConfidenceWriter
from OFLSAM2SlicerLib.correction_step import CorrectionStep
from OFLSAM2SlicerLib.review import ScoredSlice, SliceScores, jump_to, offset_in_words
from OFLSAM2SlicerLib.scene_nodes import is_in_scene, place_beside
from OFLSAM2SlicerLib.segmentation_writer import SegmentationWriter, check_output
from OFLSAM2SlicerLib.undo import UndoSnapshot


class SceneRun:
    """Reads the support cases, and writes slices into a segmentation and a confidence volume.

    further: volume nodes that are co-registered with the target.
    wanted: structures to segment, with the labels to give them; all where None.
    step: of learning from corrections, while one is under way.
    made: nodes that were made for this run; they go again where no slice arrives.
    undo: the way back: behind the run before until this one begins to write, then behind this one.
    target: checked here. Raises InputError.
    """

    frame_count = 1

    def __init__(
        self,
        target: Any,
        segmentation: Any,
        confidence: Any | None = None,
        pairs: Sequence[SupportPair] = (),
        wanted: list[Structure] | None = None,
        further: Sequence[Any] = (),
    ) -> None:
        self.target = target
        self.segmentation = segmentation
        self.confidence = confidence
        self.scores = SliceScores(())
        self.undo: UndoSnapshot | None = None
        self.made: list[Any] = []
        self._steps: list[CorrectionStep] = []
        self.step: CorrectionStep | None = None  # of corrections, while it is under way
        self._has_begun = False
        self._has_arrived = False
        self._frame = 0
        self._pairs = tuple(pairs)
        self._wanted = wanted
        self._writer: SegmentationWriter | None = None
        self._confidence_writer: ConfidenceWriter | None = None
        self._volume, self.notes = volume_with_further(target, further)
        if any(pair.labels_node is segmentation for pair in pairs):
            raise InputError(
                f"'{segmentation.GetName()}' is a support case and the output at once.",
                "Pick another segmentation as output, or create a new one.",
            )
        check_output(segmentation, target)

    @property
    def is_intact(self) -> bool:
        return is_in_scene(self.segmentation) and is_in_scene(self.target)

    def support_cases(self) -> Steps[Sequence[SupportCase]]:
        cases: list[SupportCase] = []
        for pair in self._pairs:
            read = yield from read_support_case(pair, self._wanted)
            self.notes += read.notes
            cases.append(_with_unlike_name(read.case, cases))
        return cases

    def volume(self, frame: int) -> Volume:
        return self._volume

    def begin(self, frame: int, structures: Sequence[Structure]) -> Steps[None]:
        if self.undo is not None:
            self.undo.release()
        self.undo = self._snapshot()
        self._has_begun = True
        self.scores = SliceScores(structures)
        yield from self._prepare(self.target, structures)
        place_beside(self.segmentation, self.target)
        if self.segmentation.GetDisplayNode() is None:
            self.segmentation.CreateDefaultDisplayNodes()

    def adopt(self, structures: Sequence[Structure], labels: npt.NDArray[np.uint8]) -> Steps[None]:
        """Take what is in the segmentation for the result of a run; in steps."""
        self.scores = SliceScores(structures)
        self._has_begun = self._has_arrived = True
        self._writer = SegmentationWriter(self.segmentation, self.target, structures)
        self._writer.adopt(labels)
        yield
        self._writer.mark_in_progress()
        if self.confidence is not None:
            self._confidence_writer = ConfidenceWriter(self.confidence, self.target)

    def add(self, result: SliceResult) -> None:
        assert self._writer is not None
        self._has_arrived = True
        if self.step is not None:
            self.step.remember(result)
            self.step.has_arrived = True
        if self.step is None or not self.step.knows(result):
            self._writer.write(result)
        if self._confidence_writer is not None and is_in_scene(self.confidence):
            self._confidence_writer.write(result)
        self.scores.add(result, self._frame)

    def show_slice(self, scored: ScoredSlice) -> None:
        """Have all slice views go through a slice of `scores`."""
        jump_to(self.target, scored)

    def place_in_words(self, scored: ScoredSlice) -> str:
        """Where a slice of `scores` is, in millimetres."""
        return offset_in_words(self.target, scored) if is_in_scene(self.target) else ""

    def flush(self) -> None:
        if self._writer is not None and is_in_scene(self.segmentation):
            self._writer.flush()
        if self._confidence_writer is not None and is_in_scene(self.confidence):
            self._confidence_writer.flush()

    def end(self, frame: int, image: str = "") -> Steps[None]:
        self.flush()
        if image and self._writer is not None and is_in_scene(self.segmentation):
            self._writer.name_image(image)
        yield

    def finish(self, complete: bool) -> Steps[None]:
        """Surfaces, where the segmentation shows them. A run of which nothing arrived leaves
        nothing behind: neither new nodes, nor empty segments in place of an earlier result."""
        if not complete and not self._has_arrived:
            self._discard()
            return
        if not complete and self.step is not None and not self.step.has_arrived:
            self.take_back()
        writer, self.step = self._writer, None
        if writer is None:
            return
        self.notes += writer.notes
        if writer.shows_surfaces:
            yield from writer.rebuild_surfaces()

    def labels_now(self) -> Steps[npt.NDArray[np.uint8]]:
        """What the result holds now, by label, as (K, J, I); in steps."""
        assert self._writer is not None, "no result yet"
        return (yield from self._writer.labels_now())

    def corrected_slices(self) -> Steps[list[int]]:
        """Which slices (by `scores`' axis) were changed since they were written, in steps."""
        scored = self.scores.all()
        if self._writer is None or not scored or not self.is_intact:
            return []
        indices, _labels = yield from self._writer.corrected_slices(scored[0].axis)
        return indices

    def corrections(self) -> Steps[Corrections]:
        """The slices that were corrected since the run, in this and in earlier steps, as truth; in
        steps. What is written from now on is one step, which can be taken back.

        Raises InputError where nothing was corrected.
        """
        scored = self.scores.all()
        if self._writer is None or not scored:
            raise InputError("There is no result to be corrected.", "Segment the volume first.")
        axis = scored[0].axis
        indices, labels = yield from self._writer.corrected_slices(axis)
        if not indices:
            raise InputError(
                "No slice was corrected since the last run.",
                "Correct some in the Segment Editor first.",
            )
        known = {*indices, *(self._steps[-1].known if self._steps else ())}
        step = CorrectionStep(self._writer, self._confidence_writer, self.scores, axis, known)
        corrections = Corrections.from_slices(labels, axis, sorted(known))
        for index in indices:
            plane = np.take(labels, index, axis)
            result = SliceResult(index, axis, plane, np.full(plane.shape, 255, np.uint8), {})
            step.remember(result)
            self._writer.accept(result.index_expression, plane)
            yield
        self._writer.mark_in_progress()  # slices are about to change that nobody has looked at
        self.step = step
        self._steps.append(step)
        return corrections

    @property
    def can_take_back(self) -> bool:
        has_step = bool(self._steps) and self.is_intact
        return has_step or (self.undo is not None and self.undo.is_available)

    def take_back(self) -> CorrectionStep | None:
        """Undo the last step of corrections, and return it; where there is none, put the
        segmentation back as it was before the run."""
        self.step = None
        if self._steps and self.is_intact:
            step = self._steps.pop()
            step.take_back()
            if self._writer is not None:
                self._writer.mark_in_progress()
            self.flush()
            return step
        if self.undo is not None and self.undo.is_available:
            self.undo.restore()
            self._writer = None
            self._forget_doubt()
        return None

    def _forget_doubt(self) -> None:
        """Scores and confidence were of the result that was taken back, not of the one before."""
        self.scores = SliceScores(())
        node = self.confidence
        if node is not None and is_in_scene(node) and node.GetImageData() is not None:
            writer = ConfidenceWriter(node, self.target)
            writer.empty()
            writer.flush()

    def _discard(self) -> None:
        if self._has_begun and self.undo is not None:
            self.undo.restore()
        for node in self.made:
            if is_in_scene(node):
                node.GetScene().RemoveNode(node)

    def _snapshot(self) -> UndoSnapshot:
        return UndoSnapshot(self.segmentation)

    def _prepare(self, volume_node: Any, structures: Sequence[Structure]) -> Steps[None]:
        self._writer = SegmentationWriter(self.segmentation, volume_node, structures)
        yield from self._writer.prepare()
        self._writer.mark_in_progress()
        # Until it is complete: the segment may name the image of a run before.
        self._writer.name_image("")
        if self.confidence is not None:
            self._confidence_writer = ConfidenceWriter(self.confidence, volume_node)
            yield from self._confidence_writer.prepare()


def _with_unlike_name(case: SupportCase, others: Sequence[SupportCase]) -> SupportCase:
    """Messages name cases: two volumes of one name get numbers."""
    names = {other.name for other in others}
    if case.name not in names:
        return case
    number = 2
    while f"{case.name} ({number})" in names:
        number += 1
    return replace(case, volume=replace(case.volume, name=f"{case.name} ({number})"))
