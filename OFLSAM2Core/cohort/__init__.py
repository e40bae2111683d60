"""Many cases: found, segmented by one process or many, recorded, and shown in one page."""
