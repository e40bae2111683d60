"""What tests of cohorts share."""

from __future__ import annotations

from pathlib import Path

import pytest
from cohorts import Toy


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return Toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def toy(toy_folder: Toy, tmp_path: Path) -> Toy:
    """The toy method with a log of this test's own."""
    toy_folder.log = tmp_path / "begun.txt"
    toy_folder.environment["COHORT_TOY_LOG"] = str(toy_folder.log)
    return toy_folder
