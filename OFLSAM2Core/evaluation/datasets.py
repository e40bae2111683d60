"""Folders of labelled cases, as `oflsam2 evaluate` reads them.

A folder holds `<case>_image.nii.gz`, `<case>_label.nii.gz` and `dataset.json`:

    {"name": "...", "labels": {"1": "left atrium"}, "nominal_spacing": false,
     "support": ["case1", ...], "test": ["case4", ...]}

`nominal_spacing` true says that the files' spacing is not the real one; distances are then given
in voxels.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import OFLSAM2Core
from OFLSAM2Core.data.volume import SupportCase
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.io.label_table import LabelTable
from OFLSAM2Core.io.reading import read_support_case
from OFLSAM2Core.runtime.redaction import keep_out

_FORM = "See the README, section 'Evaluate', for what dataset.json must hold."


@dataclass(frozen=True)
class Dataset:
    """A folder of labelled cases.

    support, test: names of the cases to learn from and to segment, in order.
    nominal_spacing: whether the spacing in the files means nothing.
    """

    folder: Path
    name: str
    table: LabelTable
    support: tuple[str, ...]
    test: tuple[str, ...]
    nominal_spacing: bool = False

    @classmethod
    def open(cls, folder: str | Path) -> Dataset:
        """Read `dataset.json` and see that every case's files are there.

        Raises InputError naming the folder, the file or the case.
        """
        folder = Path(folder)
        path = folder / "dataset.json"
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"'{path}' cannot be read: {error.strerror}.", _FORM) from error
        except ValueError as error:
            raise InputError(f"'{path}' is not JSON: {error}.", _FORM) from error
        lists = [data.get(key) if isinstance(data, dict) else None for key in ("support", "test")]
        if not all(_is_list_of_names(names) for names in lists):
            raise InputError(f"'{path}' does not list 'support' and 'test' cases.", _FORM)
        support, test = (tuple(names or ()) for names in lists)
        keep_out([folder, *support, *test])
        dataset = cls(
            folder=folder,
            name=str(data.get("name", folder.name)),
            table=LabelTable.read(path),
            support=support,
            test=test,
            nominal_spacing=bool(data.get("nominal_spacing", False)),
        )
        for case in (*support, *test):
            dataset._files_of(case)
        return dataset

    def choose(
        self, supports: int | None, support_cases: Sequence[str] | None, cases: int | None
    ) -> tuple[list[str], list[str]]:
        """Names of the support cases and of the test cases.

        supports: the first so many of `support`; all of them where None.
        support_cases: these instead, from `support` or `test`.
        cases: the first so many test cases. A support case is never a test case.
        Raises InputError where a name is unknown or nothing is left.
        """
        if cases is not None and cases < 1:
            raise InputError(f"There cannot be {cases} test cases.", "Ask for one or more.")
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
                    f"'{self.folder}' lists {len(self.support)} support cases, not {count}.",
                    "Choose fewer, or name them with --support-cases.",
                )
            chosen = list(self.support[:count])
        test = [case for case in self.test if case not in chosen][:cases]
        if not test or not chosen:
            raise InputError(
                f"No case of '{self.folder}' is left to {'segment' if chosen else 'learn from'}.",
                "Choose other support cases.",
            )
        return chosen, test

    def read_case(self, name: str, *, may_be_empty: bool = False) -> SupportCase:
        """The volume of a case and its labels. Raises InputError.

        may_be_empty: of a test case, in which there may be nothing to find.
        """
        image, labels = self._files_of(name)
        case = read_support_case(image, labels, table=self.table, may_be_empty=may_be_empty)
        return replace(case, volume=replace(case.volume, name=name))

    def _files_of(self, case: str) -> tuple[Path, Path]:
        files = [self.folder / f"{case}_{kind}.nii.gz" for kind in ("image", "label")]
        for file in files:
            if not file.is_file():
                raise InputError(
                    f"'{self.folder / 'dataset.json'}' lists the case '{case}', but there is no "
                    f"'{file.name}'.",
                    "Add the file, or take the case off the list.",
                )
        return files[0], files[1]


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


def _is_list_of_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)
