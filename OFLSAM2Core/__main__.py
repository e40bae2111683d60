"""`python -m OFLSAM2Core` is the command line `oflsam2`."""

import sys

from OFLSAM2Core import _current_folder

if sys.path and sys.path[0] in ("", _current_folder()):
    del sys.path[0]  # Modules that lie beside the user's images are not ours to run.

from OFLSAM2Core.cli.main import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
