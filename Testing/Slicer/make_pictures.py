"""Makes the pictures of the documentation from a real run on the sample data.

    python Testing/Slicer/make_pictures.py OUTPUT_FOLDER [--task hippocampus.oflsam2]
                                           [--preset fast] [--method NAME] [--save-task FILE]

The panel runs on the double of Slicer's Qt (slicer_double), slice views are drawn by trame-slicer's
offscreen views, the worker and its results are real. With --task a learned task (that of an earlier
--save-task, say) is loaded instead of learning one, which takes some minutes less. Pictures after
corrections need a method that learns from them.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "OFLSAM2Slicer"), str(Path(__file__).parent)]

import slicer_double  # noqa: E402,F401  (before slicer)

# isort: split
import loop_pictures  # noqa: E402
import numpy as np  # noqa: E402
import slicer  # noqa: E402
import vtk  # noqa: E402
from OFLSAM2SlicerLib import sample_data  # noqa: E402
from OFLSAM2SlicerLib.review import jump_to  # noqa: E402
from panels import Panel  # noqa: E402
from PIL import Image  # noqa: E402
from PySide6 import QtCore  # noqa: E402
from scenes import add_segmentation, add_volume  # noqa: E402
from trame_slicer.core import SlicerApp  # noqa: E402
from trame_slicer.views import NoScheduleRendering, SliceView  # noqa: E402
from vtk.util import numpy_support  # noqa: E402

from OFLSAM2Core.app.states import State  # noqa: E402
from OFLSAM2Core.methods import get_method  # noqa: E402

SIDE = 420


def load(scene: Any, case: str, with_labels: bool) -> tuple[Any, Any]:
    """A sample volume and its segmentation, as the module Sample Data loads them."""
    from OFLSAM2Core.io.reading import read_volume

    read = read_volume(sample_data.sample_folder() / f"{case}_image.nii.gz")
    volume = add_volume(scene, np.asarray(read.array, np.float32), case, read.affine)
    if not with_labels:
        return volume, None
    labels = read_volume(sample_data.sample_folder() / f"{case}_label.nii.gz").array
    structures = sample_data.sample_structures()
    masks = {one.name: labels == one.label for one in structures}
    colors = [one.color for one in structures]
    return volume, add_segmentation(scene, volume, masks, f"{case} segmentation", colors)


def make_views(app: Any) -> list[SliceView]:
    """Views that are drawn for a picture only. Slicer's are drawn when events were dealt with;
    these would be at once, in the middle of a volume's removal, with errors of VTK."""
    views = []
    for name, orientation in (("Red", "Axial"), ("Yellow", "Sagittal"), ("Green", "Coronal")):
        view = SliceView(
            app.scene, app.app_logic, name, scheduled_render_strategy=NoScheduleRendering()
        )
        view.set_orientation(orientation)
        view.render_window().SetSize(SIDE, SIDE)
        views.append(view)
    return views


def photograph(views: list[SliceView], path: Path) -> None:
    """The slice views side by side."""
    pictures = []
    for view in views:
        view._update_slice_size()
        view.render()
        grabber = vtk.vtkWindowToImageFilter()
        grabber.SetInput(view.render_window())
        grabber.ReadFrontBufferOff()
        grabber.Update()
        image = grabber.GetOutput()
        width, height, _ = image.GetDimensions()
        pixels = numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())
        pictures.append(pixels.reshape(height, width, -1)[::-1, :, :3])
    Image.fromarray(np.concatenate(pictures, axis=1)).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--task", type=Path)
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--method", help="instead of the panel's default")
    parser.add_argument("--save-task", type=Path)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    QtCore.QCoreApplication.setOrganizationName("OFLSAM2 pictures")

    app = SlicerApp()
    slicer.mrmlScene = app.scene
    sequences = slicer.vtkSlicerSequencesLogic()
    sequences.SetMRMLScene(app.scene)
    views = make_views(app)
    pairs = [load(app.scene, case, with_labels=True) for case in sample_data.SUPPORT]
    target, _ = load(app.scene, sample_data.TARGET, with_labels=False)
    for view in views:
        view.set_background_volume_id(target.GetID())
        view.fit_view_to_content()
    for _, segmentation in pairs:
        segmentation.GetDisplayNode().SetVisibility(False)

    panel = Panel()
    panel.choose(target, pairs)
    if arguments.method:
        panel.ui.methodComboBox.setCurrentText(arguments.method)
    panel.ui.presetComboBox.setCurrentText(arguments.preset)
    panel.picture(arguments.output / "panel-start.png")
    more = arguments.output / "panel-more-volumes.png"
    loop_pictures.more_volumes(panel, target, pairs, more)
    if arguments.task:
        panel.widget.taskPart.load(str(arguments.task))
        panel.wait(lambda: panel.controller.is_idle)
        panel.ui.learnedTaskCheckBox.checked = True
    began = time.monotonic()
    panel.ui.segmentButton.click()
    panel.wait(lambda: panel.status.slices_done >= 16 or not panel.status.is_running, 3600)
    panel.ui.confidenceCheckBox.checked = False
    if not panel.status.slices_done:
        raise SystemExit(f"{panel.status}\n" + "\n".join(panel.controller.link.log_lines()))
    panel.parameters.segmentation.GetDisplayNode().SetOpacity2DFill(0.35)
    middle = panel.controller.run.scores.all()[len(panel.controller.run.scores) // 2]
    jump_to(target, middle)
    panel.picture(arguments.output / "panel-running.png")
    photograph(views, arguments.output / "slice-views-running.png")
    panel.wait(lambda: panel.controller.is_idle, 3600)
    if panel.status.state is not State.DONE:
        raise SystemExit(f"{panel.status}\n" + "\n".join(panel.controller.link.log_lines()))
    print(f"Run of {time.monotonic() - began:.0f} s: {panel.status.message}")
    if arguments.save_task:
        panel.controller.save_task(arguments.save_task)
    panel.ui.confidenceCheckBox.checked = True
    panel.picture(arguments.output / "panel.png")

    panel.ui.confidenceCheckBox.checked = False
    jump_to(target, middle)
    photograph(views, arguments.output / "slice-views.png")
    panel.ui.confidenceCheckBox.checked = True
    panel.ui.confidenceOpacitySlider.value = 0.6
    panel.parameters.segmentation.GetDisplayNode().SetOpacity2DFill(0.15)
    photograph(views, arguments.output / "slice-views-confidence.png")

    def take(path: Path) -> None:
        panel.ui.confidenceCheckBox.checked = False
        photograph(views, path)

    panel.parameters.segmentation.GetDisplayNode().SetOpacity2DFill(0.35)
    if get_method(panel.controller.learned.method).corrections:
        loop_pictures.after_corrections(panel, target, take, arguments.output)
    loop_pictures.effect(panel, target, take, arguments.output)
    load(app.scene, "hippocampus_007", with_labels=False)
    loop_pictures.cohort(panel, arguments.output)
    panel.close()


if __name__ == "__main__":
    main()
