"""A worker that speaks the real protocol but segments by intensity: structure n is brightness n, of
the sum of co-registered volumes.

For tests of what the panel does with a worker (streams, hangs, dies, warns), and for measuring the
panel without the method. Options: --delay seconds a slice, --mode hang | die | deaf | warn |
bare (without packages) |
stubborn (learns nothing from corrections) | late (no slice before it is cancelled), --structures n,
--task-mb size of a learned task.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from OFLSAM2Core.data.image_identity import image_identity  # noqa: E402
from OFLSAM2Core.worker.channel import Channel, memory_from_environment  # noqa: E402
from OFLSAM2Core.worker.payloads import volume_from  # noqa: E402
from OFLSAM2Core.worker.protocol import PROTOCOL_VERSION, Frame  # noqa: E402

STEP = 100  # brightness of structure n is n * STEP


def task_of(frame: Frame) -> list[dict[str, Any]]:
    """The structures of a task, each with its levels of brightness."""
    structures = json.loads(frame.arrays["task"].tobytes())
    for place, structure in enumerate(structures):
        structure.setdefault("levels", [(place + 1) * STEP])
    return structures


def about_task(structures: list[dict[str, Any]]) -> dict[str, Any]:
    own = ("levels", "cases", "volumes")
    plain = [{key: one[key] for key in one if key not in own} for one in structures]
    # Volumes in the support, ml: a large structure, and smaller ones.
    sizes = {
        one["name"]: [1.0, 2.0] if place == 0 else [0.05, 0.1] for place, one in enumerate(plain)
    }
    about = {"structures": plain, "summary": "synthetic", "sizes": sizes}
    return {**about, "backbone": "litemedsam", "volume_count": structures[0].get("volumes", 1)}


def image_of(frame: Frame) -> Any:
    """The sum of the co-registered volumes of a request."""
    images = [array for name, array in frame.arrays.items() if name.split("+")[0] == "image"]
    return images[0] if len(images) == 1 else np.sum(images, axis=0)


class Worker:
    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        streams = (os.fdopen(os.dup(0), "rb", buffering=0), os.fdopen(os.dup(1), "wb", buffering=0))
        os.dup2(2, 1)
        self._channel = Channel(*streams, memory_from_environment())
        self._cancelled: set[int] = set()
        self._fetched: list[str] = []
        self._kept: dict[int, Any] = {}

    def run(self) -> None:
        while (frame := self._channel.receive()) is not None:
            name = frame.header["request"]
            if name == "shutdown":
                return
            if name == "cancel":
                if self._options.mode != "deaf":
                    self._cancelled.add(frame.header["target"])
                continue
            threading.Thread(target=self._answer, args=(name, frame), daemon=True).start()

    def _answer(self, name: str, frame: Frame) -> None:
        number = frame.header["id"]
        fields, arrays = getattr(self, f"_{name}")(frame)
        event = "ready" if name == "hello" else fields.pop("event", "done")
        self._send(number, event, fields, arrays)

    def _hello(self, frame: Frame) -> tuple[dict[str, Any], dict[str, Any]]:
        memory = {"free_bytes": 8 << 30, "total_bytes": 9 << 30}
        device = {"name": "cpu", "description": "CPU", **memory}
        states = {"litemedsam": "ready", "sam2.1-tiny": "absent"}
        states.update(dict.fromkeys(self._fetched, "ready"))
        return {
            "version": "synthetic",
            "protocol": PROTOCOL_VERSION,
            "python": "3.12.0",
            "torch": "2.13.0",
            "missing": ["torch"] if self._options.mode == "bare" else [],
            "devices": [device],
            "backbones": [{"name": name, "state": state} for name, state in states.items()],
        }, {}

    def _fetch_weights(self, frame: Frame) -> tuple[dict[str, Any], dict[str, Any]]:
        self._fetched.append(frame.header["backbone"])
        return {"path": "weights", "seconds": 0.1}, {}

    def _remove_weights(self, frame: Frame) -> tuple[dict[str, Any], dict[str, Any]]:
        self._fetched = [name for name in self._fetched if name != frame.header["backbone"]]
        return {"freed_bytes": 37_000_000}, {}

    def _learn(self, frame: Frame) -> tuple[dict[str, Any], dict[str, Any]]:
        structures = {}
        for case in frame.header["support"]:
            for structure in case["structures"]:
                structures.setdefault(structure["label"], structure)
        found = [structures[label] for label in sorted(structures)]
        for done in range(3):
            self._progress(frame, "learn", done + 1, 3)
            time.sleep(self._options.delay)
        for place, structure in enumerate(found):
            structure["levels"] = [(place + 1) * STEP]
            structure["volumes"] = 1 + len(frame.header["support"][0].get("further", []))
        about = {"backbone": frame.header["backbone"], "sent_at": time.time()}
        return {**about_task(found), **about}, {"task": self._content(found)}

    def _content(self, structures: list[dict[str, Any]]) -> Any:
        text = json.dumps(structures).ljust(self._options.task_mb * 10**6)
        return np.frombuffer(text.encode(), np.uint8)

    def _load_task(self, frame: Frame) -> tuple[dict[str, Any], dict[str, Any]]:
        try:
            found = json.loads(frame.arrays["task"].tobytes())
        except ValueError:
            failure = {"kind": "task", "message": "This is no learned task.", "hint": ""}
            return {"event": "failed", **failure}, {}
        return about_task(found), {}

    def _segment(self, frame: Frame) -> tuple[dict[str, Any], dict[str, Any]]:
        structures = task_of(frame)
        if frame.header.get("keep"):
            self._kept = {frame.header["id"]: (image_of(frame).copy(), structures)}
        fields, arrays = self._slices(frame, image_of(frame), structures)
        return {**fields, "image": image_identity(volume_from(frame))}, arrays

    def _correct(self, frame: Frame) -> tuple[dict[str, Any], dict[str, Any]]:
        """Learns which label each brightness has in the known voxels."""
        if self._options.mode == "stubborn":
            message = "This method does not learn from corrections."
            return {"event": "failed", "kind": "input", "message": message, "hint": ""}, {}
        if "image" in frame.arrays:
            image, structures = image_of(frame), task_of(frame)
        else:
            image, structures = self._kept[frame.header["segmented"]]
        labels, known = frame.arrays["labels"], frame.arrays["known"].astype(bool)
        told = {}
        for level in np.unique(image[known]):
            values, counts = np.unique(labels[known & (image == level)], return_counts=True)
            told[int(level)] = int(values[counts.argmax()])
        for one in structures:
            levels = [level for level in one["levels"] if level not in told]
            one["levels"] = levels + [x for x, label in told.items() if label == one["label"]]
        fields, arrays = self._slices(frame, image, structures)
        fields.update(about_task(structures), learned_slices=int(known.any((1, 2)).sum()))
        return fields, {**arrays, "task": self._content(structures)}

    def _add_case(self, frame: Frame) -> tuple[dict[str, Any], dict[str, Any]]:
        structures = json.loads(frame.arrays["task"].tobytes())
        structures[0]["cases"] = structures[0].get("cases", 0) + 1
        return about_task(structures), {"task": self._content(structures)}

    def _slices(
        self, frame: Frame, image: Any, structures: list[dict[str, Any]]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        number, count = frame.header["id"], image.shape[0]
        while self._options.mode == "late" and number not in self._cancelled:
            time.sleep(0.02)
        for index in range(count):
            if number in self._cancelled:
                return {"event": "failed", "kind": "cancelled", "message": "Cancelled."}, {}
            if index == count // 2:
                self._misbehave(frame)
            plane = image[index].max(axis=-1) if image.ndim == 4 else image[index]
            labels = np.zeros(plane.shape, np.uint8)
            for structure in structures:
                for level in structure["levels"]:
                    labels[np.abs(plane - level) < STEP // 2] = structure["label"]
            confidence = np.where(labels > 0, 255 - 3 * (index % 60), 250).astype(np.uint8)
            present = [one for one in structures if (labels == one["label"]).any()]
            scores = {one["name"]: 1 - 0.01 * (index % 60) for one in present}
            fields = {"index": index, "axis": 0, "scores": scores, "revision": 0}
            self._send(number, "slice", fields, {"labels": labels, "confidence": confidence})
            self._progress(frame, "segment", index + 1, count)
            time.sleep(self._options.delay)
        return {"seconds": 1.0, "slices": count, "summary": ""}, {}

    def _misbehave(self, frame: Frame) -> None:
        if self._options.mode == "warn":
            name = frame.header["volume"]["name"]
            warning = {"level": "warning", "text": f"'{name}' looks odd."}
            self._send(frame.header["id"], "log", warning, {})
        if self._options.mode == "die":
            print("out of memory: killed", file=sys.stderr, flush=True)
            os._exit(137)
        while self._options.mode == "hang":
            time.sleep(0.1)

    def _progress(self, frame: Frame, stage: str, done: int, total: int) -> None:
        fields = {"stage": stage, "done": done, "total": total, "message": ""}
        self._send(frame.header["id"], "progress", fields, {})

    def _send(
        self, number: int, event: str, fields: dict[str, Any], arrays: dict[str, Any]
    ) -> None:
        self._channel.send({"event": event, "id": number, **fields}, arrays)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--mode", default="")
    parser.add_argument("--task-mb", type=int, default=0)
    Worker(parser.parse_args()).run()
