"""A first look at images and segmentations: what is wrong with them by their headers alone.

It takes milliseconds a file, so that a damaged file is named before hours of work and not after.
Headers do not show everything: reading may still refuse what passed here.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from OFLSAM2Core.data.validation import check_geometry, check_spacing
from OFLSAM2Core.data.volume import Volume
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.io.dicom_folder import has_dicom, split_series
from OFLSAM2Core.io.frames import frame_files, masks_of_frames, picture_size
from OFLSAM2Core.io.image_files import check_scalar_type, kind_of, read_header
from OFLSAM2Core.io.image_header import ImageHeader, unusable
from OFLSAM2Core.io.mask_folder import mask_files
from OFLSAM2Core.io.segmentation_io import drawn_in
from OFLSAM2Core.io.unforeseen import in_words
from OFLSAM2Core.io.voxels import check_stored, ends_as_announced, read_voxels
from OFLSAM2Core.io.zipped import check_archive


@in_words
def look_at_volume(path: str | Path) -> None:
    """What `read_volume` would refuse in it, as far as headers show.

    Raises InputError naming the file: missing, damaged, too short, without a place, of no volume.
    """
    file, series = split_series(path)
    if os.path.isdir(file):
        frames = [] if series is not None or has_dicom(file) else frame_files(file)
        masks = [] if series is not None or frames else mask_files(file)
        if frames:
            _look_at_pictures(frames)
        elif len(masks) == 1:
            _look_at_image(masks[0], kind_of(masks[0]))
        else:
            _look_at_dicom(file, series)
        return
    kind = kind_of(file)
    if kind == "dicom":
        _look_at_dicom(file, series)
    else:
        _look_at_file(file, kind)


@in_words
def look_at_segmentation(path: str | Path, image: str | Path | None = None) -> None:
    """What `read_segmentation` would refuse in it, as far as headers show.

    image: the image that it is of; masks of frames are matched with its frames by name.
    Raises InputError naming the file: missing, damaged, too short, without a place, none at all.
    """
    path = Path(path)
    if not os.path.isdir(path):
        kind = kind_of(path)
        if kind == "dicom":
            drawn_in(path)
        else:
            _look_at_file(path, kind)
        return
    files = mask_files(path)
    pictures = frame_files(path, (".png",))
    if files:
        for file in files:
            _look_at_image(file, kind_of(file))
    elif pictures:
        _look_at_pictures(pictures)
        if image is not None and os.path.isdir(image):
            masks_of_frames(frame_files(Path(image)), pictures, path)
    else:
        drawn_in(path)


def _look_at_file(path: Path, kind: str) -> None:
    if kind == "zip":
        check_archive(path)
    elif kind == "picture":
        picture_size(path)
    else:
        _look_at_image(path, kind)


def _look_at_image(path: Path, kind: str) -> None:
    header = read_header(path, kind)
    check_scalar_type(path, header.dtype)
    _check_place(header)
    check_stored(header)
    if not ends_as_announced(header):
        read_voxels(header)  # Says what is missing; what is whole all the same passes.


def _check_place(header: ImageHeader) -> None:
    if 0 in header.shape:
        raise unusable(header.path, "it has no voxels", "Export the file again.")
    no_voxels = np.broadcast_to(np.uint8(0), (1, 1, 1))
    volume = Volume(no_voxels, header.affine, source=header.path)
    check_geometry(volume)
    check_spacing(volume)


def _look_at_dicom(path: Path, series: str | None) -> None:
    from OFLSAM2Core.io.dicom_series import check_series

    check_series(path, series)


def _look_at_pictures(files: list[Path]) -> None:
    """All are pictures of one size."""
    width, height = picture_size(files[0])[:2]
    for file in files[1:]:
        own = picture_size(file)[:2]
        if own != (width, height):
            raise InputError(
                f"'{file}' has {own[0]} x {own[1]} pixels, '{files[0].name}' {width} x {height}.",
                "All pictures of a sequence must have the same size.",
            )
