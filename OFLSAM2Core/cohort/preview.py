"""The picture of a case in the report: slices with labels, under them the confidence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from OFLSAM2Core.cohort.outputs import preview_path
from OFLSAM2Core.data.segmentation_buffer import SegmentationBuffer
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.evaluation.pictures import LINE, StripContent, strip
from OFLSAM2Core.runtime.atomic_write import atomic_write

_COLUMNS = 4
_WIDTH = 640
"""Pixels. A thousand pictures must fit one page: this one takes 10 to 20 kB."""


def write_preview(
    folder: Path, case: str, outcome: SegmentationBuffer, structures: Sequence[Structure]
) -> None:
    """Write `previews/CASE.webp` below `folder`."""
    picture = strip(
        StripContent(
            volume=outcome.volume,
            labels=outcome.labels,
            structures=structures,
            title="",
            confidence=outcome.confidence,
            scores=outcome.min_scores(),
            axis=outcome.axis,
        ),
        _COLUMNS,
    )
    picture = picture.crop((0, LINE, picture.width, picture.height))  # The page has the name.
    if picture.width > _WIDTH:
        size = (_WIDTH, round(picture.height * _WIDTH / picture.width))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    path = preview_path(folder, case)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        picture.save(temporary, format="WEBP", quality=70, method=4)
