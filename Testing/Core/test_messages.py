"""What messages have in common."""

from __future__ import annotations

import doctest

from OFLSAM2Core.runtime import counted


def test_one_is_singular_and_all_else_plural() -> None:
    assert doctest.testmod(counted).failed == 0
    assert counted.counted(1, "case") == "1 case"
    assert counted.counted(0, "case") == "0 cases"
