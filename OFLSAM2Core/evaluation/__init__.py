"""Measuring: data sets with reference labels, metrics, reports, pictures, calibration."""
