"""The command line: `oflsam2 COMMAND`."""
