"""Which structures a run has found, counted as slices come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from OFLSAM2Core.data.results import SliceResult
from OFLSAM2Core.data.structure_status import FOUND, Sizes, describe_status, structure_status
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import Volume


class FoundStructures:
    """structures: of the learned task. sizes: of its support, ml; see `support_sizes`."""

    def __init__(self, structures: Sequence[Structure], sizes: Mapping[str, tuple[float, float]]):
        self._structures = tuple(structures)
        self._sizes: Sizes = dict(sizes)
        self._voxel_ml: dict[int, float] = {}
        self._voxels: dict[tuple[int, int, int], npt.NDArray[np.intp]] = {}

    def begin(self, frame: int, volume: Volume) -> None:
        """Slices of this volume come next."""
        self._voxel_ml[frame] = abs(float(np.linalg.det(volume.affine[:3, :3]))) / 1000

    def add(self, frame: int, result: SliceResult) -> None:
        """Count a slice, in place of an earlier revision of it."""
        counts = np.bincount(result.labels.reshape(-1), minlength=256)
        self._voxels[frame, result.axis, result.index] = counts

    def statuses(self) -> dict[str, str]:
        """By a structure's name, "found", "empty" or "doubtful", as `structure_status` says; of
        several frames by their mean."""
        found = {}
        for one in self._structures:
            voxels = sum(int(counts[one.label]) for counts in self._voxels.values())
            size = self._milliliters(one.label)
            found[one.name] = structure_status(voxels, size, self._sizes.get(one.name))
        return found

    def in_words(self) -> list[str]:
        """A sentence for each structure that was not found, or not as large as in the support."""
        label_of = {one.name: one.label for one in self._structures}
        return [
            f"{name} is "
            f"{describe_status(status, self._sizes.get(name), self._milliliters(label_of[name]))}."
            for name, status in self.statuses().items()
            if status != FOUND
        ]

    def _milliliters(self, label: int) -> float:
        """A structure's volume, as the mean of the frames."""
        total = sum(
            counts[label] * self._voxel_ml[frame]
            for (frame, _axis, _index), counts in self._voxels.items()
        )
        return float(total) / max(1, len(self._voxel_ml))
