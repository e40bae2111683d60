"""A volume that a session has opened: it is segmented, corrected, and learned from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

import numpy as np

from OFLSAM2Core.data.corrections import Corrections
from OFLSAM2Core.data.image_identity import image_identity
from OFLSAM2Core.data.results import ProgressCallback, SliceResult
from OFLSAM2Core.data.volume import Volume
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.learned_task import LearnedTask
from OFLSAM2Core.methods.base import Context, Method, Run, refuse_corrections


class OpenVolume:
    """What `FewShotSession.open` returns.

    What the method calculated for the volume is kept as long as this object, so that corrections
    need not calculate it again.

    ```python
    opened = session.open(volume, task)
    for result in opened.slices():
        labels[result.index_expression] = result.labels
    corrections = Corrections.from_slices(corrected_labels, axis=0, indices=[12, 40])
    for result in opened.correct(corrections):
        labels[result.index_expression] = result.labels
    opened.task().save("taught.oflsam2")
    ```
    """

    def __init__(
        self, run: Run, ctx: Context, volume: Volume, task: LearnedTask, method: Method
    ) -> None:
        self._run = run
        self._ctx = ctx
        self._volume = volume
        self._task = task
        self._method = method

    def slices(self, on_progress: ProgressCallback | None = None) -> Iterator[SliceResult]:
        """Every slice as soon as it is ready, (H, W) in the volume's own grid; closing the iterator
        stops the work. A slice may come again, with a higher revision."""
        self._report_to(on_progress)
        return self._run.slices()

    def correct(
        self, corrections: Corrections, on_progress: ProgressCallback | None = None
    ) -> Iterator[SliceResult]:
        """Learn from corrections, and give the slices that change by it.

        Known voxels keep the labels that they were given, with full confidence, in every slice that
        is given here. Where the volume was not segmented by this object before, all slices are
        given. Raises InputError, at the call, for corrections of another image, on another grid or
        of unknown structures, or none at all, and where the method cannot learn from corrections.
        """
        if not self.learns_from_corrections:
            refuse_corrections(self._method.name)
        self._check(corrections)
        self._report_to(on_progress)
        return self._with_known(self._run.correct(corrections), corrections)

    @property
    def learns_from_corrections(self) -> bool:
        """Whether `correct` is worth calling."""
        return self._method.corrections

    @cached_property
    def image_identity(self) -> str:
        """The `image_identity` of the volume."""
        return image_identity(self._volume)

    def task(self) -> LearnedTask:
        """The learned task, with what the corrections taught."""
        return replace(self._task, state=self._run.state())

    def _report_to(self, on_progress: ProgressCallback | None) -> None:
        if on_progress is not None:
            self._ctx.report = on_progress

    def _check(self, corrections: Corrections) -> None:
        if corrections.labels.shape != self._volume.grid_shape:
            raise InputError(
                f"The corrections have {corrections.labels.shape} voxels (k, j, i), the volume "
                f"'{self._volume.name}' {self._volume.grid_shape}.",
                "Correct the result on the volume's own grid.",
            )
        if corrections.image and corrections.image != self.image_identity:
            raise InputError(
                f"The corrections are of the result of another image than '{self._volume.name}'.",
                "Give the image that was segmented, as it was then.",
            )
        if not corrections.known.any():
            raise InputError("Nothing was corrected.", "Correct some voxels or slices first.")
        known = {0, *(structure.label for structure in self._task.structures)}
        values = set(np.unique(corrections.labels[corrections.known]).tolist())
        if values - known:
            listed = ", ".join(str(int(value)) for value in sorted(values - known))
            raise InputError(
                f"The corrections hold labels that are no structure of the learned task: {listed}.",
                "Correct with the structures of the result only.",
            )

    @staticmethod
    def _with_known(
        results: Iterator[SliceResult], corrections: Corrections
    ) -> Iterator[SliceResult]:
        for result in results:
            known = corrections.known[result.index_expression]
            truth = corrections.labels[result.index_expression]
            yield replace(
                result,
                labels=np.where(known, truth, result.labels).astype(np.uint8),
                confidence=np.where(known, 255, result.confidence).astype(np.uint8),
            )
