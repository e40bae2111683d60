"""The pixels of a DICOM file as stored numbers, without any scaling."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID

from OFLSAM2Core.io.dicom_file import DicomFile, encoding_of, number_of, text_of
from OFLSAM2Core.io.image_header import damaged, unusable
from OFLSAM2Core.runtime.temporary import temporary_folder

_KEPT = (
    "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "NumberOfFrames",
)  # fmt: skip

_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_MULTI_FRAME_CAPTURES = {8: _SECONDARY_CAPTURE + ".2", 16: _SECONDARY_CAPTURE + ".3"}


def stored_pixels(file: DicomFile) -> npt.NDArray:
    """All frames: (frames, rows, columns), and a last axis of 3 for colours (RGB).

    Bits beyond those that are stored (overlays of old scanners) are cut off. Raises InputError
    naming the file: a kind of pixel that is not read, or compressed pixels that are damaged.
    """
    rows, columns = int(file.header.Rows), int(file.header.Columns)
    samples = int(number_of(file, "SamplesPerPixel") or 1)
    bits = int(number_of(file, "BitsAllocated") or 16)
    photometric = text_of(file.header, "PhotometricInterpretation")
    # The values of a labelmap are what counts, whatever colours its palette gives them.
    coloured = photometric == "PALETTE COLOR" and not file.is_segmentation
    if samples not in (1, 3) or coloured:
        raise unusable(
            file.path, f"its colours are coded as '{photometric}'", "Export it in grey values."
        )
    if bits == 1:
        return _bits(file, rows, columns)
    if bits not in (8, 16, 32) and not file.float_type:
        raise unusable(file.path, f"it stores {bits} bits a pixel", "Export it again.")
    if file.pixel_bytes is None:
        array = _decompressed(file)
        if samples == 1:
            array = array.reshape(file.frames, rows, columns)
        else:
            array = array.reshape(file.frames, rows, columns, 3)
    else:
        array = _native(file, rows, columns, samples, bits)
        if samples == 3 and photometric != "RGB":
            array = _rgb(file, array, photometric)
    if file.float_type:
        return array
    stored = int(number_of(file, "BitsStored") or bits)
    if file.pixel_bytes is not None and 0 < stored < bits and samples == 1:
        high = int(number_of(file, "HighBit") or stored - 1)
        array = (array << (bits - 1 - high)) >> (bits - stored)
    return array


def _native(file: DicomFile, rows: int, columns: int, samples: int, bits: int) -> npt.NDArray:
    if file.transfer_syntax and UID(file.transfer_syntax).name == file.transfer_syntax:
        raise unusable(
            file.path,
            f"the transfer syntax of its pixels, '{file.transfer_syntax}', is not known",
            "Export it again, uncompressed.",
        )
    signed = bool(number_of(file, "PixelRepresentation") or 0)
    kind = file.float_type or f"{'i' if signed else 'u'}{bits // 8}"
    order = "<" if encoding_of(file.header)[1] else ">"
    count = rows * columns * samples * file.frames
    # Bytes in words of the other byte order stand in pairs that are swapped.
    swapped = bits == 8 and order == ">" and file.in_words
    with open(file.path, "rb") as stream:
        stream.seek(file.pixel_start or 0)
        array = np.fromfile(stream, np.dtype(order + kind), count + (count % 2 if swapped else 0))
    if swapped and len(array) % 2 == 0:
        array = array.view(np.uint16).byteswap().view(array.dtype)[:count]
    if len(array) < count:
        raise damaged(file.path, f"it holds {len(array)} pixels, and {count} belong to it")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if samples == 1:
        return array.reshape(file.frames, rows, columns)
    if number_of(file, "PlanarConfiguration"):
        return np.moveaxis(array.reshape(file.frames, samples, rows, columns), 1, -1)
    return array.reshape(file.frames, rows, columns, samples)


def _bits(file: DicomFile, rows: int, columns: int) -> npt.NDArray[np.uint8]:
    if file.pixel_bytes is None:
        return _decompressed(file).reshape(file.frames, rows, columns).astype(np.uint8)
    count = rows * columns * file.frames
    with open(file.path, "rb") as stream:
        stream.seek(file.pixel_start or 0)
        packed = np.fromfile(stream, np.uint8, (count + 7) // 8)
    return np.unpackbits(packed, bitorder="little")[:count].reshape(file.frames, rows, columns)


def _rgb(file: DicomFile, array: npt.NDArray, photometric: str) -> npt.NDArray[np.uint8]:
    if photometric != "YBR_FULL" or array.dtype != np.uint8:
        raise unusable(file.path, f"its colours are coded as '{photometric}'", "Export it in RGB.")
    bright, blue, red = (array[..., part].astype(np.float32) for part in range(3))
    blue, red = blue - 128, red - 128
    colours = (bright + 1.402 * red, bright - 0.344136 * blue - 0.714136 * red,
               bright + 1.772 * blue)  # fmt: skip
    return np.clip(np.rint(np.stack(colours, axis=-1)), 0, 255).astype(np.uint8)


def _save(data: FileDataset, path: Path) -> None:
    if hasattr(data, "original_encoding"):  # pydicom 3
        data.save_as(path, enforce_file_format=True)
    else:
        data.is_little_endian, data.is_implicit_VR = True, False
        data.save_as(path, write_like_original=False)


def _decompressed(file: DicomFile) -> npt.NDArray:
    """By SimpleITK's decoders, from a copy without anything that makes them scale the pixels."""
    import pydicom

    whole = pydicom.dcmread(file.path, force=True)
    slim = Dataset()
    for keyword in _KEPT:
        if keyword in whole:
            slim[keyword] = whole[keyword]
    multi = file.frames > 1
    capture = _MULTI_FRAME_CAPTURES.get(int(whole.BitsAllocated), _SECONDARY_CAPTURE + ".3")
    sop_class = capture if multi else _SECONDARY_CAPTURE
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(sop_class), UID("1.2.3")
    meta.TransferSyntaxUID = UID(file.transfer_syntax)
    copy = FileDataset("", slim, file_meta=meta, preamble=b"\0" * 128)
    copy.SOPClassUID, copy.SOPInstanceUID = sop_class, "1.2.3"
    copy.StudyInstanceUID, copy.SeriesInstanceUID = "1.2.4", "1.2.5"
    copy.PixelData = whole.PixelData
    copy["PixelData"].is_undefined_length = True
    with temporary_folder() as folder:
        path = folder / "pixels.dcm"
        try:
            _save(copy, path)
            reader = sitk.ImageFileReader()
            reader.SetFileName(str(path))
            reader.SetImageIO("GDCMImageIO")
            return sitk.GetArrayFromImage(reader.Execute())
        except Exception as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise damaged(
                file.path, f"its compressed pixels cannot be unpacked: {(lines or ['?'])[-1][:150]}"
            ) from error
