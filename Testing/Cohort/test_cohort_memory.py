"""As many workers as the memory allows, by the volumes' headers alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psutil
from cohorts import write_image
from dicom_folders import write_series

from OFLSAM2Core.cohort.cases import CaseInput
from OFLSAM2Core.cohort.memory_estimate import most_bytes, workers_that_fit
from OFLSAM2Core.io.reading import read_volume
from OFLSAM2Core.runtime.memory_estimate import BASE_BYTES


def header_alone(path: Path, *sides: int) -> CaseInput:
    """A case whose file announces such a volume and holds nothing of it."""
    told = " ".join(map(str, sides))
    path.write_text(
        f"NRRD0004\ntype: short\ndimension: 3\nsizes: {told}\nencoding: raw\nendian: little\n"
        "space: left-posterior-superior\nspace directions: (1,0,0) (0,1,0) (0,0,1)\n"
        "space origin: (0,0,0)\n\n"
    )
    return CaseInput(path.stem, str(path))


def test_more_slices_and_more_structures_take_more(tmp_path: Path) -> None:
    thin, thick = (header_alone(tmp_path / f"{n}.nrrd", 512, 512, n) for n in (1000, 200))
    assert most_bytes([thick], 1) < most_bytes([thin], 1) < most_bytes([thin], 30)
    assert most_bytes([thick, thin], 1) == most_bytes([thin], 1)


def test_a_co_registered_volume_takes_what_is_stored_of_it_and_its_copy_on_the_first_grid(
    tmp_path: Path,
) -> None:
    first, second = (header_alone(tmp_path / f"{n}.nrrd", 100, 100, n) for n in (100, 50))
    both = CaseInput("both", first.source, (second.source,))
    more = most_bytes([both], 1) - most_bytes([first], 1)
    assert more == 100 * 100 * (50 * 2 + 4 * 50 + 4 * 100)


def test_a_dicom_series_counts_with_all_its_slices(tmp_path: Path) -> None:
    series = tmp_path / "series"
    write_series(series, "1.2.3", slices=5)
    array = read_volume(series).array
    assert len(array) == 5
    image = write_image(tmp_path / "same.nii.gz", np.zeros_like(array))
    in_both = [most_bytes([CaseInput("a", str(path))], 2) for path in (series, image)]
    assert in_both[0] == in_both[1] > BASE_BYTES


def test_a_case_that_cannot_be_read_takes_what_a_process_takes(tmp_path: Path) -> None:
    (tmp_path / "cut.nrrd").write_bytes(b"NRRD0004\n")
    assert most_bytes([CaseInput("cut", str(tmp_path / "cut.nrrd"))], 3) == BASE_BYTES


def test_there_are_as_many_workers_as_fit_and_one_at_least(tmp_path: Path) -> None:
    small = [header_alone(tmp_path / f"{n}.nrrd", 32, 32, 8) for n in range(300)]
    by_memory = int(psutil.virtual_memory().available / BASE_BYTES)
    assert 1 <= workers_that_fit(small, 1, cores=10_000) <= by_memory + 1
    assert workers_that_fit(small, 1, cores=2) == 1
    assert workers_that_fit(small[:1], 1, cores=10_000) == 1
    huge = header_alone(tmp_path / "huge.nrrd", 5000, 5000, 5000)
    assert workers_that_fit([*small, huge], 1, cores=10_000) == 1
    assert workers_that_fit([*small, huge], 1, cores=10_000, gpus=4) == 4
