"""A file is written whole, or what was there stays."""

from __future__ import annotations

import os

import pytest

from OFLSAM2Core.errors import Cancelled, ResourceError
from OFLSAM2Core.runtime.atomic_write import atomic_write


def test_writing_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "out.txt").write_text("old")
    for error, raised in ((OSError("disk full"), ResourceError), (Cancelled(), Cancelled)):
        with pytest.raises(raised) as caught, atomic_write(tmp_path / "out.txt") as temporary:
            temporary.write_text("half")
            raise error
        if raised is ResourceError:
            assert "out.txt' could not be written: disk full" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["out.txt"]
    assert (tmp_path / "out.txt").read_text() == "old"


def test_a_file_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    done = []
    for name in ("fsync", "replace"):
        original = getattr(os, name)

        def recorded(*args, name=name, original=original):
            done.append(name)
            return original(*args)

        monkeypatch.setattr(os, name, recorded)
    with atomic_write(tmp_path / "out.txt") as temporary:
        temporary.write_text("new")
    assert done[:2] == ["fsync", "replace"]
    assert (tmp_path / "out.txt").read_text() == "new"


def test_a_folder_that_has_gone_is_reported_with_the_files_name(tmp_path):
    file = tmp_path / "gone" / "out.txt"
    with (
        pytest.raises(ResourceError, match=r"out\.txt' could not be written: No such file"),
        atomic_write(file) as temporary,
    ):
        temporary.write_text("new")
