"""Few-shot segmentation of medical volumes with a frozen SAM 2 or LiteMedSAM (OFL-SAM2).

```python
from OFLSAM2Core import FewShotSession, read_support_case, read_volume

session = FewShotSession()
task = session.learn([read_support_case("a.nii.gz", "a_labels.nii.gz")])
for result in session.segment(read_volume("b.nii.gz"), task):
    print(result.index, result.scores)
```

Importing this package imports nothing heavy: each name below is loaded when it is first used.
"""

import os
import sys


def _current_folder() -> str:
    try:
        return os.getcwd()
    except OSError:  # It was deleted.
        return ""


# `python -m OFLSAM2Core` is beginning: what lies in the current folder is not ours to import.
_BEGINNING = sys.argv[:1] == ["-m"] and any(w.startswith("OFLSAM2Core") for w in sys.orig_argv)
_ = sys.path.pop(0) if _BEGINNING and sys.path[:1] in ([""], [_current_folder()]) else None

from importlib import import_module  # noqa: E402
from typing import TYPE_CHECKING, Any  # noqa: E402

__version__ = "0.1.0"

if TYPE_CHECKING:
    from OFLSAM2Core.data.corrections import Corrections
    from OFLSAM2Core.data.overlap import dice
    from OFLSAM2Core.data.results import Progress, SliceResult
    from OFLSAM2Core.data.segmentation_buffer import SegmentationBuffer
    from OFLSAM2Core.data.structures import Structure
    from OFLSAM2Core.data.volume import SupportCase, Volume
    from OFLSAM2Core.errors import (
        Cancelled,
        InputError,
        OFLSAM2Error,
        ResourceError,
        TaskError,
        WeightsError,
    )
    from OFLSAM2Core.evaluation.datasets import Dataset, sample_data
    from OFLSAM2Core.evaluation.metrics import SegmentationMetrics, compute_metrics
    from OFLSAM2Core.io.label_table import LabelTable
    from OFLSAM2Core.io.reading import read_support_case, read_volume
    from OFLSAM2Core.io.seg_nrrd import write_segmentation
    from OFLSAM2Core.io.segmentation_io import read_segmentation
    from OFLSAM2Core.io.writing import write_confidence, write_labelmap
    from OFLSAM2Core.learned_task import LearnedTask
    from OFLSAM2Core.open_volume import OpenVolume
    from OFLSAM2Core.session import FewShotSession

_MODULES = {
    "Cancelled": "errors",
    "Corrections": "data.corrections",
    "Dataset": "evaluation.datasets",
    "FewShotSession": "session",
    "InputError": "errors",
    "LabelTable": "io.label_table",
    "LearnedTask": "learned_task",
    "OFLSAM2Error": "errors",
    "OpenVolume": "open_volume",
    "Progress": "data.results",
    "ResourceError": "errors",
    "SegmentationBuffer": "data.segmentation_buffer",
    "SegmentationMetrics": "evaluation.metrics",
    "SliceResult": "data.results",
    "Structure": "data.structures",
    "SupportCase": "data.volume",
    "TaskError": "errors",
    "Volume": "data.volume",
    "WeightsError": "errors",
    "compute_metrics": "evaluation.metrics",
    "dice": "data.overlap",
    "read_segmentation": "io.segmentation_io",
    "read_support_case": "io.reading",
    "read_volume": "io.reading",
    "sample_data": "evaluation.datasets",
    "write_confidence": "io.writing",
    "write_labelmap": "io.writing",
    "write_segmentation": "io.seg_nrrd",
}

__all__ = [
    "Cancelled",
    "Corrections",
    "Dataset",
    "FewShotSession",
    "InputError",
    "LabelTable",
    "LearnedTask",
    "OFLSAM2Error",
    "OpenVolume",
    "Progress",
    "ResourceError",
    "SegmentationBuffer",
    "SegmentationMetrics",
    "SliceResult",
    "Structure",
    "SupportCase",
    "TaskError",
    "Volume",
    "WeightsError",
    "__version__",
    "compute_metrics",
    "dice",
    "read_segmentation",
    "read_support_case",
    "read_volume",
    "sample_data",
    "write_confidence",
    "write_labelmap",
    "write_segmentation",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
