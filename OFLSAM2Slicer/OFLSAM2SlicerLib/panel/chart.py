"""A small picture of the confidence along the slices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import qt

from OFLSAM2SlicerLib.confidence import COLOR_STOPS
from OFLSAM2SlicerLib.review import ScoredSlice


def confidence_chart(slices: Sequence[ScoredSlice], width: int, height: int) -> Any:
    """A pixmap with one bar a slice, frame after frame, as high as its confidence and in its
    colour."""
    pixmap = qt.QPixmap(width, height)
    pixmap.fill(qt.QColor(250, 250, 250))
    if not slices:
        return pixmap
    painter = qt.QPainter(pixmap)
    of_frame = max(one.index for one in slices) + 1
    count = of_frame * (max(one.frame for one in slices) + 1)
    for one in slices:
        place = one.frame * of_frame + one.index
        left = width * place // count
        right = max(left + 1, width * (place + 1) // count)
        if not one.scores:
            painter.fillRect(left, height - 2, right - left, 2, qt.QColor(200, 200, 200))
            continue
        bar = max(2, round((height - 4) * one.confidence))
        painter.fillRect(left, height - bar, right - left, bar, _color(one.confidence))
    painter.setPen(qt.QColor(120, 120, 120))
    for level in (0.5, 1.0):
        y = height - round((height - 4) * level)
        painter.drawLine(0, y, width, y)
    painter.end()
    return pixmap


def _color(confidence: float) -> Any:
    stops = [stop for stop, _ in COLOR_STOPS]
    parts = (
        round(255 * float(np.interp(confidence, stops, [color[part] for _, color in COLOR_STOPS])))
        for part in range(3)
    )
    return qt.QColor(*parts)
