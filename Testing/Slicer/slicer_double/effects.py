"""The Segment Editor's effects: what hosts a scripted effect, on Slicer's own editor logic."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import slicer

Logic = slicer.vtkSlicerSegmentEditorLogic
EFFECTS = Path("Modules", "Loadable", "Segmentations", "EditorEffects", "Python")


class AbstractScriptedSegmentEditorEffect:
    """As in the module `SegmentEditorEffects`, without a Slicer checkout."""

    def __init__(self, scriptedEffect: Any) -> None:
        self.scriptedEffect = scriptedEffect

    def register(self) -> None:
        slicer.qSlicerSegmentEditorEffectFactory.instance().registerEffect(self.scriptedEffect)


class EffectFactory:
    """`slicer.qSlicerSegmentEditorEffectFactory`."""

    registered: list[Any] = []

    @classmethod
    def instance(cls) -> type[EffectFactory]:
        return cls

    @classmethod
    def registerEffect(cls, effect: Any) -> None:
        cls.registered.append(effect)


class ScriptedEffect:
    """`qSlicerSegmentEditorScriptedEffect`, once it is `edit`ing with a real editor logic."""

    def __init__(self, parent: Any = None) -> None:
        del parent
        self.name = self.title = ""
        self.perSegment = False
        self.options: list[Any] = []
        self.logic: Any = None
        self._effect: Any = None

    def setPythonSource(self, path: str) -> bool:
        # As Slicer does: the folder's name is the module's, the file's name the class's.
        name, class_name = Path(path).parent.name, Path(path).stem
        if not hasattr(sys.modules.get(name), class_name):
            spec = importlib.util.spec_from_file_location(name, path)
            assert spec is not None and spec.loader is not None
            module = sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        self._effect = getattr(sys.modules[name], class_name)(self)
        return True

    def self(self) -> Any:
        return self._effect

    def edit(self, segmentation: Any, volume: Any, segment_id: str) -> None:
        """What the editor's widget does when the effect is chosen."""
        scene = segmentation.GetScene()
        node = scene.AddNewNodeByClass("vtkMRMLSegmentEditorNode")
        node.SetAndObserveSegmentationNode(segmentation)
        node.SetAndObserveSourceVolumeNode(volume)
        node.SetSelectedSegmentID(segment_id)
        self.logic = Logic()
        self.logic.SetMRMLScene(scene)
        self.logic.SetSegmentEditorNode(node)
        self._effect.setupOptionsFrame()
        self._effect.activate()

    def addOptionsWidget(self, widget: Any) -> None:
        self.options.append(widget)

    def parameterSetNode(self) -> Any:
        return self.logic.GetSegmentEditorNode()

    def saveStateForUndo(self) -> None:
        assert self.logic.SaveStateForUndo()

    def defaultModifierLabelmap(self) -> Any:
        self.logic.UpdateReferenceGeometryImage()
        self.logic.ResetModifierLabelmapToDefault()
        return self.logic.GetModifierLabelmap()

    def modifySelectedSegmentByLabelmap(self, labelmap: Any, mode: int) -> None:
        node = self.logic.GetSegmentEditorNode()
        self.logic.UpdateMaskLabelmap()
        self.logic.ModifySegmentByLabelmap(
            node.GetSegmentationNode(),
            node.GetSelectedSegmentID(),
            labelmap,
            mode,
            self.perSegment,
            False,
        )


def install(source: Path | None) -> None:
    """source: a checkout of Slicer whose base class of effects is used. (Of its package not all:
    other effects need compiled modules.)"""
    slicer.qSlicerSegmentEditorEffectFactory = EffectFactory
    slicer.qSlicerSegmentEditorAbstractEffect = Logic  # the same modes
    hosts = types.ModuleType("qSlicerSegmentationsEditorEffectsPythonQt")
    hosts.qSlicerSegmentEditorScriptedEffect = ScriptedEffect  # type: ignore[attr-defined]
    sys.modules[hosts.__name__] = hosts
    package, name = types.ModuleType("SegmentEditorEffects"), "AbstractScriptedSegmentEditorEffect"
    sys.modules[package.__name__] = package
    base: Any = AbstractScriptedSegmentEditorEffect
    if source is not None:
        package.__path__ = [str(source / EFFECTS / package.__name__)]
        base = getattr(importlib.import_module(f"{package.__name__}.{name}"), name)
    setattr(package, name, base)
