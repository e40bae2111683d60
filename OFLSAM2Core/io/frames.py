"""Sequences: folders of colour frames, and folders of masks for them."""

from __future__ import annotations

import logging
import re
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from OFLSAM2Core.data.volume import Volume
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.io.image_header import LPS_TO_RAS, damaged
from OFLSAM2Core.runtime.counted import counted
from OFLSAM2Core.runtime.memory_check import require_memory

_log = logging.getLogger(__name__)

_size_limit = threading.Lock()

_FRAME_EXTENSIONS = (".jpg", ".jpeg", ".png")

PICTURE_EXTENSIONS = (*_FRAME_EXTENSIONS, ".bmp", ".tif", ".tiff")


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


def read_masks(folder: Path, frames: list[Path] | None = None) -> npt.NDArray[np.uint8]:
    """The PNG masks of a folder (T, H, W), or of one file.

    Black-and-white masks (0 and 255) become 0 and 1; in all others the pixel value (of palette
    pictures, the index) is the label value. frames: put the masks in the order of these frames, by
    name.

    Raises InputError naming the file: none there, damaged, colour, of different sizes, or with a
    name that is no frame's.
    """
    files = frame_files(folder, (".png",)) if folder.is_dir() else [folder]
    if not files:
        raise InputError(
            f"The folder '{folder}' has no PNG masks.", "Give one mask for every frame."
        )
    if frames is not None:
        files = masks_of_frames(frames, files, folder)
    labels = _stack(files, "L")
    if set(np.unique(labels)) <= {0, 255}:
        labels //= 255
    return labels


def read_picture(path: Path) -> Volume:
    """A single picture: in grey a volume of one slice, in colour a sequence of one frame.

    Grey values keep their depth (8 or 16 bits, or real). Every page of a
    picture of several pages (TIFF) is a slice. A picture has no spacing in millimetres: a warning
    says so.
    """
    with _opened(path) as picture:
        pages = getattr(picture, "n_frames", 1)
        if picture.mode not in ("L", "1", "I", "F") and not picture.mode.startswith("I;16"):
            colour = _picture(path, "RGB")
            if (colour == colour[..., :1]).all():  # Grey, stored three times.
                return Volume(colour[np.newaxis, ..., 0], LPS_TO_RAS, path.stem, path)
            return Volume(colour[np.newaxis], name=path.stem, source=path)
        slices = []
        for page in range(pages):
            picture.seek(page)
            slices.append(np.array(picture.convert("L") if picture.mode == "1" else picture))
        array = np.stack(slices)
    _log.warning("'%s' does not say how large its pixels are; 1 mm is taken.", path)
    return Volume(array, LPS_TO_RAS, path.stem, path)


def picture_size(path: Path) -> tuple[int, int, int, int]:
    """Width, height, pages and bytes of a pixel of a picture, by its header.

    Raises InputError naming the file where it is damaged.
    """
    with _opened(path) as picture:
        pages = int(getattr(picture, "n_frames", 1))
        pixel = {"1": 1, "L": 1, "P": 1, "I": 4, "F": 4}.get(picture.mode, 0)
        pixel = pixel or (2 if picture.mode.startswith("I;16") else 4)
        return picture.width, picture.height, pages, pixel


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """A picture, its header read, its pixels not yet.

    Raises InputError naming the file where it is damaged; ResourceError where its pixels do not fit
    into memory: how large it is decides that, not a limit of the library's.
    """
    try:
        with _of_any_size(path) as picture:
            pages = int(getattr(picture, "n_frames", 1))
            require_memory(
                picture.width * picture.height * pages * 8,
                f"The picture '{path}' ({picture.width} x {picture.height} pixels)",
                "Close other programs, or scale it down.",
            )
            yield picture
    except (OSError, SyntaxError, ValueError, EOFError, TypeError, struct.error) as error:
        raise damaged(path, error) from error


def _of_any_size(path: Path) -> Image.Image:
    with _size_limit:  # It is one for the whole library.
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = before


def masks_of_frames(frames: list[Path], masks: list[Path], source: Path) -> list[Path]:
    """The mask of each frame, by name: "0007.jpg" and "0007.png", or "frame_7" and "mask_7".

    Raises InputError naming the files where it is unclear from the names which mask belongs to
    which frame.
    """
    for key in (_stem, _numbers, _last_number):
        of_frame, of_mask = ([key(path) for path in paths] for paths in (frames, masks))
        if None in (*of_frame, *of_mask) or len(set(of_mask)) < len(masks):
            continue
        if len(set(of_frame)) == len(frames) and set(of_mask) & set(of_frame):
            missing = [path for path, name in zip(frames, of_frame, strict=True)
                       if name not in set(of_mask)]  # fmt: skip
            extra = [path for path, name in zip(masks, of_mask, strict=True)
                     if name not in set(of_frame)]  # fmt: skip
            if not missing and not extra:
                found = dict(zip(of_mask, masks, strict=True))
                return [found[name] for name in of_frame]
            problems = [f"the frame '{path.name}' has no mask" for path in missing[:1]]
            problems += [f"the mask '{path.name}' has no frame" for path in extra[:1]]
            raise InputError(
                f"The masks in '{source}' do not fit the frames ({counted(len(masks), 'mask')}, "
                f"{len(frames)} "
                f"frames): {' and '.join(problems)}.",
                "Give one mask for every frame, with the frame's name.",
            )
    raise InputError(
        f"The names of the masks in '{source}' ('{masks[0].name}', ...) do not tell which frames "
        f"('{frames[0].name}', ...) they belong to.",
        "Give every mask the name of its frame.",
    )


def _stem(path: Path) -> str:
    return path.stem.lower()


def _numbers(path: Path) -> tuple[int, ...] | None:
    return tuple(int(number) for number in re.findall(r"\d+", path.stem)) or None


def _last_number(path: Path) -> int | None:
    numbers = _numbers(path)
    return numbers[-1] if numbers else None


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
    with _opened(file) as picture:
        if mode == "L" and picture.mode not in ("L", "P", "1"):
            raise InputError(
                f"The mask '{file}' is not an 8-bit grey or palette picture, but '{picture.mode}'.",
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


def _natural(path: Path) -> list[tuple[int, int | str]]:
    parts = re.split(r"(\d+)", path.name.lower())
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts]
