"""Log messages as the user at the terminal reads them."""

from __future__ import annotations

import logging
import sys

from tqdm import tqdm


class TerminalLog(logging.Handler):
    """Log messages on stderr as sentences, above whichever progress bar is shown.

    Time, process and module go to the log file alone, and so do the messages of libraries.
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
