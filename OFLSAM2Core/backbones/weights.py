"""The weights of a backbone: found, fetched, verified, removed, read.

Where weights are looked for, in this order:

1. the file given by the user (`--weights FILE`), which need not be one of the manifest: any
   checkpoint of the same architecture will do, and its hash is what a learned task remembers;
2. the folder in the environment variable OFLSAM2_WEIGHTS_DIR; while it is set, nothing is ever
   downloaded;
3. the cache folder (OFLSAM2_CACHE, else the user's cache folder);
4. for weights that come in a Python package: that package, where it is installed;
5. a download into the cache folder.

Whatever was not given by hand is checked against the manifest's SHA-256 before it is used.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import pickle
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from OFLSAM2Core.backbones.download import (
    alone,
    download_file,
    extract_from_wheel,
    part_path,
)
from OFLSAM2Core.backbones.manifest import (
    BackboneInfo,
    UrlSource,
    WheelSource,
    backbone_info,
    list_backbones,
)
from OFLSAM2Core.data.results import Progress, ProgressCallback
from OFLSAM2Core.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "BackboneInfo",
    "WeightsStatus",
    "backbone_info",
    "cache_folder",
    "fetch",
    "identity",
    "list_backbones",
    "load_state_dict",
    "remove",
    "status",
    "verify",
    "weights_path",
]


@dataclass(frozen=True)
class WeightsStatus:
    """What is on this machine of a backbone's weights.

    state: "ready" (a file of the right size), "partial" (an unfinished download), "damaged" (a
        file of another size) or "absent".
    place: where the file is: "folder" (OFLSAM2_WEIGHTS_DIR), "cache", "package" or "".
    path: the file, None when absent.
    bytes: its size.
    """

    name: str
    state: str
    place: str
    path: Path | None
    bytes: int


def cache_folder() -> Path:
    """Where downloaded weights are kept."""
    root = os.environ.get("OFLSAM2_CACHE")
    return (Path(root) if root else platformdirs.user_cache_path("oflsam2")) / "weights"


def converted_folder() -> Path:
    """Where encoders are kept that were converted for OpenVINO (converted_encoder.py)."""
    return cache_folder().parent / "encoders"


def weights_path(
    name: str,
    *,
    weights: Path | str | None = None,
    download: bool = True,
    on_progress: ProgressCallback | None = None,
) -> Path:
    """The verified weights file of a backbone, downloaded first where that is needed and allowed.

    weights: a file given by the user; then only its existence is checked.
    Raises WeightsError (missing, damaged, another file than the manifest's, no network).
    """
    info = backbone_info(name)
    if weights is not None:
        return _given_file(Path(weights))
    found = _find(info)
    if found is not None:
        _check_hash(found[0], info)
        return found[0]
    if not download:
        raise WeightsError(
            f"The weights of backbone '{name}' ({info.file}) are not on this machine.",
            f"Run: oflsam2 backbones fetch {name}",
        )
    return fetch(name, on_progress)


def fetch(name: str, on_progress: ProgressCallback | None = None) -> Path:
    """Make sure that a backbone's weights are on this machine and right; return their path.

    A download goes on where an earlier one stopped; one that another process has begun is waited
    for. `on_progress` gets bytes as done and total;
    when it raises (`Cancelled`), what has come is kept.
    """
    info = backbone_info(name)
    found = _find(info)
    if found is not None:
        _check_hash(found[0], info)
        return found[0]
    offline = _offline_folder()
    if offline is not None:
        raise WeightsError(
            f"{info.file}, the weights of backbone '{name}', is not in {offline} "
            "(OFLSAM2_WEIGHTS_DIR).",
            "Copy the file there, or unset OFLSAM2_WEIGHTS_DIR to allow a download.",
        )
    target = cache_folder() / info.file

    def on_bytes(done: int, total: int) -> None:
        if on_progress is not None:
            on_progress(Progress("read", done, total, f"Downloading {info.file}"))

    def on_wait() -> None:
        if on_progress is not None:
            come = status(name).bytes
            message = f"Another process is downloading {info.file}"
            on_progress(Progress("read", come, info.bytes, message))

    with alone(target, on_wait):
        if target.is_file():  # It came while we waited.
            _check_hash(target, info)
            return target
        if isinstance(info.source, UrlSource):
            part = download_file(info.source.urls, target, info.bytes, on_bytes)
        else:
            part = extract_from_wheel(info.source, target, info.bytes, on_bytes)
        try:
            _check_hash(part, info, named=target)
        except WeightsError:
            part.unlink()  # Else the next try would go on from a wrong file.
            raise
        part.replace(target)
    return target


def verify(name: str) -> Path:
    """Check the weights on this machine against the manifest and return their path.

    Raises WeightsError when they are missing or not the manifest's.
    """
    return weights_path(name, download=False)


def remove(name: str) -> int:
    """Delete what was downloaded of a backbone, and what was made of it; return the bytes freed.

    Only the cache folder is touched: never a folder of the user's or an installed package.
    """
    info = backbone_info(name)
    target = cache_folder() / info.file
    freed = 0
    for path in (target, part_path(target), *converted_folder().glob(f"{info.sha256}-*")):
        if path.exists():
            freed += path.stat().st_size
            path.unlink()
    return freed


def status(name: str) -> WeightsStatus:
    """What is on this machine of a backbone's weights, judged by size: quick, no hashing."""
    info = backbone_info(name)
    found = _find(info)
    if found is not None:
        path, place = found
        size = path.stat().st_size
        return WeightsStatus(name, "ready" if size == info.bytes else "damaged", place, path, size)
    part = part_path(cache_folder() / info.file)
    if part.exists():
        return WeightsStatus(name, "partial", "cache", part, part.stat().st_size)
    return WeightsStatus(name, "absent", "", None, 0)


def identity(path: Path | str) -> str:
    """SHA-256 of a file, hex. Remembered in this process as long as size and date stay."""
    path = Path(path)
    try:
        stat = path.stat()
        return _sha256(path, stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise WeightsError(
            f"{path} cannot be read ({error.strerror}).", "Check the path and its permissions."
        ) from error


def load_state_dict(path: Path | str) -> dict[str, Tensor]:
    """Tensors by name from a PyTorch checkpoint or a safetensors file, on the CPU.

    Nothing in the file is executed (`weights_only`). A checkpoint that holds its tensors under
    "model" or "state_dict" is unwrapped. Raises WeightsError when the file is cut off, damaged,
    or holds something else.
    """
    import torch

    path = Path(path)
    damaged = WeightsError(
        f"{path} is not a readable weights file: it is cut off, damaged, or of another kind.",
        "Get the file again (oflsam2 backbones remove NAME, then fetch NAME).",
    )
    try:
        if path.suffix == ".safetensors":
            from safetensors import SafetensorError
            from safetensors.torch import load_file

            try:
                return load_file(path)
            except SafetensorError as error:
                raise damaged from error
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise WeightsError(f"{path} does not exist.", "Check the path.") from error
    # torch reports damage through whichever layer met it first.
    except (RuntimeError, EOFError, ValueError, LookupError, OSError) as error:
        raise damaged from error
    except (pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise damaged from error
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content:
        raise damaged
    if not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise damaged
    return content


def _given_file(path: Path) -> Path:
    if not path.is_file():
        raise WeightsError(
            f"The weights file {path} does not exist.", "Check the path given with --weights."
        )
    return path


def _offline_folder() -> Path | None:
    folder = os.environ.get("OFLSAM2_WEIGHTS_DIR")
    return Path(folder) if folder else None


def _find(info: BackboneInfo) -> tuple[Path, str] | None:
    """The weights file on this machine and the kind of place it is in."""
    offline = _offline_folder()
    if offline is not None and (offline / info.file).is_file():
        return offline / info.file, "folder"
    cached = cache_folder() / info.file
    if cached.is_file():
        return cached, "cache"
    installed = _in_installed_package(info.source)
    return (installed, "package") if installed is not None else None


def _in_installed_package(source: UrlSource | WheelSource) -> Path | None:
    """The file inside an installed package; the package itself is not imported."""
    if not isinstance(source, WheelSource):
        return None
    try:
        installed = importlib.metadata.files(source.distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for member in installed:
        if member.as_posix() == source.member:
            path = Path(str(member.locate()))
            return path if path.is_file() else None
    return None


def _check_hash(path: Path, info: BackboneInfo, named: Path | None = None) -> None:
    found = identity(path)
    if found != info.sha256:
        where = named or path
        raise WeightsError(
            f"{where} is not the weights file of backbone '{info.name}': expected SHA-256 "
            f"{info.sha256}, found {found} ({path.stat().st_size} bytes, expected {info.bytes}).",
            f"Get it again (oflsam2 backbones remove {info.name}, then fetch {info.name}), or "
            "use --weights FILE if another checkpoint is meant.",
        )


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while data := file.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()
