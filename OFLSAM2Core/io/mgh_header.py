"""FreeSurfer's volumes (`.mgh`, `.mgz`)."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from nibabel.freesurfer import MGHImage
from nibabel.freesurfer.mghformat import MGHHeader

from OFLSAM2Core.io.image_header import ImageHeader, check_affine, damaged
from OFLSAM2Core.io.voxels import open_unpacked, packing_of

_HEADER_BYTES = 284


def read_mgh_header(path: Path) -> ImageHeader:
    """Raises InputError naming the file: damaged, or without a place that can be used."""
    try:
        with open_unpacked(path) as stream:
            start = stream.read(_HEADER_BYTES)
        header = MGHHeader.from_fileobj(BytesIO(start), check=True)
        shape = tuple(int(size) for size in header["dims"])
        if min(shape) < 1:
            raise ValueError(f"its header says {' x '.join(map(str, shape))} voxels")
        dtype = header.get_data_dtype().newbyteorder(">")
        affine = np.array(header.get_affine(), np.float64)
    except Exception as error:  # of many kinds: the parser checks little
        raise damaged(path, error) from error
    notes = check_affine(path, affine)
    if int(header["goodRASFlag"]) != 1:
        notes.append(
            "does not say how it is oriented: it is read as coronal slices, as FreeSurfer does."
        )
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    return ImageHeader(
        path=path,
        shape=shape,
        affine=affine,
        dtype=dtype,
        files=(path,),
        packing=packing_of(path),
        skip=MGHImage.header_class().get_data_offset(),
        notes=tuple(notes),
    )
