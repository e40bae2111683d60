"""Several co-registered volumes of one patient as one case: on phantoms with a structure that shows
in the second volume alone."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from command_line import refused, run, succeed
from phantom_patients import patient
from scipy import ndimage
from toy_backbone import ToyBackbone

from OFLSAM2Core.backbones.base import ImageFeatures
from OFLSAM2Core.data.overlap import dice
from OFLSAM2Core.data.segmentation_buffer import SegmentationBuffer
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.evaluation.datasets import Dataset
from OFLSAM2Core.evaluation.evaluate import EvaluatedCase, Learned, evaluate
from OFLSAM2Core.io.one_grid import on_one_grid
from OFLSAM2Core.io.reading import read_volume
from OFLSAM2Core.learned_task import LearnedTask
from OFLSAM2Core.methods import get_method, names_with_further_volumes
from OFLSAM2Core.session import FewShotSession

LESION = Structure("lesion", 1)
QUICK = {"training_steps": 20, "encoded_slices": 24}


class ColourBackbone(ToyBackbone):
    """The toy encoder on each channel by itself."""

    feature_channels = 72

    @torch.no_grad()
    def encode(self, images: torch.Tensor) -> ImageFeatures:
        each = [super(ColourBackbone, self).encode(images[:, n : n + 1]) for n in range(3)]
        return ImageFeatures(torch.cat([one.embedding for one in each], dim=1))


def case(seed: int) -> SupportCase:
    """A trunk with a lesion anywhere in it, which the first volume does not show."""
    rng = np.random.default_rng(100 + seed)
    first = patient(seed).volume
    first = replace(first, array=first.array[4:16, 8:40, 8:40])
    grid = np.indices(first.array.shape).astype(float)
    centre = np.array([6, 16, 16]) + rng.uniform(-1, 1, 3) * (2, 8, 8)
    radii = (3, 5, 5)
    away = sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radii, strict=True))
    labels = (away < 1).astype(np.uint8)
    second = 300.0 + 500 * ndimage.gaussian_filter(labels.astype(float), 0.6)
    second += rng.normal(0, 15, second.shape)
    other = Volume(second.astype(np.float32), first.affine, name=f"second of patient {seed}")
    return SupportCase(replace(first, further=(other,)), labels, (LESION,))


def first_alone(one: SupportCase) -> SupportCase:
    return replace(one, volume=replace(one.volume, further=()))


@pytest.fixture(scope="module")
def session() -> FewShotSession:
    return FewShotSession(ColourBackbone(), method="ofl-sam2-atlas", options=QUICK)


@pytest.fixture(scope="module")
def task(session: FewShotSession) -> LearnedTask:
    return session.learn([case(seed) for seed in (1, 2)])


def found(session: FewShotSession, task: LearnedTask, volume: Volume) -> np.ndarray:
    buffer = SegmentationBuffer(volume)
    for result in session.segment(volume, task):
        buffer.add(result)
    return buffer.labels


def test_a_structure_that_shows_in_the_second_volume_alone_is_found_with_both(
    session: FewShotSession, task: LearnedTask
) -> None:
    new = case(7)
    both = dice(new.labels == 1, found(session, task, new.volume) == 1)
    without = session.learn([first_alone(case(seed)) for seed in (1, 2)])
    alone = dice(new.labels == 1, found(session, without, first_alone(new).volume) == 1)
    assert both > 0.8 and alone < 0.4, (both, alone)


def test_the_task_keeps_how_many_volumes_a_case_has(task: LearnedTask, tmp_path: Path) -> None:
    again = LearnedTask.load(task.save(tmp_path / "two.oflsam2"))
    assert again.volume_count == 2
    assert again.summary()["volumes of a case"] == 2


def test_a_target_with_another_number_of_volumes_is_refused(
    session: FewShotSession, task: LearnedTask
) -> None:
    new = case(7)
    with pytest.raises(InputError, match=r"'patient 7' is one volume.*2 co-registered") as few:
        session.open(first_alone(new).volume, task)
    assert few.value.hint == "Give 2 volumes of the patient, in the order of the support cases."
    third = replace(new.volume, further=new.volume.further * 2)
    with pytest.raises(InputError, match=r"is 3 co-registered volumes"):
        session.open(third, task)
    with pytest.raises(InputError, match="is one volume"):
        session.add_case(task, first_alone(new))


def test_a_further_volume_for_a_task_of_one_is_refused(
    session: FewShotSession, task: LearnedTask
) -> None:
    with pytest.raises(InputError, match="each case of the learned task is one volume"):
        session.open(case(7).volume, replace(task, volume_count=1))


def test_support_cases_of_different_numbers_are_refused(session: FewShotSession) -> None:
    with pytest.raises(InputError, match="'patient 2' is one volume, and 'patient 1' is 2"):
        session.learn([case(1), first_alone(case(2))])


def test_a_case_of_two_volumes_is_added_to_a_task_of_two(
    session: FewShotSession, task: LearnedTask
) -> None:
    grown = session.add_case(task, case(4))
    assert grown.volume_count == 2
    new = case(7)
    assert dice(new.labels == 1, found(session, grown, new.volume) == 1) > 0.8


def test_a_method_that_sees_one_volume_refuses_others_and_names_those_that_see_them() -> None:
    session = FewShotSession(method="atlas", device="cpu")
    with pytest.raises(InputError, match="'atlas' cannot use") as refused:
        session.learn([case(1), case(2)])
    for name in names_with_further_volumes():
        assert name in refused.value.hint
    assert "unet-3d" not in names_with_further_volumes()


class Trainable(torch.nn.Module):
    """A trainable copy that shows what it is given to `encode`."""

    takes_any_size = False

    def __init__(self, encode: Callable[[torch.Tensor], ImageFeatures]) -> None:
        super().__init__()
        self.encoder, self.decoder, self.no_prompt = (torch.nn.Linear(1, 1) for _ in range(3))
        self._encode = encode

    def attentions(self) -> list[torch.nn.Module]:
        return []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self._encode(images).embedding


@pytest.mark.parametrize("name", names_with_further_volumes())
def test_each_method_that_says_so_shows_the_second_volume_to_the_backbone(name: str) -> None:
    seen: list[bool] = []

    class Watched(ColourBackbone):
        def encode(self, images: torch.Tensor) -> ImageFeatures:
            seen.append(bool(torch.equal(images[:, 0], images[:, 1])))
            raise KeyboardInterrupt

        def at_size(self, size: int) -> Watched:
            self.image_size, self.feature_size = size, size // 4
            return self

        def trainable(self, masks: int) -> torch.nn.Module:
            return Trainable(self.encode)

    session = FewShotSession(Watched(), method=get_method(name))
    with pytest.raises(KeyboardInterrupt):
        session.learn([case(1), case(2)])
    assert seen == [False]


# One grid


def test_a_further_volume_on_another_grid_is_resampled_in_patient_space_with_a_note(
    caplog: pytest.LogCaptureFixture,
) -> None:
    k, j, i = np.indices((8, 12, 10)).astype(np.float32)
    ramp = 100 * k + 10 * j + i
    coarse = Volume(ramp, np.diag([2.0, 2.0, 2.0, 1.0]), "coarse")
    affine = np.array([[1.0, 0, 0, 2], [0, 1, 0, 4], [0, 0, 1, 6], [0, 0, 0, 1]])
    fine = Volume(np.zeros((4, 6, 5)), affine, "fine", further=(coarse,))
    with caplog.at_level(logging.WARNING):
        (on_grid,) = on_one_grid(fine).further
    k, j, i = np.indices((4, 6, 5))
    expected = 100 * (k + 6) / 2 + 10 * (j + 4) / 2 + (i + 2) / 2
    assert np.allclose(on_grid.array, expected)
    assert np.array_equal(on_grid.affine, affine)
    assert "'coarse' was resampled onto the grid of 'fine'" in caplog.text


def test_a_further_volume_on_the_same_grid_is_taken_as_it_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    other = Volume(np.ones((3, 4, 5), np.int16), np.eye(4) + 1e-6)
    (same,) = on_one_grid(Volume(np.zeros((3, 4, 5)), further=(other,))).further
    assert same.array is other.array
    assert not caplog.records


def test_what_a_further_volume_leaves_out_is_its_lowest_value_and_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    half = Volume(np.full((4, 6, 6), 7, np.int16) - (np.indices((4, 6, 6))[0] == 0), name="half")
    whole = Volume(np.zeros((8, 6, 6)), name="whole", further=(half,))
    (on_grid,) = on_one_grid(whole).further
    assert (on_grid.array[4:] == 6).all() and (on_grid.array[1:4] == 7).all()
    assert "leaves out 50%" in caplog.text


def test_volumes_that_do_not_overlap_are_refused() -> None:
    far = np.eye(4)
    far[:3, 3] = 500
    one = Volume(np.zeros((4, 5, 6)), name="one", further=(Volume(np.ones((4, 5, 6)), far, "far"),))
    with pytest.raises(InputError, match="'far' does not overlap 'one'"):
        on_one_grid(one)


# Files


def write(folder: Path, one: SupportCase, name: str) -> tuple[str, Path]:
    """IMAGE+IMAGE2 and the labels, the second on a grid of its own."""
    paths = []
    for kind, array in (
        ("first", one.volume.array),
        ("second", one.volume.further[0].array[1:]),
        ("labels", one.labels),
    ):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing((1.0, 1.0, 1.5))
        image.SetOrigin((0.0, 0.0, 1.5 if kind == "second" else 0.0))
        paths.append(folder / f"{name}_{kind}.nii.gz")
        sitk.WriteImage(image, str(paths[-1]))
    return f"{paths[0]}+{paths[1]}", paths[2]


def test_the_same_file_twice_is_refused(tmp_path: Path) -> None:
    write(tmp_path, case(1), "a")
    path = tmp_path / "a_first.nii.gz"
    with pytest.raises(InputError, match="twice"):
        read_volume(path, further=[path])


def test_evaluate_reads_the_channels_of_nnu_net_as_volumes_of_one_case(
    session: FewShotSession, tmp_path: Path
) -> None:
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
    for seed in (1, 2, 7):
        one = case(seed)
        for name, array in (
            (f"imagesTr/p{seed}_0000", one.volume.array),
            (f"imagesTr/p{seed}_0001", one.volume.further[0].array),
            (f"labelsTr/p{seed}", one.labels),
        ):
            image = sitk.GetImageFromArray(array)
            image.SetSpacing(one.volume.spacing)
            sitk.WriteImage(image, str(tmp_path / f"{name}.nii.gz"))
    dataset = Dataset.open(tmp_path)
    assert dataset.volumes == 2
    learned, segmented = evaluate(session, dataset, ["p1", "p2"], ["p7"])
    assert isinstance(learned, Learned) and learned.task.volume_count == 2
    assert isinstance(segmented, EvaluatedCase) and segmented.mean_dice > 0.8


@pytest.mark.slow
def test_the_command_line_learns_from_and_segments_two_volumes_and_refuses_one(
    tmp_path: Path,
) -> None:
    words = []
    for seed in (1, 2):
        images, labels = write(tmp_path, case(seed), f"s{seed}")
        words += ["--support", f"{images}={labels}"]
    images, _labels = write(tmp_path, case(7), "new")
    task, out = tmp_path / "two.oflsam2", tmp_path / "out.seg.nrrd"
    succeed("learn", *words, "--out", task, "--device", "cpu", "--method", "sam2-mask-prompt")
    assert LearnedTask.load(task).volume_count == 2
    done = run("segment", images, "--task", task, "--out", out)
    assert done.returncode == 0 and out.exists(), done.stderr
    assert "'new_second' was resampled onto the grid of 'new_first'" in done.stderr
    one = images.split("+")[0]
    refused(
        run("segment", one, "--task", task, "--out", tmp_path / "o.seg.nrrd"),
        "'new_first' is one volume",
        "Give 2 volumes",
    )
    refused(
        run("cohort", one, "--task", task, "--out", tmp_path / "cohort"),
        "'new_first' is one volume",
        "IMAGE+IMAGE2",
    )
