"""The command line `oflsam2`.

Exit codes: 0 done; 2 something the user can act on (one or two lines on stderr say what);
1 a bug; 3 some cases have no result; 130 stopped with Ctrl-C, 143 by the system.
"""

from __future__ import annotations

from collections.abc import Sequence

# Little is imported here: until `answer_signals`, Ctrl-C is a traceback.
from OFLSAM2Core.cli.signals import answer_signals

# One module of OFLSAM2Core.cli each; only the one that is asked for is imported.
COMMANDS = {
    "demo": "learn from three of the shipped hippocampus cases and segment two others",
    "learn": "learn a task from labelled volumes and save it",
    "segment": "segment a volume with a learned task, or straight from labelled volumes",
    "cohort": "segment many volumes, on one computer or many, and go on where it stopped",
    "refine": "learn from a corrected result, and predict the rest of the volume again",
    "evaluate": "learn and segment a folder of labelled cases and compare with the labels",
    "compare": "evaluate several methods on the same cases, in one table and one plot",
    "bench": "measure speed and memory, beside plain SAM2 video propagation",
    "backbones": "list, fetch, verify or remove the weights of backbones",
    "methods": "list the segmentation methods",
    "worker": "serve another program over standard input and output",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    answer_signals()
    from OFLSAM2Core.cli.commands import run_command

    return run_command(argv, COMMANDS)
