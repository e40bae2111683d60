"""Files that come out: found to be writable before the work starts."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from OFLSAM2Core.data.image_identity import IDENTITY_TAG, image_identity
from OFLSAM2Core.data.volume import Volume
from OFLSAM2Core.errors import InputError, ResourceError
from OFLSAM2Core.io.made_of import in_one_line
from OFLSAM2Core.io.sitk_io import image_of
from OFLSAM2Core.runtime.atomic_write import atomic_write

LABELMAP_EXTENSIONS = (".nii.gz", ".nii", ".nrrd", ".mha")


def check_writable(
    path: str | Path, need_bytes: int = 0, extensions: Sequence[str] | None = None
) -> None:
    """Call this before the work starts.

    Raises InputError where the folder is missing or not writable, the file's extension is none
    of `extensions`, or the path is a folder; ResourceError where less than `need_bytes` is free.
    """
    path = Path(path)
    if "\0" in str(path):
        raise InputError(f"The output file {str(path)!r} has a name that no file can have.")
    if extensions is not None and not path.name.lower().endswith(tuple(extensions)):
        raise InputError(
            f"The output file '{path}' has an extension that is not known here.",
            f"End its name with {' or '.join(extensions)}.",
        )
    folder = path.parent
    if path.is_dir():
        raise InputError(f"The output file '{path}' is a folder.", "Give the name of a file.")
    if not folder.is_dir():
        raise InputError(
            f"The output folder '{folder}' does not exist.", "Create it, or choose another one."
        )
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"The output folder '{folder}' is not writable: {error.strerror}.",
            "Choose another one.",
        ) from error
    if path.exists() and not os.access(path, os.W_OK):
        raise InputError(
            f"The output file '{path}' exists and is write-protected.", "Choose another name."
        )
    free = shutil.disk_usage(folder).free
    if free < need_bytes:
        raise ResourceError(
            f"The disk of '{folder}' has {free / 1e6:.0f} MB free; "
            f"{need_bytes / 1e6:.0f} MB are needed for '{path.name}'.",
            "Free some space, or choose another folder.",
        )


def write_labelmap(path: str | Path, labels: npt.NDArray, volume: Volume) -> None:
    """Write labels (uint8, on `volume`'s grid) as NIfTI, NRRD or MetaImage, by extension."""
    _write_on_grid(path, labels, volume)


def write_confidence(path: str | Path, confidence: npt.NDArray, volume: Volume) -> None:
    """Write confidence (uint8, 255 is certain, on `volume`'s grid), by extension."""
    _write_on_grid(path, confidence, volume)


def _write_on_grid(path: str | Path, array: npt.NDArray, volume: Volume) -> None:
    check_writable(path, extensions=LABELMAP_EXTENSIONS)
    if array.shape != volume.grid_shape:
        raise ValueError(f"{array.shape} is not the volume's grid {volume.grid_shape}")
    array = array.astype(np.uint8, copy=False)
    identity = image_identity(volume)
    with atomic_write(path) as temporary:
        if Path(path).name.lower().endswith((".nii", ".nii.gz")):
            from OFLSAM2Core.io.nifti_writing import write_nifti

            write_nifti(temporary, array, volume, in_one_line(identity))
        else:
            image = image_of(array, volume.affine)
            image.SetMetaData(IDENTITY_TAG, identity)
            _write_by_sitk(image, temporary)


def _write_by_sitk(image: sitk.Image, path: Path) -> None:
    try:
        sitk.WriteImage(image, str(path), useCompression=True)
    except UnicodeEncodeError as error:  # It takes no name that is not UTF-8.
        raise InputError(
            f"The folder '{path.parent}' has a name that is not UTF-8, which this format's writer "
            "does not take.",
            "Write a .nii.gz or .seg.nrrd file, or choose another folder.",
        ) from error
