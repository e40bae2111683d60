"""The encoder that is converted for OpenVINO once: the same results, quicker, never wrong."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import pytest
import torch

from OFLSAM2Core.backbones import weights
from OFLSAM2Core.backbones.manifest import backbone_info
from OFLSAM2Core.backbones.openvino_encoder import OpenVinoEncoder

pytest.importorskip("openvino")
IDENTITY = "ab" * 32


class Counted(torch.nn.Module):
    """A network that tells how often Python ran it: converting does, what is kept does not."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = torch.nn.Conv2d(3, 4, 3).eval()
        self.runs = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.runs += 1
        return self.layers(images)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OFLSAM2_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def kept(cache: Path) -> list[Path]:
    return sorted((cache / "encoders").glob("*"))


def test_it_is_converted_once_and_then_read_with_the_very_same_results(
    cache: Path, image: torch.Tensor
) -> None:
    first, second = Counted(), Counted()
    found = OpenVinoEncoder(first, 16, IDENTITY)(image, "float32")
    again = OpenVinoEncoder(second, 16, IDENTITY)(image, "float32")
    assert first.runs == 1 and second.runs == 0
    assert torch.equal(found, again)
    assert torch.allclose(found, first.layers(image), atol=1e-5)
    assert len(kept(cache)) == 1


def test_without_an_identity_nothing_is_kept_and_other_weights_have_a_file_of_their_own(
    cache: Path, image: torch.Tensor
) -> None:
    OpenVinoEncoder(Counted(), 16)
    assert kept(cache) == []
    one = OpenVinoEncoder(Counted(0), 16, IDENTITY)(image, "float32")
    other = OpenVinoEncoder(Counted(1), 16, "cd" * 32)(image, "float32")
    assert len(kept(cache)) == 2 and not torch.allclose(one, other)


@pytest.mark.parametrize("damage", ["empty", "cut", "zeros", "flipped", "another graph"])
def test_a_damaged_file_is_made_again_and_never_used(
    cache: Path, image: torch.Tensor, damage: str
) -> None:
    expected = OpenVinoEncoder(Counted(), 16, IDENTITY)(image, "float32")
    (path,) = kept(cache)
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "flipped":
        content[-5] ^= 1
    else:
        content = bytearray(0 if damage == "empty" else len(content))
    if damage == "another graph":
        from safetensors.numpy import save

        parts = {"graph": np.frombuffer(b"<net/>", np.uint8), "constants": np.zeros(4, np.uint8)}
        content = bytearray(save(parts, {"sha256": "0" * 64}))
    path.write_bytes(content)
    network = Counted()
    assert torch.equal(OpenVinoEncoder(network, 16, IDENTITY)(image, "float32"), expected)
    assert network.runs == 1
    unused = Counted()
    OpenVinoEncoder(unused, 16, IDENTITY)
    assert unused.runs == 0


@pytest.mark.skipif(os.name != "posix", reason="files have owners' permissions on POSIX")
def test_the_file_is_its_owners_only(cache: Path) -> None:
    OpenVinoEncoder(Counted(), 16, IDENTITY)
    (path,) = kept(cache)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_without_a_folder_that_can_be_written_it_works_as_before(
    cache: Path, image: torch.Tensor
) -> None:
    cache.write_text("a file where the folder should be")
    network = Counted()
    found = OpenVinoEncoder(network, 16, IDENTITY)(image, "float32")
    assert torch.allclose(found, network.layers(image), atol=1e-5)


def test_removing_the_weights_of_a_backbone_removes_what_was_made_of_them(cache: Path) -> None:
    OpenVinoEncoder(Counted(), 16, backbone_info("litemedsam").sha256)
    OpenVinoEncoder(Counted(), 16, IDENTITY)
    (other,) = (path for path in kept(cache) if path.name.startswith(IDENTITY))
    assert weights.remove("litemedsam") > 0
    assert kept(cache) == [other]
