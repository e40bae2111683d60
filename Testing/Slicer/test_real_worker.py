"""One run from clicks to segments with the real worker, method and weights, on real volumes."""

from __future__ import annotations

import numpy as np
import psutil
import slicer
from OFLSAM2SlicerLib import sample_data
from OFLSAM2SlicerLib.states import State
from scenes import add_segmentation, add_volume, segment_mask

from OFLSAM2Core.image_io import read_volume

SLICES = slice(14, 20)  # along k, through both structures: a run of some seconds a slice


def load(scene, case):
    """Some slices of a sample volume, with its labels."""
    image = read_volume(sample_data.sample_folder() / f"{case}_image.nii.gz")
    labels = read_volume(sample_data.sample_folder() / f"{case}_label.nii.gz").array
    affine = image.affine.copy()
    affine[:3, 3] += SLICES.start * affine[:3, 2]
    array = np.asarray(image.array[SLICES], np.float32)
    return add_volume(scene, array, case, affine), np.asarray(labels[SLICES])


def dice(found, truth):
    return 2 * np.count_nonzero(found & truth) / (found.sum() + truth.sum())


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
    panel.ui.epochsSpinBox.value = 1
    panel.ui.slicingAxisComboBox.setCurrentText("axial")
    status = panel.run(timeout=900)

    assert status.state is State.DONE, status.text
    output = panel.parameters.segmentation
    for label, name in names.items():
        # Little was learned, from six slices a case: much better than chance is enough here.
        assert dice(segment_mask(output, name, target), truth == label) > 0.3
    confidence = slicer.util.arrayFromVolume(panel.parameters.confidence)
    assert confidence.min() > 0
    assert panel.ui.leastConfidentTable.rowCount > 0
    assert panel.ui.saveTaskButton.enabled

    processes = panel.children_of_worker()
    panel.ui.learnedTaskCheckBox.checked = True
    panel.ui.segmentButton.click()
    panel.wait(lambda: panel.status.slices_done > 0, timeout=300)
    panel.ui.segmentButton.click()
    panel.wait(lambda: panel.controller.is_idle, timeout=30)
    assert panel.status.state is State.CANCELLED
    panel.close()
    assert psutil.wait_procs(processes, timeout=10)[1] == []
