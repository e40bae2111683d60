"""Several methods on the same cases: one table, one plot."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from OFLSAM2Core.errors import InputError
from OFLSAM2Core.evaluation.report import mean_and_interval, write_picture, write_text

COMPARISON_FILES = ("comparison.json", "comparison.md", "comparison.png")

MEASURES = {"dice": "Dice", "hd95": "HD95", "assd": "ASSD"}

_SIZE, _LEFT, _BOTTOM, _AROUND = (760, 460), 60, 50, 24
_NAME = 110, 12  # pixels that a method's name takes in the plot, at most


@dataclass(frozen=True)
class ComparedMethod:
    """A method's row.

    cases: that it segmented, of `of`. measures: by name, mean over structures of the means over
    cases and its 95 % bootstrap interval. seconds_to_learn, seconds_a_volume: of the clock, the
    latter the mean; core_seconds: of processor cores, whatever else they did. learned_values:
    numbers in the learned task. peak_memory_mb: of its process.
    reason: why there is no result, or not of all cases; "" where there is. region, boundary: of
    sequences, J and F, means over structures and sequences. transductive: whether it learned from
    the test volumes, too, without their labels.
    """

    method: str
    cases: int = 0
    of: int = 0
    measures: Mapping[str, Mapping[str, float | None]] | None = None
    seconds_to_learn: float | None = None
    seconds_a_volume: float | None = None
    core_seconds_to_learn: float | None = None
    core_seconds_a_volume: float | None = None
    learned_values: int | None = None
    peak_memory_mb: float | None = None
    reason: str = ""
    region: float | None = None
    boundary: float | None = None
    frames_per_second: float | None = None
    transductive: bool = False

    @classmethod
    def of_report(cls, report: Mapping[str, Any]) -> ComparedMethod:
        """From the contents of a `report.json`. Raises InputError where they are not one's."""
        try:
            return cls._of_report(report)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"The report is damaged, or not one of an evaluation ({type(error).__name__}).",
                "Evaluate again.",
            ) from error

    @classmethod
    def _of_report(cls, report: Mapping[str, Any]) -> ComparedMethod:
        cases, wanted = report["cases"], len(report["test"])
        measures = {}
        for key in MEASURES if cases else ():
            values = [
                [np.nan if v[key] is None else v[key] for v in case["structures"].values()]
                for case in cases
            ]
            measures[key] = mean_and_interval(np.array(values, dtype=np.float64))
        reason = "" if len(cases) == wanted else "the time was over"
        if report["failed"]:
            first = report["failed"][0]
            reason = f"{first['case']}: {first['message']}"
        return cls(
            report["method"],
            len(cases),
            wanted,
            measures or None,
            _number(report["seconds_to_learn"]),
            _mean([case["seconds"] for case in cases]),
            _number(report.get("core_seconds_to_learn")),
            _mean([case.get("core_seconds") for case in cases]),
            _number(report.get("learned_values")),
            _number(max((case["peak_memory_mb"] for case in cases), default=None)),
            reason,
            region=_mean_of_frames(cases, "region"),
            boundary=_mean_of_frames(cases, "boundary"),
            frames_per_second=_mean([case.get("frames_per_second") for case in cases]),
            transductive=bool(report.get("transductive", False)),
        )


def _mean_of_frames(cases: Sequence[Mapping[str, Any]], key: str) -> float | None:
    """Over all structures of all sequences; None where there are none."""
    return _mean([one[key] for case in cases for one in case.get("frames", {}).values()])


@dataclass(frozen=True)
class Comparison:
    """about: what all methods had in common (data set, support, device, machine). unit: of
    distances."""

    about: Mapping[str, Any]
    unit: str
    rows: Sequence[ComparedMethod]

    def write(self, folder: Path) -> None:
        """Write the COMPARISON_FILES; the plot only where there is anything in it."""
        content = {**self.about, "unit": self.unit, "methods": [asdict(row) for row in self.rows]}
        write_text(folder / "comparison.json", json.dumps(content, indent=1) + "\n")
        write_text(folder / "comparison.md", self.to_markdown())
        if self._points():
            write_picture(folder / "comparison.png", self.plot())

    def to_markdown(self) -> str:
        """Best Dice first, methods without a result last."""
        names = [
            label if key == "dice" else f"{label} ({self.unit})" for key, label in MEASURES.items()
        ]
        support = ", ".join(self.about["support"])
        if "support_percent" in self.about:
            support = f"{self.about['support_percent']:g} % of the frames of each"
            names += ["J", "F", "frames a second"]
        lines = [
            f"# {self.about['dataset']}",
            "",
            f"Learned from {support}. Mean over structures of means over "
            "cases, 95 % bootstrap interval over cases.",
            *self._volumes(),
            *self._transductive(),
            "",
            f"| method | {' | '.join(names)} | cases | s to learn | s a volume | core-s to learn | "
            "core-s a volume | numbers learned | peak memory, MB | |",
            "|---" * (len(names) + 9) + "|",
        ]
        for row in sorted(self.rows, key=lambda each: -_dice(each)):
            cells = [_cell(row, key, 4 if key == "dice" else 2) for key in MEASURES]
            if "support_percent" in self.about:
                of_frames = (row.region, row.boundary, row.frames_per_second)
                cells += ["-" if value is None else f"{value:.3g}" for value in of_frames]
            figures = (
                row.seconds_to_learn,
                row.seconds_a_volume,
                row.core_seconds_to_learn,
                row.core_seconds_a_volume,
                row.learned_values,
                row.peak_memory_mb,
            )
            cells += [f"{row.cases}/{row.of}" if row.of else "-"]
            cells += ["-" if value is None else f"{value:.4g}" for value in figures]
            reason = row.reason.replace("\n", " ").replace("|", "/")
            name = f"{row.method} (transductive)" if row.transductive else row.method
            lines.append(f"| {name} | {' | '.join(cells)} | {reason} |")
        if self._points():
            lines += ["", "![Dice against time](comparison.png)"]
        return "\n".join(lines) + "\n"

    def _volumes(self) -> list[str]:
        """A sentence where cases have several volumes, of which not all methods see all."""
        seen = dict(self.about.get("volumes", {}))
        if max(seen.values(), default=1) == 1:
            return []
        counts = ", ".join(f"{name} {count}" for name, count in seen.items())
        return ["", f"Co-registered volumes of a case that a method sees: {counts}."]

    def _transductive(self) -> list[str]:
        """A sentence where a method learned from the test volumes."""
        if not any(row.transductive for row in self.rows):
            return []
        return [
            "",
            "Transductive methods learned from the test volumes, too, without their labels: their "
            "figures hold for volumes that are at hand in learning.",
        ]

    def plot(self) -> Image.Image:
        """Mean Dice against the seconds to learn and segment one volume, on a logarithmic axis: of
        the clock, on a processor of its cores, so that what else it does is not counted."""
        points = self._points()
        picture = Image.new("RGB", _SIZE, "white")
        draw = ImageDraw.Draw(picture)
        width, height = _SIZE
        times = [math.log10(seconds) for seconds, _ in points.values()]
        low, high = math.floor(min(times)), max(math.ceil(max(times)), math.floor(min(times)) + 1)
        bottom = min(0.1 * math.floor(10 * min(dice for _, dice in points.values())), 0.9)

        def place(seconds: float, dice: float) -> tuple[float, float]:
            across = (math.log10(seconds) - low) / (high - low)
            up = (dice - bottom) / (1 - bottom)
            return (
                _LEFT + across * (width - _LEFT - 5 * _AROUND),
                height - _BOTTOM - up * (height - _BOTTOM - _AROUND),
            )

        for exponent in range(low, high + 1):
            x, y = place(10**exponent, bottom)
            draw.line((x, _AROUND, x, y), "#dddddd")
            draw.text((x, y + 6), f"{10**exponent:g}", "black", anchor="ma")
        for tenth in range(round(10 * bottom), 11):
            x, y = place(10**low, tenth / 10)
            draw.line((x, y, width - 5 * _AROUND, y), "#dddddd")
            draw.text((x - 6, y), f"{tenth / 10:.1f}", "black", anchor="rm")
        unit = "core-seconds" if self._of_cores else "seconds"
        draw.text(
            (width / 2, height - 12), f"{unit} to learn and segment one", "black", anchor="mm"
        )
        draw.text((6, 4), "mean Dice", "black")
        names: list[tuple[float, float]] = []
        for method, (seconds, dice) in sorted(points.items(), key=lambda point: -point[1][1]):
            x, y = place(seconds, dice)
            draw.ellipse((x - 4, y - 4, x + 4, y + 4), "#2060b0")
            # Below the names above it that it would cover.
            for across, down in names:
                if abs(across - x) < _NAME[0]:
                    y = max(y, down + _NAME[1]) if abs(down - y) < _NAME[1] else y
            names.append((x, y))
            draw.text((x + 8, y), method, "black", anchor="lm")
        return picture

    @property
    def _of_cores(self) -> bool:
        return self.about.get("device") == "cpu" and all(
            None not in (row.core_seconds_to_learn, row.core_seconds_a_volume)
            for row in self.rows
            if row.measures
        )

    def _points(self) -> dict[str, tuple[float, float]]:
        """Seconds and mean Dice, by method, of those that have both."""
        found = {}
        for row in self.rows:
            times = (row.seconds_to_learn, row.seconds_a_volume)
            if self._of_cores:
                times = (row.core_seconds_to_learn, row.core_seconds_a_volume)
            learning, segmenting = times
            if _dice(row) >= 0 and learning is not None and segmenting is not None:
                found[row.method] = max(learning + segmenting, 0.01), _dice(row)
        return found


def _mean(values: Sequence[float | None]) -> float | None:
    """None where one is not known, or there is none."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None


def _number(value: Any) -> Any:
    """The value itself. Raises TypeError where it is neither a number nor None."""
    if value is not None and not isinstance(value, int | float):
        raise TypeError
    return value


def _dice(row: ComparedMethod) -> float:
    """-1 where there is none."""
    mean = row.measures["dice"]["mean"] if row.measures else None
    return -1.0 if mean is None else mean


def _cell(row: ComparedMethod, key: str, digits: int) -> str:
    values = row.measures[key] if row.measures else None
    if values is None or values["mean"] is None:
        return "-"
    if values["low"] is None:
        return f"{values['mean']:.{digits}f}"
    return (
        f"{values['mean']:.{digits}f} ({values['low']:.{digits}f} to {values['high']:.{digits}f})"
    )
