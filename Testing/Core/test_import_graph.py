"""Folders import downwards only, and the picture of the architecture is what the code is."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "Testing" / "Tools"))

import architecture_picture  # noqa: E402
import import_graph  # noqa: E402


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository of three folders, each importing the one below."""
    files = {
        "OFLSAM2Core/__init__.py": "",
        "OFLSAM2Core/data/__init__.py": '"""Plain values."""\n',
        "OFLSAM2Core/data/volume.py": "import numpy\n",
        "OFLSAM2Core/io/__init__.py": '"""Reading & writing. More."""\n',
        "OFLSAM2Core/io/reading.py": "from OFLSAM2Core.data.volume import Volume\n",
        "OFLSAM2Core/session.py": "def learn():\n    from OFLSAM2Core.io import reading\n",
        "OFLSAM2Slicer/OFLSAM2Slicer.py": "from OFLSAM2SlicerLib import panel\n",
        "OFLSAM2Slicer/OFLSAM2SlicerLib/__init__.py": "",
        "OFLSAM2Slicer/OFLSAM2SlicerLib/panel.py": "import OFLSAM2Core.session\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_no_folder_of_the_core_imports_one_that_is_not_below_it() -> None:
    wrong = [
        f"{each.file.relative_to(ROOT)}:{each.line} imports {each.imported}"
        for each in import_graph.upward_imports(ROOT)
    ]
    assert not wrong, "\n".join(wrong)


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert import_graph.module_circle(ROOT) == []


def test_arrows_are_found_wherever_the_import_stands(tree: Path) -> None:
    assert set(import_graph.folder_edges(tree)) == {
        ("io", "data"),
        ("session", "io"),
        ("OFLSAM2Slicer", "session"),
    }
    assert import_graph.upward_imports(tree) == []


@pytest.mark.parametrize(
    "line",
    [
        "from OFLSAM2Core.io.reading import read",
        "from ..io import reading",
        "import OFLSAM2Core.io.reading",
        "def late():\n    import OFLSAM2Core.io.reading",
        "if TYPE_CHECKING:\n    from OFLSAM2Core.io import reading",
        "try:\n    pass\nexcept ImportError:\n    from OFLSAM2Core.io import reading",
    ],
)
def test_an_import_upwards_is_found_in_every_form(tree: Path, line: str) -> None:
    (tree / "OFLSAM2Core" / "data" / "volume.py").write_text(f"import numpy\n\n{line}\n")
    (found,) = import_graph.upward_imports(tree)
    assert found.file.name == "volume.py" and found.line >= 3
    assert found.imported == "OFLSAM2Core.io.reading"


def test_a_circle_of_modules_is_found_but_not_one_that_closes_later(tree: Path) -> None:
    data = tree / "OFLSAM2Core" / "data"
    (data / "volume.py").write_text("def late():\n    from OFLSAM2Core.data import structures\n")
    (data / "structures.py").write_text("from OFLSAM2Core.data.volume import Volume\n")
    assert import_graph.module_circle(tree) == []
    (data / "volume.py").write_text("from OFLSAM2Core.data import structures\n")
    assert set(import_graph.module_circle(tree)) == {
        "OFLSAM2Core.data.volume",
        "OFLSAM2Core.data.structures",
    }


def test_a_folder_without_a_row_has_to_be_given_one(tree: Path) -> None:
    (tree / "OFLSAM2Core" / "novel").mkdir()
    (tree / "OFLSAM2Core" / "novel" / "__init__.py").write_text("import OFLSAM2Core.session\n")
    with pytest.raises(KeyError, match="novel"):
        import_graph.upward_imports(tree)


def test_the_picture_shows_every_folder_and_no_arrow_that_follows_from_others(tree: Path) -> None:
    (tree / "OFLSAM2Core" / "session.py").write_text(
        "import OFLSAM2Core.io.reading\nimport OFLSAM2Core.data.volume\n"
    )
    drawn = ElementTree.fromstring(architecture_picture.picture(tree))
    space = {"svg": "http://www.w3.org/2000/svg"}
    names = [
        each.text for each in drawn.findall(".//svg:text", space) if "class" not in each.attrib
    ]
    assert names == ["OFLSAM2Slicer", "session.py", "io/", "data/"]
    titles = [each.text for each in drawn.findall("./svg:path/svg:title", space)]
    assert titles == [
        "OFLSAM2Slicer imports session (1 import)",
        "io imports data (1 import)",
        "session imports io (1 import)",
    ]
    assert "Reading & writing" in [each.text for each in drawn.findall("./svg:g/svg:title", space)]


def test_the_graph_is_printed_for_people(tree: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "Testing" / "Tools" / "import_graph.py")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "\ndata: " in done.stdout or "\nio: " in done.stdout
