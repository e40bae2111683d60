"""A learned task: all that was learned from the support, as a value and as a file.

The file (`*.oflsam2`) is a zip of `task.json` and `tensors.safetensors`. Nothing in it can run
when it is read. It holds features and masks of the support, and coarse images of it around its
structures, unless it was learned without registration. It holds no name of a case: a file's,
folder's or node's name is often a patient's.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.errors import InputError, TaskError
from OFLSAM2Core.io.atomic_write import atomic_write
from OFLSAM2Core.io.writing import check_writable
from OFLSAM2Core.preprocessing.preprocessing import Preprocessing

if TYPE_CHECKING:
    from torch import Tensor

    from OFLSAM2Core.methods.ofl_sam2_atlas.options import MethodOptions

FORMAT_VERSION = 1
SUFFIX = ".oflsam2"


@dataclass(frozen=True, eq=False)
class LearnedTask:
    """What `FewShotSession.learn` returns and `segment` takes.

    structures: what is segmented; their labels are the values in results.
    backbone, backbone_identity: name and SHA-256 of the weights it was learned with.
    backbone_precision: what its encoder calculated in: a new volume is read likewise where that can
        be chosen, for else its features are a little apart from the support's.
    method: name of the method that learned it, and can use it.
    orientation: "axial", "coronal", "sagittal" or "frame": along what targets are cut.
    facts: plain values of the method's own (JSON).
    tensors: all that was learned, by name.
    """

    structures: tuple[Structure, ...]
    backbone: str
    backbone_identity: str
    method: str
    orientation: str
    preparation: Preprocessing
    options: MethodOptions
    tensors: dict[str, Tensor]
    facts: dict[str, Any] = field(default_factory=dict)
    backbone_precision: str = "float32"

    def summary(self) -> dict[str, Any]:
        """What a person wants to know of it, as plain values."""
        return {
            "structures": [structure.to_json() for structure in self.structures],
            "backbone": self.backbone,
            "method": self.method,
            "slicing_axis": self.orientation,
            "modality": self.preparation.modality,
            "bytes": sum(t.numel() * t.element_size() for t in self.tensors.values()),
        }

    def save(self, path: str | Path) -> Path:
        """Write the file; it appears whole or not at all.

        Raises InputError where the folder is missing or not writable, ResourceError where
        writing fails.
        """
        from safetensors.torch import save

        path = Path(path)
        contents = {
            "format": FORMAT_VERSION,
            "structures": [structure.to_json() for structure in self.structures],
            "backbone": self.backbone,
            "backbone_identity": self.backbone_identity,
            "backbone_precision": self.backbone_precision,
            "method": self.method,
            "orientation": self.orientation,
            "preparation": self.preparation.to_json(),
            "options": self.options.to_json(),
            "facts": self.facts,
        }
        tensors = {name: t.detach().cpu().contiguous() for name, t in self.tensors.items()}
        check_writable(path)
        with (
            atomic_write(path) as temporary,
            # Memory is mostly masks, which shrink to a hundredth even at the quickest level.
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        ):
            archive.writestr("task.json", json.dumps(contents, indent=1))
            archive.writestr("tensors.safetensors", save(tensors))
        return path

    @classmethod
    def load(cls, path: str | Path) -> LearnedTask:
        """Read the file.

        Raises TaskError when it is missing, damaged, or of a newer format.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        path = Path(path)
        if not path.is_file():
            raise TaskError(f"The learned task {path} does not exist.", "Check the path.")
        try:
            with zipfile.ZipFile(path) as archive:
                contents = json.loads(archive.read("task.json"))
                _check_version(path, contents)
                return cls._from_parts(contents, load(archive.read("tensors.safetensors")))
        except (
            zipfile.BadZipFile,
            zlib.error,
            NotImplementedError,  # A damaged entry names a compression that there is not.
            SafetensorError,
            OSError,
            KeyError,
            TypeError,
            ValueError,
            InputError,
        ) as error:
            raise TaskError(
                f"{path} is not a readable learned task: it is cut off, damaged, or of another "
                "kind.",
                "Learn it again from the support cases.",
            ) from error

    @classmethod
    def _from_parts(cls, contents: Mapping[str, Any], tensors: dict[str, Tensor]) -> LearnedTask:
        from OFLSAM2Core.methods.ofl_sam2_atlas.options import MethodOptions

        return cls(
            structures=tuple(Structure.from_json(data) for data in contents["structures"]),
            backbone=contents["backbone"],
            backbone_identity=contents["backbone_identity"],
            method=contents["method"],
            orientation=contents["orientation"],
            preparation=Preprocessing.from_json(contents["preparation"]),
            options=MethodOptions.of_task(contents["options"]),
            tensors=tensors,
            facts=contents["facts"],
            # Not in tasks learned before there was a choice.
            backbone_precision=contents.get("backbone_precision", "float32"),
        )

    def check_fits(self, backbone: str, identity: str, method: str) -> None:
        """Raises TaskError when this task was learned with something else."""
        if (self.backbone, self.method) != (backbone, method):
            raise TaskError(
                f"The learned task is for backbone '{self.backbone}' and method '{self.method}', "
                f"not '{backbone}' and '{method}'.",
                f"Use --backbone {self.backbone} --method {self.method}, or learn again.",
            )
        if self.backbone_identity != identity:
            raise TaskError(
                f"The learned task was made with other weights of '{backbone}' "
                f"(SHA-256 {self.backbone_identity[:12]}..., here {identity[:12]}...).",
                "Use the same weights file (--weights FILE), or learn again.",
            )


def _check_version(path: Path, contents: Mapping[str, Any]) -> None:
    version = contents["format"]
    if version != FORMAT_VERSION:
        raise TaskError(
            f"{path} has format version {version}; this version of oflsam2 reads {FORMAT_VERSION}.",
            "Update oflsam2, or learn the task again from the support cases.",
        )
