"""Download a Slicer release from the project's download server and unpack it.

    install_slicer.py VERSION

Writes SLICER and PYTHON_SLICER, the paths of the two programs, to $GITHUB_ENV. Public CI only.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tarfile
import urllib.parse
import urllib.request
from pathlib import Path

SERVER = "https://slicer-packages.kitware.com/api/v1"
SYSTEMS = {"Linux": "linux", "Windows": "win", "Darwin": "macosx"}


def ask(path: str, **query: object) -> list[dict]:
    url = f"{SERVER}/{path}?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(url, timeout=60) as answer:
        return json.load(answer)


def download(version: str, folder: Path) -> Path:
    """The newest release package of VERSION ("5.10": also 5.10.1) for this system."""
    app = ask("app", name="Slicer", limit=1)[0]["_id"]
    releases = [
        release
        for release in ask(f"app/{app}/release", limit=0)
        if release["name"] == version or release["name"].startswith(f"{version}.")
    ]
    release = max(releases, key=lambda one: [int(part) for part in one["name"].split(".")])
    system = SYSTEMS[platform.system()]
    package = ask(
        f"app/{app}/package", release_id_or_name=release["_id"], os=system, arch="amd64", limit=1
    )[0]
    path = folder / package["name"]
    urllib.request.urlretrieve(f"{SERVER}/item/{package['_id']}/download", path)
    return path


def install(package: Path, folder: Path) -> tuple[Path, Path]:
    """Unpack or install; returns the launcher and PythonSlicer."""
    if platform.system() == "Linux":
        with tarfile.open(package) as archive:
            archive.extractall(folder, filter="tar")
        root = next(path for path in folder.iterdir() if path.is_dir())
        return root / "Slicer", root / "bin" / "PythonSlicer"
    if platform.system() == "Windows":
        root = folder / "Slicer"
        subprocess.run([package, "/S", f"/D={root}"], check=True)
        return root / "Slicer.exe", root / "bin" / "PythonSlicer.exe"
    mount = folder / "mount"
    subprocess.run(
        ["hdiutil", "attach", package, "-mountpoint", mount, "-nobrowse"], input=b"Y\n", check=True
    )
    subprocess.run(["cp", "-R", mount / "Slicer.app", folder], check=True)
    subprocess.run(["hdiutil", "detach", mount], check=True)
    contents = folder / "Slicer.app" / "Contents"
    return contents / "MacOS" / "Slicer", contents / "bin" / "PythonSlicer"


def main() -> None:
    folder = Path(os.environ.get("RUNNER_TEMP", ".")).resolve() / "slicer"
    folder.mkdir(parents=True, exist_ok=True)
    launcher, python = install(download(sys.argv[1], folder.parent), folder)
    for path in (launcher, python):
        if not path.exists():
            raise SystemExit(f"{path} is missing after the installation.")
    with open(os.environ["GITHUB_ENV"], "a", encoding="utf-8") as file:
        file.write(f"SLICER={launcher.as_posix()}\nPYTHON_SLICER={python.as_posix()}\n")


if __name__ == "__main__":
    main()
