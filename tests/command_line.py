"""Command lines run in the tests' own process."""

from __future__ import annotations

import sys

from drivesim import cli


def drivesim(*arguments: str) -> int:
    """Runs a command line and returns its exit code."""
    before = sys.argv
    sys.argv = ["drivesim", *arguments]
    try:
        cli.main()
    except SystemExit as error:
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
            return 1
        return int(error.code or 0)
    finally:
        sys.argv = before
    return 0
