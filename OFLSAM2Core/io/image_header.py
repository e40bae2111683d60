"""What the header of an image file says, and what had to be chosen where it does not say."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from OFLSAM2Core.data.volume import NiftiForms
from OFLSAM2Core.errors import InputError

_log = logging.getLogger(__name__)

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

# Cosine of the angle between two axes. Below the first, rounding; from the second on, there is a
# warning.
_SHEAR_SAID = 0.01

# Millimetres, from microscopes to thick slices. What is far beyond is refused (data/validation.py).
_SPACINGS = (1e-3, 100.0)


@dataclass(frozen=True, eq=False)
class ImageHeader:
    """Where the voxels of an image are stored, of what type, and where they lie in the world.

    shape: fastest axis first (i, j, k, ...), without the axis of a voxel's components.
    affine: 4x4, index (i, j, k) to world in mm, RAS.
    dtype: as stored, with its byte order.
    components: values in every voxel (3 for colour).
    component_axis: where their axis is among the stored ones, fastest first (0, or the last).
    slope, intercept: stored values to real ones.
    files: the files that hold the voxels, in order; equal parts of them.
    start: bytes before the voxels in each file; -1: the voxels are the file's last bytes.
    packing: "" (none), "gzip", "bzip2", "zlib", "text" or "hex".
    skip: bytes before the voxels after unpacking.
    notes: sentences on what was chosen or is missing, for the user.
    fields: key/value pairs of the header (NRRD), its fields (MetaImage), its description (NIfTI).
    forms: both placements, of a NIfTI file.
    """

    path: Path
    shape: tuple[int, ...]
    affine: npt.NDArray[np.float64]
    dtype: np.dtype
    files: tuple[Path, ...]
    start: int = 0
    packing: str = ""
    skip: int = 0
    components: int = 1
    component_axis: int = 0
    slope: float = 1.0
    intercept: float = 0.0
    notes: tuple[str, ...] = ()
    fields: dict[str, str] = field(default_factory=dict)
    forms: NiftiForms | None = None

    def say_notes(self) -> None:
        """Log what was chosen or is missing, one warning a sentence."""
        for note in self.notes:
            _log.warning("'%s' %s", self.path, note)


def damaged(path: str | Path, why: object) -> InputError:
    """The error for a file that is not whole, or not what it should be."""
    return InputError(
        f"'{path}' cannot be read: damaged, truncated, or not what its name says ({why}).",
        "Copy or export the file again.",
    )


def unusable(path: str | Path, why: str, hint: str) -> InputError:
    """The error for a file that is whole, but lacks something that cannot be guessed."""
    return InputError(f"'{path}' cannot be used: {why}.", hint)


def missing_file(path: str | Path) -> InputError:
    """The error for a path where there is nothing."""
    return InputError(f"There is no file '{path}'.", "Check the path.")


def check_affine(path: str | Path, affine: npt.NDArray[np.float64]) -> list[str]:
    """Notes on shear. Raises InputError naming the file and the axis where the geometry is
    undefined: a spacing of 0, NaN, or axes that are not independent."""
    hint = "Repair the header: three independent axes with positive spacing, in mm."
    if not np.isfinite(affine).all():
        raise unusable(path, "its place in the world is NaN or infinite", hint)
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    for name, length in zip("ijk", lengths, strict=True):
        if length == 0:
            raise unusable(path, f"its voxels have a spacing of 0 mm along axis {name}", hint)
    notes = []
    if lengths.min() < _SPACINGS[0] or lengths.max() > _SPACINGS[1]:
        notes.append(
            f"has a spacing of {numbers(lengths)} mm, as hardly a scanner has: is its unit right?"
        )
    axes = affine[:3, :3] / lengths
    if abs(np.linalg.det(axes)) < 1e-3:
        raise unusable(path, "its axes are not independent of each other", hint)
    cosines = np.abs(axes.T @ axes - np.eye(3))
    if cosines.max() < _SHEAR_SAID:
        return notes
    angle = np.degrees(np.arccos(cosines.max()))
    return [
        *notes,
        f"is sheared: two of its axes are at {angle:.1f} degrees. It is used as it is.",
    ]


def numbers(values: npt.ArrayLike, digits: int = 4) -> str:
    """Numbers for a message: "(0.7, 0.7, 3)"."""
    return "(" + ", ".join(f"{value:.{digits}g}" for value in np.asarray(values, float)) + ")"
