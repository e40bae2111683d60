"""The SAM2 family's methods: the same masks as SAM2's own video predictor for the same frames and
prompts, and each method's own choice of prompts and order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from disc_and_bar import disc_and_bar
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from toy_mask_backbone import ToyMaskBackbone

from OFLSAM2Core.backbones.base import ImageFeatures, Memory
from OFLSAM2Core.backbones.sam2_backbone import Sam2Backbone
from OFLSAM2Core.backbones.sam2_config import CONFIGS, build_sam2
from OFLSAM2Core.data.volume import SupportCase
from OFLSAM2Core.methods.common.mask_readout import apply_thresholds, best_thresholds
from OFLSAM2Core.methods.common.prompted_frames import PromptedFrames, from_middle
from OFLSAM2Core.methods.common.prompted_run import Query
from OFLSAM2Core.methods.common.support_memory import SupportMemory
from OFLSAM2Core.methods.fate_sam2 import FateSam2
from OFLSAM2Core.methods.fs_medsam2 import FsMedSam2, middles
from OFLSAM2Core.methods.sam2_mask_prompt import Sam2MaskPrompt
from OFLSAM2Core.session import FewShotSession

SIDE = 128
FRAMES = 18
TOLERANCE = 1e-4


pytestmark = pytest.mark.usefixtures("one_thread")


def _disc(index: int) -> npt.NDArray[np.bool_]:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return (columns - 30 - 3 * index) ** 2 + (rows - 60 - 10 * np.sin(index / 3)) ** 2 < 18**2


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bright disc that wanders through noise, as a folder of JPEG frames."""
    folder = tmp_path_factory.mktemp("frames")
    rng = np.random.default_rng(0)
    for index in range(FRAMES):
        image = 60 + rng.normal(0, 10, (SIDE, SIDE)) + 120 * _disc(index)
        pixels = np.clip(image, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).convert("RGB").save(folder / f"{index:05d}.jpg", quality=95)
    return folder


def _images(frames: Path) -> Tensor:
    """(T, 3, S, S) in [0, 1]."""
    stack = np.stack([np.array(Image.open(file)) for file in sorted(frames.glob("*.jpg"))])
    return torch.from_numpy(stack / 255.0).permute(0, 3, 1, 2).float()


def _by_the_predictor(
    backbone: Sam2Backbone,
    architecture: str,
    folder: Path,
    prompted: list[int],
    passes: list[tuple[int, bool]],
) -> dict[int, Tensor]:
    """Logits by frame, of SAM2VideoPredictor. prompted: frames with the disc's own mask. passes:
    start and whether backwards, one after the other."""
    from sam2.sam2_video_predictor import SAM2VideoPredictor

    predictor = build_sam2(CONFIGS[architecture], SIDE, SAM2VideoPredictor)
    predictor.load_state_dict(backbone.model.state_dict())
    state = predictor.init_state(str(folder))
    for frame in prompted:
        predictor.add_new_mask(state, frame_idx=frame, obj_id=1, mask=_disc(frame))
    found = {}
    for start, reverse in passes:
        shown = predictor.propagate_in_video(state, start_frame_idx=start, reverse=reverse)
        found.update({frame: logits[0, 0].clone() for frame, _, logits in shown})
    return found


def _by_prompted_frames(
    backbone: Sam2Backbone, folder: Path, prompted: list[int], order: list[tuple[int, int]]
) -> dict[int, Tensor]:
    """The same logits. order: frame and direction."""
    images = _images(folder)
    prompts = []
    for frame in prompted:
        mask = torch.from_numpy(_disc(frame))[None, None].float()
        prompts.append((frame, backbone.encode_memory(backbone.encode(images[frame][None]), mask)))
    frames = PromptedFrames(backbone)
    found = {}
    for frame, direction in order:
        features = backbone.encode(images[frame][None])
        shown = frames.predict(frame, features, prompts, direction)
        logits = torch.logit(shown.double(), eps=1e-15)[None].float()
        square = interpolate(logits, (SIDE, SIDE), mode="bilinear", align_corners=False)
        found[frame] = square[0, 0]
    return found


@pytest.mark.parametrize(
    ("architecture", "seed", "prompted", "passes", "order"),
    [
        # Two prompts, then forwards to the end.
        ("sam2-toy", 3, [0, 1], [(2, False)], [(f, 1) for f in range(2, FRAMES)]),
        # Three prompts; from the middle forwards, then backwards from there.
        (
            "sam2-toy",
            6,
            [0, 1, 2],
            [(9, False), (8, True)],
            [*((f, 1) for f in range(9, FRAMES)), *((f, -1) for f in range(8, 2, -1))],
        ),
        # A prompt that lies ahead; the real encoder and memory attention.
        ("sam2-tiny", 8, [0, 6], [(1, False)], [(f, 1) for f in range(1, 5)]),
    ],
)
def test_prompted_frames_give_the_masks_of_sam2_video_predictor(
    frames: Path,
    architecture: str,
    seed: int,
    prompted: list[int],
    passes: list[tuple[int, bool]],
    order: list[tuple[int, int]],
) -> None:
    backbone = Sam2Backbone.random(architecture, seed, SIDE)
    theirs = _by_the_predictor(backbone, architecture, frames, prompted, passes)
    ours = _by_prompted_frames(backbone, frames, prompted, order)
    for frame, logits in ours.items():
        # Far from 0 a probability says nothing about its logit any more.
        near = theirs[frame].abs() < 10
        assert near.any(), frame
        assert (logits - theirs[frame])[near].abs().max() <= TOLERANCE, frame
    masks = [theirs[frame] > 0 for frame in ours]
    assert all(0.02 < mask.float().mean() < 0.98 for mask in masks)
    assert not torch.equal(masks[0], masks[-1])


def _case(number: int, slices: int = 7) -> SupportCase:
    return disc_and_bar(number, slices)


@pytest.fixture(scope="module")
def backbone() -> Sam2Backbone:
    return Sam2Backbone.random(seed=3, image_size=SIDE)


@pytest.mark.parametrize("name", ["sam2-mask-prompt", "fs-medsam2", "fate-sam2"])
def test_each_method_learns_without_training_and_segments_every_slice(
    backbone: Sam2Backbone, name: str, tmp_path: Path
) -> None:
    from OFLSAM2Core.learned_task import LearnedTask

    session = FewShotSession(backbone, method=name)
    task = LearnedTask.load(session.learn([_case(0), _case(1)]).save(tmp_path / "task.oflsam2"))
    volume = _case(2).volume
    found = np.full((2, *volume.grid_shape), 255, np.uint8)
    for _ in range(2):  # A run leaves nothing behind in task or backbone.
        before = found.copy()
        for result in session.segment(volume, task):
            found[0][result.index_expression] = result.labels
            found[1][result.index_expression] = result.confidence
    assert np.array_equal(found, before)
    assert set(np.unique(found[0])) <= {0, 1, 4}


def test_where_memory_is_a_mask_a_frame_reads_the_prompt_that_looks_like_it() -> None:
    backbone = ToyMaskBackbone()
    generator = torch.Generator().manual_seed(0)
    side = backbone.image_size
    grey = interpolate(torch.rand(2, 1, 8, 8, generator=generator), (side, side), mode="bilinear")
    masks = (grey > 0.6).float()
    embeddings = backbone.encode(grey.repeat(1, 3, 1, 1)).embedding
    means, spread = embeddings.mean(dim=(0, 2, 3)), embeddings.std(dim=(0, 2, 3))
    standardized = (embeddings - means.view(1, -1, 1, 1)) / spread.view(1, -1, 1, 1)
    features = [ImageFeatures(each[None], standardised=each[None]) for each in standardized]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        frames = PromptedFrames(backbone, backbone.new_attention().eval())
    prompts = [(n - 2, backbone.encode_memory(features[n], masks[n][None])) for n in range(2)]
    for own, other in ((0, 1), (1, 0)):
        found = frames.predict(0, features[own], prompts, remember=False)[0] > 0.5
        right = (found == (masks[own, 0] > 0.5)).float().mean()
        wrong = (found == (masks[other, 0] > 0.5)).float().mean()
        assert right > 0.9 and right > wrong + 0.2


@pytest.mark.parametrize("name", ["sam2-mask-prompt", "fs-medsam2", "fate-sam2"])
def test_each_method_works_on_a_backbone_of_litemedsams_kind(name: str) -> None:
    session = FewShotSession(ToyMaskBackbone(), method=name)
    task = session.learn([_case(0), _case(1)])
    labels = np.full(_case(2).labels.shape, 255, np.uint8)
    for result in session.segment(_case(2).volume, task):
        labels[result.index_expression] = result.labels
    assert set(np.unique(labels)) == {0, 1, 4}


# Where memory is a mask


def _discs(*centres: int) -> Tensor:
    """Masks (N, S, S)."""
    row, column = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    return torch.stack([((row - 30) ** 2 + (column - at) ** 2 < 90).float() for at in centres])


def test_what_is_read_too_weakly_is_found_at_its_own_threshold() -> None:
    truth = [_discs(20, 40, 50), _discs(25, 35, 50)]
    for each in truth:
        each[2] = 0  # A structure that no slice shows.
    strength = torch.tensor([0.3, 0.8, 0.4])[:, None, None]
    read = [0.1 + strength * each for each in truth]
    thresholds = best_thresholds(read, truth)
    assert 0.1 <= thresholds[0] < 0.4 and 0.1 <= thresholds[1] < 0.9 and thresholds[2] == 0.5
    assert not (read[0][0] > 0.5).any()
    for one, masks in zip(read, truth, strict=True):
        assert torch.equal(apply_thresholds(one, thresholds)[:2] > 0.5, masks[:2] > 0.5)
    ends = apply_thresholds(torch.tensor([0.0, 0.2, 1.0]).view(1, 1, 3), torch.tensor([0.2]))
    assert torch.allclose(ends.flatten(), torch.tensor([0.0, 0.5, 1.0]))


def test_the_threshold_is_learned_from_support_slices_read_from_other_cases() -> None:
    backbone = ToyMaskBackbone()
    task = FewShotSession(backbone, method="sam2-mask-prompt").learn([_case(0), _case(1)])
    thresholds = task.state.tensors["thresholds"]
    assert thresholds.shape == (2,) and ((thresholds > 0) & (thresholds < 1)).all()
    twice = FewShotSession(backbone, method="sam2-mask-prompt").learn([_case(0), _case(0)])
    # What another case shows at the very same place is read as it is.
    assert (twice.state.tensors["thresholds"] - 0.5).abs().max() <= (thresholds - 0.5).abs().max()


def test_a_structure_that_earlier_slices_do_not_show_begins_where_a_prompt_shows_it() -> None:
    """Also when all that is remembered of the volume says that it is not there."""
    backbone = ToyMaskBackbone()
    generator = torch.Generator().manual_seed(0)
    plain = interpolate(torch.rand(1, 1, 8, 8, generator=generator) / 2, (64, 64), mode="bilinear")
    masks = _discs(20, 44)[:, None]
    images = [plain, plain + 0.5 * masks[:1], plain + 0.5 * masks.amax(0, keepdim=True)]
    embeddings = torch.cat(
        [backbone.encode(image.repeat(1, 3, 1, 1)).embedding for image in images]
    )
    middle, spread = embeddings.mean(dim=(0, 2, 3)), embeddings.std(dim=(0, 2, 3))
    own = (embeddings - middle.view(1, -1, 1, 1)) / spread.view(1, -1, 1, 1)
    features = [ImageFeatures(each[None], standardised=each[None]) for each in own]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        frames = PromptedFrames(backbone, backbone.new_attention().eval())
    prompts = [
        (-1, backbone.encode_memory(features[2], masks)),
        (-2, backbone.encode_memory(features[0], 0 * masks)),
    ]
    # Nothing, nothing, the first structure, both of them.
    dices = []
    for number, shown in enumerate((0, 0, 1, 1, 2)):
        with torch.no_grad():
            found = frames.predict(number, features[shown], prompts) > 0.5
        truth = masks[:, 0] > 0.5
        truth[shown:] = False
        both, either = (found & truth).sum(), found.sum() + truth.sum()
        dices.append(float(2 * both / either) if either else 1.0)
    assert min(dices) > 0.6, dices


# Which slices are prompted, and in which order


def _query(count: int, likeness: list[list[float]], is_sequence: bool = False) -> Query:
    """likeness: of each support slice and each slice of the volume, as unit vectors' cosines."""
    table = torch.tensor(likeness)
    memories = [Memory(torch.zeros(1, 1, 1, 1)) for _ in table]
    known = torch.ones(len(table), dtype=torch.bool)
    memory = SupportMemory(memories, table, known, torch.zeros(len(table)))
    return Query(count, is_sequence, range(count), memory, lambda i: torch.eye(count)[i])


def test_mask_prompts_are_the_most_similar_slices_and_the_best_is_nearest() -> None:
    query = _query(3, [[0.1, 0.2, 0.0], [0.0, 0.9, 0.1], [0.5, 0.0, 0.0]])
    options = Sam2MaskPrompt.SegmentOptions(retrieved_slices=2)
    visits = list(Sam2MaskPrompt().plan(query, options))
    assert [visit.index for visit in visits] == [0, 1, 2]
    assert all(visit.direction == 1 for visit in visits)
    assert visits[0].prompts == [(-2, 2), (-1, 1)]


def test_mask_prompts_stand_for_the_whole_volume_and_not_for_where_patients_look_most_alike() -> (
    None
):
    likeness = [[0.9, 0.1, 0.1], [0.8, 0.1, 0.1], [0.1, 0.6, 0.3], [0.1, 0.2, 0.5]]
    options = Sam2MaskPrompt.SegmentOptions(retrieved_slices=3)
    (visit, *_) = Sam2MaskPrompt().plan(_query(3, likeness), options)
    assert {which for _, which in visit.prompts} == {0, 2, 3}


def test_fs_medsam2_takes_the_middle_of_each_part_and_goes_both_ways_from_the_middle() -> None:
    method, segment = FsMedSam2(), FsMedSam2.SegmentOptions()
    assert middles(range(4, 13), 3) == [5, 8, 11]
    assert middles([4, 5], 3) == [4, 5]
    visits = list(method.plan(_query(5, [[0.0] * 5] * 2), segment))
    assert [(v.index, v.direction) for v in visits] == [(2, 1), (3, 1), (4, 1), (1, -1), (0, -1)]
    assert all(visit.prompts == [(-2, 0), (-1, 1)] for visit in visits)
    frames = list(method.plan(_query(3, [[0.0] * 3], is_sequence=True), segment))
    assert [(v.index, v.direction) for v in frames] == [(0, 1), (1, 1), (2, 1)]


def test_fate_sam2_conditions_each_slice_on_its_own_most_similar_ones() -> None:
    query = _query(3, [[0.9, 0.1, 0.3], [0.2, 0.8, 0.2], [0.1, 0.3, 0.7]])
    options = FateSam2.SegmentOptions(retrieved_slices=2)
    visits = {visit.index: visit for visit in FateSam2().plan(query, options)}
    assert [visit.direction for visit in visits.values()] == [-1, -1, 1]
    assert {i: [which for _, which in v.prompts] for i, v in visits.items()} == {
        1: [1, 2],
        0: [0, 1],
        2: [2, 0],
    }


def test_from_the_middle_every_slice_has_its_turn_once() -> None:
    for count in (1, 2, 7, 8):
        for backwards_first in (False, True):
            order = [index for index, _ in from_middle(count, backwards_first)]
            assert sorted(order) == list(range(count))
            assert order[0] == count // 2
