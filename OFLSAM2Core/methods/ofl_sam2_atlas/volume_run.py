"""One volume being segmented."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial

import numpy as np

from OFLSAM2Core.data.corrections import Corrections
from OFLSAM2Core.data.results import SliceResult
from OFLSAM2Core.data.slice_geometry import SliceGeometry, validate_slice_count
from OFLSAM2Core.data.volume import Volume
from OFLSAM2Core.learned_task import LearnedTask
from OFLSAM2Core.methods.base import Context, MethodState, refuse_corrections
from OFLSAM2Core.methods.ofl_sam2_atlas.options import SegmentOptions
from OFLSAM2Core.methods.ofl_sam2_atlas.propagation import Propagation
from OFLSAM2Core.methods.ofl_sam2_atlas.state import Metadata
from OFLSAM2Core.methods.ofl_sam2_atlas.views import ExtraViews

logger = logging.getLogger(__name__)


class VolumeRun:
    """See `OFLSAM2Core.methods.base.Run`."""

    def __init__(
        self, ctx: Context, volume: Volume, task: LearnedTask, options: SegmentOptions
    ) -> None:
        self._ctx = ctx
        self._state = task.state
        metadata = Metadata.decode(task.state)
        preprocessing = metadata.preprocessing
        self._slicing = SliceGeometry.for_volume(volume, metadata.orientation)
        validate_slice_count(volume, self._slicing)
        prepared = preprocessing.transform(volume, self._slicing)
        if prepared.note:
            logger.warning(prepared.note)
        closer = None
        if options.roi_refinement and preprocessing.roi_pixel_spacing is not None:
            closer = partial(preprocessing.transform_roi, volume, self._slicing)
        views = ExtraViews(closer, preprocessing.transform_orthogonal(volume, self._slicing))
        self._propagation = Propagation(
            ctx.needed_backbone,
            prepared,
            views,
            self._slicing,
            task.structures,
            metadata,
            task.state.tensors,
            options,
            ctx.timings,
        )

    def slices(self) -> Iterator[SliceResult]:
        slicing = self._slicing
        for result in self._propagation.run(self._ctx.report):
            yield SliceResult(
                index=slicing.index_in_volume(result.index),
                axis=slicing.axis,
                labels=np.ascontiguousarray(slicing.slice_to_volume_axes(result.labels)),
                confidence=np.ascontiguousarray(slicing.slice_to_volume_axes(result.confidence)),
                scores=result.scores,
                revision=result.revision,
            )

    def correct(self, corrections: Corrections) -> Iterator[SliceResult]:
        refuse_corrections("ofl-sam2-atlas")

    def state(self) -> MethodState:
        return self._state
