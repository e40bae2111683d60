"""What is learned of one view: its slices are encoded, and the mapping network and the head trained
on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from OFLSAM2Core.data.results import Progress
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.methods.base import Context
from OFLSAM2Core.methods.common.bilateral_symmetry import symmetric_label_map
from OFLSAM2Core.methods.ofl_sam2_atlas.head import Head
from OFLSAM2Core.methods.ofl_sam2_atlas.kept_slices import KeptSlices, TrainingSlice
from OFLSAM2Core.methods.ofl_sam2_atlas.leave_one_out import Earned
from OFLSAM2Core.methods.ofl_sam2_atlas.mapping import fit_mapping
from OFLSAM2Core.methods.ofl_sam2_atlas.model import ViewModel
from OFLSAM2Core.methods.ofl_sam2_atlas.options import LearnOptions
from OFLSAM2Core.methods.ofl_sam2_atlas.region import region_of_labels
from OFLSAM2Core.methods.ofl_sam2_atlas.scan import Intensity, Scan, View
from OFLSAM2Core.methods.ofl_sam2_atlas.support import SupportWindow, encode_support
from OFLSAM2Core.methods.ofl_sam2_atlas.training import TrainingSet, train
from OFLSAM2Core.preprocessing.support_stack import SupportStack


@dataclass(frozen=True, eq=False)
class Support:
    """scans, and labels as their canonical slices (S, H, W). located: whether structures are looked
    for in a region, or in all of a volume."""

    scans: Sequence[Scan]
    labels: Sequence[npt.NDArray]
    structures: Sequence[Structure]
    intensity: Intensity
    earned: Earned
    located: bool

    def windows(self, view: View) -> list[SupportWindow]:
        """Each case as a view shows it."""
        found = []
        for scan, own, prior in zip(self.scans, self.labels, self.earned.priors, strict=True):
            spacing = scan.slicing.slice_spacing
            region = region_of_labels(own, spacing)
            slices = (region.first, region.stop) if self.located else (0, scan.slicing.count)
            window = view.window(scan, region.centre, slices, self.intensity)
            found.append(SupportWindow(window, own, region.scale, spacing, prior, slices))
        return found

    def mirrored(self, view: View) -> npt.NDArray[np.intp] | None:
        """Partners of structures in a mirror; None where both sides are not alike, or where a
        single case cannot tell."""
        if len(self.scans) == 1:
            return None
        shown = [
            SupportStack(own.window.name, own.window, scan.slicing, own.labels)
            for own, scan in zip(self.windows(view), self.scans, strict=True)
        ]
        return symmetric_label_map(shown, self.structures)


def learn_view(
    ctx: Context,
    support: Support,
    view: View,
    partners: npt.NDArray[np.intp] | None,
    options: LearnOptions,
    number: int,
    views: int,
) -> ViewModel:
    """partners: as `Support.mirrored` gives them; None: no copies are mirrored. number: of the
    view among so many, for the progress."""
    rng, timings = ctx.rng(), ctx.timings

    def report(stage: str, done: int, total: int, message: str = "") -> None:
        ctx.report(Progress(stage, number * total + done, views * total, message))

    earned = support.earned
    place = support.located and earned.place
    with timings.stage("encode"):
        encoded = encode_support(
            ctx.needed_backbone.at_size(view.image_size),
            support.windows(view),
            support.structures,
            options.encoded_slices,
            rng,
            lambda done, total: report("encode", done, total),
            partners,
        )
    with timings.stage("mapping network"):
        mapping, without, equations, balance = fit_mapping(encoded, place, earned.level_error, rng)
    with timings.stage("train"):
        head = Head(mapping.features.basis.shape[0], len(support.structures))
        train(
            head,
            TrainingSet(
                [TrainingSlice.of(each, mapping.features) for each in encoded], without, place
            ),
            options.training_steps,
            options.learning_rate,
            earned.level_error,
            rng,
            lambda done, total, loss: report("learn", done, total, loss),
        )
    kept = KeptSlices.of(encoded, mapping.features, without)
    return ViewModel(view, mapping, head, equations, balance, kept)
