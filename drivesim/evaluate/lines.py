"""What a terminal shows of scores and of a comparison, line by line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from drivesim.evaluate.compare import Comparison
from drivesim.evaluate.copies import neighbour_lines
from drivesim.evaluate.drift_report import drift_lines
from drivesim.evaluate.scores import Score, Scores
from drivesim.evaluate.uncertainty import Interval


def score_lines(scores: Scores) -> Iterator[str]:
    """Warnings, a line a score, what shuffling does, and published results under the same card."""
    for warning in scores.warnings:
        yield f"note: {warning}"
    for score in scores.scores:
        counts = f"({score.num_left} and {score.num_right})" if score.num_right else f"({score.num_left})"
        spread = "" if score.spread is None else f" +- {score.spread:.3g}"
        yield f"{score.value:12.3f}{spread}  {score.metric}: {score.row.value} {counts}{_shown_score(score)}"
    for bias in scores.content_bias:
        rise = _shown(bias.interval)
        yield f"{bias.rise:+12.3f}  {bias.metric}: by shuffling the generated frames{bias.in_percent}{rise}"
    yield from neighbour_lines(scores.neighbours)
    yield from drift_lines(scores.drift)
    for result in scores.published:
        yield f"{result.value:12g}  {result.metric}: published, {result.model}, {result.data_set} ({result.source})"


def protocol_lines(scores: Sequence[Scores]) -> Iterator[str]:
    """The lines of every protocol, under its name where there are several."""
    for one in scores:
        if len(scores) > 1:
            yield f"protocol {one.card.protocol['name']}"
        yield from score_lines(one)


def comparison_lines(comparison: Comparison) -> Iterator[str]:
    """Notes, the two evaluations, and a line a row with both values."""
    for note in comparison.notes:
        yield f"note: {note}"
    yield from (f"{letter}: {name}" for letter, name in zip("AB", comparison.names, strict=True))
    several = len({score.protocol for score in comparison.scores}) > 1
    for score in comparison.scores:
        difference = _shown(score.difference, "A - B ")
        under = f"{score.protocol}, " if several else ""
        yield f"{score.first:12.3f} {score.second:12.3f}  {under}{score.metric}: {score.row}{difference}"


def _shown_score(score: Score) -> str:
    if score.interval is None:
        return ""
    ends = f"{score.interval.level:.0%} [{score.interval.low:.4g}, {score.interval.high:.4g}]"
    return f"; at infinitely many {score.middle}, {ends}"


def _shown(interval: Interval | None, what: str = "") -> str:
    """An interval as text for the end of a line; nothing where there is none."""
    if interval is None:
        return ""
    ends = f"{interval.level:.0%} [{interval.low:.4g}, {interval.high:.4g}]"
    return f"; {what}at infinitely many {interval.estimate:.4g}, {ends}"
