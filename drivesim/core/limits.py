"""Refusals of numbers that are too small, with the keys that are wrong and no others."""

from __future__ import annotations


def check_at_least(least: float, place: str = "", **values: float | None) -> None:
    """Refuses numbers below a limit; NaN is below every one.

    Args:
        least: the smallest number that is valid.
        place: where the keys stand, such as "trainer."; what a person types in front of them.
        values: numbers by their keys; None = not chosen, and valid.

    Raises:
        ValueError: one or more are too small; names them alone.
    """
    wrong = [f"{place}{key}={value}" for key, value in values.items() if value is not None and not value >= least]
    if wrong:
        raise ValueError(f"{', '.join(wrong)}; must be {least:g} or more")
