"""The record of a cohort: whole lines, states in order, damage kept aside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from OFLSAM2Core.cohort.cases import CaseInput
from OFLSAM2Core.cohort.fingerprint import fingerprint, stamp_of
from OFLSAM2Core.cohort.manifest import FILE_NAME, Manifest, read_manifest
from OFLSAM2Core.errors import InputError

CASES = [CaseInput(name, f"/data/{name}.nii.gz") for name in "abcd"]


def written(folder: Path) -> Path:
    """Four cases: a done, b failed, c running, d waiting."""
    with Manifest.create(folder) as manifest:
        manifest.begin({"task": "t", "layout": "flat"}, host="h", pid=1)
        for case in CASES:
            manifest.waiting(case)
        for name in "abc":
            manifest.running(name, "worker")
        manifest.finished("a", "done", {"confidence": 0.9, "reason": ""})
        manifest.failed("b", "input", "'b' cannot be read\nat all.", "Mend it.")
    return folder / FILE_NAME


def states(folder: Path) -> dict[str, str]:
    return {name: record.state for name, record in read_manifest(folder).cases.items()}


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    written(tmp_path)
    content = read_manifest(tmp_path)
    assert states(tmp_path) == {"a": "done", "b": "failed", "c": "running", "d": "waiting"}
    assert content.identity == {"task": "t", "layout": "flat"}
    assert content.cases["b"].reason == "'b' cannot be read\nat all."
    assert content.ended is None and content.damaged == []


def test_every_line_is_json_by_itself(tmp_path: Path) -> None:
    lines = written(tmp_path).read_text().splitlines()
    assert len(lines) == 10
    assert all(json.loads(line)["event"] in ("run", "case", "end") for line in lines)


def test_a_run_that_goes_on_adds_lines_and_changes_none(tmp_path: Path) -> None:
    path = written(tmp_path)
    before = path.read_bytes()
    manifest, kept = Manifest.reopen(tmp_path)
    with manifest:
        manifest.begin({"task": "t", "layout": "flat"})
        manifest.finished("c", "empty", {"reason": "Nothing was found."})
        manifest.end("finished")
    assert kept is None
    assert path.read_bytes().startswith(before)
    assert states(tmp_path)["c"] == "empty" and read_manifest(tmp_path).ended == "finished"


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_line_that_was_not_written_to_its_end_is_forgotten_and_the_file_kept(
    tmp_path: Path, cut: int
) -> None:
    path = written(tmp_path)
    path.write_bytes(path.read_bytes()[:-cut])
    damaged = path.read_bytes()
    manifest, kept = Manifest.reopen(tmp_path)
    with manifest:
        manifest.finished("d", "done", {})
    assert kept is not None and kept.read_bytes() == damaged
    assert states(tmp_path) == {"a": "done", "b": "running", "c": "running", "d": "done"}
    assert read_manifest(tmp_path).damaged == []


def test_a_changed_byte_is_found_even_where_the_line_is_json_still(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_bytes(path.read_bytes().replace(b'"confidence": 0.9', b'"confidence": 0.2'))
    assert read_manifest(tmp_path).damaged == [9]
    _, kept = Manifest.reopen(tmp_path)
    assert kept is not None and states(tmp_path)["a"] == "running"


def test_rubbish_in_the_middle_loses_its_own_line_alone(tmp_path: Path) -> None:
    path = written(tmp_path)
    lines = path.read_bytes().split(b"\n")
    lines[3] = b"\0\xff" * 40
    path.write_bytes(b"\n".join(lines))
    Manifest.reopen(tmp_path)[0].__exit__()
    assert states(tmp_path) == {"a": "done", "b": "failed", "d": "waiting", "c": "running"}


def test_damage_is_kept_under_a_new_name_each_time(tmp_path: Path) -> None:
    path = written(tmp_path)
    kept = []
    for _ in range(2):
        with open(path, "ab") as file:
            file.write(b"torn")
        manifest, copy = Manifest.reopen(tmp_path)
        manifest.__exit__()
        kept.append(copy)
    assert kept[0] != kept[1] and all(copy is not None and copy.exists() for copy in kept)


def test_a_manifest_that_no_longer_says_of_what_task_is_refused_and_kept(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_bytes(path.read_bytes().split(b"\n", 1)[1])
    with pytest.raises(InputError, match="damaged") as refused:
        Manifest.reopen(tmp_path)
    assert list(tmp_path.glob("manifest.damaged-*.jsonl"))
    assert "manifest.damaged-1" in str(refused.value)


def test_a_folder_without_a_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no manifest"):
        read_manifest(tmp_path)


def test_an_input_is_the_same_by_its_contents_and_changed_by_them(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(b"1" * 1000)
    first = fingerprint(str(path))
    assert stamp_of(str(path)) == first.stamp
    path.write_bytes(b"1" * 1000)
    assert fingerprint(str(path)).sha256 == first.sha256
    path.write_bytes(b"1" * 999 + b"2")
    assert fingerprint(str(path)).sha256 != first.sha256
    path.unlink()
    assert stamp_of(str(path)) is None
    with pytest.raises(InputError, match="does not exist"):
        fingerprint(str(path))


def test_the_voxels_beside_a_header_belong_to_the_input(tmp_path: Path) -> None:
    (tmp_path / "a.mhd").write_text("NDims = 3\nElementDataFile = a.raw\n")
    (tmp_path / "a.raw").write_bytes(b"0000")
    first = fingerprint(str(tmp_path / "a.mhd"))
    (tmp_path / "a.raw").write_bytes(b"0001")
    assert first.files == 2 and fingerprint(str(tmp_path / "a.mhd")).sha256 != first.sha256


def test_the_record_of_a_case_and_its_hash_are_of_all_its_volumes(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("t1.nii", "t2.nii")]
    for path in paths:
        path.write_bytes(path.name.encode())
    sources = [str(path) for path in paths]
    case = CaseInput("p", sources[0], (sources[1],))
    with Manifest.create(tmp_path) as manifest:
        manifest.begin({})
        manifest.waiting(case)
    assert read_manifest(tmp_path).cases["p"].sources == case.sources
    found = fingerprint(*sources)
    assert found.files == 2 and found.bytes == 12
    assert found.sha256 != fingerprint(sources[0]).sha256
    assert found.sha256 != fingerprint(*reversed(sources)).sha256
    paths[1].write_bytes(b"another")
    assert fingerprint(*sources).sha256 != found.sha256
    assert stamp_of(*sources) != found.stamp
    paths[1].unlink()
    assert stamp_of(*sources) is None
