"""The core from outside: learn a task from support cases, segment volumes with it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from OFLSAM2Core.data.results import Progress, ProgressCallback, SliceResult
from OFLSAM2Core.data.slice_geometry import SliceGeometry, validate_slice_count
from OFLSAM2Core.data.structures import Structure, ambiguous_codes, find_structure
from OFLSAM2Core.data.validation import check_labels, check_volume
from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.learned_task import LearnedTask
from OFLSAM2Core.methods import get_method
from OFLSAM2Core.methods.ofl_sam2_atlas.options import MethodOptions
from OFLSAM2Core.preprocessing.preprocessing import Preprocessing
from OFLSAM2Core.preprocessing.roi_crop import bbox_center
from OFLSAM2Core.runtime.timings import Timings

if TYPE_CHECKING:
    from OFLSAM2Core.backbones.base import Backbone

logger = logging.getLogger(__name__)


class FewShotSession:
    """A backbone on a device, and a method over it.

    ```python
    session = FewShotSession()
    task = session.learn([read_support_case("a.nii.gz", "a_labels.nii.gz"), ...])
    for slice_result in session.segment(read_volume("new.nii.gz"), task):
        labels[slice_result.index_expression] = slice_result.labels
    ```
    """

    def __init__(
        self,
        backbone: str | Backbone = "litemedsam",
        device: str = "auto",
        *,
        method: str = "ofl-sam2",
        weights: Path | None = None,
        options: MethodOptions | None = None,
        seed: int = 0,
        on_progress: ProgressCallback | None = None,
    ) -> None:
        """Load a backbone of the manifest by name (its weights are fetched where they are
        missing, with `on_progress`), or take one that is loaded already.

        weights: a weights file to use instead of the manifest's.
        Raises WeightsError, ResourceError (no such device) or InputError (unknown names).
        """
        from OFLSAM2Core.backbones import load_backbone
        from OFLSAM2Core.runtime.device import choose_device

        self.method = get_method(method)
        self.options = options or MethodOptions()
        self.seed = seed
        self.timings = Timings()
        self.backbone: Backbone = (
            load_backbone(backbone, choose_device(device), weights, on_progress)
            if isinstance(backbone, str)
            else backbone
        )

    def learn(
        self,
        support_cases: Sequence[SupportCase],
        on_progress: ProgressCallback | None = None,
        *,
        allow_missing: bool = False,
    ) -> LearnedTask:
        """Learn the structures of the support cases.

        allow_missing: accept a structure that is missing in some cases.
        Raises InputError (no cases, a structure missing, nothing labelled), or whatever
        `on_progress` raises to stop.
        """
        from OFLSAM2Core.preprocessing.support_stack import SupportStack

        report = on_progress or _no_progress
        if not support_cases:
            raise InputError("There is no support case.", "Give two or three labelled volumes.")
        if len(support_cases) == 1:
            logger.warning(
                "Only one support case ('%s'): expect less than from two or three.",
                support_cases[0].name,
            )
        report(Progress("read", 0, 1, "checking the support cases"))
        for case in support_cases:
            check_volume(case.volume)
            check_labels(case.labels, case.structures, case.name)
        structures, labels = _common_structures(support_cases, allow_missing)
        axis = self.options.slicing_axis
        first = SliceGeometry.for_volume(support_cases[0].volume, axis)
        slicings = [
            SliceGeometry.for_volume(case.volume, first.orientation) for case in support_cases
        ]
        for case, slicing in zip(support_cases, slicings, strict=True):
            validate_slice_count(case.volume, slicing)
        preparation = Preprocessing.learn(
            support_cases,
            slicings,
            size=self.backbone.image_size,
            window=self.options.window(),
            zoom=self.options.zoom,
            across=self.options.across,
        )
        support = []
        for case, slicing, own in zip(support_cases, slicings, labels, strict=True):
            stack = slicing.to_slices(own)
            prepared = preparation.prepare(case.volume, slicing)
            square = None
            if preparation.roi_pixel_spacing is not None:
                square = preparation.transform_roi(case.volume, slicing, bbox_center(stack))
            across = tuple(
                SupportStack(case.name, shown, cut, cut.to_slices(own))
                for shown, cut in preparation.transform_orthogonal(case.volume, slicing)
            )
            support.append(SupportStack(case.name, prepared, slicing, stack, square, across))
        return self.method.learn(
            self.backbone, support, structures, preparation, self.options, self.seed, report
        )

    def segment(
        self,
        volume: Volume,
        task: LearnedTask,
        on_progress: ProgressCallback | None = None,
    ) -> Iterator[SliceResult]:
        """Segment a volume slice by slice, the slice most similar to the support first.

        A generator: a slice is yielded as soon as it is ready; closing it stops the work.
        Raises TaskError (the task is for another backbone, weights or kind of image), InputError,
        or whatever `on_progress` raises to stop.
        """
        from OFLSAM2Core.methods.ofl_sam2_atlas.views import ExtraViews

        task.check_fits(self.backbone.name, self.backbone.identity, self.method.name)
        check_volume(volume)
        slicing = SliceGeometry.for_volume(volume, task.orientation)
        validate_slice_count(volume, slicing)
        report = on_progress or _no_progress
        prepared = task.preparation.prepare(volume, slicing)
        if prepared.note:
            logger.warning(prepared.note)
        closer = None
        if self.options.zoom and task.preparation.roi_pixel_spacing is not None:
            closer = partial(task.preparation.transform_roi, volume, slicing)
        results = self.method.segment(
            self.backbone.with_precision(task.backbone_precision),
            prepared,
            ExtraViews(closer, task.preparation.transform_orthogonal(volume, slicing)),
            slicing,
            task,
            self.options,
            report,
            self.timings,
        )
        for result in results:
            yield SliceResult(
                index=slicing.index_in_volume(result.index),
                axis=slicing.axis,
                labels=np.ascontiguousarray(slicing.slice_to_volume_axes(result.labels)),
                confidence=np.ascontiguousarray(slicing.slice_to_volume_axes(result.confidence)),
                scores=result.scores,
                revision=result.revision,
            )


def _common_structures(
    cases: Sequence[SupportCase], allow_missing: bool
) -> tuple[tuple[Structure, ...], list[np.ndarray]]:
    """The structures of all cases, as the first case that has them describes them, and every
    case's labels with the same value for the same structure."""
    common: list[Structure] = []
    shared = ambiguous_codes(case.structures for case in cases)
    for case in cases:
        for structure in case.structures:
            if find_structure(structure, common, shared) is None:
                common.append(structure)
    taken = {structure.label for structure in common}
    if len(taken) < len(common):  # Cases use one value for different structures: number anew.
        common = [
            Structure(s.name, number, s.color, s.terminology)
            for number, s in enumerate(common, start=1)
        ]
    labels = []
    for case in cases:
        own = np.zeros(case.labels.shape, dtype=np.uint8)
        for wanted in common:
            here = find_structure(wanted, case.structures, shared)
            found = here is not None and bool((case.labels == here.label).any())
            if found:
                assert here is not None
                own[case.labels == here.label] = wanted.label
            elif not allow_missing:
                raise InputError(
                    f"The structure '{wanted.name}' is missing in the support case '{case.name}'.",
                    "Label it there, leave it out everywhere, or allow missing structures.",
                )
        if not own.any():
            raise InputError(
                f"The segmentation of the support case '{case.name}' is empty.",
                "Label the structures in it, or leave the case out.",
            )
        labels.append(own)
    return tuple(common), labels


def _no_progress(progress: Progress) -> None:
    """For callers that do not want to know."""
