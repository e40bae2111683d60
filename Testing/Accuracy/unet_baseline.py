"""What a user would otherwise train on the same few volumes: a U-Net, for a given time.

    python Testing/Accuracy/unet_baseline.py DATASET --dimensions 3 --core-minutes 15 --out unet3d

MONAI's BasicUNet with the usual augmentation, Dice + cross-entropy, AdamW with a cosine schedule
over the given time, sliding windows with half overlap, and structures that are in one piece in the
support kept in one piece. The time is that of one core, as the report's time to learn, so that what
else the machine does is not counted. The report is that of `oflsam2 evaluate`; voxel confidence in
it is the softmax, and there is no S_cf. What is learned is kept in the given directory every
minute, so that a long run can be stopped and repeated: it goes on with the time that was left.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from monai.inferers import sliding_window_inference
from monai.losses import DiceCELoss
from monai.networks.nets import BasicUNet
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandCropByPosNegLabeld,
    RandGaussianNoised,
    RandScaleIntensityd,
    ScaleIntensityRangePercentiles,
    SpatialPadd,
)

from OFLSAM2Core.data.results import SliceResult
from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.evaluation.datasets import Dataset
from OFLSAM2Core.evaluation.evaluate import segment_cases
from OFLSAM2Core.evaluation.machine import describe_machine
from OFLSAM2Core.evaluation.report import EvaluationReport
from OFLSAM2Core.io.atomic_write import atomic_write
from OFLSAM2Core.postprocessing.connected_components import is_single_component
from OFLSAM2Core.preprocessing.large_components import large_pieces

PATCH = {2: 256, 3: 96}
BATCH = {2: 8, 3: 1}
FEATURES = {2: (32, 32, 64, 128, 256, 32), 3: (16, 32, 64, 128, 256, 16)}
KEPT_EVERY = 60.0
"""Seconds of learning."""


class UNetSession:
    """Learns and segments like a FewShotSession."""

    def __init__(self, dimensions: int, core_minutes: float, seed: int, file: Path) -> None:
        """file: where what is learned is kept."""
        self.dimensions = dimensions
        self.seconds = 60 * core_minutes
        self.seed = seed
        self.file = file
        self.steps = 0
        self.spent = 0.0

    def learn(self, cases: Sequence[SupportCase]) -> BasicUNet:
        torch.manual_seed(self.seed)
        self.values = [s.label for s in cases[0].structures]
        self.single = [is_single_component([c.labels for c in cases], v) for v in self.values]
        spacings = np.array([case.volume.spacing[::-1] for case in cases])
        self.spacing = np.median(spacings, axis=0)
        if self.dimensions == 2:
            self.spacing[0] = 0  # Slices stay as they are.
        prepared = [self._prepared(case.volume, case.labels) for case in cases]
        sizes = np.array([case["image"].shape[-self.dimensions :] for case in prepared])
        largest = np.minimum(PATCH[self.dimensions], np.ceil(sizes.max(axis=0) / 16) * 16)
        self.patch = tuple(int(size) for size in largest)
        net = BasicUNet(
            self.dimensions, 1, len(self.values) + 1, FEATURES[self.dimensions], act="LeakyReLU"
        )
        optimiser = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=1e-4)
        self._continue(net, optimiser)
        criterion = DiceCELoss(to_onehot_y=True, softmax=True, batch=True)
        augment = self._augmentation()
        augment.set_random_state(int(self.rng.integers(2**31)))
        started, kept = time.process_time() - self.spent, self.spent
        while (spent := time.process_time() - started) < self.seconds:
            if spent - kept > KEPT_EVERY:
                self._keep(net, optimiser, spent)
                kept = spent
            for group in optimiser.param_groups:
                group["lr"] = 1e-3 * (1 + math.cos(math.pi * spent / self.seconds)) / 2
            # Cropping makes a list of one sample.
            drawn = [augment(self._drawn(prepared))[0] for _ in range(BATCH[self.dimensions])]
            images = torch.stack([each["image"].as_tensor() for each in drawn])
            labels = torch.stack([each["label"].as_tensor() for each in drawn])
            loss = criterion(net(images.float()), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            self.steps += 1
            if self.steps % 50 == 0:
                print(f"{spent:.0f} s, step {self.steps}, loss {loss.item():.3f}", flush=True)
        self._keep(net, optimiser, spent)
        return net.eval()

    def _keep(self, net: BasicUNet, optimiser: torch.optim.Optimizer, spent: float) -> None:
        self.spent = spent
        state = {"net": net.state_dict(), "optimiser": optimiser.state_dict()}
        with atomic_write(self.file) as temporary:
            torch.save({**state, "steps": self.steps, "spent": spent}, temporary)

    def _continue(self, net: BasicUNet, optimiser: torch.optim.Optimizer) -> None:
        if self.file.exists():
            state = torch.load(self.file, weights_only=True)
            net.load_state_dict(state["net"])
            optimiser.load_state_dict(state["optimiser"])
            self.steps, self.spent = state["steps"], state["spent"]
            torch.manual_seed(self.seed + self.steps)
        # Not the samples of the beginning again.
        self.rng = np.random.default_rng([self.seed, self.steps])

    @torch.no_grad()
    def segment(
        self, volume: Volume, net: BasicUNet, on_progress: object = None
    ) -> Iterator[SliceResult]:
        image = self._prepared(volume, None)["image"][None]
        if self.dimensions == 2:
            each = [self._logits(image[:, :, i], net, 4, "constant") for i in range(image.shape[2])]
            logits = torch.stack(each, dim=2)
        else:
            logits = self._logits(image, net, 1, "gaussian")
        back = torch.nn.functional.interpolate(logits, volume.grid_shape, mode="trilinear")
        shares = back.softmax(dim=1)[0].numpy()
        labels = self._in_one_piece(np.array([0, *self.values], np.uint8)[shares.argmax(axis=0)])
        confidence = np.round(255 * shares.max(axis=0)).astype(np.uint8)
        for index in range(len(labels)):
            yield SliceResult(
                index=index,
                axis=0,
                labels=labels[index],
                confidence=confidence[index],
                scores={},
            )

    def _logits(self, image: torch.Tensor, net: BasicUNet, batch: int, mode: str) -> torch.Tensor:
        found = sliding_window_inference(image, self.patch, batch, net, 0.5, mode)
        assert isinstance(found, torch.Tensor)
        return found

    def _in_one_piece(self, labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        for value, single in zip(self.values, self.single, strict=True):
            if single:
                drawn = labels == value
                labels[drawn & ~large_pieces(drawn, 1.0)] = 0
        return labels

    def _prepared(self, volume: Volume, labels: npt.NDArray | None) -> dict[str, torch.Tensor]:
        """(1, K, J, I) float image and labels (1 to N) at the support's spacing."""
        own = np.array(volume.spacing[::-1])
        wanted = np.where(self.spacing > 0, self.spacing, own)
        size = [
            max(1, round(n * a / b)) for n, a, b in zip(volume.grid_shape, own, wanted, strict=True)
        ]
        image = torch.from_numpy(volume.array.astype(np.float32))[None, None]
        scaled = ScaleIntensityRangePercentiles(0.5, 99.5, 0, 1, clip=True)(
            torch.nn.functional.interpolate(image, size, mode="trilinear")[0]
        )
        found = {"image": torch.as_tensor(scaled)}
        if labels is not None:
            numbered = np.zeros(labels.shape, np.float32)
            for number, value in enumerate(self.values, start=1):
                numbered[labels == value] = number
            there = torch.from_numpy(numbered)[None, None]
            found["label"] = torch.nn.functional.interpolate(there, size, mode="nearest")[0]
        return found

    def _drawn(self, prepared: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        case = prepared[int(self.rng.integers(len(prepared)))]
        if self.dimensions == 3:
            return dict(case)
        full = np.flatnonzero(case["label"].amax(dim=(0, 2, 3)).numpy())
        anywhere = np.arange(case["label"].shape[1])
        index = int(self.rng.choice(full if self.rng.random() < 2 / 3 else anywhere))
        return {key: values[:, index] for key, values in case.items()}

    def _augmentation(self) -> Compose:
        both = ["image", "label"]
        axes = self.dimensions
        return Compose(
            [
                SpatialPadd(both, self.patch),
                RandCropByPosNegLabeld(both, "label", self.patch, pos=2, neg=1, num_samples=1),
                RandAffined(
                    both,
                    prob=0.8,
                    rotate_range=[0.26] * (1 if axes == 2 else 3),
                    scale_range=[0.2] * axes,
                    mode=("bilinear", "nearest"),
                    padding_mode="zeros",
                ),
                RandAdjustContrastd("image", prob=0.5, gamma=(0.6, 1.6)),
                RandScaleIntensityd("image", 0.2, prob=0.5),
                RandGaussianNoised("image", prob=0.3, std=0.05),
            ]
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--dimensions", type=int, choices=(2, 3), required=True)
    parser.add_argument("--core-minutes", type=float, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cases", type=int)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    dataset = Dataset.open(args.dataset)
    support, test = dataset.choose(None, None, args.cases)
    args.out.mkdir(parents=True, exist_ok=True)
    method = f"{args.dimensions}D U-Net, {args.core_minutes:g} minutes of one core"
    session = UNetSession(args.dimensions, args.core_minutes, args.seed, args.out / f"{method}.pt")
    report = EvaluationReport(
        {
            "dataset": dataset.name,
            "method": method,
            "backbone": "none",
            "seed": args.seed,
            "support": support,
            "test": test,
            "machine": describe_machine(),
        },
        dataset.table.structures,
        unit="voxel" if dataset.nominal_spacing else "mm",
    )
    net = session.learn([dataset.read_case(name) for name in support])
    report.seconds_to_learn = session.spent
    print(f"{session.steps} steps in {session.spent:.0f} s of one core", flush=True)
    for item in segment_cases(session, dataset, net, test):
        report.add(item)
        report.complete = report.cases_done == len(test)
        report.write(args.out)
        print(item.truth.name, f"{item.mean_dice:.4f}", flush=True)
    print(f"mean dice {report.mean_dice:.4f} over {report.cases_done} cases")


if __name__ == "__main__":
    main()
