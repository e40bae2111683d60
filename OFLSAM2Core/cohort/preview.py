"""The picture of a case in the report: slices with labels, under them the confidence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from OFLSAM2Core.cohort.outputs import preview_path
from OFLSAM2Core.evaluation.outcome import Outcome
from OFLSAM2Core.evaluation.pictures import Shown, strip
from OFLSAM2Core.structures import Structure
from OFLSAM2Core.whole_files import written_whole

_COLUMNS = 4
_WIDTH = 640
"""Pixels. A thousand pictures must fit one page: this one takes 10 to 20 kB."""


def write_preview(
    folder: Path, case: str, outcome: Outcome, structures: Sequence[Structure]
) -> None:
    """Write `previews/CASE.webp` below `folder`."""
    picture = strip(
        Shown(
            volume=outcome.volume,
            labels=outcome.labels,
            structures=structures,
            title="",
            confidence=outcome.confidence,
            scores=outcome.confidence_of_slices(),
            axis=outcome.axis,
        ),
        _COLUMNS,
    )
    if picture.width > _WIDTH:
        size = (_WIDTH, round(picture.height * _WIDTH / picture.width))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    path = preview_path(folder, case)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as temporary:
        picture.save(temporary, format="WEBP", quality=70, method=4)
