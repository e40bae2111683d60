"""The module `qt`: the classes this extension uses, as PythonQt shows them."""

from __future__ import annotations

from typing import Any

from PySide6 import QtCore, QtGui, QtWidgets
from PySide6.QtCore import QObject, QPointF, QRectF, QSettings, QSize, Qt, QTimer
from PySide6.QtGui import QColor, QIcon, QPainter, QPen, QPixmap
from PySide6.QtWidgets import (
    QAbstractItemView,
    QApplication,
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QProgressBar,
    QPushButton,
    QSlider,
    QSpinBox,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from slicer_double.pythonqt import PythonQt, as_pythonqt

__all__ = [
    "PythonQt",
    "QAbstractItemView",
    "QApplication",
    "QCheckBox",
    "QColor",
    "QComboBox",
    "QDoubleSpinBox",
    "QFileDialog",
    "QFormLayout",
    "QHBoxLayout",
    "QHeaderView",
    "QIcon",
    "QLabel",
    "QLineEdit",
    "QObject",
    "QPainter",
    "QPen",
    "QPixmap",
    "QPlainTextEdit",
    "QPointF",
    "QProgressBar",
    "QPushButton",
    "QRectF",
    "QSettings",
    "QSize",
    "QSlider",
    "QSpinBox",
    "QTableWidget",
    "QTableWidgetItem",
    "QTimer",
    "QVBoxLayout",
    "QWidget",
    "Qt",
]

QCheckBox = as_pythonqt(QCheckBox)
QComboBox = as_pythonqt(QComboBox)
QDoubleSpinBox = as_pythonqt(QDoubleSpinBox)
QLabel = as_pythonqt(QLabel)
QLineEdit = as_pythonqt(QLineEdit)
QPlainTextEdit = as_pythonqt(QPlainTextEdit)
QProgressBar = as_pythonqt(QProgressBar)
QPushButton = as_pythonqt(QPushButton)
QShortcut = as_pythonqt(QtGui.QShortcut)
QSpinBox = as_pythonqt(QSpinBox)
QTableWidget = as_pythonqt(QTableWidget)
QTimer = as_pythonqt(QTimer)
QTextEdit = as_pythonqt(QtWidgets.QTextEdit)
QWidget = as_pythonqt(QWidget)


def __getattr__(name: str) -> Any:
    """Classes that Slicer's Python layer names but this extension does not use."""
    for module in (QtCore, QtGui, QtWidgets):
        if name.startswith("Q") and hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(name)
