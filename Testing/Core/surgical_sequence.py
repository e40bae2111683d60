"""A synthetic sequence that looks a little like surgery, stored as DAVIS is.

    python Testing/Core/surgical_sequence.py FOLDER

Two instruments with grey shafts and bright tips move over red tissue that drifts and pulsates, with
highlights and vignetting. The second one leaves the picture, comes back, and leaves it again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import gaussian_filter

HEIGHT, WIDTH = 144, 192
LABELS = {1: "left instrument", 2: "right instrument"}


def frame(number: int, count: int = 24) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Frame `number` of `count` and its labels: (144, 192, 3) and (144, 192)."""
    part = number / max(count - 1, 1)
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    picture = _tissue(part)
    reach = 95 + 25 * np.sin(2 * np.pi * part)
    other = 100 * np.cos(1.5 * np.pi * part) ** 2
    _draw(picture, labels, 2, (WIDTH + 5, 40.0), (-0.85, 0.5), other, (150, 140, 120))
    _draw(picture, labels, 1, (-5, 120.0), (0.9, -0.35 - 0.2 * part), reach, (120, 125, 135))
    row, column = np.mgrid[:HEIGHT, :WIDTH]
    apart = ((row - HEIGHT / 2) / HEIGHT) ** 2 + ((column - WIDTH / 2) / WIDTH) ** 2
    picture *= (1 - 0.8 * apart)[..., None]
    picture += np.random.default_rng(number).normal(0, 4, picture.shape)
    return np.clip(picture, 0, 255).astype(np.uint8), labels


def write(folder: Path, count: int = 24) -> Path:
    """The sequence as a data set with the one sequence `surgery`; the folder."""
    for kind in ("frames", "masks"):
        (folder / kind / "surgery").mkdir(parents=True)
    for number in range(count):
        picture, labels = frame(number, count)
        Image.fromarray(picture).save(folder / "frames/surgery" / f"{number:05}.png")
        Image.fromarray(labels).save(folder / "masks/surgery" / f"{number:05}.png")
    labels_of = {str(value): name for value, name in LABELS.items()}
    content = {"name": "synthetic surgery", "labels": labels_of, "sequences": ["surgery"]}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def _tissue(part: float) -> npt.NDArray[np.float64]:
    rng = np.random.default_rng(0)
    coarse = gaussian_filter(rng.normal(size=(2 * HEIGHT, 2 * WIDTH)), 9)
    fine = gaussian_filter(rng.normal(size=(2 * HEIGHT, 2 * WIDTH)), 2)
    down, across = int(10 + 12 * part), int(20 + 15 * np.sin(4 * part))
    window = np.s_[down : down + HEIGHT, across : across + WIDTH]
    shade = 1 + 4 * coarse[window] + 0.5 * fine[window] + 0.05 * np.sin(40 * part)
    picture = shade[..., None] * np.array([150.0, 60.0, 55.0])
    picture[fine[window] > 0.22] = 235.0
    return picture


def _draw(
    picture: npt.NDArray,
    labels: npt.NDArray,
    label: int,
    origin: tuple[float, float],
    direction: tuple[float, float],
    reach: float,
    grey: tuple[int, int, int],
) -> None:
    """A shaft from `origin` (column, row), `reach` pixels long, with a brighter tip."""
    row, column = np.mgrid[:HEIGHT, :WIDTH]
    along = np.array(direction) / np.hypot(*direction)
    x, y = column - origin[0], row - origin[1]
    forward, aside = x * along[0] + y * along[1], x * along[1] - y * along[0]
    shaft = (np.abs(aside) < 8) & (forward < reach)
    tip = (
        (np.abs(aside) < 8 - 0.5 * (forward - reach)) & (forward >= reach) & (forward < reach + 14)
    )
    light = 1 + 0.5 * np.cos(aside / 8 * np.pi / 2)
    for part, bright in ((shaft, 1.0), (tip, 1.5)):
        picture[part] = (bright * light[part])[:, None] * np.array(grey)
        labels[part] = label


if __name__ == "__main__":
    write(Path(sys.argv[1]))
