"""SimpleITK at the border: files to images and back, LPS to RAS.

Inside this package world coordinates are RAS (as in Slicer); SimpleITK's are LPS.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from OFLSAM2Core.errors import InputError
from OFLSAM2Core.io.file_integrity import check_not_truncated

IMAGE_EXTENSIONS = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def read_image(path: Path) -> sitk.Image:
    """Read one image file whatever its pixel type and dimension.

    Raises InputError naming the file: missing, of an unknown kind, damaged or truncated.
    """
    if not path.exists():
        raise InputError(f"There is no file '{path}'.", "Check the path.")
    if not is_image_file(path):
        raise InputError(
            f"'{path}' is of a kind that is not known here.",
            f"Use one of {', '.join(IMAGE_EXTENSIONS)}, a DICOM series folder or a frames folder.",
        )
    try:
        check_not_truncated(path)
        return sitk.ReadImage(str(path))
    except (RuntimeError, MemoryError, OSError, ValueError) as error:
        raise unreadable(path, error) from error


def unreadable(path: str | Path, error: BaseException) -> InputError:
    """The error for a file that a reader stumbled over."""
    return InputError(
        f"'{path}' cannot be read: damaged, truncated, or not what its name says "
        f"({_told_by(error)}).",
        "Copy or export the file again.",
    )


def is_image_file(path: Path) -> bool:
    return path.name.lower().endswith(IMAGE_EXTENSIONS)


def scalar_array(image: sitk.Image, path: str | Path) -> npt.NDArray:
    """The voxels (K, J, I) in their stored type.

    Raises InputError naming the file where it is not one 3D scalar volume.
    """
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(
            f"'{path}' has {image.GetNumberOfComponentsPerPixel()} values in every voxel "
            "(a colour or vector image), not one.",
            "Give a scalar volume; colour frames are read from a folder of JPEG or PNG files.",
        )
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[:, :, :, 0]
    if image.GetDimension() != 3:
        raise InputError(
            f"'{path}' is {image.GetDimension()}D ({' x '.join(map(str, image.GetSize()))}), "
            "not a volume.",
            "Give one 3D volume; split a 4D series into its volumes first.",
        )
    return sitk.GetArrayFromImage(image)


def affine_of(image: sitk.Image) -> npt.NDArray[np.float64]:
    """Index (i, j, k) to RAS millimetres, of the first three axes."""
    size = image.GetDimension()
    direction = np.array(image.GetDirection()).reshape(size, size)[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = direction * np.array(image.GetSpacing())[:3]
    affine[:3, 3] = image.GetOrigin()[:3]
    return _LPS_TO_RAS @ affine


def image_of(array: npt.NDArray, affine: npt.NDArray[np.float64]) -> sitk.Image:
    """A SimpleITK image of a (K, J, I) array on the grid of a RAS affine."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    lps = _LPS_TO_RAS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    return image


def _told_by(error: BaseException) -> str:
    """The one line of a reader's error that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith("Exception thrown")]
    text = (told or lines or [type(error).__name__])[-1]
    for prefix in ("ITK ERROR: ", "sitk::ERROR: "):
        text = text.split(prefix)[-1]
    return text[:200].rstrip(".")
