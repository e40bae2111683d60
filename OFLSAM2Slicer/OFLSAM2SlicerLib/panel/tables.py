"""Rows and cells of the panel's tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import qt

FRAME = 4


def fill(table: Any, rows: Sequence[Sequence[str]]) -> None:
    """Show these texts, and nothing else."""
    table.setRowCount(len(rows))
    for row, texts in enumerate(rows):
        for column, text in enumerate(texts):
            item = qt.QTableWidgetItem(text)
            item.setToolTip(text)
            item.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable)
            table.setItem(row, column, item)


def fit(table: Any, most: int) -> None:
    """Make a table as tall as its rows; with more than `most` it scrolls."""
    line = qt.QFontMetrics(table.font).height() + 6
    table.verticalHeader().setDefaultSectionSize(line)
    table.horizontalHeader().setFixedHeight(line)
    table.setFixedHeight(line * (1 + max(1, min(table.rowCount, most))) + FRAME)


def stretch(table: Any, column: int) -> None:
    """Give a column the room the others leave."""
    header = table.horizontalHeader()
    for other in range(table.columnCount):
        header.setSectionResizeMode(other, qt.QHeaderView.ResizeToContents)
    header.setSectionResizeMode(column, qt.QHeaderView.Stretch)
    table.verticalHeader().setVisible(False)


def selected_rows(table: Any) -> list[int]:
    return sorted({index.row() for index in table.selectionModel().selectedRows()})


def dot(color: tuple[float, float, float]) -> Any:
    """A square of a colour, as an icon."""
    pixmap = qt.QPixmap(14, 14)
    pixmap.fill(qt.QColor(*(round(255 * part) for part in color)))
    return qt.QIcon(pixmap)
