"""What a person can choose about the training of text models, beside what all trainings have."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True, slots=True)
class TextTemporalConfig:
    """Temporal layers of key frames (Table 8): one alpha for all frames, text in their cross-attention."""

    num_frames: int = 8  # frames of a training clip
    feed_forward_mult: int = 4  # width of the temporal feed-forward layers


@dataclass(kw_only=True, slots=True)
class TextLossConfig:
    """What text models see, and what counts."""

    drop_text: float = 0.1  # share of samples whose caption is left out: the unconditional branch of guidance
    box_weight: float = 0.0  # how much more an error inside a box counts, where boxes are known; 0 = as outside

    def __post_init__(self) -> None:
        """Refuses shares that are none."""
        if not 0 <= self.drop_text <= 1:
            raise ValueError(f"text_loss.drop_text is {self.drop_text}; it is a share, 0 to 1")
