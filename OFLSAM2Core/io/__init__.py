"""Reading and writing files: volumes, DICOM series, frames, segmentations, label tables."""
