"""Two evaluations beside each other: the same cards or a refusal, both scores, and the paired difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drivesim.evaluate.differences import Pair
from drivesim.evaluate.metric_kinds import MetricKind
from drivesim.evaluate.protocol import comparable_fields
from drivesim.evaluate.scores import ScoreRow
from drivesim.evaluate.stored_scores import StoredScores
from drivesim.evaluate.uncertainty import Interval, UncertaintyConfig


@dataclass(kw_only=True, slots=True)
class ComparedScore:
    """One row of two evaluations."""

    protocol: str  # its name in the first one
    extractor: str
    metric: str
    row: str  # a value of `ScoreRow`
    first: float
    second: float
    difference: Interval | None = None  # first - second of the generated row, at infinitely many vectors


@dataclass(kw_only=True, slots=True)
class Comparison:
    """What two evaluations say."""

    names: list[str]  # folders of the first and the second
    scores: list[ComparedScore]
    notes: list[str]  # what a reader has to know, such as cards that differ


def compare(paths: Sequence[str | Path], config: UncertaintyConfig, force: bool = False) -> Comparison:
    """Sets the scores of two evaluations beside each other.

    Args:
        paths: Two folders of `drivesim evaluate`, or their `scores.json`.
        config: Of the difference's interval.
        force: Go on when the cards differ; what differs becomes a note.

    Raises:
        FileNotFoundError: no `scores.json` there.
        ValueError: other than two folders, or cards that differ, naming each field and both values.
    """
    if len(paths) != 2:
        raise ValueError(f"{len(paths)} evaluations to compare; give two, as in compare='[runs/a, runs/b]'")
    both = [StoredScores.load(Path(path)) for path in paths]
    comparison = Comparison(names=[str(results[0].folder) for results in both], scores=[], notes=[])
    for first, second in _pairs(*both):
        name = first.scores["card"]["protocol"]["name"]
        differences = card_differences(first.scores["card"], second.scores["card"]) + _count_difference(first, second)
        if differences and not force:
            what = f"{first.folder} and {second.folder}" + (f", protocol {name}," if len(both[0]) > 1 else "")
            raise ValueError(f"{what} cannot be compared: {'; '.join(differences)}. force=true goes on")
        scores, notes = _compared(name, first, second, config)
        comparison.scores += scores
        comparison.notes += [note for note in differences + notes if note not in comparison.notes]
    return comparison


def _pairs(first: list[StoredScores], second: list[StoredScores]) -> list[tuple[StoredScores, StoredScores]]:
    """Results of the same protocol; two single ones whatever their names, which are for people alone.

    Raises:
        ValueError: no protocol is in both.
    """
    if len(first) == len(second) == 1:
        return [(first[0], second[0])]
    by_name = [{result.scores["card"]["protocol"]["name"]: result for result in results} for results in (first, second)]
    pairs = [(result, by_name[1][name]) for name, result in by_name[0].items() if name in by_name[1]]
    if not pairs:
        there = " and ".join(", ".join(names) for names in by_name)
        raise ValueError(f"{first[0].folder} and {second[0].folder} have no protocol in common: {there}")
    return pairs


def _compared(
    protocol: str, first: StoredScores, second: StoredScores, config: UncertaintyConfig
) -> tuple[list[ComparedScore], list[str]]:
    """The rows that both have, and notes on them."""
    notes = _notes(first, second)
    in_second = {(score["extractor"], score["metric"], score["row"]): score for score in second.scores["scores"]}
    scores = []
    for score in first.scores["scores"]:
        other = in_second.get((score["extractor"], score["metric"], score["row"]))
        if other is None:
            continue
        compared = ComparedScore(
            protocol=protocol,
            extractor=score["extractor"],
            metric=score["metric"],
            row=score["row"],
            first=score["value"],
            second=other["value"],
        )
        if score["row"] == ScoreRow.GENERATED.value:
            pair = Pair(first=first, second=second, extractor=score["extractor"], config=config)
            compared.difference, problem = pair.difference(MetricKind(score["kind"]))
            notes += [f"{score['metric']}: no interval of the difference: {problem}"] if problem else []
        scores.append(compared)
    return scores, notes


def card_differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """The fields by which two cards forbid a comparison, each with both values."""
    a, b = comparable_fields(dict(first)), comparable_fields(dict(second))
    return [
        f"{name} is {a.get(name, 'absent')!r} and {b.get(name, 'absent')!r}"
        for name in dict.fromkeys([*a, *b])
        if name not in a or name not in b or a[name] != b[name]
    ]


def _count_difference(first: StoredScores, second: StoredScores) -> list[str]:
    """Fréchet distances of fewer clips are larger, whatever the videos are."""
    counts = [result.scores["card"]["generated"]["num_clips"] for result in (first, second)]
    if counts[0] == counts[1]:
        return []
    return [
        f"generated.num_clips is {counts[0]} and {counts[1]} (fewer clips score worse; the difference at infinitely "
        "many clips, where there is one, does not have that)"
    ]


def _notes(first: StoredScores, second: StoredScores) -> list[str]:
    """What does not forbid a comparison and yet may count."""
    notes = []
    versions = [result.scores["card"]["versions"] for result in (first, second)]
    for name in sorted({*versions[0], *versions[1]}):
        there = [version.get(name, "absent") for version in versions]
        if there[0] != there[1]:
            notes.append(f"{name} is {there[0]} and {there[1]}")
    return notes
