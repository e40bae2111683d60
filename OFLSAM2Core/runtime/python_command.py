"""The command by which another Python runs a module, and nothing that lies in the current folder.

`python -m pip` runs `pip/__main__.py` of the current folder where there is one, and every module
imports `random.py` or `queue.py` from there: whoever can put a file beside a user's images could
run code. `-P` would do from Python 3.11 on; `-I` hides packages of the user's own and what Slicer's
launcher sets.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

_SAFE_PATH = "import sys; sys.path[:] = [p for p in sys.path if p not in ('', '.')]; "
_WATCH_STDIN = (
    "import os, threading; "
    "threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start(); "
)
_RUN = "import runpy; runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"


def python_command(
    module: str, *arguments: str, python: str | None = None, ends_with_stdin: bool = False
) -> list[str]:
    """The command that runs `python -m module arguments` without the current folder in its path.

    python: by default this Python. Use `python_environment` for its environment.
    ends_with_stdin: the process ends when its standard input does; where that is a pipe, it does
        not outlive the process that started it, however that ends.
    """
    code = _SAFE_PATH + (_WATCH_STDIN if ends_with_stdin else "") + _RUN.format(module=module)
    return [python or sys.executable, "-c", code, *arguments]


def python_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` without entries of PYTHONPATH that stand for the current folder."""
    found = dict(environment)
    paths = found.pop("PYTHONPATH", "").split(os.pathsep)
    if kept := [path for path in paths if os.path.isabs(path)]:
        found["PYTHONPATH"] = os.pathsep.join(kept)
    return found
