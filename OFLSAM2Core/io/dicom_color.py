"""Colours of DICOM segments: CIELab (D50 white) in 16-bit numbers, and RGB."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_WHITE = np.array([0.9642, 1.0, 0.8249])
_TO_RGB = np.array(
    [[3.1339, -1.6169, -0.4906], [-0.9785, 1.9160, 0.0333], [0.0720, -0.2290, 1.4057]]
)
_KNEE = 6 / 29


def rgb_of_cielab(coded: Sequence[int]) -> tuple[float, float, float]:
    """From RecommendedDisplayCIELabValue to red, green, blue from 0 to 1."""
    lightness, a, b = coded[0] / 65535 * 100, coded[1] / 257 - 128, coded[2] / 257 - 128
    y = (lightness + 16) / 116
    parts = np.array([y + a / 500, y, y - b / 200])
    xyz = _WHITE * np.where(parts > _KNEE, parts**3, (parts - 4 / 29) * 3 * _KNEE**2)
    linear = np.clip(_TO_RGB @ xyz, 0, 1)
    rgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    red, green, blue = (round(float(part), 3) for part in np.clip(rgb, 0, 1))
    return red, green, blue


def cielab_of_rgb(color: Sequence[float]) -> list[int]:
    """The inverse."""
    rgb = np.array(color, float)
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    parts = np.linalg.solve(_TO_RGB, linear) / _WHITE
    x, y, z = np.where(parts > _KNEE**3, np.cbrt(parts), parts / (3 * _KNEE**2) + 4 / 29)
    lightness, a, b = 116 * y - 16, 500 * (x - y), 200 * (y - z)
    coded = (lightness / 100 * 65535, (a + 128) * 257, (b + 128) * 257)
    return [round(float(min(max(part, 0), 65535))) for part in coded]
