"""What makes the repository a Slicer extension: build files, resources, the index entry."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import tomllib
from OFLSAM2SlicerLib import sample_data

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "OFLSAM2Slicer"


def test_the_index_entry_keeps_the_rules_of_the_extensions_index():
    # The rules of slicer-extension-catalog-entry-schema-v1.0.1 and of the index's own check script.
    path = ROOT / "OFLSAM2.json"
    assert b"\r" not in path.read_bytes()
    entry = json.loads(path.read_text(encoding="utf-8"))
    known = {
        "$schema",
        "category",
        "scm_url",
        "scm_revision",
        "scm_type",
        "build_dependencies",
        "build_subdirectory",
        "enabled",
        "tier",
    }
    assert set(entry) <= known
    assert entry["$schema"].endswith("slicer-extension-catalog-entry-schema-v1.0.1.json#")
    assert entry["category"] == "Segmentation"
    assert 1 <= entry["tier"] <= 5
    assert entry["scm_url"].startswith("https://")
    repository = entry["scm_url"].rsplit("/", 1)[-1].removesuffix(".git")
    assert repository.startswith("Slicer") and not path.stem.lower().startswith("slicer")
    cmake = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    assert f"project({path.stem})" in cmake
    assert f'set(EXTENSION_HOMEPAGE "{entry["scm_url"]}#readme")' in cmake
    depends = re.search(r'set\(EXTENSION_DEPENDS "([^"]*)"\)', cmake)
    assert depends and depends.group(1).split() == entry["build_dependencies"]


def test_the_index_finds_the_pictures_in_the_build_file_as_literal_addresses():
    # Its check looks for the text between the quotes, and fetches what it finds there.
    cmake = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    addresses = []
    for name in ("EXTENSION_ICONURL", "EXTENSION_SCREENSHOTURLS", "EXTENSION_HOMEPAGE"):
        found = re.search(rf'set\({name} "([^"]+)"\)', cmake)
        assert found and "$" not in found.group(1)
        addresses += found.group(1).split()
    files = "https://raw.githubusercontent.com/OFLSAM2/SlicerOFLSAM2/main/"
    pictures = [one.removeprefix(files) for one in addresses if one.startswith(files)]
    assert len(pictures) == len(addresses) - 1 >= 2
    for name in pictures:
        assert (ROOT / name).read_bytes().startswith(b"\x89PNG")


def test_slicers_requirements_are_those_of_the_package_less_torch():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [line for line in project["dependencies"] if not re.match(r"torch\b", line)]
    lines = (MODULE / "Resources" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#")] == wanted


def test_every_parameter_name_in_the_ui_file_is_one_of_the_parameter_node():
    from panels import module

    names = set(module.OFLSAM2SlicerParameterNode.__annotations__)
    tree = ElementTree.parse(MODULE / "Resources" / "UI" / "OFLSAM2Slicer.ui")
    used = [
        element.findtext("string")
        for element in tree.iter("property")
        if element.get("name") == "SlicerParameterName"
    ]
    assert used and set(used) <= names


def test_every_scene_selector_of_the_ui_file_is_connected_to_the_scene():
    tree = ElementTree.parse(MODULE / "Resources" / "UI" / "OFLSAM2Slicer.ui")
    selectors = {
        element.get("name")
        for element in tree.iter("widget")
        if element.get("class") == "qMRMLNodeComboBox"
    }
    connected = {
        connection.findtext("receiver")
        for connection in tree.iter("connection")
        if connection.findtext("signal") == "mrmlSceneChanged(vtkMRMLScene*)"
    }
    assert selectors == connected


def test_sample_data_are_the_files_their_hashes_were_taken_of():
    for name in sample_data.SHA256:
        assert sample_data.checked_file(name).is_file()
    assert [one.name for one in sample_data.sample_structures()] == [
        "anterior hippocampus",
        "posterior hippocampus",
    ]


@pytest.mark.parametrize("name", ["qt", "ctk"])
def test_only_the_panel_knows_of_qt(name):
    users = [
        path
        for path in (MODULE / "OFLSAM2SlicerLib").rglob("*.py")
        if re.search(rf"^ *(import|from) {name}\b", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert all(path.parent.name == "panel" for path in users)
