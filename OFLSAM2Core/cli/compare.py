"""`oflsam2 compare`: several methods on the same cases, in one table.

Each method is evaluated by a process of its own, so that its peak memory is its own and a failure
stops nothing else. What was evaluated already with the same support, cases, settings, weights and
version is kept, also where its time was over; remove its folder to evaluate it again. A folder
that holds anything else is replaced only with `--overwrite`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from OFLSAM2Core import __version__, methods
from OFLSAM2Core.backbones import DEFAULT_BACKBONE
from OFLSAM2Core.backbones.weights import backbone_info, identity
from OFLSAM2Core.cli.evaluate import check_unlabelled
from OFLSAM2Core.cli.files import output_folder, refuse_existing
from OFLSAM2Core.cli.options import (
    PRESETS,
    add_overwrite_option,
    add_set_option,
    settings_from,
)
from OFLSAM2Core.cli.progress import ProgressBars
from OFLSAM2Core.cli.signals import raise_if_stopped
from OFLSAM2Core.errors import InputError, OFLSAM2Error
from OFLSAM2Core.evaluation.comparison import COMPARISON_FILES, ComparedMethod, Comparison
from OFLSAM2Core.evaluation.datasets import Dataset, for_method
from OFLSAM2Core.evaluation.machine import describe_machine
from OFLSAM2Core.evaluation.report import REPORT_FILES
from OFLSAM2Core.methods.base import Method, uses_unlabelled
from OFLSAM2Core.methods.changed_options import ChangedOptions
from OFLSAM2Core.runtime.counted import counted
from OFLSAM2Core.runtime.device import choose_device

_POLL_S = 0.1
_MOST_LETTERS = 24
_SAYS_TO_OVERWRITE = "Choose another --out, or add --overwrite to replace what is there."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", type=Path, metavar="DATASET", help="a folder with dataset.json")
    parser.add_argument("--methods", required=True, metavar="A,B,C", help="see oflsam2 methods")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="where tables and reports go"
    )
    parser.add_argument(
        "--supports", type=int, metavar="N", help="learn from the first N; default: all listed"
    )
    parser.add_argument(
        "--support-percent",
        type=float,
        default=5.0,
        metavar="P",
        help="percent of the frames of each sequence that are learned from; default: 5",
    )
    parser.add_argument("--cases", type=int, metavar="N", help="segment the first N test cases")
    parser.add_argument(
        "--every", type=int, default=1, metavar="N", help="segment one of N test cases; default: 1"
    )
    parser.add_argument(
        "--minutes", type=float, metavar="M", help="a method begins no further case after so long"
    )
    parser.add_argument(
        "--unlabelled",
        action="store_true",
        help="the methods that do so (rrl-medsam) learn from the test volumes, too, without their "
        "labels (transductive)",
    )
    add_overwrite_option(parser)
    group = parser.add_argument_group("model")
    group.add_argument("--backbone", default=DEFAULT_BACKBONE, help="see oflsam2 backbones")
    group.add_argument("--weights", type=Path, metavar="FILE", help="the backbone's weights file")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    group.add_argument("--seed", type=int, default=0, help="seed of all that is random; default: 0")
    group.add_argument("--preset", choices=PRESETS, help="preset of the methods that have it")
    add_set_option(group, "set an option of the methods that have it (core_minutes=5)")


def run(args: argparse.Namespace) -> int:
    names = [name.strip() for name in args.methods.split(",") if name.strip()]
    if not names or len(set(names)) < len(names):
        raise InputError(
            f"'{args.methods}' does not name methods, each once.", "Write --methods A,B,C."
        )
    chosen = {name: methods.get_method(name) for name in names}
    _check_settings(args, chosen.values())
    dataset = Dataset.open(args.dataset)
    if args.unlabelled:
        check_unlabelled(dataset, list(chosen.values()))
    support, test = dataset.choose(args.supports, None, args.cases, args.every)
    output_folder(args.out, (), overwrite=args.overwrite)
    common = {
        "dataset": dataset.name,
        "backbone": args.backbone,
        "seed": args.seed,
        "support": support,
        "test": test,
        **({"support_percent": args.support_percent} if dataset.sequences else {}),
    }
    seen = {name: for_method(dataset, method).volumes for name, method in chosen.items()}
    device = str(choose_device(args.device))
    about = {**common, "volumes": seen, "device": device, "machine": describe_machine()}
    # All folders before the first evaluation: it may take hours.
    _fitting(args.out, COMPARISON_FILES, common, overwrite=args.overwrite)
    wanted, reports = {}, {}
    for name, method in chosen.items():
        wanted[name] = {**common, "volumes": seen[name], **_settings(args, method)}
        reports[name] = _fitting(
            args.out / name, REPORT_FILES, wanted[name], overwrite=args.overwrite
        )
    bars = ProgressBars(args.quiet)
    rows = []
    for name, report in reports.items():
        reason = ""
        if report is None or not (report.get("complete") or report.get("time_over")):
            bars.say(f"{name}: evaluating")
            overwrite = args.overwrite or report is not None
            reason = _evaluate(args, chosen[name], overwrite=overwrite)
            # What it was to replace is still there where it failed early.
            report = _fitting(args.out / name, REPORT_FILES, wanted[name], overwrite=True)
        if report is None:
            rows.append(ComparedMethod(name, of=len(test), reason=reason))
        else:
            row = ComparedMethod.of_report(report)
            # A report that is still there although evaluating again failed does not know why.
            rows.append(replace(row, reason=reason or row.reason))
        unit = "voxel" if dataset.nominal_spacing else "mm"
        Comparison(about, unit, rows).write(args.out)
        bars.say(f"{name}: {_in_short(rows[-1])}")
    bars.close()
    print(f"Comparison: {args.out / 'comparison.md'}")
    return 0


def _evaluate(args: argparse.Namespace, method: Method, *, overwrite: bool) -> str:
    """Run `oflsam2 evaluate` for a method; what it complained of, "" if of nothing."""
    words = ["evaluate", str(args.dataset), "--out", str(args.out / method.name)]
    words += ["--method", method.name]
    words += ["--backbone", args.backbone, "--device", args.device, "--seed", str(args.seed)]
    words += ["--overwrite"] if overwrite else []
    for name, setting in _own_settings(args, method).items():
        words += ["--set", f"{name}={setting}"]
    for option, value in (
        ("--weights", args.weights),
        ("--supports", args.supports),
        ("--support-percent", None if args.supports else args.support_percent),
        ("--cases", args.cases),
        ("--every", args.every),
        ("--minutes", args.minutes),
        ("--preset", _preset(args, method)),
    ):
        words += [option, str(value)] if value is not None else []
    words += ["--unlabelled"] if _transductive(args, method) else []
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
        lines = complaints.read().decode(errors="replace").strip().splitlines()
    if process.returncode in (0, 3):
        return ""
    first = next((line for line in lines if line.startswith("oflsam2: ")), "")
    return first.removeprefix("oflsam2: ") or f"ended with exit code {process.returncode}"


def _preset(args: argparse.Namespace, method: Method) -> str | None:
    """None where none was given, or the method has no such preset."""
    return args.preset if args.preset in method.presets else None


def _transductive(args: argparse.Namespace, method: Method) -> bool:
    """Whether it learns from the test volumes, too."""
    return bool(args.unlabelled) and uses_unlabelled(method)


def _own_settings(args: argparse.Namespace, method: Method) -> dict[str, str]:
    """What `--set` gives of the options that the method has."""
    known = {*method.LearnOptions.names(), *method.SegmentOptions.names()}
    return {name: value for name, value in settings_from(args).items() if name in known}


def _check_settings(args: argparse.Namespace, chosen: Iterable[Method]) -> None:
    """Raises InputError for a preset or value that cannot be, and an option that no method has."""
    unknown = set(settings_from(args))
    for method in chosen:
        own = _own_settings(args, method)
        ChangedOptions(method, _preset(args, method), own)
        unknown -= set(own)
    if unknown:
        raise InputError(
            f"None of the methods has an option '{min(unknown)}'.",
            "oflsam2 methods NAME says which there are.",
        )


def _settings(args: argparse.Namespace, method: Method) -> dict[str, Any]:
    """What the report of a method's evaluation is to say of its settings."""
    preset = _preset(args, method)
    return {
        "oflsam2": __version__,
        "method": method.name,
        "backbone_identity": _backbone_identity(args) if method.needs_backbone else "",
        "device": args.device,
        "preset": preset or "balanced",
        "transductive": _transductive(args, method),
        "options": ChangedOptions(method, preset, _own_settings(args, method)).values,
    }


def _backbone_identity(args: argparse.Namespace) -> str | None:
    """SHA-256 of the weights. None where they cannot be read: evaluating says what is wrong, and
    the table repeats it."""
    try:
        return identity(args.weights) if args.weights else backbone_info(args.backbone).sha256
    except OFLSAM2Error:
        return None


def _fitting(
    folder: Path, files: tuple[str, ...], wanted: Mapping[str, Any], *, overwrite: bool
) -> dict[str, Any] | None:
    """What `files[0]` in a folder says, where it is of what is wanted.

    None where there is none, or one to overwrite. Raises InputError where files of something else
    are there and are not to be overwritten.
    """
    path = folder / files[0]
    try:
        content = _read(path)
        if content is None:
            for name in files:
                refuse_existing(folder / name, overwrite=False)
        elif differing := _differences(content, wanted):
            raise InputError(
                f"'{folder}' holds an evaluation of something else: {'; '.join(differing)}.",
                _SAYS_TO_OVERWRITE,
            )
    except InputError:
        if not overwrite:
            raise
        return None
    return content


def _read(path: Path) -> dict[str, Any] | None:
    """A report or comparison. None where there is none. Raises InputError where it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError
        if path.name == REPORT_FILES[0]:
            ComparedMethod.of_report(content)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, InputError) as error:
        raise InputError(
            f"'{path}' cannot be read, is damaged, or was not written by this command.",
            _SAYS_TO_OVERWRITE,
        ) from error
    return content


def _differences(content: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """What of a report is not as wanted, in words."""
    differences = []
    for key, asked in json.loads(json.dumps(wanted)).items():
        found = content.get(key)
        # What is not known (None) is as nothing else is.
        if key in content and found == asked and asked is not None:
            continue
        if key in ("support", "test"):
            differences.append(f"other {key} cases")
        else:
            differences.append(f"{key} {_abbreviated(found)}, not {_abbreviated(asked)}")
    return differences


def _abbreviated(value: Any) -> str:
    if value is None:
        return "unknown"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MOST_LETTERS else f"{text[: _MOST_LETTERS - 3]}..."


def _in_short(row: ComparedMethod) -> str:
    if row.measures is None:
        return f"no result. {row.reason}"
    mean = row.measures["dice"]["mean"]
    # Where there was nothing to find and nothing was found, there is no Dice.
    return f"mean Dice {'-' if mean is None else f'{mean:.4f}'} over {counted(row.cases, 'case')}"
