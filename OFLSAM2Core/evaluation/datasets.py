"""Folders of labelled cases, as `oflsam2 evaluate` reads them.

A folder in one of the layouts of `dataset_layouts`; our own has `<case>_image.nii.gz`,
`<case>_label.nii.gz` and `dataset.json`:

    {"name": "...", "labels": {"1": "left atrium"}, "nominal_spacing": false,
     "support": ["case1", ...], "test": ["case4", ...]}

`nominal_spacing` true says that the files' spacing is not the real one; distances are then given
in voxels.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import OFLSAM2Core
from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.data.volume_count import in_words
from OFLSAM2Core.errors import InputError, OFLSAM2Error
from OFLSAM2Core.evaluation.dataset_layouts import SUPPORT, CaseFiles, find_layout
from OFLSAM2Core.io.first_look import look_at_segmentation, look_at_volume
from OFLSAM2Core.io.label_table import LabelTable
from OFLSAM2Core.io.memory_first import require_memory_to_learn, require_memory_to_segment
from OFLSAM2Core.io.reading import read_segmentation, read_support_case, read_volume
from OFLSAM2Core.methods.base import Method, uses_further_volumes
from OFLSAM2Core.runtime.counted import counted
from OFLSAM2Core.runtime.redaction import keep_out

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dataset:
    """A folder of labelled cases.

    support, test: names of the cases to learn from and to segment, in order. Where the folder does
        not say, the first three are learned from.
    nominal_spacing: whether the spacing in the files means nothing.
    files: images and labels of every case.
    volumes: how many co-registered volumes of a case are read: the first ones.
    stacked: whether they are volumes of one 4D image.
    sequences: whether cases are sequences of frames, each learned from frames of its own.
    """

    folder: Path
    name: str
    table: LabelTable
    support: tuple[str, ...]
    test: tuple[str, ...]
    nominal_spacing: bool = False
    files: dict[str, CaseFiles] = field(default_factory=dict)
    volumes: int = 1
    stacked: bool = False
    sequences: bool = False

    @classmethod
    def open(cls, folder: str | Path) -> Dataset:
        """See what is in the folder, and that every case's files are there.

        Raises InputError naming the folder, the file or the case.
        """
        folder = Path(folder)
        found = find_layout(folder)
        names = tuple(found.files)
        keep_out([folder, *names])
        return cls(
            folder=folder,
            name=found.name,
            table=_table(folder, found.labels, found.files),
            support=names[:SUPPORT] if found.support is None else found.support,
            test=names if found.test is None else found.test,
            nominal_spacing=found.nominal_spacing,
            files=found.files,
            volumes=found.volumes,
            stacked=found.stacked,
            sequences=found.sequences,
        )

    def with_volumes(self, count: int) -> Dataset:
        """The same cases, fewer co-registered volumes of each. Raises InputError where they have
        not so many."""
        if not 1 <= count <= self.volumes:
            raise InputError(
                f"Cases of '{self.folder}' have {in_words(self.volumes)} that can be used, not "
                f"{count}.",
                f"Ask for 1 to {self.volumes}." if self.volumes > 1 else "Leave --volumes out.",
            )
        return replace(self, volumes=count)

    def images_of(self, name: str) -> tuple[Path, ...]:
        """The files of a case that are read: of its co-registered volumes, or of all in one."""
        return self.files[name].images[: self.volumes]

    def choose(
        self,
        supports: int | None,
        support_cases: Sequence[str] | None,
        cases: int | None,
        every: int = 1,
    ) -> tuple[list[str], list[str]]:
        """Names of the support cases and of the test cases.

        supports: the first so many of `support`; all of them where None.
        support_cases: these instead, from `support` or `test`.
        cases: the first so many test cases. A support case is never a test case.
        every: one of so many test cases, the first one among them; `cases` counts these.
        Sequences have no support cases: each is learned from frames of its own.
        Raises InputError where a name is unknown or nothing is left.
        """
        if cases is not None and cases < 1:
            raise InputError(f"There cannot be {cases} test cases.", "Ask for one or more.")
        if every < 1:
            raise InputError(f"There is no one of {every} test cases.", "Ask for one of 1 or more.")
        if self.sequences:
            if supports is not None or support_cases is not None:
                raise InputError(
                    f"'{self.folder}' has sequences, each learned from frames of its own.",
                    "Say with --support-percent of how many.",
                )
            return [], list(self.test[::every][:cases])
        if support_cases is not None:
            chosen = list(support_cases)
            unknown = sorted(set(chosen) - {*self.support, *self.test})
            if unknown:
                raise InputError(
                    f"'{self.folder}' has no case named {', '.join(unknown)}.",
                    f"Its cases are: {', '.join((*self.support, *self.test))}.",
                )
        else:
            count = len(self.support) if supports is None else supports
            if not 1 <= count <= len(self.support):
                raise InputError(
                    f"'{self.folder}' lists {counted(len(self.support), 'support case')}, not "
                    f"{count}.",
                    "Choose fewer, or name them with --support-cases.",
                )
            chosen = list(self.support[:count])
        test = [case for case in self.test if case not in chosen][::every][:cases]
        if not test or not chosen:
            raise InputError(
                f"No case of '{self.folder}' is left to {'segment' if chosen else 'learn from'}.",
                "Choose other support cases.",
            )
        return chosen, test

    def look_at_case(self, name: str) -> None:
        """What is wrong with a case's image and labels by their headers alone; milliseconds.

        Raises InputError naming the file, or ResourceError where there is not enough memory for
        what the image's header announces.
        """
        images = self.images_of(name)
        for image in images:
            look_at_volume(image)
        look_at_segmentation(self.files[name].labels, images[0])
        self._require_memory(images)

    def read_support(self, names: Sequence[str]) -> list[SupportCase]:
        """The cases that are learned from. Raises InputError, or ResourceError where they do not
        fit into memory together, before any of them is read."""
        require_memory_to_learn(image for name in names for image in self.images_of(name))
        return [self.read_case(name) for name in names]

    def read_unlabelled(self, names: Sequence[str]) -> list[Volume]:
        """The volumes of cases; their labels are not looked at. What cannot be read is left out: it
        is named when it is the case's turn to be segmented. Raises ResourceError where they do not
        fit into memory together."""
        require_memory_to_learn(image for name in names for image in self.images_of(name))
        volumes = []
        for name in names:
            first, *further = self.images_of(name)
            with suppress(InputError):
                volume = read_volume(first, channel=self._channels, further=further)
                volumes.append(replace(volume, name=name))
        return volumes

    def read_case(self, name: str, *, may_be_empty: bool = False) -> SupportCase:
        """The volume of a case and its labels. Raises InputError, or ResourceError where there is
        not enough memory for what its header announces.

        may_be_empty: of a test case, in which there may be nothing to find.
        """
        images = self.images_of(name)
        self._require_memory(images)
        case = read_support_case(
            images[0],
            self.files[name].labels,
            table=self.table,
            may_be_empty=may_be_empty,
            channel=self._channels,
            further=images[1:],
        )
        return replace(case, volume=replace(case.volume, name=name))

    @property
    def _channels(self) -> range | None:
        """Which channels of a 4D image are read; None where a volume is a file of its own."""
        return range(self.volumes) if self.stacked else None

    def _require_memory(self, images: Sequence[Path]) -> None:
        require_memory_to_segment(images[0])
        if len(images) > 1:
            require_memory_to_learn(images)


def _table(folder: Path, labels: Any, files: dict[str, CaseFiles]) -> LabelTable:
    """From the folder's own table, else from the values that the labels have."""
    if isinstance(labels, Path):
        return LabelTable.read(labels)
    if labels is not None:
        return LabelTable.from_json(labels, str(folder / "dataset.json"))
    values: set[int] = set()
    damaged: list[OFLSAM2Error] = []
    for path in (each.labels for each in files.values()):
        try:
            read, _, structures = read_segmentation(path, may_be_empty=True)
        except OFLSAM2Error as error:  # Named when it is the case's turn.
            damaged.append(error)
            continue
        if any(not one.name.startswith("Structure ") for one in structures):
            return LabelTable(structures, str(path))
        values |= set(np.unique(read[read > 0]).tolist())
    if damaged and len(damaged) == len(files):
        raise damaged[0]
    return LabelTable.for_values(sorted(values))


def for_method(dataset: Dataset, method: Method, volumes: int | None = None) -> Dataset:
    """The data set as a method is evaluated on it.

    volumes: how many co-registered volumes of each case are used; None: all that there are, or the
    first with a warning where the method sees one volume. Raises InputError where cases have fewer.
    """
    if volumes is not None:
        return dataset.with_volumes(volumes)
    if dataset.volumes > 1 and not uses_further_volumes(method):
        _log.warning(
            "The method '%s' sees one volume of a case: the first of %d is used.",
            method.name,
            dataset.volumes,
        )
        return dataset.with_volumes(1)
    return dataset


def sample_data() -> Dataset:
    """The five hippocampus cases that come with this package. Raises InputError if they do not."""
    package = Path(OFLSAM2Core.__file__).parent
    # In an installed package, and in a checkout of the sources.
    folders = (package / "sample_data", package.parent / "Resources" / "SampleData")
    for folder in folders:
        if (folder / "dataset.json").is_file():
            return Dataset.open(folder)
    raise InputError(
        "The sample data that come with oflsam2 are not installed.",
        f"Install oflsam2 again; they belong in {folders[0]}.",
    )
