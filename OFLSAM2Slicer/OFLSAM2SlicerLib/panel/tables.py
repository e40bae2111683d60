"""Rows and cells of the panel's tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import qt

FRAME = 4
PADDING = 12


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
    header.setHighlightSections(False)  # bold headers of a selected row are wider than measured
    table.verticalHeader().setVisible(False)


def limit(table: Any, letters: Mapping[int, int]) -> None:
    """Make columns as wide as their texts and header, but no wider than so many letters; longer
    texts are cut, and are to be read in their tool tips. To be called again for other texts."""
    header, metrics = table.horizontalHeader(), qt.QFontMetrics(table.font)
    for column, most in letters.items():
        texts = [table.item(row, column).text() for row in range(table.rowCount)]
        wanted = max([metrics.horizontalAdvance(text) for text in texts], default=0)
        widest = metrics.horizontalAdvance("n" * most)
        header.setSectionResizeMode(column, qt.QHeaderView.Fixed)
        width = max(min(wanted, widest) + PADDING, header.sectionSizeHint(column) + PADDING)
        header.resizeSection(column, width)


def select_row(table: Any, row: int) -> None:
    """Select a row and no other. (`selectRow` and `setCurrentCell` do as a click does: while Ctrl
    or Shift is held they add to the selection, or take from it.)"""
    kind = qt.QItemSelectionModel
    index = table.model().index(row, 0)
    table.selectionModel().setCurrentIndex(index, kind.ClearAndSelect | kind.Rows)


def selected_rows(table: Any) -> list[int]:
    return sorted({index.row() for index in table.selectionModel().selectedRows()})


def dot(color: tuple[float, float, float]) -> Any:
    """A square of a colour, as an icon."""
    pixmap = qt.QPixmap(14, 14)
    pixmap.fill(qt.QColor(*(round(255 * part) for part in color)))
    return qt.QIcon(pixmap)
