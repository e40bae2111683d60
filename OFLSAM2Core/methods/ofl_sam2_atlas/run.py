"""One volume being segmented."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from OFLSAM2Core.data.corrections import Corrections
from OFLSAM2Core.data.results import SliceResult
from OFLSAM2Core.data.slice_geometry import SliceGeometry, validate_slice_count
from OFLSAM2Core.data.volume import Volume
from OFLSAM2Core.learned_task import LearnedTask
from OFLSAM2Core.methods.base import Context, MethodState
from OFLSAM2Core.methods.ofl_sam2_atlas import config
from OFLSAM2Core.methods.ofl_sam2_atlas.correct import correct_scan
from OFLSAM2Core.methods.ofl_sam2_atlas.corrected import Corrected
from OFLSAM2Core.methods.ofl_sam2_atlas.model import Model
from OFLSAM2Core.methods.ofl_sam2_atlas.options import SegmentOptions
from OFLSAM2Core.methods.ofl_sam2_atlas.pipeline import (
    CanonicalResult,
    Segmented,
    segment_scan,
)
from OFLSAM2Core.methods.ofl_sam2_atlas.scan import Scan
from OFLSAM2Core.methods.ofl_sam2_atlas.state import decode_model, encode_model


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
        self._scan = Scan.of(volume, self._slicing)
        self._segmented: Segmented | None = None
        self._corrected: Corrected | None = None
        self._relearned: Model | None = None
        self._revision = 1  # The highest of a segmented volume's.

    def slices(self) -> Iterator[SliceResult]:
        for result in segment_scan(self._model, self._ctx, self._scan, self._options, self._keep):
            yield self._in_volume(result)

    def correct(self, corrections: Corrections) -> Iterator[SliceResult]:
        own = Corrected.of(corrections, self._slicing)
        self._corrected = own if self._corrected is None else self._corrected.then(own)
        self._revision += 1
        return self._segmented_again(self._corrected, self._revision)

    def state(self) -> MethodState:
        return self._state if self._relearned is None else encode_model(self._relearned)

    def _segmented_again(self, corrected: Corrected, revision: int) -> Iterator[SliceResult]:
        """The volume, segmented by what support and corrections of all rounds have taught."""
        if self._segmented is None:
            for _ in segment_scan(self._model, self._ctx, self._scan, self._options, self._keep):
                pass
        assert self._segmented is not None
        step = correct_scan(
            self._model, self._ctx, self._scan, self._options, self._segmented, corrected
        )
        self._relearned = step.model
        for result in step.results:
            yield self._in_volume(replace(result, revision=revision))
        self._segmented.location.encoded.keep_at_most(config.KEPT_BYTES)

    def _keep(self, segmented: Segmented) -> None:
        self._segmented = segmented
        segmented.location.encoded.keep_at_most(config.KEPT_BYTES)

    def _in_volume(self, result: CanonicalResult) -> SliceResult:
        slicing = self._slicing
        return SliceResult(
            index=slicing.index_in_volume(result.index),
            axis=slicing.axis,
            labels=np.ascontiguousarray(slicing.slice_to_volume_axes(result.labels)),
            confidence=np.ascontiguousarray(slicing.slice_to_volume_axes(result.confidence)),
            scores=result.scores,
            revision=result.revision,
        )
