"""OpenVINO without its telemetry.

`import openvino` and `openvino.convert_model` report to Google Analytics through the package
`openvino_telemetry`: some 36 messages each time, a client ID kept in the home folder
(`openvino_ga_cid`), and forked processes that hold this process's pipes. Nobody who segments an
image has asked for that, so it cannot run here, whatever the user's or the machine's settings.
OpenVINO works without the package: it then uses a stub of its own.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

_PACKAGE = "openvino_telemetry"


def import_openvino() -> ModuleType:
    """The module `openvino`, which can send nothing. The only way it is imported in this package.

    Raises ImportError where OpenVINO is not installed.
    """
    for name in list(sys.modules):
        if name == _PACKAGE or name.startswith(f"{_PACKAGE}."):
            del sys.modules[name]
    sys.modules[_PACKAGE] = None  # type: ignore[assignment]  # Importing it raises ImportError.
    import openvino

    _silence(openvino)
    return openvino


def _silence(openvino: ModuleType) -> None:
    """Where another part of the program imported OpenVINO before: its modules hold the reporter."""
    for name, module in list(sys.modules.items()):
        if not name.startswith("openvino.") or module is None:
            continue
        for attribute in ("tm", "telemetry"):
            if getattr(vars(module).get(attribute), "__name__", "") == _PACKAGE:
                setattr(module, attribute, _Silent)
            elif type(vars(module).get(attribute)).__module__.startswith(_PACKAGE):
                setattr(module, attribute, _Silent.Telemetry())


class _Silent:
    """Takes the place of the package `openvino_telemetry`."""

    class Telemetry:
        """Accepts every call of OpenVINO's and does nothing."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            pass

        def __getattr__(self, name: str) -> Any:
            if name == "backend":  # OpenVINO asks for it to learn whether there is one.
                raise AttributeError(name)
            return lambda *args, **kwargs: None
