"""Contact sheets: slices of a volume with labels drawn over them, as PNG pictures.

Slices lie as in Slicer's standard views and in physical proportion. The segmentation is filled
and outlined in its structures' colours; reference labels, where there are any, are a white line;
in the rows of confidence, what is doubtful glows from yellow (some doubt) to red (no better than
a guess).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_dilation

from OFLSAM2Core.data.overlap import bounding_box
from OFLSAM2Core.data.slice_geometry import FRAME_AXIS, ORIENTATIONS, SliceGeometry
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import Volume

TILE = 200  # pixels, the longer side of a slice in a sheet
GAP = 6
LINE = 18  # pixels, the height of a line of text
BACKGROUND = (24, 24, 28)
TEXT = (225, 225, 225)
WHITE = (255, 255, 255)


@dataclass(frozen=True, eq=False)
class StripContent:
    """What a strip of one volume is drawn from.

    labels, truth: on the volume's grid; 0 is background.
    confidence: uint8 on the same grid, 255 is certain.
    scores: S_cf by index along the stored slicing axis, written under the slice.
    axis: the stored axis the volume was segmented along, so that the strip has the same slices.
    """

    volume: Volume
    labels: npt.NDArray
    structures: Sequence[Structure]
    title: str
    truth: npt.NDArray | None = None
    confidence: npt.NDArray | None = None
    scores: Mapping[int, float] | None = None
    axis: int | None = None


def strip(content: StripContent, columns: int = 6) -> Image.Image:
    """A title and a row of slices, spread evenly over those that have something to show;
    under it a row of confidence, where there is one."""
    slicing = _slicing(content.volume, content.axis)
    image, labels = slicing.to_slices(content.volume.array), slicing.to_slices(content.labels)
    truth = None if content.truth is None else slicing.to_slices(content.truth)
    confidence = None if content.confidence is None else slicing.to_slices(content.confidence)
    marked = labels > 0 if truth is None else (labels > 0) | (truth > 0)
    indices = _spread(np.asarray(marked.any(axis=(1, 2))), columns)
    crop = _crop(marked, slicing.spacing_in_plane)
    size = _tile_size(crop, slicing.spacing_in_plane)
    window = _window(image[indices][(slice(None), *crop)])

    rows: list[list[Image.Image]] = [[]]
    captions = []
    for index in indices:
        grey = _grey(image[index][crop], window, size)
        picture = grey.copy()
        for structure in content.structures:
            shape = _resized(labels[index][crop] == structure.label, size)
            _paint(picture, shape, _rgb(structure), 0.3)
            _paint(picture, _outline(shape, 2), _rgb(structure), 1.0)
            if truth is not None:
                shape = _resized(truth[index][crop] == structure.label, size)
                _paint(picture, _outline(shape, 1), WHITE, 0.9)
        rows[0].append(_as_image(picture))
        stored = slicing.index_in_volume(int(index))
        score = (content.scores or {}).get(stored)
        captions.append(f"slice {stored}" + ("" if score is None else f"  conf. {score:.2f}"))
    if confidence is not None:
        rows.append(
            [
                _as_image(
                    _uncertainty(_grey(image[index][crop], window, size), confidence[index][crop])
                )
                for index in indices
            ]
        )
    return _assemble(content.title, rows, captions, size)


def sheet(
    strips: Sequence[Image.Image],
    structures: Sequence[Structure],
    *,
    truth: bool = False,
    confidence: bool = False,
) -> Image.Image:
    """Strips one under the other, with a legend."""
    legend = [(structure.name, _rgb(structure)) for structure in structures]
    if truth:
        legend.append(("reference labels (line)", WHITE))
    if confidence:
        legend += [("some doubt", (255, 190, 0)), ("no better than a guess", (255, 0, 0))]
    font = _font()
    entries = [(name, color, int(font.getlength(name)) + 34) for name, color in legend]
    width = max([part.width for part in strips] + [entry[2] + 2 * GAP for entry in entries])
    places, x, y = [], GAP, 0
    for _, _, length in entries:
        if x + length > width:
            x, y = GAP, y + LINE + 4
        places.append((x, y))
        x += length
    top = sum(part.height for part in strips)
    picture = Image.new("RGB", (width, top + y + LINE + 2 * GAP), BACKGROUND)
    y = 0
    for part in strips:
        picture.paste(part, (0, y))
        y += part.height
    draw = ImageDraw.Draw(picture)
    for (name, color, _), (left, line) in zip(entries, places, strict=True):
        upper = top + GAP + line
        draw.rectangle((left, upper + 2, left + 12, upper + 14), fill=color)
        draw.text((left + 18, upper), name, fill=TEXT, font=font)
    return picture


def _slicing(volume: Volume, axis: int | None) -> SliceGeometry:
    names = [FRAME_AXIS] if volume.is_sequence else ORIENTATIONS
    ways = [SliceGeometry.for_volume(volume, name) for name in names]
    along = [way for way in ways if way.axis == axis]
    return along[0] if along else SliceGeometry.for_volume(volume)


def _spread(has_content: npt.NDArray[np.bool_], count: int) -> npt.NDArray[np.intp]:
    candidates = np.flatnonzero(has_content)
    if len(candidates) == 0:
        candidates = np.arange(len(has_content))
    # The middles of equal parts: the first and last slice with content show next to nothing.
    count = min(count, len(candidates))
    return candidates[((np.arange(count) + 0.5) * len(candidates) / count).astype(int)]


def _crop(marked: npt.NDArray[np.bool_], spacing: tuple[float, float]) -> tuple[slice, slice]:
    """The box in plane around all that is marked, with room around it; square in millimetres
    where the slice allows it."""
    shape = marked.shape[1:]
    flat = np.asarray(marked.any(axis=0))
    if not flat.any():
        return slice(0, shape[0]), slice(0, shape[1])
    tight = bounding_box(flat)
    side = 1.5 * max((part.stop - part.start) * mm for part, mm in zip(tight, spacing, strict=True))
    box = []
    for part, length, mm in zip(tight, shape, spacing, strict=True):
        half = side / mm / 2
        middle = (part.start + part.stop) / 2
        box.append(slice(max(0, round(middle - half)), min(length, round(middle + half))))
    return box[0], box[1]


def _tile_size(crop: tuple[slice, slice], spacing: tuple[float, float]) -> tuple[int, int]:
    """(height, width) in pixels."""
    sides = [(part.stop - part.start) * mm for part, mm in zip(crop, spacing, strict=True)]
    scale = TILE / max(sides)
    return max(1, round(sides[0] * scale)), max(1, round(sides[1] * scale))


def _window(region: npt.NDArray) -> tuple[float, float]:
    low, high = np.percentile(region, (1, 99.5))
    return float(low), float(max(high, low + 1e-6))


def _grey(
    plane: npt.NDArray, window: tuple[float, float], size: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """(h, w, 3), 0 to 255."""
    if plane.ndim == 3:
        picture = Image.fromarray(np.ascontiguousarray(plane))
    else:
        low, high = window
        scaled = np.clip((plane.astype(np.float32) - low) / (high - low), 0, 1) * 255
        picture = Image.fromarray(scaled.astype(np.uint8)).convert("RGB")
    return np.asarray(picture.resize(size[::-1], Image.Resampling.BICUBIC), np.float32)


def _resized(mask: npt.NDArray[np.bool_], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    picture = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(picture.resize(size[::-1], Image.Resampling.BILINEAR)) > 127


def _outline(mask: npt.NDArray[np.bool_], width: int) -> npt.NDArray[np.bool_]:
    return binary_dilation(mask, iterations=width) & ~mask


def _paint(
    picture: npt.NDArray[np.float32],
    mask: npt.NDArray[np.bool_],
    color: tuple[int, int, int],
    opacity: float,
) -> None:
    picture[mask] = (1 - opacity) * picture[mask] + opacity * np.asarray(color, np.float32)


def _uncertainty(grey: npt.NDArray[np.float32], confidence: npt.NDArray) -> npt.NDArray[np.float32]:
    height, width = grey.shape[:2]
    resized = Image.fromarray(np.ascontiguousarray(confidence)).resize((width, height))
    uncertainty = np.clip((1 - np.asarray(resized, np.float32) / 255) * 2, 0, 1)[..., None]
    color = np.concatenate(
        [np.full_like(uncertainty, 255), 220 * (1 - uncertainty), 0 * uncertainty], axis=-1
    )
    opacity = np.minimum(1.5 * uncertainty, 1) * 0.85
    return (1 - opacity) * grey + opacity * color


def _as_image(picture: npt.NDArray[np.float32]) -> Image.Image:
    return Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))


def _assemble(
    title: str, rows: list[list[Image.Image]], captions: list[str], size: tuple[int, int]
) -> Image.Image:
    height, width = size
    cell = max(width, 120)  # Room for the caption, however narrow the slice.
    full_width = GAP + len(captions) * (cell + GAP)
    full_height = LINE + GAP + len(rows) * (height + GAP) + LINE + GAP
    picture = Image.new("RGB", (full_width, full_height), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    font = _font()
    draw.text((GAP, GAP // 2), title, fill=TEXT, font=font)
    for column, caption in enumerate(captions):
        left = GAP + column * (cell + GAP)
        for row, tiles in enumerate(rows):
            upper = LINE + GAP + row * (height + GAP)
            picture.paste(tiles[column], (left + (cell - width) // 2, upper))
        draw.text((left, full_height - LINE - GAP // 2), caption, fill=TEXT, font=font)
    return picture


def _font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(13)


def _rgb(structure: Structure) -> tuple[int, int, int]:
    red, green, blue = (round(255 * part) for part in structure.color)
    return red, green, blue
