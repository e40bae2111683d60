"""Damage to files, as hypothesis makes it: bytes and numbers changed, cut, doubled, put in."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

# What headers are full of, and readers fall over.
_NUMBERS = st.sampled_from(
    [b"0", b"-1", b"1", b"nan", b"inf", b"-inf", b"1e999", b"1e-6", b"1e-300", b"65536",
     b"2147483647", b"4294967296", b"9223372036854775807", b"99999999999999999999999", b"1,5",
     b"0x10", b"", b" ", b"(1,0,0)", b"none", b"\xff\xfe", b"\x00", b"\xc3\xa9"]
)  # fmt: skip
_BYTES = st.sampled_from(
    [b"\x00", b"\xff", b"\x80", b"\x7f", b"\x00\x00\x00\x00", b"\xff\xff\xff\xff",
     b"\x00\x00\x80\x7f", b"\x00\x00\xc0\x7f", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80"]
)  # fmt: skip


@st.composite
def damaged(draw: Any, whole: bytes, header: int = 600) -> bytes:
    """A few changes, most of them within the first `header` bytes."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 3))):
        end = len(content) if draw(st.integers(0, 3)) == 0 else min(header, len(content))
        place = draw(st.integers(0, max(0, end - 1)))
        kind = draw(st.sampled_from(["bytes", "number", "cut", "delete", "double", "flip"]))
        if kind == "bytes":
            new = draw(_BYTES)
            content[place : place + len(new)] = new
        elif kind == "number":
            replaced_to = _end_of_word(content, place)
            content[place:replaced_to] = draw(_NUMBERS)
        elif kind == "cut":
            del content[place:]
        elif kind == "delete":
            del content[place : place + draw(st.integers(1, 20))]
        elif kind == "double":
            content[place:place] = content[place : place + draw(st.integers(1, 40))]
        elif content:
            content[place] ^= 1 << draw(st.integers(0, 7))
    return bytes(content)


def _end_of_word(content: bytearray, place: int) -> int:
    end = place
    while end < len(content) and end < place + 20 and content[end : end + 1].isalnum():
        end += 1
    return max(end, place + 1)


def json_values() -> st.SearchStrategy:
    """JSON of every kind, with what is odd of each."""
    numbers = st.sampled_from([0, -1, 1, 255, 256, 10**30, 1e308, -0.5, 0.5, float("nan")])
    leaves = st.none() | st.booleans() | numbers | st.integers() | st.text(max_size=8)
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner),
        max_leaves=12,
    )


@st.composite
def changed_json(draw: Any, value: Any) -> Any:
    """`value` with one thing in it replaced, removed or put in."""
    if isinstance(value, dict) and value and draw(st.integers(0, 4)):
        key = draw(st.sampled_from(sorted(value)))
        how = draw(st.integers(0, 3))
        if how == 0:
            return {name: each for name, each in value.items() if name != key}
        if how == 1:
            return {**value, draw(st.text(max_size=6)): draw(json_values())}
        return {**value, key: draw(changed_json(value[key]))}
    if isinstance(value, list) and value and draw(st.integers(0, 4)):
        place = draw(st.integers(0, len(value) - 1))
        how = draw(st.integers(0, 3))
        if how == 0:
            return value[:place] + value[place + 1 :]
        if how == 1:
            return [*value, value[place]]
        return [*value[:place], draw(changed_json(value[place])), *value[place + 1 :]]
    return draw(json_values())
