"""Runs the module's self test inside Slicer, and ends Slicer with its result."""

import sys
import traceback

import slicer

try:
    slicer.selfTests["OFLSAM2Slicer"]()
    print("Self test of OFLSAM2Slicer: passed")
    slicer.util.exit(0)
except Exception:
    traceback.print_exc()
    sys.stdout.flush()
    slicer.util.exit(1)
