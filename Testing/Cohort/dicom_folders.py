"""DICOM series on disk, small and whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from cohorts import ball
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, SegmentationStorage


def write_series(
    folder: Path,
    uid: str,
    number: int | None = 1,
    slices: int = 8,
    modality: str = "CT",
    image_type: str = "ORIGINAL",
    first: int = 0,
) -> None:
    """`slices` files of one series, 2 mm apart, the bright ball in the middle."""
    folder.mkdir(parents=True, exist_ok=True)
    array = ball()
    for index in range(first, first + slices):
        meta = FileMetaDataset()
        sop_class = SegmentationStorage if modality == "SEG" else CTImageStorage
        meta.MediaStorageSOPClassUID = sop_class
        meta.MediaStorageSOPInstanceUID = f"{uid}.{index + 1}"
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path = folder / f"{uid[-3:]}_{index:03d}.dcm"
        data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
        data.SOPClassUID, data.SOPInstanceUID = sop_class, f"{uid}.{index + 1}"
        data.SeriesInstanceUID, data.StudyInstanceUID = uid, "1.2.3"
        data.FrameOfReferenceUID = "1.2.3.4"
        data.PatientID, data.PatientName = "nobody", "No^Body"
        data.PatientBirthDate = data.PatientSex = data.StudyID = data.AccessionNumber = ""
        data.StudyDate = data.StudyTime = data.ReferringPhysicianName = ""
        data.Modality, data.ImageType = modality, ["ORIGINAL", "PRIMARY", image_type]
        if number is not None:
            data.SeriesNumber = number
        data.InstanceNumber = index + 1
        data.ImagePositionPatient = [0, 0, 2.0 * index]
        data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        data.PixelSpacing, data.SliceThickness = [2, 2], 2
        plane = np.ascontiguousarray(array[index % len(array)])
        data.Rows, data.Columns = plane.shape
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated = data.BitsStored = 16
        data.HighBit, data.PixelRepresentation = 15, 1
        data.PixelData = plane.tobytes()
        pydicom.dcmwrite(path, data, enforce_file_format=True)
