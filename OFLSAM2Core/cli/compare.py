"""`oflsam2 compare`: several methods on the same cases, in one table.

Each method is evaluated by a process of its own, so that its peak memory is its own and a failure
stops nothing else. What was evaluated already with the same support, cases and settings is kept,
also where its time was over; remove its folder to evaluate it again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from OFLSAM2Core import methods
from OFLSAM2Core.cli.files import output_folder
from OFLSAM2Core.cli.options import DEFAULT_BACKBONE, PRESETS
from OFLSAM2Core.cli.progress import ProgressBars
from OFLSAM2Core.cli.signals import raise_if_stopped
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.evaluation.comparison import ComparedMethod, Comparison
from OFLSAM2Core.evaluation.datasets import Dataset
from OFLSAM2Core.evaluation.machine import describe_machine

_POLL_S = 0.1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", type=Path, metavar="DATASET", help="a folder with dataset.json")
    parser.add_argument("--methods", required=True, metavar="A,B,C", help="see oflsam2 methods")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="where tables and reports go"
    )
    parser.add_argument(
        "--supports", type=int, metavar="N", help="learn from the first N; default: all listed"
    )
    parser.add_argument("--cases", type=int, metavar="N", help="segment the first N test cases")
    parser.add_argument(
        "--minutes", type=float, metavar="M", help="a method begins no further case after so long"
    )
    group = parser.add_argument_group("model")
    group.add_argument("--backbone", default=DEFAULT_BACKBONE, help="see oflsam2 backbones")
    group.add_argument("--weights", type=Path, metavar="FILE", help="the backbone's weights file")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    group.add_argument("--seed", type=int, default=0, help="of all that is random; default: 0")
    group.add_argument("--preset", choices=PRESETS, help="of the methods that have it")


def run(args: argparse.Namespace) -> int:
    names = [name.strip() for name in args.methods.split(",") if name.strip()]
    if not names or len(set(names)) < len(names):
        raise InputError(
            f"'{args.methods}' does not name methods, each once.", "Write --methods A,B,C."
        )
    chosen = {name: methods.get_method(name) for name in names}
    dataset = Dataset.open(args.dataset)
    support, test = dataset.choose(args.supports, None, args.cases)
    output_folder(args.out, (), overwrite=True)
    about = {
        "dataset": dataset.name,
        "backbone": args.backbone,
        "seed": args.seed,
        "support": support,
        "test": test,
        "machine": describe_machine(),
    }
    bars = ProgressBars(args.quiet)
    rows = []
    for name, method in chosen.items():
        folder = args.out / name
        preset = args.preset if args.preset in method.presets else None
        report = _read(folder)
        if not _is_same(report, about, preset):
            bars.say(f"{name}: evaluating")
            reason = _evaluate(args, name, preset, folder)
            report = _read(folder)
            if not _is_same(report, about, preset, finished=False):
                report = None
        if report is None:
            rows.append(ComparedMethod(name, of=len(test), reason=reason))
        else:
            rows.append(ComparedMethod.of_report(report))
        unit = "voxel" if dataset.nominal_spacing else "mm"
        Comparison(about, unit, rows).write(args.out)
        bars.say(f"{name}: {_in_short(rows[-1])}")
    bars.close()
    print(f"Comparison: {args.out / 'comparison.md'}")
    return 0


def _evaluate(args: argparse.Namespace, name: str, preset: str | None, folder: Path) -> str:
    """Run `oflsam2 evaluate` for a method; what it complained of, "" if of nothing."""
    words = ["evaluate", str(args.dataset), "--out", str(folder), "--method", name, "--overwrite"]
    words += ["--backbone", args.backbone, "--device", args.device, "--seed", str(args.seed)]
    for option, value in (
        ("--weights", args.weights),
        ("--supports", args.supports),
        ("--cases", args.cases),
        ("--minutes", args.minutes),
        ("--preset", preset),
    ):
        words += [option, str(value)] if value is not None else []
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            [sys.executable, "-m", "OFLSAM2Core", *words, "--quiet"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=complaints,
        )
        try:
            while process.poll() is None:
                raise_if_stopped()
                try:
                    process.wait(_POLL_S)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
        complaints.seek(0)
        said = complaints.read().decode(errors="replace").strip().splitlines()
    if process.returncode in (0, 3):
        return ""
    first = next((line for line in said if line.startswith("oflsam2: ")), "")
    return first.removeprefix("oflsam2: ") or f"ended with exit code {process.returncode}"


def _read(folder: Path) -> dict[str, Any] | None:
    """None where there is no report that can be read."""
    try:
        return json.loads((folder / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _is_same(
    report: dict[str, Any] | None,
    about: dict[str, Any],
    preset: str | None,
    *,
    finished: bool = True,
) -> bool:
    """Whether a report is of what is asked for, and (finished) needs nothing more."""
    if report is None or (finished and not (report["complete"] or report["time_over"])):
        return False
    same = all(report[key] == about[key] for key in ("dataset", "seed", "support", "test"))
    return (
        same
        and report["backbone"] == about["backbone"]
        and report["preset"] == (preset or "balanced")
    )


def _in_short(row: ComparedMethod) -> str:
    if row.measures is None:
        return f"no result. {row.reason}"
    return f"mean Dice {row.measures['dice']['mean']:.4f} over {row.cases} cases"
