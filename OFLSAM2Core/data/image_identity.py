"""Which image a result was made of: a hash of the image's voxels, written into the result.

No name and no date is in it. It is the same for every file that holds the same voxels along the
same directions, whatever the format, the type of number and the order in which they are stored.
"""

from __future__ import annotations

import hashlib
from weakref import WeakKeyDictionary

import numpy as np

from OFLSAM2Core.data.slice_geometry import SliceGeometry
from OFLSAM2Core.data.volume import Volume

IDENTITY_TAG = "OFLSAM2.Image"
"""Name of the tag, header entry or word beside which the identity stands in a result. In Slicer's
segmentations it is a tag of every segment: Slicer keeps tags when it saves what was changed."""

# Hexadecimal digits: 128 bits, which no two images share by chance.
IDENTITY_LENGTH = 32

# Every output of a command names the image, and a large CT takes a second to hash.
_known: WeakKeyDictionary[Volume, str] = WeakKeyDictionary()


def image_identity(volume: Volume) -> str:
    """32 hexadecimal digits of the volume's size and voxels; further volumes do not count, since
    results lie on the first one. It is calculated once for each `Volume`, whose voxels stay as they
    are. Raises InputError for a geometry that cannot be inverted."""
    if volume not in _known:
        _known[volume] = _calculated(volume)
    return _known[volume]


def _calculated(volume: Volume) -> str:
    kind = "frame" if volume.is_sequence else "axial"
    slices = SliceGeometry.for_volume(volume, kind).to_slices(volume.array)
    digest = hashlib.sha256(repr(slices.shape).encode())
    for plane in slices:
        # Adding 0 makes -0 and 0 the same.
        digest.update((np.ascontiguousarray(plane, np.float32) + np.float32(0)).tobytes())
    return digest.hexdigest()[:IDENTITY_LENGTH]
