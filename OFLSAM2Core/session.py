"""The core from outside: learn a task from support cases, segment volumes with it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from OFLSAM2Core.backbones import DEFAULT_BACKBONE, PRECISIONS
from OFLSAM2Core.data.results import Progress, ProgressCallback, SliceResult
from OFLSAM2Core.data.slice_geometry import SliceGeometry
from OFLSAM2Core.data.structure_status import support_sizes
from OFLSAM2Core.data.support import fit_structures, harmonize
from OFLSAM2Core.data.support_checks import check_support
from OFLSAM2Core.data.validation import check_labels, check_volume
from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.data.volume_count import check_volume_count, check_volume_counts
from OFLSAM2Core.errors import InputError, TaskError
from OFLSAM2Core.io.one_grid import on_one_grid
from OFLSAM2Core.learned_task import LearnedTask
from OFLSAM2Core.methods import DEFAULT, default_for, get_method, names_with_further_volumes
from OFLSAM2Core.methods.base import (
    Context,
    Method,
    refuse_unlabelled,
    uses_further_volumes,
)
from OFLSAM2Core.methods.changed_options import ChangedOptions
from OFLSAM2Core.open_volume import OpenVolume
from OFLSAM2Core.preprocessing.intensity_comparison import compare_with_support, support_ranges
from OFLSAM2Core.runtime.counted import counted
from OFLSAM2Core.runtime.memory_check import require_memory
from OFLSAM2Core.runtime.memory_estimate import BASE_BYTES, bytes_to_learn, bytes_to_segment
from OFLSAM2Core.runtime.timings import Timings

if TYPE_CHECKING:
    from OFLSAM2Core.backbones.base import Backbone

logger = logging.getLogger(__name__)


class FewShotSession:
    """A method, with a backbone on a device.

    timings: seconds by stage, of the last job.

    ```python
    session = FewShotSession()
    task = session.learn([read_support_case("a.nii.gz", "a_labels.nii.gz"), ...])
    for slice_result in session.segment(read_volume("new.nii.gz"), task):
        labels[slice_result.index_expression] = slice_result.labels
    ```
    """

    def __init__(
        self,
        backbone: str | Backbone = DEFAULT_BACKBONE,
        device: str = "auto",
        *,
        method: str | Method | None = None,
        weights: Path | None = None,
        precision: str = "auto",
        preset: str | None = None,
        options: Mapping[str, Any] | None = None,
        seed: int = 0,
        on_progress: ProgressCallback | None = None,
    ) -> None:
        """Load a backbone of the manifest by name (its weights are fetched where they are
        missing, with `on_progress`), or take one that is loaded already. A method that needs no
        backbone has none loaded.

        method: its name, or the method itself. None: the default one for what is learned, volumes
            or a sequence of frames, and in segmenting the one that the task was learned by.
        weights: a weights file to use instead of the manifest's.
        precision: what the encoder calculates in, "float32" or "bfloat16"; "auto": in learning the
            quickest that the processor has, in segmenting that in which the task was learned.
        preset: "fast", "balanced" or "accurate"; None: the method's defaults, or the task's values.
        options: values of the method's options by name. Those that are not given are the preset's,
            where one is named; else the method's defaults in learning, and the task's values in
            segmenting.
        Raises WeightsError, ResourceError (no such device) or InputError (unknown names, impossible
        values).
        """
        from OFLSAM2Core.runtime.device import choose_device

        self._any_method = method is None
        self._given = preset, dict(options or {})
        self._use(get_method(method or DEFAULT) if isinstance(method, str | None) else method)
        self.seed = seed
        self.timings = Timings()
        self._precision = precision
        self._backbone: Backbone | None = None
        if not isinstance(backbone, str):
            self.device = backbone.device
            self._backbone = _in_precision(backbone, precision)
            return
        self.device = choose_device(device)
        if self.method.needs_backbone:
            from OFLSAM2Core.backbones import load_backbone

            loaded = load_backbone(backbone, self.device, weights, on_progress)
            self._backbone = _in_precision(loaded, precision)

    @property
    def backbone(self) -> Backbone:
        """Raises InputError where the method needs none and none was given."""
        if self._backbone is None:
            raise InputError(
                f"The method '{self.method.name}' works without a backbone.",
                "Give the session a loaded backbone where you need one.",
            )
        return self._backbone

    def learn(
        self,
        support_cases: Sequence[SupportCase],
        on_progress: ProgressCallback | None = None,
        *,
        allow_missing: bool = False,
        unlabelled: Sequence[Volume] = (),
    ) -> LearnedTask:
        """Learn the structures of the support cases.

        allow_missing: accept a structure that is missing in some cases.
        unlabelled: volumes without labels that are learned from, too, by a method that does so
            (`rrl-medsam`). They may be the ones to be segmented afterwards.
        Raises InputError (no cases, a structure missing, nothing labelled, a method that cannot
        learn from unlabelled volumes), or whatever `on_progress` raises to stop.
        """
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
        check_volume_counts(support_cases)
        support_cases = [replace(case, volume=on_one_grid(case.volume)) for case in support_cases]
        check_support(support_cases)
        if self._any_method:
            self._use(get_method(default_for(any(c.volume.is_sequence for c in support_cases))))
        for case in support_cases:
            self._check_kind(case.volume)
        unlabelled = self._checked_unlabelled(unlabelled)
        ranges = support_ranges(support_cases)
        cases = harmonize(support_cases, allow_missing)
        if self.method.needs_backbone:
            structures = len(cases[0].structures)
            require_memory(
                bytes_to_learn([], structures) - BASE_BYTES,  # Backbone and volumes are held.
                f"Learning {counted(structures, 'structure')}",
                "Close other programs, or learn fewer structures.",
            )
        learn, segment = self.changes.for_learning()
        used = self._backbone if self.method.needs_backbone else None
        ctx = replace(self._context(used, report), unlabelled=unlabelled)
        state = self.method.learn(ctx, cases, learn)
        return LearnedTask(
            structures=cases[0].structures,
            method=self.method.name,
            state=state,
            options={**segment.to_json(), **learn.to_json()},
            backbone=used.name if used else "",
            backbone_identity=used.identity if used else "",
            backbone_precision=used.precision if used else "float32",
            intensities=ranges,
            sizes=support_sizes(cases),
            volume_count=cases[0].volume.volume_count,
        )

    def open(
        self,
        volume: Volume,
        task: LearnedTask,
        on_progress: ProgressCallback | None = None,
        *,
        options: Mapping[str, Any] | None = None,
    ) -> OpenVolume:
        """Make ready to segment a volume: slices, and corrections after that.

        options: values for this volume alone, by name; the others are the session's where it
            changed them, and the task's.
        Raises TaskError (the task is for another method, backbone or weights, or is damaged) or
        InputError (the volume or an option will not do).
        """
        if self._any_method:
            self._use(get_method(task.method))
        used = self._backbone if self.method.needs_backbone else None
        task.check_fits(self.method.name, used.name if used else "", used.identity if used else "")
        check_volume(volume)
        self._check_kind(volume)
        check_volume_count(volume, task.volume_count)
        volume = on_one_grid(volume)
        compare_with_support(volume, task.intensities)
        if self.method.needs_backbone:  # Others are frugal, and ask by themselves.
            slices = SliceGeometry.for_volume(volume).count
            needed = bytes_to_segment(volume.grid_shape, 0, len(task.structures), slices)
            require_memory(
                needed - BASE_BYTES,  # The backbone is loaded.
                f"Segmenting {counted(len(task.structures), 'structure')} in "
                f"'{volume.source or volume.name}'",
                "Close other programs, crop the volume, or learn fewer structures.",
            )
        settled = self.changes.for_segmenting(task.options, options or {})
        if used is not None and self._precision == "auto":
            used = used.with_precision(task.backbone_precision)
            if used.precision != task.backbone_precision:
                logger.warning(
                    "The task was learned in %s, in which the encoder does not calculate on this "
                    "device; %s is used.",
                    task.backbone_precision,
                    used.precision,
                )
        ctx = self._context(used, on_progress or _no_progress)
        try:
            run = self.method.open(ctx, volume, task, settled)
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
            # A changed file, or another version of the method: what it holds does not fit together.
            raise TaskError(
                f"The method '{self.method.name}' cannot use what the learned task holds "
                f"({type(error).__name__}).",
                "Learn it again with this version.",
            ) from error
        return OpenVolume(run, ctx, volume, task, self.method)

    def segment(
        self,
        volume: Volume,
        task: LearnedTask,
        on_progress: ProgressCallback | None = None,
        *,
        options: Mapping[str, Any] | None = None,
    ) -> Iterator[SliceResult]:
        """Segment a volume slice by slice; a slice is given as soon as it is ready.

        Closing the iterator stops the work. Raises as `open` does, at the call; later whatever
        `on_progress` raises to stop.
        """
        return self.open(volume, task, on_progress, options=options).slices()

    def add_case(
        self,
        task: LearnedTask,
        case: SupportCase,
        on_progress: ProgressCallback | None = None,
    ) -> LearnedTask:
        """The task with a reviewed volume as one more support case.

        Raises TaskError (the task is for another method, backbone or weights), or InputError (the
        case has none of the task's structures, or the method cannot add a case to what it learned).
        """
        if self._any_method:
            self._use(get_method(task.method))
        used = self._backbone if self.method.needs_backbone else None
        task.check_fits(self.method.name, used.name if used else "", used.identity if used else "")
        check_volume(case.volume)
        check_labels(case.labels, case.structures, case.name)
        self._check_kind(case.volume)
        check_volume_count(case.volume, task.volume_count)
        case = replace(case, volume=on_one_grid(case.volume))
        add = getattr(self.method, "add_case", None)
        if add is None:
            raise InputError(
                f"The method '{self.method.name}' cannot add a case to a learned task.",
                "Learn the task again with this case among the support.",
            )
        settled = self.changes.learned_with(task.options)
        if used is not None and self._precision == "auto":
            used = used.with_precision(task.backbone_precision)
        ctx = self._context(used, on_progress or _no_progress)
        return replace(task, state=add(ctx, task, fit_structures(case, task.structures), settled))

    def _use(self, method: Method) -> None:
        """Raises InputError where the method does not have an option that was given."""
        self.method = method
        preset, options = self._given
        self.changes = ChangedOptions(method, preset, options)

    def _context(self, backbone: Backbone | None, report: ProgressCallback) -> Context:
        self.timings = Timings()
        return Context(backbone, self.device, self.seed, report, self.timings)

    def _checked_unlabelled(self, volumes: Sequence[Volume]) -> list[Volume]:
        if volumes:
            refuse_unlabelled(self.method)
        for volume in volumes:
            check_volume(volume)
            self._check_kind(volume)
        return [on_one_grid(volume) for volume in volumes]

    def _check_kind(self, volume: Volume) -> None:
        if volume.is_sequence and not self.method.sequences:
            raise InputError(
                f"'{volume.name}' is a sequence of frames, which the method '{self.method.name}' "
                "does not segment.",
                "Use --method ofl-sam2.",
            )
        if volume.further and not uses_further_volumes(self.method):
            raise InputError(
                f"'{volume.name}' comes with further volumes, which the method "
                f"'{self.method.name}' cannot use.",
                f"Give the first volume of each case alone, or use one of: "
                f"{', '.join(names_with_further_volumes())}.",
            )


def _in_precision(backbone: Backbone, precision: str) -> Backbone:
    """Raises InputError where the backbone does not calculate in it on this device."""
    if precision not in PRECISIONS:
        raise InputError(f"There is no precision '{precision}'.", f"Use {', '.join(PRECISIONS)}.")
    if precision == "auto":
        return backbone
    chosen = backbone.with_precision(precision)
    if chosen.precision != precision:
        raise InputError(
            f"The encoder of '{backbone.name}' does not calculate in {precision} on this device.",
            f"Use auto, or {chosen.precision}.",
        )
    return chosen


def _no_progress(progress: Progress) -> None:
    """For callers that do not want to know."""
