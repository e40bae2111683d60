"""What the default method learned, in a file and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from phantom_patients import patient
from toy_backbone import ToyBackbone

from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.learned_task import LearnedTask
from OFLSAM2Core.session import FewShotSession

FIRST = 12
"""Slices that are cut off: the structures go on beyond the first that is left."""


def _cut(case: SupportCase) -> SupportCase:
    assert case.labels[FIRST].any()
    volume = Volume(case.volume.array[FIRST:], case.volume.affine, name=case.name)
    return SupportCase(volume, case.labels[FIRST:], case.structures)


def test_a_task_whose_structures_go_on_beyond_every_support_volume_is_read_back(
    tmp_path: Path,
) -> None:
    session = FewShotSession(
        ToyBackbone(),
        method="ofl-sam2-atlas",
        options={"training_steps": 10, "encoded_slices": 12},
    )
    task = session.learn([_cut(patient(seed)) for seed in (1, 2)])
    task.save(tmp_path / "task.oflsam2")
    read = LearnedTask.load(tmp_path / "task.oflsam2")
    volume = _cut(patient(7)).volume
    for one, other in zip(
        session.segment(volume, task), session.segment(volume, read), strict=True
    ):
        assert one.index == other.index
        np.testing.assert_array_equal(one.labels, other.labels)
