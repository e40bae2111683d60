"""How much a few corrected slices put right elsewhere in a volume, the reference as the person.

    python Testing/Accuracy/simulate_corrections.py FOLDER --task TASK.oflsam2 [--slices 1,3,5]
        [--cases 4] [--features FOLDER] [--json FILE]

Each test case is segmented. The slices that are listed first for review (most voxels in doubt, none
beside another) get the reference's labels, and the method learns from them. Only the slices that
were not corrected are compared: their mean Dice and wrong voxels before, which is also what the
same corrections come to without learning, and after.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from OFLSAM2Core.data.corrections import Corrections
from OFLSAM2Core.data.overlap import dice
from OFLSAM2Core.data.segmentation_buffer import SegmentationBuffer
from OFLSAM2Core.data.volume import SupportCase
from OFLSAM2Core.evaluation.datasets import Dataset
from OFLSAM2Core.learned_task import LearnedTask
from OFLSAM2Core.session import FewShotSession

sys.path.insert(0, str(Path(__file__).parent))
from kept_features import keep_features


@dataclass(frozen=True)
class Corrected:
    """A case after some of its slices were corrected. asked: how many; `slices` may be fewer, where
    a structure is small. Dice and wrong voxels are of all others; whole_*: of the whole volume,
    corrected slices included."""

    case: str
    asked: int
    slices: list[int]
    dice_before: float
    dice_after: float
    wrong_before: int
    wrong_after: int
    whole_without_learning: float
    whole_after: float
    seconds: float
    core_seconds: float

    @property
    def gone(self) -> float:
        """Share of the wrong voxels that went; negative where there are more."""
        return 1 - self.wrong_after / self.wrong_before if self.wrong_before else 0.0


def simulate(
    session: FewShotSession, task: LearnedTask, case: SupportCase, counts: list[int]
) -> list[Corrected]:
    """A case with more and more of its slices corrected."""
    opened = session.open(case.volume, task)
    found = SegmentationBuffer(case.volume)
    for result in opened.slices():
        found.add(result)
    axis = found.axis or 0
    listed = found.slices_to_review(max(counts))  # As in the panel.
    before, labels = found.labels.copy(), found.labels.copy()
    steps = []
    for count in sorted(counts):
        chosen = sorted(listed[:count])
        corrections = Corrections.from_slices(case.labels, axis, chosen)
        wall, core = time.monotonic(), time.process_time()
        for result in opened.correct(corrections):
            labels[result.index_expression] = result.labels
        rest = [index for index in range(case.labels.shape[axis]) if index not in chosen]
        by_hand = np.where(corrections.known, case.labels, before)
        truth = case.labels.take(rest, axis)
        were, are = before.take(rest, axis), labels.take(rest, axis)
        steps.append(
            Corrected(
                case=case.name,
                asked=count,
                slices=chosen,
                dice_before=mean_dice(case, truth, were),
                dice_after=mean_dice(case, truth, are),
                wrong_before=int((truth != were).sum()),
                wrong_after=int((truth != are).sum()),
                whole_without_learning=mean_dice(case, case.labels, by_hand),
                whole_after=mean_dice(case, case.labels, labels),
                seconds=time.monotonic() - wall,
                core_seconds=time.process_time() - core,
            )
        )
    return steps


def mean_dice(case: SupportCase, truth: npt.NDArray, found: npt.NDArray) -> float:
    return float(np.nanmean([dice(truth == s.label, found == s.label) for s in case.structures]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--task", type=Path, required=True)
    parser.add_argument("--slices", default="1,3,5", help="how many are corrected; default: 1,3,5")
    parser.add_argument("--cases", type=int, help="the first so many test cases; default: all")
    parser.add_argument("--features", type=Path, help="folder that keeps the encoder's features")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, help="file for all figures")
    args = parser.parse_args()
    dataset, task = Dataset.open(args.dataset), LearnedTask.load(args.task)
    session = FewShotSession(task.backbone, args.device, method=task.method)
    if args.features is not None:
        keep_features(session.backbone, args.features)
    counts = [int(each) for each in args.slices.split(",")]
    found: list[Corrected] = []
    for name in dataset.test[: args.cases]:
        for step in simulate(session, task, dataset.read_case(name), counts):
            found.append(step)
            print(
                f"{step.case:24} slices {step.slices}: Dice elsewhere {step.dice_before:.3f} to "
                f"{step.dice_after:.3f}, {step.gone:+.1%} of {step.wrong_before} wrong voxels "
                f"gone, {step.seconds:.1f} s, {step.core_seconds:.1f} core-s",
                flush=True,
            )
    for count in counts:
        own = [step for step in found if step.asked == count]
        if own:
            print(
                f"{dataset.name}, {count} slices, {len(own)} cases: Dice elsewhere "
                f"{np.mean([s.dice_before for s in own]):.3f} to "
                f"{np.mean([s.dice_after for s in own]):.3f}; wrong voxels gone "
                f"{np.mean([s.gone for s in own]):+.1%} (worst {min(s.gone for s in own):+.1%}); "
                f"whole volume without learning "
                f"{np.mean([s.whole_without_learning for s in own]):.3f}, with "
                f"{np.mean([s.whole_after for s in own]):.3f}; "
                f"{np.mean([s.seconds for s in own]):.1f} s"
            )
    if args.json is not None:
        args.json.write_text(json.dumps([{**asdict(s), "gone": s.gone} for s in found], indent=1))


if __name__ == "__main__":
    main()
