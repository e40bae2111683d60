"""`python -m OFLSAM2Core` is the command line `oflsam2`."""

import sys

from OFLSAM2Core.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
