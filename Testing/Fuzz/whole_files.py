"""Small files of every kind that is read, whole, for tests that damage them."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from PIL import Image

SHAPE = (4, 6, 8)


def volume() -> np.ndarray:
    return np.random.default_rng(0).integers(-100, 1000, SHAPE).astype(np.int16)


def labels() -> np.ndarray:
    found = np.zeros(SHAPE, np.uint8)
    found[1:3, 2:5, 2:6] = 1
    return found


def images(folder: Path) -> list[Path]:
    """One of each format: compressed and not."""
    image = sitk.GetImageFromArray(volume())
    image.SetSpacing((0.7, 0.7, 3.0))
    made = []
    for name in ("a.nii", "a.nii.gz", "a.nrrd", "a.nhdr", "a.mha", "a.mhd"):
        path = folder / name.replace("a.", f"{name.replace('.', '_')}.")
        sitk.WriteImage(image, str(path), useCompression=name in ("a.nii.gz", "a.nrrd", "a.mha"))
        made.append(path)
    plain = folder / "plain.nrrd"
    sitk.WriteImage(image, str(plain), useCompression=False)
    mgh = folder / "a.mgh"
    mgh.write_bytes(
        struct.pack(">7ih", 1, 8, 6, 4, 1, 4, 0, 1)
        + struct.pack(">3f9f3f", 0.7, 0.7, 3, -1, 0, 0, 0, 0, -1, 0, 1, 0, 1, 2, 3)
        + bytes(284 - 28 - 2 - 60)
        + volume().astype(">i2").tobytes()
    )
    packed = folder / "named.nii"
    packed.write_bytes(gzip.compress(made[0].read_bytes()))
    png = folder / "picture.png"
    Image.fromarray(volume()[0].astype(np.uint8)).save(png)
    return [*made, plain, mgh, packed, png, dicom(folder)]


def dicom(folder: Path) -> Path:
    """One file of a single slice, explicit little endian."""
    import pydicom
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["fuzz"])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    data.SeriesInstanceUID = generate_uid(entropy_srcs=["series"])
    data.StudyInstanceUID = generate_uid(entropy_srcs=["study"])
    data.Modality, data.PatientName = "CT", "Nobody"
    data.Rows, data.Columns, data.BitsAllocated, data.BitsStored, data.HighBit = 6, 8, 16, 16, 15
    data.PixelRepresentation, data.SamplesPerPixel = 1, 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.PixelSpacing, data.SliceThickness = [0.7, 0.7], 3
    data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    data.RescaleSlope, data.RescaleIntercept, data.InstanceNumber = 1, 0, 1
    data.PixelData = volume()[0].tobytes()
    path = folder / "slice.dcm"
    pydicom.dcmwrite(path, data, enforce_file_format=True)
    return path


def segmentation(folder: Path) -> Path:
    """A .seg.nrrd file."""
    from OFLSAM2Core.data.structures import Structure
    from OFLSAM2Core.data.volume import Volume
    from OFLSAM2Core.io.reading import write_segmentation

    path = folder / "labels.seg.nrrd"
    write_segmentation(path, labels(), Volume(volume()), (Structure("organ", 1),))
    return path


def table(folder: Path) -> Path:
    path = folder / "table.json"
    path.write_text(json.dumps({"1": "organ"}))
    return path
