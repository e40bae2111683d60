"""What is logged, as the one at the terminal reads it."""

from __future__ import annotations

import logging
import sys

from tqdm import tqdm


class SpokenLog(logging.Handler):
    """Log messages on stderr as sentences, above whichever progress bar is shown.

    When, by which process and which module is for the log file, and so is all that libraries say
    of themselves.
    """

    def __init__(self) -> None:
        super().__init__()
        self.addFilter(logging.Filter("OFLSAM2Core"))

    def format(self, record: logging.LogRecord) -> str:
        """`Warning: what happened`."""
        return f"{record.levelname.capitalize()}: {super().format(record)}"

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        try:
            tqdm.write(self.format(record), file=sys.stderr)
        except Exception:
            self.handleError(record)
