"""Published results, shown beside ours only where the card says that the same was measured.

One YAML file a protocol, `evaluation/PROTOCOL/published.yaml`: the protocol's name, the fields that its card must have,
the number of clips, and the results with their sources.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from drivesim.core.wording import number_of
from drivesim.evaluate.protocol import ProtocolCard, ProtocolConfig

PUBLISHED_FILE = "published.yaml"


@dataclass(kw_only=True, slots=True)
class PublishedResult:
    """One number of another group."""

    model: str
    metric: str  # as `metric_title` has it: FVD, FID, CLIPSIM
    data_set: str
    value: float
    source: str  # where it stands
    note: str = ""  # what the source says besides


@dataclass(kw_only=True, slots=True)
class PublishedProtocol:
    """All results under one protocol."""

    protocol: str  # its name
    card: dict[str, Any] = field(default_factory=dict)  # fields of the protocol on the card, as they must be
    num_clips: int | None = None  # of each side; None = the sources do not say
    network: str | None = None  # the extractor's name where what they call FVD is by another than the standard one
    results: list[PublishedResult]

    def why_not(self, card: ProtocolCard) -> str | None:
        """What on a card forbids the comparison; None = nothing does."""
        for name, wanted in self.card.items():
            if card.protocol[name] != wanted:
                return f"protocol.{name} is {card.protocol[name]!r}, theirs {wanted!r}"
        for side in (card.generated, card.real):
            if self.num_clips is not None and side.num_clips != self.num_clips:
                return f"{number_of(side.num_clips, 'clip')} of {side.name}, theirs {self.num_clips}"
        return None


def load_published(path: Path) -> PublishedProtocol:
    """Reads one file.

    Raises:
        ValueError: not such a file; names it and what is wrong.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        results = [PublishedResult(**result) for result in content.pop("results")]
        found = PublishedProtocol(**content, results=results)
    except (yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: not a file of published results: {error}") from error
    unknown = set(found.card) - set(_card_fields())
    if unknown:
        raise ValueError(f"{path}: card names {', '.join(sorted(unknown))}; valid: {', '.join(_card_fields())}")
    return found


def _card_fields() -> list[str]:
    return sorted(entry.name for entry in fields(ProtocolConfig) if entry.name != "extractors")


def published_folder() -> Path:
    """The published results of this installation: inside the package, or beside it in a clone.

    Raises:
        FileNotFoundError: the installation is broken.
    """
    package = Path(__file__).resolve().parents[1]
    # The package's own comes first: whatever lies beside an installed package belongs to others.
    for folder in (package / "evaluation", package.parent / "evaluation"):
        if any(folder.glob(f"*/{PUBLISHED_FILE}")):
            return folder
    raise FileNotFoundError(f"{package / 'evaluation'}: published results are not there; the installation is broken")


def published_beside(card: ProtocolCard, folder: Path) -> tuple[list[PublishedResult], list[str]]:
    """The results that may stand beside a score, and why others of its protocol may not.

    A result is shown for the same protocol, data set and metric, by the standard network alone or, where the file
    names another one, by that with the published bytes.
    """
    shown: list[PublishedResult] = []
    reasons = []
    standard = {name for network in card.extractors if network["is_standard"] for name in network["metrics"]}
    others = {network["name"] for network in card.extractors if network["is_published"]}
    for path in sorted(folder.glob(f"*/{PUBLISHED_FILE}")):
        found = load_published(path)
        if found.protocol != card.protocol["name"] or card.protocol["data_set"] is None:
            continue
        of_data = [result for result in found.results if result.data_set == card.protocol["data_set"]]
        if found.network is None:
            fitting = [result for result in of_data if result.metric in standard]
            reasons += _reasons_of_networks(card, found.protocol, {result.metric for result in of_data} - standard)
        else:
            fitting = of_data if found.network in others else []
        problem = found.why_not(card)
        if problem is None:
            shown += fitting
        elif fitting:
            reasons.append(f"published results of {found.protocol} are not shown: {problem}")
    return shown, reasons


def _reasons_of_networks(card: ProtocolCard, protocol: str, metrics: set[str]) -> list[str]:
    """Why results of these metrics are not shown, where scores are of the same kind by networks of unknown bytes."""
    reasons = []
    for network in card.extractors:
        for title in network["metrics"]:
            kind, bracket, _ = title.partition(" (")
            if bracket and kind in metrics:
                reasons.append(
                    f"published results of {protocol} in {kind} are not shown: nothing says that the bytes of "
                    f"{network['name']} are those that they were measured with"
                )
    return reasons
