"""The module `SampleData`: registering, with the parameters and the demands of Slicer 5.10."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import slicer


@dataclass(frozen=True)
class SampleDataSource:
    sampleName: str
    thumbnailFileName: str | None
    customDownloader: Callable[[Any], Any] | None


class SampleDataLogic:
    @staticmethod
    def registerCustomSampleDataSource(
        category: str = "Custom",
        sampleName: str | None = None,
        uris: str | None = None,
        fileNames: str | None = None,
        nodeNames: str | None = None,
        customDownloader: Callable[[Any], Any] | None = None,
        thumbnailFileName: str | None = None,
    ) -> None:
        if not hasattr(slicer.modules, "sampleDataSources"):
            slicer.modules.sampleDataSources = {}
        for value in (uris, fileNames, nodeNames):
            if not isinstance(value, str):
                raise TypeError(f"object of type '{type(value).__name__}' has no len()")
        source = SampleDataSource(str(sampleName), thumbnailFileName, customDownloader)
        sources = slicer.modules.sampleDataSources.setdefault(category, [])
        if source not in sources:
            sources.append(source)
