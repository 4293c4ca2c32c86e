"""Shares of what futures do, such as left, straight, right, with intervals that hold for all of them at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from drivesim.evaluate.binomial import clopper_pearson


@dataclass(kw_only=True, slots=True)
class ModeShare:
    """How often one mode came."""

    mode: str
    count: int
    share: float
    low: float  # of the interval for the share
    high: float
    odds: float | None  # the share that it should have; None = not known

    @property
    def holds_odds(self) -> bool | None:
        """Whether the known share lies in the interval; None = it is not known."""
        return None if self.odds is None else self.low <= self.odds <= self.high


def mode_shares(
    labels: Sequence[str],
    modes: Sequence[str],
    *,
    odds: Mapping[str, float] | None = None,
    confidence: float = 0.95,
) -> list[ModeShare]:
    """The share of each mode among the labels of K futures.

    The intervals are exact binomial ones (Clopper and Pearson 1934) at 1 - (1 - confidence) / modes each, so
    that all shares of the multinomial lie in theirs at once at least as often as `confidence` says (Bonferroni).

    Args:
        labels: One a future; futures are independent given their start.
        modes: All that a future can do, those that never came included.
        odds: The known odds of the modes, any non-negative numbers, their ratio counts. None = not known.
        confidence: Of all intervals together.

    Raises:
        ValueError: no labels, a label that is no mode, or odds for other modes.
    """
    if unknown := sorted(set(labels) - set(modes)):
        raise ValueError(f"labels that are no modes: {', '.join(unknown)}; modes are {', '.join(modes)}")
    if odds is not None and (set(odds) != set(modes) or min(odds.values()) < 0 or sum(odds.values()) <= 0):
        raise ValueError(
            f"odds for {', '.join(odds)}; expected one that is not negative for each of {', '.join(modes)}"
        )
    counts = Counter(labels)
    total = sum(odds.values()) if odds is not None else 0.0
    shares = []
    for mode in modes:
        low, high = clopper_pearson(counts[mode], len(labels), 1 - (1 - confidence) / len(modes))
        shares.append(
            ModeShare(
                mode=mode,
                count=counts[mode],
                share=counts[mode] / len(labels),
                low=low,
                high=high,
                odds=None if odds is None else odds[mode] / total,
            )
        )
    return shares
