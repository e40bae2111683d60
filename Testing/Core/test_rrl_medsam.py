"""RRL-MedSAM: distillation from the backbone, the mutual moving average, registration, prompts."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from phantom_patients import BRIGHT, DARK, patient
from scipy import ndimage
from torch import Tensor
from toy_backbone import ToyBackbone

from OFLSAM2Core.data.overlap import dice
from OFLSAM2Core.errors import InputError, TaskError
from OFLSAM2Core.evaluation.datasets import Dataset
from OFLSAM2Core.evaluation.evaluate import Learned, evaluate
from OFLSAM2Core.learned_task import LearnedTask
from OFLSAM2Core.methods.base import Context
from OFLSAM2Core.methods.common.initial_shares import begin_at_shares
from OFLSAM2Core.methods.rrl_medsam import RrlMedSamLearnOptions
from OFLSAM2Core.methods.rrl_medsam.distillation import distillation_loss, mutual_ema
from OFLSAM2Core.methods.rrl_medsam.networks import Encoder, FlowDecoder, MaskDecoder
from OFLSAM2Core.methods.rrl_medsam.registration import registration_loss, warped
from OFLSAM2Core.methods.rrl_medsam.segmentation import Branches
from OFLSAM2Core.methods.rrl_medsam.training import Trainer, on_grid
from OFLSAM2Core.session import FewShotSession

QUICK = {"width": 4, "grid_side": 16}


pytestmark = pytest.mark.usefixtures("one_thread")


def _context() -> Context:
    return Context(ToyBackbone(), torch.device("cpu"), 0, lambda progress: None)


def _session(**options: float) -> FewShotSession:
    return FewShotSession(ToyBackbone(), method="rrl-medsam", options={**QUICK, **options})


# Distillation


def test_encoders_have_at_most_3_percent_of_the_weights_of_sam_base_s() -> None:
    (width,) = (info for info in RrlMedSamLearnOptions.describe() if info.name == "width")
    largest = sum(p.numel() for p in Encoder(int(width.high or 0)).parameters())
    assert 2.6e6 < largest <= 2.7e6
    assert sum(p.numel() for p in Encoder(width.default).parameters()) < 0.3e6


def test_the_first_stage_brings_the_general_encoder_nearer_to_the_backbone() -> None:
    options = RrlMedSamLearnOptions(width=4, grid_side=16, learning_rate=3e-3)
    ctx = _context()
    _, _, cases = on_grid(ctx, [patient(0), patient(1)], options)
    with ctx.seeded():
        trainer = Trainer(ctx, cases, options)
        before = [trainer.distance(case).item() for case in cases]
        for _ in range(15):
            trainer.step(distilling=True)
        after = [trainer.distance(case).item() for case in cases]
    assert all(late < 0.8 * early for early, late in zip(before, after, strict=True))


def test_the_distance_to_the_backbone_is_that_of_its_features_within_the_volume() -> None:
    generator = torch.Generator().manual_seed(0)
    teacher, student = torch.randn(2, 1, 6, 2, 3, 4, generator=generator)
    inside = torch.zeros(1, 2, 3, 4, dtype=torch.bool)
    inside[0, 0] = True
    assert float(distillation_loss(teacher, teacher, inside)) == pytest.approx(0, abs=1e-6)
    own, wanted = (maps[0, :, 0].flatten(1).T.double().numpy() for maps in (student, teacher))
    p, q = (np.exp(v) / np.exp(v).sum(axis=1, keepdims=True) for v in (wanted, own))
    expected = np.abs(own - wanted).mean() + (p * np.log(p / q)).sum(axis=1).mean()
    assert float(distillation_loss(student, teacher, inside)) == pytest.approx(expected, rel=1e-5)


def test_the_backbone_s_features_lie_where_what_they_are_of_lies() -> None:
    case = patient(0)
    options = RrlMedSamLearnOptions(width=4, grid_side=40)
    _, grid, (seen,) = on_grid(_context(), [case], options)
    assert seen.image.shape[1:] == grid.shape
    small = F.avg_pool3d(seen.image[None], 4)[0, 0]
    likeness = [
        abs(np.corrcoef(channel[seen.inside], small[seen.inside])[0, 1]) for channel in seen.teacher
    ]
    mirrored = [
        abs(np.corrcoef(channel[seen.inside], small.flip(2)[seen.inside])[0, 1])
        for channel in seen.teacher
    ]
    assert max(likeness) > 0.9 and max(likeness) > max(mirrored) + 0.02
    known = seen.teacher[:, seen.inside]
    assert torch.allclose(known.mean(dim=1), torch.zeros(len(known)), atol=1e-4)
    assert torch.allclose(known.std(dim=1), torch.ones(len(known)), atol=1e-3)


# The mutual moving average


def test_the_mutual_average_is_its_closed_form() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        one, other = Encoder(2).double(), Encoder(2).double()
    first = [copy.deepcopy(net) for net in (one, other)]
    steps, momentum = 200, 0.99
    for _ in range(steps):
        mutual_ema(one, other, momentum)
    shrunk = (2 * momentum - 1) ** steps
    for own, others, a, b in zip(*(net.parameters() for net in (one, other, *first)), strict=True):
        assert torch.allclose(own, (a + b) / 2 + shrunk * (a - b) / 2, atol=1e-12)
        assert torch.allclose(others, (a + b) / 2 - shrunk * (a - b) / 2, atol=1e-12)


def test_only_the_second_stage_averages_the_encoders() -> None:
    apart = {}
    for momentum in (1.0, 0.5):
        options = RrlMedSamLearnOptions(width=4, grid_side=16, ema=momentum)
        ctx = _context()
        _, _, cases = on_grid(ctx, [patient(0)], options)
        with ctx.seeded():
            trainer = Trainer(ctx, cases, options)
            for distilling in (True, False):
                trainer.step(distilling=distilling)
                general, medical = trainer.branches.general, trainer.branches.medical
                apart[momentum, distilling] = max(
                    float((a - b).detach().abs().max())
                    for a, b in zip(general.parameters(), medical.parameters(), strict=True)
                )
    assert apart[0.5, False] < 1e-6  # Half of each is the same for both.
    assert min(apart[1.0, True], apart[0.5, True], apart[1.0, False]) > 1e-4


# Registration


def _ball(middle: tuple[float, float, float], shape: tuple[int, int, int] = (16, 24, 24)) -> Tensor:
    at = np.indices(shape)
    away = sum((own - m) ** 2 for own, m in zip(at, middle, strict=True))
    return torch.from_numpy((away < 25).astype(np.float32))[None, None]


def test_labels_warped_by_a_known_deformation_are_the_deformed_labels() -> None:
    labels = _ball((8, 10, 12))
    flow = torch.zeros(1, 3, 16, 24, 24)
    flow[:, 0], flow[:, 2] = 2.0, -3.0
    moved = warped(labels, flow)
    assert torch.allclose(moved[..., :14, :, 3:], labels[..., 2:, :, :-3], atol=1e-5)
    # And one that is not the same everywhere, against another program's interpolation.
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.normal(0, 1, (3, 16, 24, 24)), (0, 3, 3, 3)) * 30
    found = warped(labels, torch.from_numpy(smooth)[None].float())[0, 0].numpy()
    source = np.indices((16, 24, 24)) + smooth
    expected = ndimage.map_coordinates(labels[0, 0].numpy(), source, order=1, mode="nearest")
    assert np.allclose(found, expected, atol=1e-4)


def test_registration_finds_a_known_shift_and_carries_the_labels_over() -> None:
    atlas, target = _ball((8, 10, 12)), _ball((8, 13, 10))
    noise = 0.05 * torch.rand(2, 1, 1, 16, 24, 24, generator=torch.Generator().manual_seed(0))
    images = [0.2 + 0.6 * ball + own for ball, own in zip((atlas, target), noise, strict=True)]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder, flow = Encoder(4), FlowDecoder(4)
    optimiser = torch.optim.Adam([*encoder.parameters(), *flow.parameters()], 1e-2)

    def both_ways() -> tuple[Tensor, Tensor]:
        a, t = (encoder(image) for image in images)
        return flow(t, a), flow(a, t)

    assert not both_ways()[0].any()  # Nothing moves before training.
    for _ in range(40):
        there, back = both_ways()
        loss, _ = registration_loss(images[1], images[0], there, back)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    carried = warped(atlas, both_ways()[0].detach()) > 0.5
    before = dice(atlas.numpy() > 0.5, target.numpy() > 0.5)
    assert dice(carried.numpy(), target.numpy() > 0.5) > max(0.85, before + 0.2)


# The branches


def test_both_decoders_begin_with_the_structures_shares_of_the_cells() -> None:
    options = RrlMedSamLearnOptions(width=4, grid_side=24)
    ctx = _context()
    _, _, cases = on_grid(ctx, [patient(0), patient(1)], options)
    with ctx.seeded():
        trainer = Trainer(ctx, cases, options)
    labelled = torch.stack([case.labels.mean(dim=(1, 2, 3)) for case in cases]).mean(dim=0)
    assert labelled[1:].max() < 0.1
    with torch.no_grad():
        for logits in trainer.branches(cases[0].image[None]):
            predicted = logits.softmax(dim=1).mean(dim=(0, 2, 3, 4))
            assert (predicted[1:] < 3 * labelled[1:]).all()
    for decoder in (trainer.branches.mask, trainer.branches.prompted):
        assert decoder.leave.bias is not None
        torch.testing.assert_close(decoder.leave.bias.detach().softmax(dim=0), labelled)


def test_a_structure_that_no_cell_shows_gives_finite_logits() -> None:
    decoder = MaskDecoder(4, 3)
    begin_at_shares(decoder.leave, torch.tensor([0.99, 0.01, 0.0]))
    assert decoder.leave.bias is not None
    assert decoder.leave.bias.isfinite().all()


def test_segmentation_uses_the_medical_levels_it_is_given() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        branches = Branches(4, 2)
    images, others = torch.rand(2, 1, 1, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        general, final = branches(images)
        same_general, same_final = branches.decode(images, branches.medical(images))
        _, other_final = branches.decode(images, branches.medical(others))
    assert torch.equal(general, same_general) and torch.equal(final, same_final)
    assert not torch.allclose(final, other_final)


def test_the_prompt_is_the_general_branch_s_mask_and_carries_no_gradient_to_it() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        branches = Branches(4, 2)
    images = torch.rand(1, 1, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    general, final = branches(images)
    assert general.shape == final.shape == (1, 3, 8, 16, 16)
    final.square().sum().backward()
    assert all(p.grad is None for p in branches.general.parameters())
    assert all(p.grad is not None for p in branches.medical.parameters())
    with torch.no_grad():
        branches.mask.leave.bias += torch.tensor([0.0, 5.0, 0.0])
        changed = branches(images)[1]
    assert not torch.allclose(changed, final.detach(), atol=1e-3)
    with pytest.raises(ValueError, match="prompt"):
        MaskDecoder(4, 2, prompts=3)(branches.medical(images))


# Volumes without labels


def test_an_unlabelled_volume_is_registered_and_takes_the_warped_labels_in_the_second_stage() -> (
    None
):
    options = RrlMedSamLearnOptions(width=4, grid_side=16)
    ctx = _context()
    _, _, (case, other) = on_grid(ctx, [patient(0), patient(1)], options)
    unlabelled = replace(other, labels=None)
    for distilling in (True, False):
        with ctx.seeded():
            trainer = Trainer(ctx, [case], options, [unlabelled])
            medical = [value.clone() for value in trainer.branches.medical.parameters()]
            flow = [value.clone() for value in trainer.flow.parameters()]
            losses = [trainer.step(distilling=distilling) for _ in range(6)]
        assert np.isfinite(losses).all()
        for before, network in ((medical, trainer.branches.medical), (flow, trainer.flow)):
            after = list(network.parameters())
            assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_unlabelled_volumes_change_what_is_learned() -> None:
    tasks = [
        _session(training_steps=4).learn([patient(0)], unlabelled=volumes)
        for volumes in ([], [patient(1).volume], [patient(1).volume])
    ]
    without, one, again = (task.state.tensors for task in tasks)
    assert any(not torch.equal(tensor, without[name]) for name, tensor in one.items())
    assert all(torch.equal(tensor, again[name]) for name, tensor in one.items())


def test_evaluating_learns_from_the_test_volumes_but_not_from_their_labels(
    cases: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(cases, tmp_path / "other labels")
    path = str(folder / "hippocampus_006_label.nii.gz")
    sitk.WriteImage(sitk.ReadImage(path) * 0, path)

    def learned(folder: Path, *, unlabelled: bool) -> dict[str, torch.Tensor]:
        dataset = Dataset.open(folder)
        chosen = dataset.choose(1, None, 1)
        first = next(evaluate(_session(training_steps=4), dataset, *chosen, unlabelled=unlabelled))
        assert isinstance(first, Learned)
        return first.task.state.tensors

    without, one, other = (
        learned(cases, unlabelled=False),
        learned(cases, unlabelled=True),
        learned(folder, unlabelled=True),
    )
    assert any(not torch.equal(tensor, without[name]) for name, tensor in one.items())
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_method_that_cannot_use_unlabelled_volumes_refuses_them() -> None:
    session = FewShotSession(method="atlas", device="cpu")
    with pytest.raises(InputError, match="'atlas' does not learn from volumes without labels"):
        session.learn([patient(0)], unlabelled=[patient(1).volume])


# From end to end


@pytest.mark.slow
def test_organs_are_learned_from_two_cases_and_from_one(tmp_path: Path) -> None:
    session = _session(training_steps=140, learning_rate=5e-3)
    truth = patient(5)
    for support in ([patient(0), patient(1)], [patient(0)]):
        task = LearnedTask.load(session.learn(support).save(tmp_path / "task.oflsam2"))
        assert task.state.summary["training steps"] == 140
        labels = np.full(truth.labels.shape, 255, np.uint8)
        for result in session.segment(truth.volume, task):
            labels[result.index_expression] = result.labels
        assert set(np.unique(labels)) <= {0, BRIGHT.label, DARK.label}
        for organ in (BRIGHT, DARK):
            assert dice(labels == organ.label, truth.labels == organ.label) > 0.5


def test_the_same_seed_and_steps_give_the_same_task() -> None:
    one, other = (_session(training_steps=3).learn([patient(0)]) for _ in range(2))
    for name, tensor in one.state.tensors.items():
        assert torch.equal(tensor, other.state.tensors[name]), name


def test_a_task_that_lacks_a_part_is_refused_in_words() -> None:
    session = _session(training_steps=1)
    task = session.learn([patient(0)])
    del task.state.tensors["branches.mask.leave.weight"]
    with pytest.raises(TaskError, match="lacks a part"):
        session.open(patient(1).volume, task)
