"""The precision that the encoder calculates in, as the user asks for it."""

from __future__ import annotations

import copy

import pytest
from phantom_patients import patient
from toy_backbone import ToyBackbone

from OFLSAM2Core.errors import InputError
from OFLSAM2Core.session import FewShotSession


class TwoPrecisions(ToyBackbone):
    """On a processor that has both."""

    def with_precision(self, precision: str) -> TwoPrecisions:
        other = copy.copy(self)
        other.precision = precision
        return other


def test_a_task_is_learned_in_the_precision_that_was_asked_for() -> None:
    options = {"training_steps": 2, "encoded_slices": 12}
    session = FewShotSession(
        TwoPrecisions(), method="ofl-sam2-atlas", precision="bfloat16", options=options
    )
    task = session.learn([patient(1), patient(2)])
    assert task.backbone_precision == "bfloat16"


def test_a_precision_that_the_encoder_does_not_have_is_refused() -> None:
    with pytest.raises(InputError, match="does not calculate in bfloat16"):
        FewShotSession(ToyBackbone(), precision="bfloat16")
    with pytest.raises(InputError, match="no precision 'int8'"):
        FewShotSession(ToyBackbone(), precision="int8")


def test_a_task_of_a_precision_that_there_is_not_here_is_segmented_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    options = {"training_steps": 2, "encoded_slices": 12}
    there = FewShotSession(
        TwoPrecisions(), method="ofl-sam2-atlas", precision="bfloat16", options=options
    )
    task = there.learn([patient(1), patient(2)])
    there.open(patient(3).volume, task)
    assert "learned in bfloat16" not in caplog.text
    FewShotSession(ToyBackbone(), method="ofl-sam2-atlas").open(patient(3).volume, task)
    assert "learned in bfloat16" in caplog.text and "float32 is used" in caplog.text
