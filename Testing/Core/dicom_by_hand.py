"""DICOM objects made tag by tag with pydicom, so that tests do not share our readers' mistakes.

Places are RAS affines, arrays (K, J, I), as in the package.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID

CT = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
SEG = "1.2.840.10008.5.1.4.1.1.66.4"
RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"
SERIES = "1.2.826.0.1.3680043.8.498.7"
FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])

Change = Callable[[Dataset, int], object]


def oblique(spacing: Sequence[float] = (0.75, 0.5, 3.0)) -> np.ndarray:
    """An affine that is turned about two axes."""
    a, b = 0.2, -0.35
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x * spacing
    affine[:3, 3] = (-31.5, 12.25, 88.0)
    return affine


def texts(values: Sequence[float]) -> list[str]:
    return [f"{value:.6f}" for value in values]


def slice_of(array: np.ndarray, affine: np.ndarray, k: int) -> FileDataset:
    """One slice as a CT image."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(CT), UID(f"{SERIES}.{k}")
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = CT, f"{SERIES}.{k}"
    data.StudyInstanceUID, data.SeriesInstanceUID = SERIES + "1", SERIES
    data.FrameOfReferenceUID, data.Modality = SERIES + "2", "CT"
    data.PatientName, data.PatientID, data.StudyID = "Phantom", "P", "1"
    data.PatientBirthDate, data.PatientSex, data.AccessionNumber = "", "", ""
    data.StudyDate, data.StudyTime, data.ReferringPhysicianName = "", "", ""
    data.InstanceNumber, data.SeriesNumber = k + 1, 1
    lps = FLIP @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    data.ImagePositionPatient = texts((lps @ [0, 0, k, 1])[:3])
    data.ImageOrientationPatient = texts((lps[:3, :2] / spacing[:2]).T.ravel())
    data.PixelSpacing, data.SliceThickness = texts(spacing[1::-1]), f"{spacing[2]:.6f}"
    data.Rows, data.Columns, data.SamplesPerPixel = array.shape[1], array.shape[2], 1
    data.PhotometricInterpretation, data.PixelRepresentation = "MONOCHROME2", 1
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.RescaleSlope, data.RescaleIntercept = "1", "0"
    data.PixelData = array[k].astype("<i2").tobytes()
    return data


def write(path: Path, data: Dataset) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if hasattr(data, "original_encoding"):
        data.save_as(path, enforce_file_format=True)
    else:  # pydicom 2
        data.is_little_endian, data.is_implicit_VR = True, False
        data.save_as(path, write_like_original=False)
    return path


def write_series(
    folder: Path,
    array: np.ndarray,
    affine: np.ndarray,
    change: Change | None = None,
    name: str = "{:03d}.dcm",
) -> list[Path]:
    """One file a slice; `change` may edit a slice before it is written."""
    files = []
    for k in range(len(array)):
        data = slice_of(array, affine, k)
        if change is not None:
            change(data, k)
        files.append(write(folder / name.format(k), data))
    return files


def frames_header(
    array: np.ndarray, affine: np.ndarray, order: Sequence[int], sop_class: str
) -> FileDataset:
    """An object of several frames with a functional group for each, without pixels."""
    data = slice_of(array, affine, 0)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = sop_class
    shared, plane, pixels, values = Dataset(), Dataset(), Dataset(), Dataset()
    plane.ImageOrientationPatient = data.ImageOrientationPatient
    pixels.PixelSpacing, pixels.SliceThickness = data.PixelSpacing, data.SliceThickness
    values.RescaleSlope, values.RescaleIntercept = "1", "0"
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [plane], [pixels]
    if sop_class == ENHANCED_CT:
        shared.PixelValueTransformationSequence = [values]
    for tag in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
                "SliceThickness", "RescaleSlope", "RescaleIntercept", "PixelData"):  # fmt: skip
        delattr(data, tag)
    frames = []
    for k in order:
        frame, place = Dataset(), Dataset()
        place.ImagePositionPatient = texts((FLIP @ affine @ [0, 0, k, 1])[:3])
        frame.PlanePositionSequence = [place]
        frames.append(frame)
    data.SharedFunctionalGroupsSequence = [shared]
    data.PerFrameFunctionalGroupsSequence = frames
    data.NumberOfFrames = len(frames)
    return data


def write_frames(
    path: Path,
    array: np.ndarray,
    affine: np.ndarray,
    order: Sequence[int],
    change: Callable[[Dataset], object] | None = None,
) -> Path:
    """All slices in one file (enhanced CT), in that order."""
    data = frames_header(array, affine, order, ENHANCED_CT)
    data.PixelData = b"".join(array[k].astype("<i2").tobytes() for k in order)
    if change is not None:
        change(data)
    return write(path, data)


def write_seg(
    path: Path,
    labels: np.ndarray,
    affine: np.ndarray,
    names: Sequence[str],
    fractional: bool = False,
) -> Path:
    """A segmentation: value n is segment n, empty frames are left out, the last frame first."""
    pairs = [(n, k) for n in range(len(names), 0, -1) for k in range(len(labels))[::-1]
             if (labels[k] == n).any()]  # fmt: skip
    data = frames_header(labels, affine, [k for _, k in pairs], SEG)
    data.Modality, data.SeriesInstanceUID = "SEG", SERIES + "66"
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = SERIES + "67"
    segments = []
    for number, name in enumerate(names, start=1):
        segment, code = Dataset(), Dataset()
        segment.SegmentNumber, segment.SegmentLabel = number, name
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "10200004", "SCT", "Liver"
        segment.SegmentedPropertyCategoryCodeSequence = [code]
        segment.SegmentedPropertyTypeCodeSequence = [code]
        segments.append(segment)
    data.SegmentSequence = segments
    for frame, (number, _) in zip(data.PerFrameFunctionalGroupsSequence, pairs, strict=True):
        of = Dataset()
        of.ReferencedSegmentNumber = number
        frame.SegmentIdentificationSequence = [of]
    masks = np.array([labels[k] == number for number, k in pairs])
    data.PixelRepresentation = 0
    if fractional:
        data.SegmentationType, data.MaximumFractionalValue = "FRACTIONAL", 200
        data.BitsAllocated, data.BitsStored, data.HighBit = 8, 8, 7
        content = (masks * 150 + 40).astype(np.uint8).tobytes()
    else:
        data.SegmentationType = "BINARY"
        data.BitsAllocated, data.BitsStored, data.HighBit = 1, 1, 0
        content = np.packbits(masks.ravel(), bitorder="little").tobytes()
    data.PixelData = content + b"\0" * (len(content) % 2)
    return write(path, data)


def write_contours(
    path: Path, contours: dict[str, list[np.ndarray]], kind: str = "CLOSED_PLANAR"
) -> Path:
    """A structure set; contours are (points, 3) in RAS millimetres."""
    data = slice_of(np.zeros((1, 2, 2)), np.eye(4), 0)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = RTSTRUCT
    for tag in ("PixelData", "Rows", "Columns"):
        delattr(data, tag)
    data.Modality = "RTSTRUCT"
    rois, drawn = [], []
    for number, (name, of_structure) in enumerate(contours.items(), start=11):
        roi, item = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName = number, name
        item.ReferencedROINumber, item.ROIDisplayColor = number, ["255", "0", "51"]
        items = []
        for points in of_structure:
            contour = Dataset()
            contour.ContourGeometricType, contour.NumberOfContourPoints = kind, len(points)
            contour.ContourData = [f"{x:.4f}" for x in (points @ FLIP[:3, :3]).ravel()]
            items.append(contour)
        item.ContourSequence = items
        rois.append(roi)
        drawn.append(item)
    data.StructureSetROISequence, data.ROIContourSequence = rois, drawn
    return write(path, data)
