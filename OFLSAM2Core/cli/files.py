"""Files that a command reads and writes: pairs of support, and outputs that overwrite nothing."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from OFLSAM2Core.cli.claims import claim_output
from OFLSAM2Core.data.results import Progress, ProgressCallback
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import SupportCase
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.io.image_names import split_images
from OFLSAM2Core.io.label_table import LabelTable, is_numbered
from OFLSAM2Core.io.memory_first import require_memory_to_learn, require_memory_to_segment
from OFLSAM2Core.io.reading import check_writable, is_sequence, read_support_case
from OFLSAM2Core.methods import default_for


def add_support_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="FILE",
        help='what label values mean: JSON {"1": "name", ...}, or a label file of ITK-SNAP, '
        "Slicer, FreeSurfer, nnU-Net or BIDS; not needed for .seg.nrrd files",
    )
    add_allow_missing_option(parser)


def add_allow_missing_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow-missing",
        action="store_true",
        help="allow that a structure is missing in some support cases",
    )


@dataclass(frozen=True)
class SupportFiles:
    """The files of one support case. images: co-registered volumes; labels: of the first of
    them."""

    images: tuple[Path, ...]
    labels: Path

    @property
    def all(self) -> tuple[Path, ...]:
        return (*self.images, self.labels)


def default_method(support: Sequence[SupportFiles]) -> str:
    """The method that is used where none is named; nothing but lists of files is looked at."""
    return default_for(any(is_sequence(files.images[0]) for files in support))


def split_support(text: str) -> SupportFiles:
    """IMAGE=LABELS, or IMAGE+IMAGE2=LABELS. Where a path holds an equals sign, the split where
    labels exist is taken.

    Raises InputError.
    """
    places = [place for place, letter in enumerate(text) if letter == "="]
    pairs = [(Path(text[:place]), Path(text[place + 1 :])) for place in places]
    pairs = [pair for pair in pairs if all(path.name for path in pair)]
    if not pairs:
        raise InputError(
            f"--support {text} is not a pair of files.", "Write --support IMAGE=LABELS."
        )
    # An image may be FOLDER#SERIES: its own reader says whether it is there.
    images, labels = next((pair for pair in pairs if pair[1].exists()), pairs[0])
    return SupportFiles(split_images(images), labels)


def read_support(
    support: Sequence[SupportFiles],
    labels: Path | None,
    report: ProgressCallback,
    known: LabelTable | None = None,
) -> list[SupportCase]:
    """Read all cases. labels: a file that says what values of labelmaps mean; known: what they mean
    without one. Raises InputError."""
    require_memory_to_learn(image for files in support for image in files.images)
    table = LabelTable.read(labels) if labels is not None else known
    cases = []
    for number, files in enumerate(support):
        image, *further = files.images
        report(Progress("read", number, len(support), f"Reading {image.name}"))
        cases.append(read_support_case(image, files.labels, table=table, further=further))
    return cases


def say_how_to_name(structures: Sequence[Structure], say: Callable[[str], None]) -> None:
    """Say a line where structures were learned from labelmaps whose values nothing names."""
    numbered = [structure.name for structure in structures if is_numbered(structure)]
    if numbered:
        more = " and more" if len(numbered) > 3 else ""
        say(
            f"The support's labels have no names: they are called {', '.join(numbered[:3])}{more}. "
            'Name them with --labels labels.json, a file such as {"1": "left kidney"}.'
        )


def check_outputs(
    outputs: Iterable[tuple[Path | None, Sequence[str] | None]],
    inputs: Iterable[Path],
    *,
    overwrite: bool,
) -> None:
    """Before the work starts: every output can be written, and nothing is lost by it.

    outputs: path (None is left out) and the extensions it may have (None: any).
    Raises InputError or ResourceError naming the file.
    """
    # Not by `resolve`, which fails where links lead in a circle.
    taken = {os.path.realpath(path) for path in inputs}
    for path, extensions in outputs:
        if path is None:
            continue
        check_writable(path, extensions=extensions)
        if os.path.realpath(path) in taken:
            raise InputError(
                f"'{path}' is read or written twice by this command.", "Choose another output name."
            )
        taken.add(os.path.realpath(path))
        refuse_existing(path, overwrite=overwrite)
        claim_output(path)


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Raises InputError where a file would be lost."""
    if path.exists() and not overwrite:
        raise InputError(
            f"The output file '{path}' exists already.",
            "Choose another name, or add --overwrite to replace it.",
        )


def output_folder(path: Path, names: Iterable[str], *, overwrite: bool) -> Path:
    """Make the folder (its parent must be there) and see that the files `names` can be written.

    Raises InputError or ResourceError.
    """
    if not path.parent.is_dir():
        raise InputError(
            f"The output folder '{path.parent}' does not exist.",
            "Create it, or choose another one.",
        )
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(
            f"The output folder '{path}' cannot be made: {error.strerror}.",
            "Choose another one.",
        ) from error
    claim_output(path)
    for name in names:
        check_writable(path / name)
        refuse_existing(path / name, overwrite=overwrite)
    return path


def check_resources(images: Sequence[Path], outputs: Iterable[Path | None]) -> None:
    """Before anything is read but the header: enough memory for this volume, and enough disk for
    its labels. With a header that does not tell, reading decides.

    images: the volume, and others that are co-registered with it. outputs: files that will hold the
    grid of the first. Raises ResourceError or InputError.
    """
    size = require_memory_to_segment(images[0])
    if len(images) > 1:
        require_memory_to_learn(images)
    if size is None:
        return
    for path in outputs:
        if path is not None:
            check_writable(path, need_bytes=size.voxels)
