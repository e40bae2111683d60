"""One table of every slice of a DICOM series, be it one file a slice or many frames in a file.

Each row says where its slice lies, how it is turned, its spacing, size and scaling, by its own
header or its own functional groups. Nothing is taken from a neighbour.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from OFLSAM2Core.io.dicom_file import DicomFile, number_of, numbers_of, sequence, text_of
from OFLSAM2Core.io.image_header import unusable
from OFLSAM2Core.runtime.counted import counted


@dataclass(frozen=True, eq=False)
class Frame:
    """A row of the table.

    number: of the frame within its file, from 0.
    position: of the centre of the first pixel, mm (LPS). None where the file does not say.
    orientation: direction of a row, then of a column, (2, 3), unit vectors (LPS), or None.
    spacing: mm between rows, mm between columns, or None.
    thickness: mm, or None. between: mm between slices as the header says, or None.
    slope, intercept: None where the file does not say.
    """

    file: DicomFile
    number: int
    position: npt.NDArray[np.float64] | None
    orientation: npt.NDArray[np.float64] | None
    spacing: npt.NDArray[np.float64] | None
    thickness: float | None
    between: float | None
    slope: float | None
    intercept: float | None

    @property
    def name(self) -> str:
        """For messages: the file's name, and the frame of it."""
        name = f"'{self.file.path.name}'"
        return name if self.file.frames == 1 else f"frame {self.number + 1} of {name}"

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        return int(self.file.header.Rows), int(self.file.header.Columns)

    @property
    def samples(self) -> int:
        """1 of grey values, 3 of colours."""
        return int(number_of(self.file, "SamplesPerPixel") or 1)

    @property
    def photometric(self) -> str:
        return text_of(self.file.header, "PhotometricInterpretation")


def frames_of(file: DicomFile) -> list[Frame]:
    """The rows of one file. Raises InputError naming the file for values that are none."""
    shared = (sequence(file.header, "SharedFunctionalGroupsSequence") or [Dataset()])[0]
    own = sequence(file.header, "PerFrameFunctionalGroupsSequence")
    if own and len(own) != file.frames:
        raise unusable(
            file.path,
            f"it has {counted(file.frames, 'frame')}, and describes {len(own)}",
            "Export the file again.",
        )
    offsets = _grid_offsets(file)
    rows = []
    for number in range(file.frames):
        groups = [own[number] if own else Dataset(), shared]
        rows.append(_frame(file, number, groups, None if offsets is None else offsets[number]))
    return rows


def _frame(file: DicomFile, number: int, groups: list[Dataset], offset: float | None) -> Frame:
    plane = _found(groups, "PlanePositionSequence", "ImagePositionPatient")
    turned = _found(groups, "PlaneOrientationSequence", "ImageOrientationPatient")
    pixels = _found(groups, "PixelMeasuresSequence", "PixelSpacing")
    values = _found(groups, "PixelValueTransformationSequence", "RescaleSlope")
    top = file.header
    detector = (sequence(top, "DetectorInformationSequence") or [top])[0]
    single = file.frames == 1 or offset is not None
    position = numbers_of(file, "ImagePositionPatient", 3, plane or (top if single else Dataset()))
    orientation = numbers_of(file, "ImageOrientationPatient", 6, turned or top)
    if orientation is None:
        orientation = numbers_of(file, "ImageOrientationPatient", 6, detector)
    turn = None if orientation is None else _unit(file, orientation.reshape(2, 3))
    if position is not None and offset is not None and turn is not None:
        position = position + offset * np.cross(*turn)
    spacing = numbers_of(file, "PixelSpacing", 2, pixels or top)
    dose = number_of(file, "DoseGridScaling", top)
    if spacing is not None and spacing.min() <= 0:
        raise unusable(
            file.path, f"its pixels have a spacing of {spacing.min():g} mm", "Export it again."
        )
    return Frame(
        file=file,
        number=number,
        position=position,
        orientation=turn,
        spacing=spacing,
        thickness=number_of(file, "SliceThickness", pixels or top),
        between=number_of(file, "SpacingBetweenSlices", pixels or top),
        slope=number_of(file, "RescaleSlope", values or top) if dose is None else dose,
        intercept=number_of(file, "RescaleIntercept", values or top) if dose is None else 0.0,
    )


def _found(groups: list[Dataset], keyword: str, needed: str) -> Dataset | None:
    """The functional group of that name, of the frame itself or shared by all."""
    for group in groups:
        for item in sequence(group, keyword):
            if needed in item:
                return item
    return None


def _unit(file: DicomFile, directions: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    lengths = np.linalg.norm(directions, axis=1)
    if np.abs(lengths - 1).max() > 0.01 or abs(directions[0] @ directions[1]) > 0.01:
        raise unusable(
            file.path,
            "its ImageOrientationPatient is no pair of directions at a right angle",
            "Export the file again.",
        )
    return directions / lengths[:, np.newaxis]


def _grid_offsets(file: DicomFile) -> npt.NDArray[np.float64] | None:
    """Where the frames of a dose grid lie along its normal, mm."""
    offsets = numbers_of(file, "GridFrameOffsetVector", file.frames) if file.frames > 1 else None
    return None if offsets is None else offsets - offsets[0]
