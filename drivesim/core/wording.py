"""Words of messages that follow from what they are said of."""

from __future__ import annotations


def number_of(num: int, one: str, several: str | None = None) -> str:
    """A number with its noun: "1 future", "2 futures", "1,000 frames".

    Args:
        num: how many.
        one: the noun of one.
        several: the noun of any other number; None = with an s at its end.
    """
    return f"{num:,} {one if num == 1 else several or one + 's'}"
