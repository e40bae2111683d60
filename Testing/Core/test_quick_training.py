"""Training in bfloat16: where there is hardware for it, and nowhere else."""

from __future__ import annotations

import pytest
import torch
from sample_cases import part_of
from torch import Tensor

from OFLSAM2Core.backbones.sam2_backbone import Sam2Backbone
from OFLSAM2Core.methods.common import bf16_autocast
from OFLSAM2Core.methods.ofl_sam2_atlas.segmentation_head import SegmentationHead
from OFLSAM2Core.session import FewShotSession


@pytest.mark.slow
def test_readouts_learn_in_bfloat16_on_processors_that_have_it_and_read_in_single_precision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cases = [part_of(name, 10, 16) for name in ("001", "003")]
    read: list[tuple[bool, torch.dtype]] = []
    forward = SegmentationHead.forward

    def seen(readout: SegmentationHead, *of_slices: object) -> Tensor:
        found = forward(readout, *of_slices)  # type: ignore[arg-type]
        read.append((readout.training, found.dtype))
        return found

    monkeypatch.setattr(SegmentationHead, "forward", seen)
    learned = {}
    for quick, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(bf16_autocast, "has_matrix_tiles", lambda device, quick=quick: quick)
        read.clear()
        options = dict(epochs=1, augmented_copies=0, atlas_prior=False)
        session = FewShotSession(Sam2Backbone.random(seed=3, image_size=128), options=options)
        task = learned[quick] = session.learn(cases)
        assert set(read) == {(True, expected)}
        assert all(tensor.dtype != torch.bfloat16 for tensor in task.state.tensors.values())
        list(session.segment(cases[0].volume, task))
        assert read[-1] == (False, torch.float32)
    quickly, slowly = (learned[quick].tensors["readout.u_net.leave.weight"] for quick in (1, 0))
    assert not torch.equal(quickly, slowly)
    torch.testing.assert_close(quickly, slowly, atol=2e-3, rtol=0.1)
