"""Puts the effect OFL-SAM2 into the Segment Editor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# Slicer gives an effect's file the name of its folder as module: so it has a folder of its own.
FILE = Path(__file__).resolve().parent.parent / "SegmentEditorOFLSAM2Lib" / "SegmentEditorEffect.py"


def register_effect() -> Any:
    """Needs the application. Returns the effect."""
    import qSlicerSegmentationsEditorEffectsPythonQt as effects

    effect = effects.qSlicerSegmentEditorScriptedEffect(None)
    effect.setPythonSource(FILE.as_posix())
    effect.self().register()
    return effect
