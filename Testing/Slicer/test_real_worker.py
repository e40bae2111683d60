"""One run from clicks to segments with the real worker, method and weights, on real volumes."""

from __future__ import annotations

import time

import numpy as np
import psutil
import pytest
import slicer
from OFLSAM2SlicerLib import sample_data
from scenes import add_segmentation, add_volume, segment_mask

from OFLSAM2Core.app.states import State
from OFLSAM2Core.io.reading import read_volume

CORE_SECONDS, STILL_SECONDS = 600, 300
COUNT = 6  # slices of each volume: a run takes some seconds a slice


def load(scene, case):
    """The axial slices of a sample volume that show most of both structures, and their labels."""
    image = read_volume(sample_data.sample_folder() / f"{case}_image.nii.gz")
    labels = np.asarray(read_volume(sample_data.sample_folder() / f"{case}_label.nii.gz").array)
    least = np.minimum((labels == 1).sum((1, 2)), (labels == 2).sum((1, 2)))
    first = int(np.clip(least.argmax() - COUNT // 2, 0, len(labels) - COUNT))
    chosen = slice(first, first + COUNT)
    affine = image.affine.copy()
    affine[:3, 3] += first * affine[:3, 2]
    array = np.asarray(image.array[chosen], np.float32)
    return add_volume(scene, array, case, affine), labels[chosen]


def dice(found, truth):
    return 2 * np.count_nonzero(found & truth) / (found.sum() + truth.sum())


def wait_while_it_works(panel, condition):
    """Until the condition holds. The time on the clock says nothing where other programs take the
    processors: the worker may use as many seconds of them as a run could need, and no more than a
    few minutes may go by without any."""
    used, changed = 0.0, time.monotonic()
    while not condition():
        try:
            panel.wait(condition, timeout=2)
        except TimeoutError:
            now = seconds_used(panel)
            used, changed = (now, time.monotonic()) if now > used else (used, changed)
            if used > CORE_SECONDS or time.monotonic() - changed > STILL_SECONDS:
                raise


def seconds_used(panel):
    """Seconds of the processors, by the worker and what it started."""
    times = [process.cpu_times() for process in panel.children_of_worker()]
    return sum(one.user + one.system for one in times)


@pytest.mark.slow
def test_from_clicks_to_segments_with_the_real_worker(scene, open_panel):
    names = {one.label: one.name for one in sample_data.sample_structures()}
    pairs = []
    for case in sample_data.SUPPORT[:2]:
        volume, labels = load(scene, case)
        masks = {name: labels == label for label, name in names.items()}
        pairs.append((volume, add_segmentation(scene, volume, masks, f"{case} seg")))
    target, truth = load(scene, sample_data.TARGET)

    panel = open_panel()
    panel.choose(target, pairs)
    panel.ui.presetComboBox.setCurrentText("fast")
    panel.option("training_steps").value = 8
    panel.option("slicing_axis").setCurrentText("axial")
    panel.ui.segmentButton.click()
    wait_while_it_works(panel, lambda: panel.controller.is_idle)
    status = panel.status

    assert status.state is State.DONE, status.text
    output = panel.parameters.segmentation
    found = [segment_mask(output, name, target) for name in names.values()]
    # Little was learned, from six slices a case in one pass: far better than chance is enough. A
    # random mask of the same size would have a Dice of 0.2.
    assert dice(found[0] | found[1], truth > 0) > 0.4
    confidence = slicer.util.arrayFromVolume(panel.parameters.confidence)
    assert confidence.min() > 0
    assert panel.ui.doubtfulTable.rowCount > 0
    assert panel.ui.saveTaskButton.enabled

    processes = panel.children_of_worker()
    panel.ui.learnedTaskCheckBox.checked = True
    panel.ui.segmentButton.click()
    wait_while_it_works(panel, lambda: panel.status.slices_done > 0)
    panel.ui.segmentButton.click()
    panel.wait(lambda: panel.controller.is_idle, timeout=30)
    assert panel.status.state is State.CANCELLED
    panel.close()
    assert psutil.wait_procs(processes, timeout=10)[1] == []
