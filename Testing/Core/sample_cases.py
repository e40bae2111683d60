"""Sample cases cut down to be quick, and cases as they are shown to the network."""

from __future__ import annotations

from OFLSAM2Core.data.overlap import bounding_box
from OFLSAM2Core.data.slice_geometry import SliceGeometry
from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.evaluation.datasets import sample_data
from OFLSAM2Core.preprocessing.preprocessing import Preprocessing
from OFLSAM2Core.preprocessing.support_stack import SupportStack


def part_of(number: str, first: int, last: int) -> SupportCase:
    """Slices `first` to before `last` of a sample case, and what is around its hippocampus: real,
    and quick."""
    case = sample_data().read_case(f"hippocampus_{number}")
    here = (slice(first, last), *bounding_box(case.labels > 0, 4)[1:])
    volume = Volume(case.volume.array[here], case.volume.affine, number)
    return SupportCase(volume, case.labels[here], case.structures)


class Shown:
    """Cases as they are shown to the network."""

    def __init__(self, *cases: SupportCase) -> None:
        self.preparation = Preprocessing.fit(
            cases, [SliceGeometry.for_volume(case.volume, "axial") for case in cases]
        )
        self.structures = cases[0].structures
        self.support = [self.of(case) for case in cases]

    def of(self, case: SupportCase) -> SupportStack:
        cut = SliceGeometry.for_volume(case.volume, "axial")
        prepared = self.preparation.transform(case.volume, cut)
        return SupportStack(case.volume.name, prepared, cut, cut.to_slices(case.labels))
