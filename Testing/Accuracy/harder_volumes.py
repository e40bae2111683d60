"""Writes a data set whose test volumes are harder to find one's way in.

    python Testing/Accuracy/harder_volumes.py DATASET CHANGE OUT [--cases N] [--every N]

CHANGE is one of `mirrored`, `foreign`, `noise`: the volume is pasted somewhere into a field of view
of three times its size (the square root of three along two sides), with its own mirror image, with
parts of another volume or with noise around; `cropped`: half of the volume is cut away along the
side on which it is longest, through the middle of the structures; `turned`: by 30 degrees about the
slice axis; `absent`: cut to the largest part beside the structures, in which none of them is. The
support stays as it is. `oflsam2 evaluate OUT` and `ablation.py OUT` then measure.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage

from OFLSAM2Core.evaluation.datasets import Dataset

PASTED = ("mirrored", "foreign", "noise")
CHANGES = (*PASTED, "cropped", "turned", "absent")
LARGER = 3**0.5
DEGREES = 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("change", choices=CHANGES)
    parser.add_argument("out", type=Path)
    parser.add_argument("--cases", type=int, help="the first so many test cases; default: all")
    parser.add_argument("--every", type=int, default=1, help="of these, one of so many")
    args = parser.parse_args()
    dataset = Dataset.open(args.dataset)
    test = dataset.test[: args.cases][:: args.every]
    args.out.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(test):
        image, labels = (sitk.ReadImage(str(file)) for file in files_of(dataset, name))
        next_one = dataset.test[(number + 1) % len(dataset.test)]
        other = sitk.ReadImage(str(files_of(dataset, next_one)[0]))
        rng = np.random.default_rng(number)
        arrays = [sitk.GetArrayFromImage(each) for each in (image, labels, other)]
        found = changed(args.change, arrays[0], arrays[1], arrays[2], rng)
        for values, like, kind in zip(found, (image, labels), ("image", "label"), strict=True):
            written = sitk.GetImageFromArray(values)
            # The origin does not matter: nothing may depend on where a scanner's zero was.
            written.SetSpacing(like.GetSpacing())
            written.SetDirection(like.GetDirection())
            sitk.WriteImage(written, str(args.out / f"{name}_{kind}.nii.gz"))
    for name in dataset.support:
        for file, kind in zip(files_of(dataset, name), ("image", "label"), strict=True):
            shutil.copy(file, args.out / f"{name}_{kind}.nii.gz")
    about = json.loads((args.dataset / "dataset.json").read_text(encoding="utf-8"))
    about.update(name=f"{dataset.name}, {args.change}", support=dataset.support, test=test)
    (args.out / "dataset.json").write_text(json.dumps(about, indent=1), encoding="utf-8")


def files_of(dataset: Dataset, name: str) -> tuple[Path, Path]:
    """Image and labels of a case, whose image is one file."""
    files = dataset.files[name]
    return files.images[0], files.labels


def changed(
    change: str,
    image: npt.NDArray,
    labels: npt.NDArray,
    other: npt.NDArray,
    rng: np.random.Generator,
) -> tuple[npt.NDArray, npt.NDArray]:
    """Image and labels (slices, rows, columns), changed. other: another volume's image."""
    if change in PASTED:
        return pasted(change, image, labels, other, rng)
    if change in ("cropped", "absent"):
        keep = half_of(labels, rng) if change == "cropped" else beside(labels)
        return image[keep], labels[keep]
    return (
        ndimage.rotate(image, DEGREES, (1, 2), reshape=False, order=1, mode="constant", cval=0),
        ndimage.rotate(labels, DEGREES, (1, 2), reshape=False, order=0),
    )


def pasted(
    change: str,
    image: npt.NDArray,
    labels: npt.NDArray,
    other: npt.NDArray,
    rng: np.random.Generator,
) -> tuple[npt.NDArray, npt.NDArray]:
    """Into a larger field of view, at a random place in it."""
    sides = np.array(image.shape)
    grown = np.where(np.argsort(np.argsort(-sides, kind="stable")) < 2, LARGER, 1.0)
    whole = np.ceil(sides * grown).astype(int)
    before = np.array([int(rng.integers(0, more + 1)) for more in whole - sides])
    around = list(zip(before, whole - sides - before, strict=True))
    if change == "mirrored":
        wide = np.pad(image, around, mode="symmetric")
    elif change == "foreign":
        wide = _tiled(other, whole)
    else:
        wide = _noise(image, whole, rng)
    inside = tuple(slice(b, b + s) for b, s in zip(before, sides, strict=True))
    wide[inside] = image
    return wide.astype(image.dtype), np.pad(labels, around)


def _tiled(other: npt.NDArray, shape: npt.NDArray) -> npt.NDArray:
    """Another volume's borders, again and again: its middle half, where the structures are, is left
    out along the longest side."""
    side = int(np.argmax(other.shape))
    length = other.shape[side]
    borders = [
        other.take(range(length // 4), side),
        other.take(range(3 * length // 4, length), side),
    ]
    border = np.concatenate(borders, side)
    times = -(-shape // np.array(border.shape))
    return np.tile(border, times)[tuple(map(slice, shape))].copy()


def _noise(image: npt.NDArray, shape: npt.NDArray, rng: np.random.Generator) -> npt.NDArray:
    """With the image's own intensities, a little smooth."""
    low, high = np.percentile(image, (1, 99))
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), 1.5)
    return low + (high - low) * (smooth - smooth.min()) / np.ptp(smooth)


def labelled_along(labels: npt.NDArray, side: int) -> npt.NDArray:
    """The indices along a side at which anything is labelled."""
    return np.flatnonzero(labels.any(axis=tuple(n for n in range(3) if n != side)))


def half_of(labels: npt.NDArray, rng: np.random.Generator) -> tuple[slice, ...]:
    """Cut through the middle of the structures along the longest side; which half, by chance."""
    side = int(np.argmax(labels.shape))
    there = labelled_along(labels, side)
    middle = int(np.median(there))
    kept = [slice(None)] * 3
    kept[side] = slice(0, middle) if rng.random() < 0.5 else slice(middle, None)
    return tuple(kept)


def beside(labels: npt.NDArray) -> tuple[slice, ...]:
    """The largest part of the volume on one side of all structures."""
    parts = []
    for side, length in enumerate(labels.shape):
        there = labelled_along(labels, side)
        for part in (slice(0, there[0]), slice(there[-1] + 1, length)):
            share = len(range(length)[part]) / length
            parts.append((share, tuple(part if n == side else slice(None) for n in range(3))))
    return max(parts, key=lambda each: each[0])[1]


if __name__ == "__main__":
    main()
