"""From a slice to the network's image, and from its maps back: what is learned of it.

Two things are learned from the support cases and stored in the learned task:

- grey values. CT has an absolute scale, so one curve is learned, from the intensities in and
  around the structures, unless a window is given. MR (and all else) has none: every volume is
  scaled by its own percentiles, in bounds that the support sets (intensity_bounds.py). Colour
  frames are taken as they are.
- size. One network pixel has the same physical size in every case, the smallest with which
  the support slices fit, so that a structure has the size in a target that it had in the support.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from OFLSAM2Core.data.slice_geometry import SliceGeometry
from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.errors import InputError, TaskError
from OFLSAM2Core.preprocessing.foreground import foreground_bbox
from OFLSAM2Core.preprocessing.further_volumes import (
    FurtherCurves,
    fit_further_curves,
    further_curves_from,
    further_stacks,
    with_curves,
)
from OFLSAM2Core.preprocessing.intensity_bounds import RoiIntensityBounds
from OFLSAM2Core.preprocessing.intensity_mapping import (
    IntensityMapping,
    detect_modality,
    fit_intensity_mapping,
    percentile_window,
)
from OFLSAM2Core.preprocessing.letterbox import Letterbox
from OFLSAM2Core.preprocessing.roi_crop import (
    foreground_crop,
    longest_side,
)


@dataclass(frozen=True)
class Preprocessing:
    """What is done to every volume before the backbone sees it.

    modality: "CT" (one curve for all), "MR" (every volume by itself), "RGB" (as it is).
    pixel: millimetres a network pixel (frame pixels, for sequences).
    size: pixels along a side of the network's image.
    curve: intensities (ascending) and the grey values they are shown as, for CT and wherever a
        window was given.
    brightness: bounds for the scale of whole slices of MR; None: there are none.
    further_curves: of each further volume of a case; None where each is scaled by itself.
    """

    modality: str
    pixel: float
    size: int = 256
    curve: IntensityMapping | None = None
    brightness: RoiIntensityBounds | None = None
    further_curves: FurtherCurves = ()

    @classmethod
    def fit(
        cls,
        support_cases: Sequence[SupportCase],
        slicings: Sequence[SliceGeometry],
        modality: str = "auto",
        size: int = 256,
        window: tuple[float, float] | None = None,
    ) -> Preprocessing:
        """Learn from the support cases, each cut by its slicing.

        modality: "CT", "MR", "RGB", or "auto" to tell from the voxels.
        window: intensities to show as black and white in every volume; colour frames have none.
        Raises InputError where sequences and volumes are mixed.
        """
        sequences = {case.volume.is_sequence for case in support_cases}
        if len(sequences) != 1:
            raise InputError(
                "The support cases are volumes and sequences mixed.", "Give one kind only."
            )
        stacks = [
            slicing.to_slices(case.volume.array)
            for case, slicing in zip(support_cases, slicings, strict=True)
        ]
        if sequences == {True}:
            modality = "RGB"
        elif modality == "auto":
            modality = detect_modality(stacks)
        elif modality not in ("CT", "MR"):
            raise InputError(f"There is no modality '{modality}'.", "Use CT, MR or auto.")
        labels = [
            slicing.to_slices(case.labels)
            for case, slicing in zip(support_cases, slicings, strict=True)
        ]
        curve: IntensityMapping | None = None
        if window is not None and modality != "RGB":
            curve = window, (0.0, 1.0)
        elif modality == "CT":
            curve = fit_intensity_mapping(stacks, labels, [slicing.steps for slicing in slicings])
        further_curves = fit_further_curves(
            [further_stacks(c.volume, s) for c, s in zip(support_cases, slicings, strict=True)],
            labels,
            [slicing.steps for slicing in slicings],
        )
        pixel = _pixel(slicings, size)
        learned = cls(modality, pixel, size, curve, further_curves=further_curves)
        if modality != "MR" or curve is not None:
            return learned
        prepared = [
            learned.transform(case.volume, slicing)
            for case, slicing in zip(support_cases, slicings, strict=True)
        ]
        return replace(learned, brightness=RoiIntensityBounds.learn(prepared, labels))

    def transform(self, volume: Volume, slicing: SliceGeometry) -> PreprocessedVolume:
        """Make a volume ready: its slices one by one, in the network's form.

        Slices that are larger than the support's lose the air around the body; a body that is
        larger, too, is scaled down, never cropped, and `note` says so. Raises TaskError
        where a sequence meets what was learned from volumes, or the other way round.
        """
        if volume.is_sequence != (self.modality == "RGB"):
            given = "a sequence of frames" if volume.is_sequence else "a volume"
            learned = "sequences of frames" if self.modality == "RGB" else "volumes"
            raise TaskError(
                f"'{volume.name}' is {given}, and the task was learned from {learned}.",
                "Use a task learned from the same kind of images.",
            )
        pixel, note, region = self.pixel, "", None
        stack = slicing.to_slices(volume.array)
        # Up to one network pixel too large is rounding, not worth another scale.
        most = self.pixel * (self.size + 1)
        if longest_side(slicing) > most and self.modality != "RGB":
            region = foreground_crop(foreground_bbox(stack), self.pixel * self.size, slicing)
        side = longest_side(slicing, region)
        if side > most:
            pixel = side / self.size
            note = (
                f"'{volume.name}' is larger than the support volumes; it is scaled "
                f"down {pixel / self.pixel:.2f} times more than they were, so that it fits."
            )
        framing = Letterbox.fit(
            slicing.slice_shape, slicing.spacing_in_plane, pixel, self.size, region
        )
        curve = self._curve_of(stack)
        if self.brightness is not None:
            curve = self.brightness.bound(curve, stack, framing)
        further = with_curves(further_stacks(volume, slicing), self.further_curves)
        return PreprocessedVolume(stack, curve, framing, note, volume.name, further=further)

    def _curve_of(self, stack: npt.NDArray) -> IntensityMapping:
        if self.modality == "RGB":
            return (0.0, 255.0), (0.0, 1.0)
        return self.curve or percentile_window(stack)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Preprocessing:
        """The inverse of `to_json`. Raises KeyError, TypeError or ValueError."""
        curve = data["curve"]
        return cls(
            modality=str(data["modality"]),
            pixel=float(data["pixel"]),
            size=int(data["size"]),
            curve=None if curve is None else (_floats(curve[0]), _floats(curve[1])),
            brightness=_brightness(data["brightness"]),
            further_curves=further_curves_from(data["further_curves"]),
        )


@dataclass(frozen=True, eq=False)
class PreprocessedVolume:
    """A volume as the network sees it, slice by slice; made by `Preprocessing.transform`.

    stack: canonical slices (S, H, W[, 3]) with the stored intensities, a view of the volume.
    curve: intensities (ascending) and their grey values; straight between, flat outside.
    framing: where the slices lie in the network's image.
    note: what the user should know about this volume, or "".
    name: of the volume, for messages.
    finer: pixels of `image` for one of `framing`, along a side.
    further: the other co-registered volumes of this case, likewise: stack and curve.
    """

    stack: npt.NDArray
    curve: IntensityMapping
    framing: Letterbox
    note: str = ""
    name: str = ""
    finer: int = 1
    further: tuple[tuple[npt.NDArray, IntensityMapping], ...] = ()

    @property
    def valid_region(self) -> tuple[int, int, int, int]:
        """Where the slice lies in network pixels: rows from, to, columns from, to."""
        return self.framing.box

    def grey(self, index: int) -> npt.NDArray[np.float32]:
        """Canonical slice `index` on its own grid: (C, H, W) grey values in [0, 1], of the first
        volume of a case alone."""
        plane = self.stack[index]
        planes = plane[np.newaxis] if plane.ndim == 2 else plane.transpose(2, 0, 1)
        return _through(self.curve, planes)

    def image(self, index: int) -> npt.NDArray[np.float32]:
        """The network's image (3, S, S) of canonical slice `index`, in [0, 1], 0 around it.

        Its channels are the volumes of the case; the third of two is their mean.
        """
        greys = [self.grey(index)]
        greys += [_through(curve, stack[index][np.newaxis]) for stack, curve in self.further]
        if len(greys) == 2:
            greys.append(np.mean(greys, axis=0))
        planes = self.framing.finer(self.finer).to_network(np.concatenate(greys))
        return np.array(np.broadcast_to(planes, (3, *planes.shape[1:])))

    def resample_mask(self, label_plane: npt.NDArray, label: int) -> npt.NDArray[np.float32]:
        """How much of every network pixel `label` covers, (S, S) in [0, 1], of a canonical
        label plane (H, W)."""
        return self.framing.to_network((label_plane == label)[np.newaxis])[0]

    def to_grid(self, maps: Any) -> Any:
        """(N, s, s) maps of the network, at any resolution s, to (N, H, W) on the canonical
        slice. An array gives an array, a tensor a tensor on the same device."""
        return self.framing.to_grid(maps)


def _pixel(slicings: Iterable[SliceGeometry], size: int) -> float:
    """The smallest with which all their slices fit."""
    return max(longest_side(slicing) for slicing in slicings) / size


def _brightness(data: dict[str, Any] | None) -> RoiIntensityBounds | None:
    if data is None:
        return None
    least, most = _floats(data["ratios"])
    return RoiIntensityBounds((least, most), _floats(data["place"]))


def _floats(values: Iterable[Any]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _through(curve: IntensityMapping, planes: npt.NDArray) -> npt.NDArray[np.float32]:
    intensities, greys = curve
    if len(intensities) == 2:
        low, high = intensities
        scaled = (planes.astype(np.float32) - low) / (high - low)
        return np.clip(scaled, 0, 1, out=scaled)
    return np.interp(planes, intensities, greys).astype(np.float32)
