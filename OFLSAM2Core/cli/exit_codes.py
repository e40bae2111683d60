"""Exit codes of the command line that more than one command has."""

SOME_FAILED = 3
"""Some cases have no result; the others are done."""
