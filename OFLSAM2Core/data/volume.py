"""The plain data that goes in: volumes and support cases."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from OFLSAM2Core.data.structures import Structure, check_structures
from OFLSAM2Core.errors import InputError


@dataclass(frozen=True, eq=False)
class NiftiForms:
    """Both placements of a NIfTI header as stored, so that a result can be stored with the same.

    sform, qform: 4x4 in the file's own units, None where the code is 0.
    units: NIfTI's code for the unit of length (2 is mm, 0 unknown).
    affine: what the volume's affine was made to be of them (RAS, mm).
    """

    sform: npt.NDArray[np.float64] | None
    sform_code: int
    qform: npt.NDArray[np.float64] | None
    qform_code: int
    units: int
    affine: npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Volume:
    """A scalar volume, or a sequence of colour frames.

    array: (K, J, I), as SimpleITK and Slicer give it (the last index runs fastest in space);
        for a sequence (T, H, W, 3) uint8. Its voxels are never changed: make another Volume.
    affine: 4x4, index (i, j, k) to world in millimetres, RAS (as Slicer's IJKToRAS).
        Unit spacing for a sequence.
    name: for messages and reports.
    source: the file or folder it was read from, where there was one.
    nifti_forms: of a NIfTI file, so that results get the same.
    frame_of_reference: UID of the coordinates of a DICOM image; no task keeps it.
    further: up to two more volumes of the same patient, co-registered with this one. A session puts
        them onto this one's grid. The backbone sees all of them as its channels; all else sees this
        one alone.
    """

    array: npt.NDArray
    affine: npt.NDArray[np.float64] = field(default_factory=lambda: np.eye(4))
    name: str = "volume"
    source: Path | None = None
    nifti_forms: NiftiForms | None = None
    further: tuple[Volume, ...] = ()
    frame_of_reference: str = ""

    @property
    def is_sequence(self) -> bool:
        return self.array.ndim == 4

    @property
    def volume_count(self) -> int:
        """How many co-registered volumes this case has, with this one."""
        return 1 + len(self.further)

    @property
    def grid_shape(self) -> tuple[int, int, int]:
        """Shape of a label array on this volume's grid: (K, J, I) or (T, H, W)."""
        shape = self.array.shape[:3]
        return (shape[0], shape[1], shape[2])

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres along i, j, k."""
        lengths = np.linalg.norm(self.affine[:3, :3], axis=0)
        return (float(lengths[0]), float(lengths[1]), float(lengths[2]))


@dataclass(frozen=True, eq=False)
class SupportCase:
    """A volume and its segmentation, given by the user.

    labels: unsigned integers on the volume's own grid (`volume.grid_shape`), 0 is background.
    structures: what the values in `labels` mean; a value not listed here is an error.
    """

    volume: Volume
    labels: npt.NDArray
    structures: tuple[Structure, ...]

    @property
    def name(self) -> str:
        return self.volume.name

    def __post_init__(self) -> None:
        check_structures(self.structures, f"The segmentation of '{self.name}'")
        if self.labels.shape != self.volume.grid_shape:
            raise InputError(
                f"The segmentation of '{self.name}' has {self.labels.shape} voxels (k, j, i), "
                f"its volume {self.volume.grid_shape}.",
                "Resample the segmentation onto the volume's grid, or pick the right pair.",
            )
