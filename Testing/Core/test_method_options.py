"""Options that a method declares: read, checked, described, and changed by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from command_line import ROOT
from toy_method import ToyMethod

from OFLSAM2Core import methods
from OFLSAM2Core.errors import InputError, TaskError
from OFLSAM2Core.methods.base import describe
from OFLSAM2Core.methods.changed_options import ChangedOptions
from OFLSAM2Core.methods.options import Options, option


@dataclass(frozen=True)
class Own(Options):
    gamma: float = option(0.8, "How sure.", low=0, high=1)
    slices: int = option(4, "How many.", low=1)
    update: str = option("gated", "When.", choices=("gated", "always"))
    mapping: bool = option(True, "Whether.")


def test_strings_are_read_as_the_option_s_own_type() -> None:
    read = Own.from_values({"gamma": "0.7", "slices": "3", "mapping": "false"})
    assert read == Own(gamma=0.7, slices=3, mapping=False)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gamma", 1.5),
        ("gamma", float("nan")),
        ("gamma", "much"),
        ("gamma", None),
        ("slices", 0),
        ("slices", 2.5),
        ("slices", float("inf")),
        ("slices", True),
        ("update", "often"),
        ("mapping", "perhaps"),
        ("mapping", 2),
        ("colour", 1),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_by_the_option_s_name(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=name):
        Own.from_values({name: value})


def test_an_option_tells_all_that_an_interface_needs_to_offer_it() -> None:
    gamma, slices, update, mapping = Own.describe()
    assert (gamma.type, gamma.default, gamma.low, gamma.high) == ("float", 0.8, 0, 1)
    assert (slices.type, slices.high) == ("int", None)
    assert update.choices == ("gated", "always") and mapping.type == "bool"
    assert all(info.help.endswith(".") for info in Own.describe())


def test_every_method_of_the_package_describes_itself_with_a_sentence_for_each_option() -> None:
    described = methods.describe_all()
    assert [each["name"] for each in described] == methods.names()
    for each in described:
        names = [one["name"] for one in each["options"]]
        assert len(names) == len(set(names))
        assert all(len(one["help"]) > 10 and one["when"] for one in each["options"])
        for values in each["presets"].values():
            assert set(values) <= set(names)
            ChangedOptions(methods.get_method(each["name"]), None, values)


def test_every_method_of_the_package_has_a_decision_record() -> None:
    records = [path.read_text("utf-8") for path in (ROOT / "docs/decisions").glob("*.md")]
    for name in methods.names():
        assert any(f"`{name}`" in record for record in records), name


def test_a_name_in_both_classes_is_one_option_for_both() -> None:
    when = {each["name"]: each["when"] for each in describe(ToyMethod())["options"]}
    assert when == {"bias": "learn", "threshold": "both", "invert": "segment"}
    learn, segment = ChangedOptions(ToyMethod(), None, {"threshold": 0.25}).for_learning()
    assert learn.to_json()["threshold"] == segment.to_json()["threshold"] == 0.25


def test_the_task_s_values_hold_unless_the_caller_changes_one_by_name() -> None:
    of_task = {"bias": 2.0, "threshold": 0.25, "invert": True}
    plain = ChangedOptions(ToyMethod(), None, {})
    assert plain.for_segmenting(of_task, {}).to_json() == {"threshold": 0.25, "invert": True}
    changed = ChangedOptions(ToyMethod(), None, {"threshold": 0.75})
    assert changed.for_segmenting(of_task, {}).to_json() == {"threshold": 0.75, "invert": True}
    assert changed.for_segmenting(of_task, {"threshold": 0.5}).to_json()["threshold"] == 0.5


def test_a_preset_is_a_change_by_name_of_what_it_sets() -> None:
    of_task = {"threshold": 0.25, "invert": True}
    fast = ChangedOptions(ToyMethod(), "fast", {})
    assert fast.for_segmenting(of_task, {}).to_json() == {"threshold": 0.25, "invert": False}
    with pytest.raises(InputError, match="no preset 'quick'"):
        ChangedOptions(ToyMethod(), "quick", {})


def test_what_learning_has_settled_cannot_be_changed_for_a_volume() -> None:
    with pytest.raises(InputError, match="bias: the learned task has settled"):
        ChangedOptions(ToyMethod(), None, {}).for_segmenting({}, {"bias": 3.0})


def test_a_task_with_an_impossible_value_is_called_so() -> None:
    with pytest.raises(TaskError, match="threshold"):
        ChangedOptions(ToyMethod(), None, {}).for_segmenting({"threshold": 7}, {})
