"""One volume being segmented."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from OFLSAM2Core.data.corrections import Corrections
from OFLSAM2Core.data.results import SliceResult
from OFLSAM2Core.data.slice_geometry import SliceGeometry, validate_slice_count
from OFLSAM2Core.data.volume import Volume
from OFLSAM2Core.learned_task import LearnedTask
from OFLSAM2Core.methods.base import Context, MethodState, refuse_corrections
from OFLSAM2Core.methods.locate_predict_fuse.options import SegmentOptions
from OFLSAM2Core.methods.locate_predict_fuse.pipeline import segment_scan
from OFLSAM2Core.methods.locate_predict_fuse.scan import Scan
from OFLSAM2Core.methods.locate_predict_fuse.state import decode_model


class VolumeRun:
    """See `OFLSAM2Core.methods.base.Run`."""

    def __init__(
        self, ctx: Context, volume: Volume, task: LearnedTask, options: SegmentOptions
    ) -> None:
        self._ctx = ctx
        self._options = options
        self._state = task.state
        self._model = decode_model(task.state, task.structures)
        self._slicing = SliceGeometry.for_volume(volume, self._model.orientation)
        validate_slice_count(volume, self._slicing)
        self._scan = Scan(volume.name, self._slicing.to_slices(volume.array), self._slicing)

    def slices(self) -> Iterator[SliceResult]:
        slicing = self._slicing
        for result in segment_scan(self._model, self._ctx, self._scan, self._options):
            yield SliceResult(
                index=slicing.index_in_volume(result.index),
                axis=slicing.axis,
                labels=np.ascontiguousarray(slicing.slice_to_volume_axes(result.labels)),
                confidence=np.ascontiguousarray(slicing.slice_to_volume_axes(result.confidence)),
                scores=result.scores,
                revision=result.revision,
            )

    def correct(self, corrections: Corrections) -> Iterator[SliceResult]:
        refuse_corrections("locate-predict-fuse")

    def state(self) -> MethodState:
        return self._state
