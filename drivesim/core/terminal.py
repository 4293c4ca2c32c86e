"""What a person sees of a long command's progress."""

from __future__ import annotations

import sys


class Counter:
    """Shows how many of something are done."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __call__(self, done: int, total: int) -> None:
        show(f"{self.what} {done} of {total}", is_last=done == total)


def show(text: str, *, is_last: bool) -> None:
    """One line that is written over on a terminal; elsewhere, such as in a log, the last one alone."""
    if sys.stderr.isatty():
        print(f"\r{text}\x1b[K", end="\n" if is_last else "", file=sys.stderr, flush=True)
    elif is_last:
        print(text, file=sys.stderr, flush=True)
