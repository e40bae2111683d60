"""A learned task: all that was learned from the support, as a value and as a file.

The file (`*.oflsam2`) is a zip of `task.json` and `tensors.safetensors`. Nothing in it can run
when it is read. What a method keeps of the support is its own affair, and its documentation says
it. The file holds no name of a case: a file's, folder's or node's name is often a patient's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from OFLSAM2Core.data.structure_status import Sizes
from OFLSAM2Core.data.structures import Structure, check_structures
from OFLSAM2Core.errors import InputError, TaskError
from OFLSAM2Core.io.writing import check_writable
from OFLSAM2Core.method_state import MethodState
from OFLSAM2Core.preprocessing.intensity_comparison import IntensityRange
from OFLSAM2Core.task_file import damaged_task, read_task_file, write_task_file

if TYPE_CHECKING:
    from torch import Tensor

FORMAT_VERSION = 3
"""Version of the file around a method's state, which has a version of its own."""

SUFFIX = ".oflsam2"


@dataclass(frozen=True, eq=False)
class LearnedTask:
    """What `FewShotSession.learn` returns and `segment` takes.

    structures: what is segmented; their labels are the values in results.
    method: name of the method that learned it, and can use it. state: what it learned.
    options: values by name, of learning and of segmenting, that it was learned with. A volume is
        segmented with them unless the caller changes one by name.
    backbone, backbone_identity: name and SHA-256 of the weights it was learned with; "" where the
        method needs none.
    backbone_precision: what its encoder calculated in: a new volume is read likewise where that can
        be chosen, for else its features are a little apart from the support's.
    intensities: ranges of the support cases' grey values, to compare volumes with.
    sizes: how large structures are in the support, ml.
    volume_count: how many co-registered volumes a case has.
    """

    structures: tuple[Structure, ...]
    method: str
    state: MethodState
    options: dict[str, Any] = field(default_factory=dict)
    backbone: str = ""
    backbone_identity: str = ""
    backbone_precision: str = "float32"
    intensities: tuple[IntensityRange, ...] = ()
    sizes: Sizes = field(default_factory=dict)
    volume_count: int = 1

    def summary(self) -> dict[str, Any]:
        """What a person wants to know of it, as plain values."""
        tensors = self.state.tensors.values()
        return {
            "structures": [structure.to_json() for structure in self.structures],
            "backbone": self.backbone,
            "method": self.method,
            "volumes of a case": self.volume_count,
            **self.state.summary,
            "bytes": sum(t.numel() * t.element_size() for t in tensors),
        }

    def save(self, path: str | Path) -> Path:
        """Write the file; it appears whole or not at all.

        Raises InputError where the folder is missing or not writable, ResourceError where
        writing fails, TaskError where the method learned values that are no numbers: the file could
        not be read back.
        """
        from safetensors.torch import save

        path = Path(path)
        broken = _not_finite(self.state.tensors)
        if broken is not None:
            raise TaskError(
                f"The method '{self.method}' learned values that are NaN or infinite ('{broken}'); "
                "the task is not saved.",
                "Look for NaN in the support volumes, or report this to the method's author.",
            )
        contents = {
            "format": FORMAT_VERSION,
            "structures": [structure.to_json() for structure in self.structures],
            "method": self.method,
            "options": self.options,
            "backbone": self.backbone,
            "backbone_identity": self.backbone_identity,
            "backbone_precision": self.backbone_precision,
            "intensities": [one.to_json() for one in self.intensities],
            "sizes": self.sizes,
            "volume_count": self.volume_count,
            "state": {
                "version": self.state.version,
                "metadata": self.state.metadata,
                "summary": self.state.summary,
            },
        }
        tensors = {name: t.detach().cpu().contiguous() for name, t in self.state.tensors.items()}
        check_writable(path, need_bytes=sum(t.numel() * t.element_size() for t in tensors.values()))
        write_task_file(path, contents, save(tensors))
        return path

    @classmethod
    def load(cls, path: str | Path) -> LearnedTask:
        """Read the file.

        Raises TaskError when it is missing, damaged, or of a newer format; ResourceError when it
        does not fit into memory.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        path = Path(path)
        contents, content = read_task_file(path, FORMAT_VERSION)
        try:
            task = cls._decode(contents, load(content))
            check_structures(task.structures, f"The learned task '{path}'")
        except (SafetensorError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise damaged_task(path) from error
        except InputError as error:
            raise damaged_task(path, error.message) from error
        broken = _not_finite(task.state.tensors)
        if broken is not None:
            raise damaged_task(path, f"'{broken}' holds values that are NaN or infinite")
        return task

    @classmethod
    def _decode(cls, contents: Mapping[str, Any], tensors: dict[str, Tensor]) -> LearnedTask:
        state = contents["state"]
        return cls(
            structures=tuple(Structure.from_json(data) for data in contents["structures"]),
            method=str(contents["method"]),
            state=MethodState(
                int(state["version"]), dict(state["metadata"]), tensors, dict(state["summary"])
            ),
            options=dict(contents["options"]),
            backbone=str(contents["backbone"]),
            backbone_identity=str(contents["backbone_identity"]),
            backbone_precision=str(contents["backbone_precision"]),
            intensities=tuple(IntensityRange.from_json(one) for one in contents["intensities"]),
            sizes={
                str(name): (float(least), float(most))
                for name, (least, most) in dict(contents["sizes"]).items()
            },
            volume_count=int(contents["volume_count"]),
        )

    def check_fits(self, method: str, backbone: str = "", identity: str = "") -> None:
        """Raises TaskError when this task was learned by another method, or with another backbone
        or other weights; both are "" for a method that needs no backbone."""
        if self.method != method:
            raise TaskError(
                f"The learned task is for the method '{self.method}', not '{method}'.",
                f"Use --method {self.method}, or learn again.",
            )
        if self.backbone != backbone:
            raise TaskError(
                f"The learned task is for the backbone '{self.backbone}', not '{backbone}'.",
                f"Use --backbone {self.backbone}, or learn again.",
            )
        if self.backbone_identity != identity:
            raise TaskError(
                f"The learned task was made with other weights of '{backbone}' "
                f"(SHA-256 {self.backbone_identity[:12]}..., here {identity[:12]}...).",
                "Use the same weights file (--weights FILE), or learn again.",
            )


def _not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first that holds NaN or infinite values; None where all are finite."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            return name
    return None
