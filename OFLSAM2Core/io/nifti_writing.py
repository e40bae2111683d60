"""NIfTI files placed like the volume they belong to."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt

from OFLSAM2Core.data.volume import Volume

# The most voxels along an axis that NIfTI-1 can count.
_MOST_NIFTI_1 = 32767

_MILLIMETRES = 2
_SCANNER = 1


def write_nifti(
    path: Path, array: npt.NDArray[np.uint8], volume: Volume, description: str = ""
) -> None:
    """Write an array (K, J, I) on the grid of `volume`.

    It gets the sform and qform, with their codes, of the NIfTI file that the volume was read from:
    every program sees both at one place. Else both forms say the same, and a sheared grid, which a
    qform cannot hold, has only an sform. description: at most 79 letters.
    """
    kind = nibabel.Nifti1Image if max(array.shape) <= _MOST_NIFTI_1 else nibabel.Nifti2Image
    # Without an affine of its own: it would be put into the header once more when it is saved.
    image = kind(array.T, None, dtype=np.uint8)
    header = image.header
    forms = volume.nifti_forms
    if forms is not None and np.array_equal(forms.affine, volume.affine):
        unit = _MILLIMETRES if forms.units not in (1, 3) else forms.units
        factor = {1: 0.001, 3: 1000.0}.get(unit, 1.0)
        lengths = np.linalg.norm(volume.affine[:3, :3], axis=0) * factor
        header.set_zooms(lengths)
        image.set_qform(forms.qform, forms.qform_code)
        image.set_sform(forms.sform, forms.sform_code)
        header["xyzt_units"] = unit
    else:
        image.set_sform(volume.affine, _SCANNER)
        if is_orthogonal(volume.affine):
            image.set_qform(volume.affine, _SCANNER)
        else:
            image.set_qform(None, 0)
        header["xyzt_units"] = _MILLIMETRES
    header["descrip"] = description.encode("ascii")
    nibabel.save(image, path)


def is_orthogonal(affine: npt.NDArray[np.float64]) -> bool:
    """Whether the axes are at right angles."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.allclose(axes.T @ axes, np.eye(3), atol=1e-4))
