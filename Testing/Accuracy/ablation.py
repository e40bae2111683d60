"""What each part of the method is worth: one change at a time, same cases.

    python Testing/Accuracy/ablation.py DATASET --out DIR

Rows that differ only in segmenting share the task learned with everything on; parts that are
switched off in learning, fewer supports and other seeds are learned anew. Features of slices, tasks
and a report for each row are kept in DIR: what is there already is not done again, so the command
can be stopped and repeated, and `--rows` chooses some. The table goes to DIR/ablation.md. `--set`
is for every row, and other settings need another DIR.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from kept_features import keep_features

from OFLSAM2Core.backbones import load_backbone
from OFLSAM2Core.evaluation.datasets import Dataset
from OFLSAM2Core.evaluation.evaluate import segment_cases
from OFLSAM2Core.evaluation.report import EvaluationReport, mean_and_interval
from OFLSAM2Core.learned_task import LearnedTask
from OFLSAM2Core.methods.ofl_sam2_atlas.options import PRESETS
from OFLSAM2Core.runtime.device import choose_device
from OFLSAM2Core.session import FewShotSession


@dataclass(frozen=True)
class Row:
    """A line of the table.

    learning: options of learning, and of segmenting too. segmenting: of segmenting alone.
    supports: numbers of the listed support cases; all of them where empty.
    """

    name: str
    learning: dict[str, Any] = field(default_factory=dict)
    segmenting: dict[str, Any] = field(default_factory=dict)
    supports: tuple[int, ...] = ()
    seed: int = 0

    @property
    def task_name(self) -> str:
        """The same for rows that share a task."""
        parts = [f"{key}-{value}" for key, value in sorted(self.learning.items())]
        cases = [f"supports-{'-'.join(map(str, self.supports))}"] if self.supports else []
        return "_".join([f"seed-{self.seed}", *parts, *cases])


ROWS = (
    Row("whole"),
    Row("seed-1", seed=1),
    Row("seed-2", seed=2),
    Row("supports-1-2", supports=(0, 1)),
    Row("supports-1-3", supports=(0, 2)),
    Row("supports-2-3", supports=(1, 2)),
    Row("support-1", supports=(0,)),
    Row("support-2", supports=(1,)),
    Row("support-3", supports=(2,)),
    Row("no-prior-in-segmenting", segmenting={"atlas_prior": False}),
    Row("no-intensity-refinement", segmenting={"intensity_refinement": False}),
    Row("no-registration", learning={"atlas_prior": False}),
    Row("no-mirror", learning={"flip_augmentation": False}),
    Row("half-the-steps", learning={"training_steps": 400}),
    Row("half-the-slices", learning={"encoded_slices": 150}),
    Row("one-pixel-for-one", learning={"magnification": 1.0}),
    *(Row(preset, learning=dict(own)) for preset, own in PRESETS.items() if own),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cases", type=int, help="the first so many test cases; default: all")
    parser.add_argument("--every", type=int, default=1, help="of these, one of so many")
    parser.add_argument("--rows", help=f"of {', '.join(row.name for row in ROWS)}; default: all")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="settings",
        help="an option of every row that does not set it itself",
    )
    parser.add_argument("--features", type=Path, help="where features are kept; default: in DIR")
    args = parser.parse_args()
    wanted = args.rows.split(",") if args.rows else [row.name for row in ROWS]
    unknown = set(wanted) - {row.name for row in ROWS}
    if unknown:
        parser.error(f"no row is named {', '.join(sorted(unknown))}")
    settings = dict(setting.split("=", 1) for setting in args.settings)
    dataset = Dataset.open(args.dataset)
    args.out.mkdir(parents=True, exist_ok=True)
    backbone = load_backbone("litemedsam", choose_device("auto"))
    keep_features(backbone, args.features or args.out / "features")
    for row in ROWS:
        if row.name in wanted:
            run(row, dataset, backbone, args.out, (args.cases, args.every), settings)
            (args.out / "ablation.md").write_text(table(args.out), encoding="utf-8")
    print(table(args.out))


def run(
    row: Row,
    dataset: Dataset,
    backbone: Any,
    out: Path,
    cases: tuple[int | None, int],
    settings: dict[str, str],
) -> None:
    """Learn where there is no such task yet, and segment where there is no such report."""
    folder = out / row.name
    support = [dataset.support[i] for i in row.supports or range(len(dataset.support))]
    _, test = dataset.choose(None, support, cases[0])
    test = test[:: cases[1]]
    done = _report(folder)
    if done is not None and [case["case"] for case in done["cases"]] == test:
        return
    file = out / f"{row.task_name}.oflsam2"
    if not file.exists():
        learning = FewShotSession(backbone, options={**settings, **row.learning}, seed=row.seed)
        learning.learn([dataset.read_case(name) for name in support]).save(file)
    task = LearnedTask.load(file)
    options = {**settings, **row.learning, **row.segmenting}
    session = FewShotSession(backbone, options=options, seed=row.seed)
    about = {
        "dataset": dataset.name,
        "method": f"{session.method.name}, {row.name}",
        "backbone": backbone.name,
        "seed": row.seed,
        "support": support,
    }
    unit = "voxel" if dataset.nominal_spacing else "mm"
    report = EvaluationReport(about, dataset.table.structures, unit)
    folder.mkdir(parents=True, exist_ok=True)
    for item in segment_cases(session, dataset, task, test):
        report.add(item)
        report.complete = report.cases_done == len(test)
        report.write(folder)  # After each case: a row takes up to an hour.
    print(f"{row.name}: {report.mean_dice:.4f} over {report.cases_done} cases", flush=True)


def table(out: Path) -> str:
    """All rows that are done or begun: mean Dice, its change from the whole method, paired by case
    with a 95 % bootstrap interval, the worst case, and the rank correlation of S_cf and slice
    Dice."""
    lines = [
        "| row | cases | mean Dice | change | worst case | Spearman of S_cf |",
        "|---|---|---|---|---|---|",
    ]
    whole = _dice(_report(out / "whole"))
    for row in ROWS:
        report = _report(out / row.name)
        own = _dice(report)
        if report is None or not own:
            continue
        mean = report["summary"]["mean_dice"]["mean"]
        both = [own[case] - whole[case] for case in own if case in whole]
        change = ""
        if row.name != "whole" and len(both) > 1:
            found = mean_and_interval(np.array(both)[:, None])
            change = f"{found['mean']:+.4f} ({found['low']:+.4f} to {found['high']:+.4f})"
        rank = report["summary"]["confidence"]["spearman_of_slice_confidence_and_dice"]
        ranked = "-" if rank is None else f"{rank:.2f}"
        worst = f"{min(own.values()):.3f}"
        lines.append(f"| {row.name} | {len(own)} | {mean:.4f} | {change} | {worst} | {ranked} |")
    return "\n".join(lines) + "\n"


def _report(folder: Path) -> dict[str, Any] | None:
    """None where the row is not begun."""
    file = folder / "report.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def _dice(report: dict[str, Any] | None) -> dict[str, float]:
    """Mean over structures, by case."""
    cases = [] if report is None else report["cases"]
    return {case["case"]: case["mean_dice"] for case in cases if case["mean_dice"] is not None}


if __name__ == "__main__":
    main()
