"""Which numbers are made of an extractor's features, and what they may be called."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from drivesim.evaluate.extractors import Extractor


class MetricKind(str, Enum):
    """A way from feature vectors to a score."""

    FRECHET = "fréchet"  # distance of two normal distributions: FVD, FID
    KERNEL = "kernel"  # maximum mean discrepancy of degree 3: KVD, KID
    INCEPTION_SCORE = "inception-score"  # of a classifier's answers to the generated clips alone
    TEXT_SIMILARITY = "text-similarity"  # of frames with the prompts that they were made from: CLIPSIM


DISTANCES = (MetricKind.FRECHET, MetricKind.KERNEL)

# What no score of a kind can fall below; the others have no such end.
LOWEST = {MetricKind.FRECHET: 0.0, MetricKind.INCEPTION_SCORE: 1.0}

# Names that a standard network alone may carry, by the name of its Fréchet distance.
_KERNEL_NAMES = {"FVD": "KVD", "FID": "KID"}


def kinds_of(extractor: Extractor) -> tuple[MetricKind, ...]:
    """The scores that an extractor is there for: its attribute `metrics`, or else the Fréchet distance."""
    kinds: tuple[MetricKind, ...] = getattr(extractor, "metrics", (MetricKind.FRECHET,))
    return kinds


def check_kinds(extractor: Extractor) -> None:
    """Refuses scores that an extractor's features do not give.

    Raises:
        ValueError: an Inception Score without classes, or a text similarity without texts; names who has them.
    """
    kinds = kinds_of(extractor)
    if MetricKind.INCEPTION_SCORE in kinds and getattr(extractor, "class_scores", None) is None:
        raise ValueError(
            f"{extractor.name}: its features are no class scores; "
            "choose c3d-ucf101, i3d-torchscript or i3d-kinetics400 for INCEPTION_SCORE"
        )
    if MetricKind.TEXT_SIMILARITY in kinds and not hasattr(extractor, "texts"):
        raise ValueError(f"{extractor.name}: it knows no texts; choose clip-vit-b-32 for TEXT_SIMILARITY")


def metric_title(extractor: Extractor, kind: MetricKind) -> str:
    """What a score may be called; the short names are for standard networks, checked by their bytes."""
    if kind is MetricKind.FRECHET:
        return extractor.metric_name
    if kind is MetricKind.KERNEL:
        standard = _KERNEL_NAMES.get(extractor.metric_name)
        return standard or f"Kernel {extractor.kind.value} distance ({_described(extractor)})"
    if kind is MetricKind.INCEPTION_SCORE:
        return f"Inception Score ({_described(extractor)})"
    return "CLIPSIM" if extractor.is_standard else f"Text similarity ({_described(extractor)})"


def metric_titles(extractor: Extractor) -> list[str]:
    """The names of all scores of an extractor, in their order."""
    return [metric_title(extractor, kind) for kind in kinds_of(extractor)]


def _described(extractor: Extractor) -> str:
    """The network as the name of its Fréchet distance has it in brackets; its own name where there are none."""
    _, _, inside = extractor.metric_name.partition("(")
    return inside.removesuffix(")") if inside else extractor.name


def chosen_kinds(wanted: Sequence[MetricKind], own: tuple[MetricKind, ...]) -> tuple[MetricKind, ...]:
    """A config's choice, each kind once; an extractor's own kinds where it makes none."""
    return tuple(dict.fromkeys(wanted)) or own
