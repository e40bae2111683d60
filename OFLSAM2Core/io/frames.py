"""Sequences: folders of colour frames, and folders of masks for them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from OFLSAM2Core.data.volume import Volume
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.io.sitk_io import unreadable

_FRAME_EXTENSIONS = (".jpg", ".jpeg", ".png")


def frame_files(folder: Path, extensions: tuple[str, ...] = _FRAME_EXTENSIONS) -> list[Path]:
    """The picture files of a folder in natural order ("frame2" before "frame10")."""
    files = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in extensions and not path.name.startswith(".")
    ]
    return sorted(files, key=_natural)


def read_frames(folder: Path) -> Volume:
    """The frames of a folder as a sequence (T, H, W, 3) uint8.

    Raises InputError naming the file: damaged, or of another size than the first frame.
    """
    files = frame_files(folder)
    return Volume(_stack(files, "RGB"), name=folder.name, source=folder)


def read_masks(folder: Path) -> npt.NDArray[np.uint8]:
    """The PNG masks of a folder (T, H, W). Black-and-white masks (0 and 255) become 0 and 1;
    in all others the pixel value (of palette pictures, the index) is the label value.

    Raises InputError naming the file: none there, damaged, colour, or of different sizes.
    """
    files = frame_files(folder, (".png",))
    if not files:
        raise InputError(
            f"The folder '{folder}' has no PNG masks.", "Give one mask for every frame."
        )
    labels = _stack(files, "L")
    if set(np.unique(labels)) <= {0, 255}:
        labels //= 255
    return labels


def _stack(files: list[Path], mode: str) -> npt.NDArray[np.uint8]:
    first = _picture(files[0], mode)
    stack = np.empty((len(files), *first.shape), np.uint8)
    for number, file in enumerate(files):
        picture = first if number == 0 else _picture(file, mode)
        if picture.shape != first.shape:
            raise InputError(
                f"'{file}' has {picture.shape[1]} x {picture.shape[0]} pixels, "
                f"'{files[0].name}' {first.shape[1]} x {first.shape[0]}.",
                "All pictures of a sequence must have the same size.",
            )
        stack[number] = picture
    return stack


def _picture(file: Path, mode: str) -> npt.NDArray[np.uint8]:
    try:
        with Image.open(file) as picture:
            if mode == "L" and picture.mode not in ("L", "P", "1"):
                raise InputError(
                    f"The mask '{file}' is not an 8-bit grey or palette picture, but "
                    f"'{picture.mode}'.",
                    "Save masks as PNG with one 8-bit label value a pixel.",
                )
            if mode == "RGB" and picture.mode[0] in "IF":
                raise InputError(
                    f"The frame '{file}' has more than 8 bits a pixel ('{picture.mode}').",
                    "Save frames as 8-bit grey or colour pictures: more would be cut off.",
                )
            if mode == "L" and picture.mode == "P":
                return np.array(picture, np.uint8)
            return np.array(picture.convert(mode), np.uint8)
    except (OSError, SyntaxError, ValueError) as error:
        raise unreadable(file, error) from error


def _natural(path: Path) -> list[tuple[int, int | str]]:
    parts = re.split(r"(\d+)", path.name.lower())
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts]
