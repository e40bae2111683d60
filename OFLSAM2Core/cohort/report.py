"""`report.html`: one page that shows a whole cohort, the least sure case first, and needs no
network."""

from __future__ import annotations

import base64
import json
import os
import time
from pathlib import Path
from typing import Any

from OFLSAM2Core.cohort.cases import SEGMENTED
from OFLSAM2Core.cohort.folder import REPORT
from OFLSAM2Core.cohort.manifest import CaseRecord, ManifestContent, read_manifest
from OFLSAM2Core.cohort.outliers import outliers
from OFLSAM2Core.cohort.outputs import preview_path
from OFLSAM2Core.runtime.atomic_write import atomic_write

_PAGE = Path(__file__).parent / "page"


def write_report(folder: Path) -> Path:
    """Write the page of a cohort's folder from its manifest and previews; returns its path.

    Raises InputError where there is no manifest, ResourceError where the page cannot be written.
    """
    data = _data(folder, read_manifest(folder))
    page = (_PAGE / "page.html").read_text(encoding="utf-8")
    for mark, content in (
        ("/*STYLE*/", (_PAGE / "page.css").read_text(encoding="utf-8")),
        ("/*SCRIPT*/", (_PAGE / "page.js").read_text(encoding="utf-8")),
        ("/*DATA*/", _as_script(data)),
    ):
        before, _, after = page.partition(mark)
        page = before + content + after
    path = folder / REPORT
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _data(folder: Path, content: ManifestContent) -> dict[str, Any]:
    records = list(content.cases.values())
    structures = _structures(records)
    cases = [_case(folder, record, structures) for record in records]
    for number in range(len(structures)):
        flags = outliers([case["ml"][number] for case in cases])
        for case, flag in zip(cases, flags, strict=True):
            case["outlier"].append(flag)
    run = content.runs[-1] if content.runs else {}
    return {
        "title": Path(os.path.realpath(folder)).name,
        "written": time.strftime("%Y-%m-%d %H:%M"),
        "ended": content.ended,
        "damaged_lines": len(content.damaged),
        "task": run.get("task", {}),
        "software": run.get("software", {}),
        "layout": content.identity.get("layout", ""),
        "structures": structures,
        "cases": cases,
        "left_out": run.get("left_out", []),
    }


def _structures(records: list[CaseRecord]) -> list[dict[str, Any]]:
    for record in records:
        if record.state in SEGMENTED:
            return [
                {"name": one["name"], "color": one["color"]} for one in record.details["structures"]
            ]
    return []


def _case(folder: Path, record: CaseRecord, structures: list[dict[str, Any]]) -> dict[str, Any]:
    details = record.details if record.state in SEGMENTED or record.state == "failed" else {}
    own = {one["name"]: one for one in details.get("structures", ())}
    return {
        "name": record.name,
        "source": " + ".join(record.sources),
        "state": record.state,
        "reason": details.get("reason", ""),
        "hint": details.get("hint", ""),
        "confidence": details.get("confidence"),
        "ml": [own.get(one["name"], {}).get("ml") for one in structures],
        "sure": [own.get(one["name"], {}).get("confidence") for one in structures],
        "outlier": [],
        "seconds": details.get("seconds"),
        "memory": details.get("peak_memory_mb"),
        "review": details.get("review", []),
        "notes": details.get("notes", []),
        "outputs": sorted(details.get("outputs", {})),
        "shape": details.get("shape"),
        "spacing": details.get("spacing"),
        "sha256": details.get("input", {}).get("sha256", ""),
        "software": details.get("software", {}).get("oflsam2", ""),
        "computer": details.get("computer", ""),
        "preview": _preview(folder, record),
    }


def _preview(folder: Path, record: CaseRecord) -> str:
    """As a data URL, or ""."""
    if record.state not in SEGMENTED:
        return ""
    try:
        content = preview_path(folder, record.name).read_bytes()
    except OSError:
        return ""
    return "data:image/webp;base64," + base64.b64encode(content).decode("ascii")


def _as_script(data: dict[str, Any]) -> str:
    """JSON that cannot end the script it stands in, whatever a file is called."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
