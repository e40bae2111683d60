"""What an evaluation found: `report.json`, a Markdown table, a contact sheet.

Rule for structures that are not there: a structure absent from both the truth and the
segmentation has no Dice; it is left out of the means and counted (`absent`). One that is in the
truth but was not predicted, or was predicted but is not in the truth, has Dice 0 and no distances
(`without_distance`). The mean Dice of a set is the mean over structures of their means over
cases, so that every structure counts the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.evaluation.evaluate import EvaluatedCase
from OFLSAM2Core.evaluation.parts import PartAgreement
from OFLSAM2Core.evaluation.pictures import StripContent, sheet, strip
from OFLSAM2Core.evaluation.reliability import CaseCalibration, calibration_error, summarise
from OFLSAM2Core.runtime.atomic_write import atomic_write
from OFLSAM2Core.runtime.counted import counted

DISTANCES = ("hd95", "average_hausdorff", "assd")
REPORT_FILES = ("report.json", "report.md", "cases.png")
SHOWN_AT_EACH_END = 3
TRANSDUCTIVE = (
    "The test volumes were learned from, too, without their labels (transductive): the figures "
    "hold for volumes that are at hand in learning."
)
_RESAMPLES = 10_000


class EvaluationReport:
    """Collects cases; keeps their figures and pictures, not their volumes."""

    def __init__(self, about: dict[str, Any], structures: Sequence[Structure], unit: str) -> None:
        """about: what goes first into the report (data set, method, options, machine).
        unit: of distances, "mm" or "voxel"."""
        self.about = about
        self.structures = tuple(structures)
        self.unit = unit
        self.seconds_to_learn: float | None = None
        self.core_seconds_to_learn: float | None = None
        self.learned_values: int | None = None
        self.complete = False
        self.time_over = False
        self._cases: list[dict[str, Any]] = []
        self._failed: list[dict[str, str]] = []
        self._strips: list[tuple[float, Image.Image]] = []
        self._reliability: list[CaseCalibration] = []

    def add(self, case: EvaluatedCase) -> None:
        outcome = case.outcome
        self._reliability.append(case.reliability)
        self._cases.append(
            {
                "case": case.truth.name,
                "mean_dice": _number(case.mean_dice),
                "structures": {name: found.to_json() for name, found in case.agreements.items()},
                "slices": outcome.slices_done,
                "seconds": round(outcome.seconds, 3),
                "core_seconds": None if case.core_seconds is None else round(case.core_seconds, 3),
                "seconds_to_first_slice": round(outcome.seconds_to_first, 3),
                "seconds_per_slice": round(outcome.seconds_per_slice, 4),
                "peak_memory_mb": round(case.peak_memory_mb),
                "calibration_error": calibration_error(case.reliability.near),
                **_of_frames(case),
                "parts": {name: asdict(found) for name, found in case.parts.items()},
                "per_slice": [check.to_json() for check in case.reliability.slices],
            }
        )
        self._strips.append((case.mean_dice, strip_of(case)))

    def add_failure(self, case: str, kind: str, message: str) -> None:
        """A case without a result, and why."""
        self._failed.append({"case": case, "kind": kind, "message": message})

    @property
    def cases_failed(self) -> int:
        return len(self._failed)

    @property
    def cases_done(self) -> int:
        return len(self._cases)

    @property
    def mean_dice(self) -> float:
        """nan before the first case."""
        return float(_mean_of_means(self._values("dice")[None])[0])

    def to_json(self) -> dict[str, Any]:
        return {
            **self.about,
            "complete": self.complete,
            "time_over": self.time_over,
            "unit": self.unit,
            "seconds_to_learn": _number(self.seconds_to_learn),
            "core_seconds_to_learn": _number(self.core_seconds_to_learn),
            "learned_values": self.learned_values,
            "summary": self._summary(),
            "cases": self._cases,
            "failed": self._failed,
        }

    def write(self, folder: Path) -> None:
        """Write the three REPORT_FILES."""
        content = json.dumps(self.to_json(), indent=1, allow_nan=False)
        write_text(folder / "report.json", content + "\n")
        write_text(folder / "report.md", self.to_markdown())
        if self._strips:
            # nan (nothing there, nothing predicted) is neither best nor worst.
            ranked = sorted(self._strips, key=lambda pair: np.nan_to_num(pair[0], nan=1.0))
            ends = SHOWN_AT_EACH_END
            chosen = ranked if len(ranked) <= 2 * ends else ranked[:ends] + ranked[-ends:]
            picture = sheet([one for _, one in chosen], self.structures, truth=True)
            write_picture(folder / "cases.png", picture)

    def to_markdown(self) -> str:
        summary = self._summary()
        lines = [
            f"# {self.about.get('dataset', 'Evaluation')}",
            "",
            f"{counted(self.cases_done, 'case')}, learned from {self._support()}. "
            f"Method {self.about.get('method')}, backbone {self.about.get('backbone')}, "
            f"seed {self.about.get('seed')}.",
        ]
        if self.about.get("volumes", 1) > 1:
            lines += ["", f"{self.about['volumes']} co-registered volumes of each case were seen."]
        if self.about.get("transductive"):
            lines += ["", TRANSDUCTIVE]
        for failed in self._failed:
            message = failed["message"].replace("\n", " ")
            lines += ["", f"**{failed['case']} has no result.** {message}"]
        if self.time_over:
            lines += ["", "**The time was over before all cases were done.**"]
        elif not self.complete:
            lines += ["", "**Stopped before all cases were done.**"]
        lines += [
            "",
            "Mean and 95 % bootstrap interval over cases.",
            "",
            f"| structure | Dice | HD95 ({self.unit}) | average Hausdorff ({self.unit}) | "
            f"ASSD ({self.unit}) | cases | absent | without distance |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for structure, values in summary["structures"].items():
            cells = [_cell(values["dice"]), *(_cell(values[name], 2) for name in DISTANCES)]
            counts = f"{values['cases']} | {values['absent']} | {values['without_distance']}"
            lines.append(f"| {structure} | {' | '.join(cells)} | {counts} |")
        lines += ["", f"Mean Dice: {_cell(summary['mean_dice'])}", "", "| | |", "|---|---|"]
        figures = {
            "seconds to learn": self.seconds_to_learn,
            "seconds a slice (mean over cases)": summary["seconds_per_slice"],
            "seconds to the first slice (mean over cases)": summary["seconds_to_first_slice"],
            "peak memory, MB": summary["peak_memory_mb"],
            **{key.replace("_", " "): value for key, value in summary["confidence"].items()},
        }
        lines += [f"| {name} | {_plain(value)} |" for name, value in figures.items()]
        names = [structure.name for structure in self.structures]
        lines += ["", f"| case | {' | '.join(names)} | mean |", "|---" * (len(names) + 2) + "|"]
        for case in self._cases:
            values = [case["structures"][name]["dice"] for name in names]
            cells = [_plain(value) for value in (*values, case["mean_dice"])]
            lines.append(f"| {case['case']} | {' | '.join(cells)} |")
        if any("frames" in case for case in self._cases):
            lines += ["", "| sequence | structure | J | F | frames a second |", "|---" * 5 + "|"]
        for case in self._cases:
            for name, found in case.get("frames", {}).items():
                measured = (found["region"], found["boundary"], case["frames_per_second"])
                lines.append(f"| {case['case']} | {name} | {' | '.join(map(_plain, measured))} |")
        lines += self._parts_table()
        lines += ["", "Worst and best cases: [cases.png](cases.png)", ""]
        return "\n".join(lines)

    def parts(self) -> dict[str, dict[str, float | None]]:
        """Structures that have several parts in a reference, with the share of their parts that are
        found, the share of the predicted parts that are right, both over all cases, and false parts
        a case."""
        found = {}
        for structure in self.structures:
            cases = [c["parts"][structure.name] for c in self._cases if c["parts"]]
            total = {
                key: sum(case[key] for case in cases)
                for key in ("true", "found", "predicted", "false")
            }
            if any(case["true"] > 1 for case in cases):
                together = PartAgreement(**total)
                found[structure.name] = {
                    "recall": _number(together.recall),
                    "precision": _number(together.precision),
                    "false_a_case": _number(together.false / len(cases)),
                }
        return found

    def _parts_table(self) -> list[str]:
        rows = [
            f"| {name} | {_plain(own['recall'])} | {_plain(own['precision'])} "
            f"| {_plain(own['false_a_case'])} |"
            for name, own in self.parts().items()
        ]
        if not rows:
            return []
        head = "| structure of several parts | parts found | parts right | false parts a case |"
        return ["", head, "|---|---|---|---|", *rows]

    def _support(self) -> str:
        if "support_percent" in self.about:
            return f"{self.about['support_percent']:g} % of the frames of each"
        return ", ".join(self.about.get("support", []))

    def _summary(self) -> dict[str, Any]:
        if not self._cases:
            return {"structures": {}, "mean_dice": None, "confidence": {}} | dict.fromkeys(
                ("seconds_per_slice", "seconds_to_first_slice", "peak_memory_mb")
            )
        structures: dict[str, Any] = {}
        columns = {metric: self._values(metric) for metric in ("dice", *DISTANCES)}
        for column, structure in enumerate(self.structures):
            dices = columns["dice"][:, column]
            has_dice, has_distance = ~np.isnan(dices), ~np.isnan(columns["hd95"][:, column])
            structures[structure.name] = {
                **{
                    metric: mean_and_interval(values[:, [column]])
                    for metric, values in columns.items()
                },
                "cases": int(has_dice.sum()),
                "absent": int((~has_dice).sum()),
                "without_distance": int((has_dice & ~has_distance).sum()),
            }
        return {
            "mean_dice": mean_and_interval(columns["dice"]),
            "structures": structures,
            "seconds_per_slice": self._mean_of("seconds_per_slice"),
            "seconds_to_first_slice": self._mean_of("seconds_to_first_slice"),
            "peak_memory_mb": max(case["peak_memory_mb"] for case in self._cases),
            "confidence": summarise(self._reliability),
            "parts": self.parts(),
        }

    def _values(self, metric: str) -> npt.NDArray[np.float64]:
        """(cases, structures), nan where not defined."""
        return np.array(
            [
                [case["structures"][structure.name][metric] for structure in self.structures]
                for case in self._cases
            ],
            dtype=np.float64,
        ).reshape(-1, len(self.structures))

    def _mean_of(self, key: str) -> float:
        return round(float(np.mean([case[key] for case in self._cases])), 4)


def _of_frames(case: EvaluatedCase) -> dict[str, Any]:
    """What a report has for a sequence beside the rest; nothing for a volume."""
    if not case.frames:
        return {}
    return {
        "frames": {
            name: {"region": round(found.region, 6), "boundary": round(found.boundary, 6)}
            for name, found in case.frames.items()
        },
        "frames_per_second": round(1 / max(case.outcome.seconds_per_slice, 1e-6), 4),
    }


def mean_and_interval(values: npt.NDArray[np.float64]) -> dict[str, float | None]:
    """Mean over columns of the means over rows (cases), and its 95 % percentile bootstrap interval
    over cases. nan is left out; a single case has no interval."""
    mean = _mean_of_means(values[None])[0]
    low = high = float("nan")
    if len(values) > 1:
        chosen = np.random.default_rng(0).integers(len(values), size=(_RESAMPLES, len(values)))
        means = _mean_of_means(values[chosen])
        if not np.isnan(means).all():
            low, high = np.nanpercentile(means, (2.5, 97.5))
    return {"mean": _number(mean), "low": _number(low), "high": _number(high)}


def _mean_of_means(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(samples, cases, structures) to (samples,), nan left out."""
    there = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        means = np.where(there, values, 0).sum(axis=1) / there.sum(axis=1)
        there = ~np.isnan(means)
        return np.where(there, means, 0).sum(axis=1) / there.sum(axis=1)


def strip_of(case: EvaluatedCase, *, confidence: bool = False) -> Image.Image:
    """A row of slices of an evaluated case, with its Dice in the title."""
    found = ", ".join(f"{name} {value.dice:.3f}" for name, value in case.agreements.items())
    return strip(
        StripContent(
            volume=case.truth.volume,
            labels=case.outcome.labels,
            structures=case.truth.structures,
            title=f"{case.truth.name}   Dice: {found}",
            truth=case.truth.labels,
            confidence=case.outcome.confidence if confidence else None,
            scores=case.outcome.min_scores(),
            axis=case.outcome.axis,
        )
    )


def write_text(path: Path, content: str) -> None:
    """Whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(content, encoding="utf-8")


def write_picture(path: Path, picture: Image.Image) -> None:
    """Whole or not at all; a PNG file."""
    with atomic_write(path) as temporary:
        picture.save(temporary, format="PNG")


def _number(value: float | None) -> float | None:
    """JSON has no nan."""
    return None if value is None or np.isnan(value) else round(float(value), 6)


def _cell(values: dict[str, float | None] | None, digits: int = 4) -> str:
    if values is None or values["mean"] is None:
        return "-"
    mean, low, high = (
        None if values[key] is None else f"{values[key]:.{digits}f}"
        for key in ("mean", "low", "high")
    )
    return f"{mean}" if low is None else f"{mean} ({low} to {high})"


def _plain(value: float | int | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.4g}"
